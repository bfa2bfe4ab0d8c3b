package deploy

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// trialSource is the address that a trial admits.
type trialSource struct {
	address netip.Addr
	named   bool   // the request has to name it
	remote  string // why this machine cannot connect from it; empty if it can
}

// Addresses that no host has: RFC 5737 and RFC 3849 reserve them for documentation.
var (
	nobodyIPv4 = netip.MustParseAddr("192.0.2.1")
	nobodyIPv6 = netip.MustParseAddr("2001:db8::1")
)

// trialSource chooses the address that the trial admits. It is this machine's own address
// if that can work. If not, it is another one, so that all but the connection is proven.
func (s smoked) trialSource() trialSource {
	families := s.stack.parameters["AddressFamilies"]
	allowed := func(a netip.Addr) bool {
		return a.IsValid() && !(a.Is4() && families == "ipv6") && !(a.Is6() && families == "ipv4")
	}
	nobody := nobodyIPv4
	if families == "ipv6" {
		nobody = nobodyIPv6
	}
	switch {
	case s.stack.parameters["PublicAddress"] == "false":
		private := trialSource{address: nobody, named: true, remote: "bastions have private addresses only (PublicAddress=false), and this command does not know the private address that it would connect from"}
		for text := range strings.SplitSeq(s.stack.parameters["AllowedSources"], ",") {
			prefix, err := netip.ParsePrefix(text)
			if first := prefix.Masked().Addr(); err == nil && allowed(first) {
				if private.address = first; !prefix.IsSingleIP() {
					private.address = first.Next() // the first one can be 0.0.0.0
				}
				break
			}
		}
		return private
	case allowed(s.source):
		return trialSource{address: s.source}
	case s.source.IsValid():
		return trialSource{address: nobody, remote: fmt.Sprintf("this machine called from %s, and bastions have addresses of the other family only (AddressFamilies=%s)", s.source, families)}
	case s.tokens && s.status == http.StatusUnauthorized:
		return trialSource{address: nobody, remote: "the service shows a caller's address only if the request has a token. Rerun make deploy with a token in BASTION_TOKEN"}
	}
	return trialSource{address: nobody, remote: "the response to the test request does not show the address of this machine (header X-Source-Address)"}
}
