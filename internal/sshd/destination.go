package sshd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Policy decides which addresses a bastion connects to.
type Policy struct {
	Allowed       []bastion.DestinationRule // the operator's list
	Own           []netip.Addr              // the bastion's own addresses
	AllowLoopback []netip.Prefix            // loopback addresses that Allowed may contain; all others are always forbidden
}

// Forbidden is the error of [Policy.Check].
type Forbidden struct {
	Addr  netip.Addr
	Why   string // completes "ADDRESS is"
	Ports string // the ports that are allowed at the address; "" if it is refused on all ports
}

func (f *Forbidden) Error() string { return fmt.Sprintf("%s is %s", f.Addr, f.Why) }

// Check returns nil if a bastion may connect to this port of the address. An
// IPv4-mapped IPv6 address counts as the IPv4 address. If any other IPv6 address embeds
// an IPv4 address, both must be allowed.
func (p Policy) Check(to netip.AddrPort) *Forbidden {
	addr := to.Addr()
	unmapped := addr.Unmap()
	if why := p.never(unmapped); why != "" {
		return &Forbidden{Addr: addr, Why: why}
	}
	if inner, ok := embedded(unmapped); ok {
		if refused := p.Check(netip.AddrPortFrom(inner, to.Port())); refused != nil {
			return &Forbidden{addr, fmt.Sprintf("an IPv6 form of an IPv4 address that is refused: %v", refused), refused.Ports}
		}
	}
	to = netip.AddrPortFrom(unmapped, to.Port())
	if slices.ContainsFunc(p.Allowed, func(rule bastion.DestinationRule) bool { return rule.Allows(to) }) {
		return nil
	}
	ports := bastion.AllowedPorts(p.Allowed, unmapped)
	if ports == "" {
		return &Forbidden{Addr: addr, Why: "not among the destinations that this bastion may connect to"}
	}
	return &Forbidden{addr, fmt.Sprintf("allowed on %s only", ports), ports}
}

// Address blocks that are never a destination.
var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	broadcast   = netip.MustParseAddr("255.255.255.255")
	// awsServices holds the metadata, DNS and time services of EC2, over IPv6.
	awsServices = netip.MustParsePrefix("fd00:ec2::/32")
	// localNAT64 (RFC 8215) embeds IPv4 addresses in a way that depends on the
	// network's configuration, so none of its addresses can be checked.
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")
	teredo     = netip.MustParsePrefix("2001::/32")
)

// never returns why an address is always forbidden, even if the operator's list has it;
// "" if it is not.
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
		return "a multicast or broadcast address"
	case awsServices.Contains(addr):
		return "an address of AWS's instance services"
	case localNAT64.Contains(addr) || teredo.Contains(addr):
		return "an address of a translation service"
	case slices.ContainsFunc(p.Own, func(own netip.Addr) bool { return own.WithZone("").Unmap() == addr }):
		return "the bastion's own address"
	}
	return ""
}

// embedding lists the prefixes under which the last four bytes are an IPv4 address.
var embedding = []netip.Prefix{
	netip.MustParsePrefix("::/96"),           // IPv4-compatible, RFC 4291
	netip.MustParsePrefix("::ffff:0:0:0/96"), // IPv4-translated, RFC 2765
	netip.MustParsePrefix("64:ff9b::/96"),    // NAT64, RFC 6052
}

var sixToFour = netip.MustParsePrefix("2002::/16") // RFC 3056

// embedded returns the IPv4 address that an IPv6 address embeds, if any.
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

// refused is the error of a channel that is not opened. The client receives the reason
// code and the message; the cause is only logged.
type refused struct {
	reason  ssh.RejectionReason
	message string
	cause   error
}

func (r *refused) Error() string {
	if r.cause != nil {
		return fmt.Sprintf("%s: %v", r.message, r.cause)
	}
	return r.message
}

func (r *refused) Unwrap() error { return r.cause }

func prohibited(format string, args ...any) *refused {
	return &refused{reason: ssh.Prohibited, message: fmt.Sprintf(format, args...)}
}

// maxAddresses limits the addresses that are dialled for one name.
const maxAddresses = 8

// destination is the host and port that a client requested, with the addresses that may
// be dialled for it.
type destination struct {
	name    string // host:port, as requested
	addrs   []netip.AddrPort
	dropped []netip.Addr // addresses of the host that the policy forbids
}

// findDestination resolves the host, at most once, and applies the policy to every
// address. Its errors are *refused.
func findDestination(ctx context.Context, resolver Resolver, policy Policy, host string, port uint32) (destination, error) {
	d := destination{name: net.JoinHostPort(clip(host), strconv.FormatUint(uint64(port), 10))}
	if port == 0 || port > 65535 {
		return d, prohibited("%d is not a TCP port.", port)
	}
	addrs, err := hostAddresses(ctx, resolver, host)
	if err != nil {
		return d, err
	}
	var refusal *Forbidden // of the first address that is allowed on other ports, else of the first address
	for _, addr := range addrs {
		to := netip.AddrPortFrom(addr.Unmap(), uint16(port))
		if f := policy.Check(to); f != nil {
			d.dropped = append(d.dropped, to.Addr())
			if refusal == nil || refusal.Ports == "" && f.Ports != "" {
				refusal = f
			}
			continue
		}
		if len(d.addrs) < maxAddresses {
			d.addrs = append(d.addrs, to)
		}
	}
	if len(d.addrs) == 0 {
		return d, refuseDestination(host, refusal)
	}
	return d, nil
}

// refuseDestination returns the error for a host of which all addresses are forbidden.
func refuseDestination(host string, refusal *Forbidden) *refused {
	if _, literal := literalAddr(host); literal {
		return prohibited("This bastion does not connect there: %v.", refusal)
	}
	return prohibited("This bastion does not connect to %s: %v.", host, refusal)
}

// hostAddresses returns the addresses of a host, at least one: the host itself if it is
// an address, else what the resolver returns. Other forms are not passed to the
// resolver, because resolvers read 127.1, 0x7f.1 and 2130706433 as 127.0.0.1.
func hostAddresses(ctx context.Context, resolver Resolver, host string) ([]netip.Addr, error) {
	if addr, ok := literalAddr(host); ok {
		return []netip.Addr{addr}, nil
	}
	if !isName(host) {
		return nil, prohibited("%q is not a valid host name or IP address.", clip(host))
	}
	addrs, err := resolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("no addresses")
	}
	if err != nil {
		return nil, &refused{ssh.ConnectionFailed,
			fmt.Sprintf("The bastion found no address for %s; check the name.", host),
			fmt.Errorf("resolve %s: %w", host, err)}
	}
	return addrs, nil
}

// literalAddr parses an address, in brackets or not.
func literalAddr(host string) (netip.Addr, bool) {
	if inner, found := strings.CutPrefix(host, "["); found {
		if inner, found = strings.CutSuffix(inner, "]"); found {
			host = inner
		}
	}
	addr, err := netip.ParseAddr(host)
	return addr, err == nil
}

// isName reports whether host is a DNS name. Underscores are allowed, because they are in
// use. A last label that is a number is not: resolvers read such a host as an address.
func isName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	labels := strings.Split(host, ".")
	if len(host) > 253 {
		return false
	}
	for _, label := range labels {
		if len(label) == 0 || len(label) > 63 || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return !isNumber(labels[len(labels)-1])
}

func isNumber(label string) bool {
	if strings.Trim(label, "0123456789") == "" {
		return true
	}
	digits, hex := strings.CutPrefix(strings.ToLower(label), "0x")
	return hex && strings.Trim(digits, "0123456789abcdef") == ""
}

// plainDialError returns why a connection failed, without details of the bastion's
// own network.
func plainDialError(err error) string {
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &errno) && errno != syscall.ETIMEDOUT:
		return errno.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout(), errno == syscall.ETIMEDOUT:
		return "no response in time"
	}
	return "connection failed"
}
