package localmode

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// privateName is the one name that resolves inside bastions.
const privateName = "private.internal"

// network is the private network of local mode. One host is in it, reached
// through socket pairs and not through TCP ports, so that nothing but a bastion
// can reach it. Real addresses are reached only where the operator said so.
type network struct {
	address netip.Addr     // of the private host
	allow   []netip.Prefix // real destinations, from --allow

	// The operating system's resolver and dialer.
	lookup func(ctx context.Context, family, name string) ([]netip.Addr, error)
	dial   func(ctx context.Context, family, address string) (net.Conn, error)

	mu       sync.Mutex
	services map[uint16]*pipeListener
}

// newNetwork makes a network whose private host has none of the taken addresses.
func newNetwork(allow []netip.Prefix, taken []netip.Addr) (*network, error) {
	address, err := freeAddress(taken)
	if err != nil {
		return nil, err
	}
	return &network{
		address:  address,
		allow:    allow,
		lookup:   net.DefaultResolver.LookupNetIP,
		dial:     new(net.Dialer).DialContext,
		services: map[uint16]*pipeListener{},
	}, nil
}

// freeAddress is an address of 10.0.0.0/8 that is none of the taken ones: a
// bastion refuses to connect to the addresses of the machine it runs on.
func freeAddress(taken []netip.Addr) (netip.Addr, error) {
	for second := range 256 {
		candidate := netip.AddrFrom4([4]byte{10, byte(second), 0, 10})
		if !slices.Contains(taken, candidate) {
			return candidate, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address is left for %s: this machine has all of 10.0.0.0/8", privateName)
}

// listen makes the private host accept connections to a port.
func (n *network) listen(port uint16) *pipeListener {
	l := newPipeListener(netip.AddrPortFrom(n.address, port))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.services[port] = l
	return l
}

func (n *network) service(port uint16) *pipeListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.services[port]
}

// from is the network as one bastion sees it.
func (n *network) from(bastionID string) bastionNetwork {
	return bastionNetwork{network: n, bastionID: bastionID}
}

// view is a resolver and a dialer for one bastion's forwards.
type bastionNetwork struct {
	network   *network
	bastionID string
}

// LookupNetIP resolves a name as inside the private network. Other names than
// the private host's reach the system's resolver only if the operator allowed
// some real destination; otherwise a bastion has no business with them.
func (v bastionNetwork) LookupNetIP(ctx context.Context, family, name string) ([]netip.Addr, error) {
	if strings.EqualFold(strings.TrimSuffix(name, "."), privateName) {
		if family == "ip6" {
			return nil, &net.DNSError{Err: "no address of this family", Name: name, IsNotFound: true}
		}
		return []netip.Addr{v.network.address}, nil
	}
	if len(v.network.allow) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return v.network.lookup(ctx, family, name)
}

// Dial connects to exactly the address given. Errors are those that a kernel has
// for the same thing, so that clients are told the same.
func (v bastionNetwork) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if to.Addr() == v.network.address {
		service := v.network.service(to.Port())
		if service == nil {
			return nil, fmt.Errorf("dial %s: %w: %s has ports 22 and 80 only", to, syscall.ECONNREFUSED, privateName)
		}
		return service.connect(ctx, v.bastionID)
	}
	if contains(v.network.allow, to.Addr()) {
		return v.network.dial(ctx, "tcp", to.String())
	}
	return nil, fmt.Errorf("dial %s: %w: the local network has %s only (use --allow CIDR for more)", to, syscall.EHOSTUNREACH, privateName)
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
