package bastion

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestRefusedSourceMessageNamesTheNextStep(t *testing.T) {
	both := Config{IPv4: true, IPv6: true}
	private := Config{IPv4: true, RequireSource: true, SourceOverride: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}
	for _, row := range []struct {
		name   string
		config Config
		source string // empty: the caller's address
		caller string
		code   Code
		next   string
	}{
		{"not allowed, public bastions", both, "10.1.2.3/32", "192.0.2.1", CodeSourceNotAllowed, "Leave the field out"},
		{"not allowed, private bastions", private, "10.1.2.3/32", "192.0.2.1", CodeSourceNotAllowed, "Name another one"},
		{"left out, private bastions", private, "", "192.0.2.1", CodeSourceRequired, "Name the private address"},
		{"IPv6 caller, IPv4 bastions", Config{IPv4: true}, "", "2001:db8::1", CodeSourceFamily, "curl -4"},
		{"IPv4 caller, IPv6 bastions", Config{IPv6: true}, "", "192.0.2.1", CodeSourceFamily, "curl -6"},
	} {
		req := CreateRequest{Caller: Caller{Address: netip.MustParseAddr(row.caller)}}
		if row.source != "" {
			req.Sources = []netip.Prefix{netip.MustParsePrefix(row.source)}
		}
		err := (&Service{Config: row.config}).checkSources(&req)
		if refused := (*Error)(nil); !errors.As(err, &refused) || refused.Code != row.code || !strings.Contains(refused.Message, row.next) {
			t.Errorf("%s: %v, want %s with %q", row.name, err, row.code, row.next)
		}
	}
}
