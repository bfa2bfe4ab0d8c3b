package bastion

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// DestinationRule is an entry of the operator's list of destinations: an address prefix,
// and the ports that bastions may connect to at its addresses. Its text is the form of
// the template's parameter, of the lease and of the console: CIDR for all ports,
// CIDR:PORT or CIDR:FROM-TO.
type DestinationRule struct {
	Prefix netip.Prefix
	// From and To are the first and the last allowed port. Both are zero if all ports are
	// allowed.
	From, To uint16
}

// rulesOfAllBastions are egress rules that the member group always has, for the image,
// the logs and the leases. EC2 refuses a second rule that is equal to one of them.
var rulesOfAllBastions = []DestinationRule{
	{Prefix: netip.MustParsePrefix("0.0.0.0/0"), From: 443, To: 443},
	{Prefix: netip.MustParsePrefix("::/0"), From: 443, To: 443},
}

// ParseDestinationRules parses entries that are separated by commas. An empty text is an
// empty list. It returns an error for each entry that [ParseDestinationRule] refuses. It
// also returns an error for each duplicate, because EC2 refuses duplicate rules: an entry
// that is the same rule as an earlier entry, or as a rule that the member group has
// anyway. The member group has rulesOfAllBastions and the others, which are the rules for
// the DNS servers of this stack.
func ParseDestinationRules(text string, others ...DestinationRule) (rules []DestinationRule, wrong []error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	texts := map[DestinationRule]string{} // of the entries so far
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		rule, err := ParseDestinationRule(entry)
		earlier, twice := texts[rule]
		switch {
		case err != nil:
			wrong = append(wrong, err)
			continue
		case twice && earlier == entry:
			wrong = append(wrong, fmt.Errorf("%s is in the list twice: remove one", entry))
		case twice:
			wrong = append(wrong, fmt.Errorf("%s and %s are the same rule: remove one", earlier, entry))
		case slices.Contains(rulesOfAllBastions, rule) || slices.Contains(others, rule):
			wrong = append(wrong, fmt.Errorf("%s is a rule that the member group always has, and EC2 refuses duplicates: remove it, or use a smaller prefix or more ports", entry))
		}
		texts[rule] = entry
		rules = append(rules, rule)
	}
	return rules, wrong
}

// ParseDestinationRule parses CIDR, CIDR:PORT or CIDR:FROM-TO. Ports are from 1 to 65535.
// It refuses a prefix with bits set after the prefix length. It also refuses an
// IPv4-mapped IPv6 prefix, which would never match an IPv4 address.
func ParseDestinationRule(text string) (DestinationRule, error) {
	address, rest, _ := strings.Cut(text, "/") // first, because an IPv6 address has colons
	bits, ports, limited := strings.Cut(rest, ":")
	prefix, err := netip.ParsePrefix(address + "/" + bits)
	if err != nil || prefix.Addr().Is4In6() {
		return DestinationRule{}, fmt.Errorf("%q is not CIDR, CIDR:PORT or CIDR:FROM-TO, such as 10.0.0.0/8 or 2001:db8::/32:5432", text)
	}
	if masked := prefix.Masked(); prefix != masked {
		return DestinationRule{}, fmt.Errorf("%s has bits set after the prefix length: write %s%s", text, masked, strings.TrimPrefix(rest, bits))
	}
	rule := DestinationRule{Prefix: prefix}
	if !limited {
		return rule, nil
	}
	from, to, isRange := strings.Cut(ports, "-")
	if !isRange {
		to = from
	}
	var errFrom, errTo error
	rule.From, errFrom = parsePort(from)
	rule.To, errTo = parsePort(to)
	if errors.Join(errFrom, errTo) != nil {
		return DestinationRule{}, fmt.Errorf("%q has the ports %q: write a port from 1 to 65535, or the first and the last one, such as %s:8000-8099", text, ports, prefix)
	}
	if rule.From > rule.To {
		return DestinationRule{}, fmt.Errorf("%s has the ports in the wrong order: write %s:%d-%d", text, prefix, rule.To, rule.From)
	}
	return rule, nil
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || strings.HasPrefix(text, "0") {
		return 0, fmt.Errorf("%q is not a port", text)
	}
	return uint16(n), nil
}

// String returns the rule's text, which [ParseDestinationRule] parses.
func (r DestinationRule) String() string {
	if r.allPorts() {
		return r.Prefix.String()
	}
	return r.Prefix.String() + ":" + r.ports()
}

// ports returns PORT or FROM-TO.
func (r DestinationRule) ports() string {
	if r.From == r.To {
		return strconv.Itoa(int(r.From))
	}
	return fmt.Sprintf("%d-%d", r.From, r.To)
}

func (r DestinationRule) allPorts() bool { return r.From == 0 && r.To == 0 }

// MarshalText implements encoding.TextMarshaler.
func (r DestinationRule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *DestinationRule) UnmarshalText(text []byte) (err error) {
	*r, err = ParseDestinationRule(string(text))
	return err
}

// Allows reports whether bastions may connect to this port of the address. An
// IPv4-mapped IPv6 address is in no prefix.
func (r DestinationRule) Allows(to netip.AddrPort) bool {
	return r.Prefix.Contains(to.Addr()) && (r.allPorts() || r.From <= to.Port() && to.Port() <= r.To)
}

// AllowedPorts returns the ports that the rules allow at an address, for a sentence:
// "port 5432", "ports 22, 5432 and 8000-8099" or "all ports". It returns "" if no rule
// contains the address.
func AllowedPorts(rules []DestinationRule, addr netip.Addr) string {
	var at []DestinationRule
	for _, r := range rules {
		switch {
		case !r.Prefix.Contains(addr):
		case r.allPorts():
			return "all ports"
		default:
			at = append(at, DestinationRule{From: r.From, To: r.To})
		}
	}
	slices.SortFunc(at, func(a, b DestinationRule) int {
		return int(a.From)<<16 + int(a.To) - int(b.From)<<16 - int(b.To)
	})
	var texts []string
	for _, r := range merged(at) {
		texts = append(texts, r.ports())
	}
	switch last := len(texts) - 1; {
	case last < 0:
		return ""
	case last > 0:
		return "ports " + strings.Join(texts[:last], ", ") + " and " + texts[last]
	case strings.Contains(texts[0], "-"):
		return "ports " + texts[0]
	}
	return "port " + texts[0]
}

// merged joins ranges of ports that overlap. They are sorted by their first port.
func merged(ranges []DestinationRule) (disjoint []DestinationRule) {
	for _, r := range ranges {
		if last := len(disjoint) - 1; last >= 0 && r.From <= disjoint[last].To {
			disjoint[last].To = max(disjoint[last].To, r.To)
			continue
		}
		disjoint = append(disjoint, r)
	}
	return disjoint
}
