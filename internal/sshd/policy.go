package sshd

import (
	"fmt"
	"net/netip"
	"slices"
)

// Policy says which addresses a bastion connects to.
type Policy struct {
	Allowed       []netip.Prefix // the operator's list
	Own           []netip.Addr   // the bastion's own addresses
	AllowLoopback []netip.Prefix // loopback addresses that the rule against loopback does not forbid
}

// Forbidden is why Judge refuses an address.
type Forbidden struct {
	Addr netip.Addr
	Why  string // completes "… is"
}

func (f *Forbidden) Error() string { return fmt.Sprintf("%s is %s", f.Addr, f.Why) }

// Judge answers nil if a bastion may connect to the address, else *Forbidden.
// An IPv4 address in its IPv6-mapped form is judged as the IPv4 address that a
// connection would reach. Every other IPv6 address with an IPv4 address in it
// must be allowed itself, and so must the address in it.
func (p Policy) Judge(addr netip.Addr) error {
	judged := addr.Unmap()
	if why := p.never(judged); why != "" {
		return &Forbidden{addr, why}
	}
	if inner, ok := embedded(judged); ok {
		if err := p.Judge(inner); err != nil {
			return &Forbidden{addr, fmt.Sprintf("a form of an IPv4 address: %v", err)}
		}
	}
	if !slices.ContainsFunc(p.Allowed, func(allowed netip.Prefix) bool { return allowed.Contains(judged) }) {
		return &Forbidden{addr, "not among the destinations that this bastion may connect to"}
	}
	return nil
}

// Address blocks that are no place of their own.
var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	broadcast   = netip.MustParseAddr("255.255.255.255")
	// awsServices holds the metadata, DNS and time services of EC2, by IPv6.
	awsServices = netip.MustParsePrefix("fd00:ec2::/32")
	// localNAT64 (RFC 8215) embeds IPv4 addresses where the network's own
	// configuration says, so none of it can be judged.
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")
	teredo     = netip.MustParsePrefix("2001::/32")
)

// never says what is wrong with an address that no list may allow, or nothing.
func (p Policy) never(addr netip.Addr) string {
	switch {
	case !addr.IsValid():
		return "not an address"
	case addr.Zone() != "":
		return "an address with a zone"
	case addr.IsUnspecified() || thisNetwork.Contains(addr):
		return "not the address of any host"
	case addr.IsLoopback() && !slices.ContainsFunc(p.AllowLoopback, func(l netip.Prefix) bool { return l.Contains(addr) }):
		return "a loopback address"
	case addr.IsLinkLocalUnicast():
		return "a link-local address"
	case addr.IsMulticast() || addr == broadcast:
		return "not the address of one host"
	case awsServices.Contains(addr):
		return "an address of AWS's instance services"
	case localNAT64.Contains(addr) || teredo.Contains(addr):
		return "an address of a translation service"
	case slices.ContainsFunc(p.Own, func(own netip.Addr) bool { return own.WithZone("").Unmap() == addr }):
		return "the bastion's own address"
	}
	return ""
}

// Prefixes under which the last four bytes are an IPv4 address.
var embedding = []netip.Prefix{
	netip.MustParsePrefix("::/96"),           // IPv4-compatible, RFC 4291
	netip.MustParsePrefix("::ffff:0:0:0/96"), // IPv4-translated, RFC 2765
	netip.MustParsePrefix("64:ff9b::/96"),    // NAT64, RFC 6052
}

var sixToFour = netip.MustParsePrefix("2002::/16") // RFC 3056

// embedded finds the IPv4 address in an IPv6 address that has one.
func embedded(addr netip.Addr) (inner netip.Addr, ok bool) {
	if !addr.Is6() || addr.IsLoopback() { // ::1 has the form of 0.0.0.1
		return inner, false
	}
	b := addr.As16()
	last := netip.AddrFrom4([4]byte(b[12:]))
	isatap := [3]byte(b[9:12]) == [3]byte{0, 0x5e, 0xfe} && b[8]&^2 == 0 // RFC 5214
	switch {
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case isatap || slices.ContainsFunc(embedding, func(p netip.Prefix) bool { return p.Contains(addr) }):
		return last, true
	}
	return inner, false
}
