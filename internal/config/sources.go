package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ParseSources parses the prefixes of addresses that a caller may name as the source of
// a bastion, separated by commas. An empty text is an empty list. It returns everything
// that is wrong, also a prefix that contains all addresses, and a prefix that is listed
// twice.
func ParseSources(text string) (sources []netip.Prefix, wrong []error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		p, err := netip.ParsePrefix(entry)
		switch {
		case err != nil || p.Addr().Is4In6(): // an IPv4-mapped prefix would match no address
			err = fmt.Errorf("%q is not a CIDR, such as 10.0.0.0/8 or fd00::/8", entry)
		case p != p.Masked():
			err = fmt.Errorf("%s has bits set after the prefix length: write %s", entry, p.Masked())
		case p.Bits() == 0:
			err = fmt.Errorf("a caller could open the security group to any source address by %s: name the prefixes that people connect from", entry)
		case slices.Contains(sources, p):
			err = fmt.Errorf("%s is in the list twice: remove one", entry)
		}
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		sources = append(sources, p)
	}
	return sources, wrong
}
