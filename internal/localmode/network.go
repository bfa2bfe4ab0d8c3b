package localmode

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// privateName is the name of the private host. It resolves inside bastions only.
const privateName = "private.internal"

// network is the private network of local mode. It contains one host, which is
// reached through socket pairs instead of TCP ports, so that only bastions can
// reach it. Other addresses are dialled, through the operating system, only if a rule of
// --allow allows them.
type network struct {
	address netip.Addr                // of the private host
	allow   []bastion.DestinationRule // real destinations, from --allow

	// The resolver and the dialer of the operating system, or a test's.
	lookup func(ctx context.Context, family, name string) ([]netip.Addr, error)
	dial   func(ctx context.Context, family, address string) (net.Conn, error)

	mu       sync.Mutex
	services map[uint16]*pipeListener
}

// newNetwork returns a network whose private host has none of the given addresses.
func newNetwork(allow []bastion.DestinationRule, taken []netip.Addr) (*network, error) {
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

// freeAddress returns an address of 10.0.0.0/8 that is not taken by this machine,
// because a bastion refuses to connect to the addresses of the machine it runs on.
func freeAddress(taken []netip.Addr) (netip.Addr, error) {
	for second := range 256 {
		candidate := netip.AddrFrom4([4]byte{10, byte(second), 0, 10})
		if !slices.Contains(taken, candidate) {
			return candidate, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no free address in 10.0.0.0/8 for %s", privateName)
}

// listen returns a listener for a port of the private host.
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

// from returns the network as one bastion sees it.
func (n *network) from(bastionID string) bastionNetwork {
	return bastionNetwork{network: n, bastionID: bastionID}
}

// bastionNetwork is the resolver and the dialer for the forwards of one bastion.
type bastionNetwork struct {
	network   *network
	bastionID string
}

// LookupNetIP resolves a name inside the private network. It passes names other
// than the private host's to the system's resolver only if --allow is set.
func (b bastionNetwork) LookupNetIP(ctx context.Context, family, name string) ([]netip.Addr, error) {
	if strings.EqualFold(strings.TrimSuffix(name, "."), privateName) {
		if family == "ip6" {
			return nil, &net.DNSError{Err: "no address of this family", Name: name, IsNotFound: true}
		}
		return []netip.Addr{b.network.address}, nil
	}
	if len(b.network.allow) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return b.network.lookup(ctx, family, name)
}

// Dial connects to exactly the given address. It returns the errors that a kernel
// returns in the same case, so that clients see the same messages.
func (b bastionNetwork) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if to.Addr() == b.network.address {
		service := b.network.service(to.Port())
		if service == nil {
			return nil, fmt.Errorf("dial %s: %w: only ports 22 and 80 are open on %s", to, syscall.ECONNREFUSED, privateName)
		}
		return service.connect(ctx, b.bastionID)
	}
	if slices.ContainsFunc(b.network.allow, func(rule bastion.DestinationRule) bool { return rule.Allows(to) }) {
		return b.network.dial(ctx, "tcp", to.String())
	}
	return nil, fmt.Errorf("dial %s: %w: only %s is in the local network (use --allow CIDR for other destinations)", to, syscall.EHOSTUNREACH, privateName)
}

// pipeConn is one end of a socket pair, with addresses of the private network.
// Unlike net.Pipe, a socket pair can close each direction alone, as TCP can.
type pipeConn struct {
	*net.UnixConn
	local, remote net.Addr
	bastionID     string // the bastion that dialled
}

func (c *pipeConn) LocalAddr() net.Addr  { return c.local }
func (c *pipeConn) RemoteAddr() net.Addr { return c.remote }

// newPipe returns the two ends of a connection.
func newPipe(to netip.AddrPort, bastionID string) (dialled, accepted *pipeConn, err error) {
	near, far, err := socketpair()
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	server := net.TCPAddrFromAddrPort(to)
	// The address of the bastion in the private network is for display only.
	client := &net.TCPAddr{IP: server.IP.Mask(net.CIDRMask(24, 32)).To4()}
	client.IP[3] = 1
	dialled = &pipeConn{UnixConn: near, local: client, remote: server, bastionID: bastionID}
	accepted = &pipeConn{UnixConn: far, local: server, remote: client, bastionID: bastionID}
	return dialled, accepted, nil
}

func socketpair() (*net.UnixConn, *net.UnixConn, error) {
	// Without the lock, a process that starts between Socketpair and CloseOnExec would
	// inherit the descriptors and keep the connection open.
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	near, err := fileConn(fds[0])
	if err != nil {
		_ = syscall.Close(fds[1])
		return nil, nil, err
	}
	far, err := fileConn(fds[1])
	if err != nil {
		_ = near.Close()
		return nil, nil, err
	}
	return near, far, nil
}

// fileConn returns a connection on a copy of the descriptor, and closes the
// descriptor.
func fileConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socketpair")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("socketpair: got a %T", conn)
	}
	return unix, nil
}

// pipeListener accepts the connections to one port of the private host.
type pipeListener struct {
	address netip.AddrPort
	backlog chan *pipeConn
	closed  chan struct{}
	once    sync.Once
}

func newPipeListener(address netip.AddrPort) *pipeListener {
	return &pipeListener{address: address, backlog: make(chan *pipeConn), closed: make(chan struct{})}
}

// connect passes one end of a new connection to Accept and returns the other.
func (l *pipeListener) connect(ctx context.Context, bastionID string) (net.Conn, error) {
	near, far, err := newPipe(l.address, bastionID)
	if err != nil {
		return nil, err
	}
	select {
	case l.backlog <- far:
		return near, nil
	case <-l.closed:
		err = net.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	_, _ = near.Close(), far.Close()
	return nil, fmt.Errorf("connect to %s: %w", l.address, err)
}

// Accept waits for the next connection.
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.backlog:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close makes Accept return an error. Accepted connections stay open.
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns the address in the private network.
func (l *pipeListener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.address) }
