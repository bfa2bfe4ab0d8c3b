package localmode

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
)

// pipeConn is one end of a socket pair, with the addresses of the virtual
// network. A socket pair and not net.Pipe, because ends of it close each way
// alone, as TCP connections do.
type pipeConn struct {
	*net.UnixConn
	local, remote net.Addr
	bastionID     string // through which bastion it came
}

func (c *pipeConn) LocalAddr() net.Addr  { return c.local }
func (c *pipeConn) RemoteAddr() net.Addr { return c.remote }

// newPipe makes a connection: the end that dialled, and the end that accepts.
func newPipe(to netip.AddrPort, bastionID string) (dialled, accepted *pipeConn, err error) {
	near, far, err := socketpair()
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	server := net.TCPAddrFromAddrPort(to)
	// The bastion's address in the virtual network; it is only ever shown.
	client := &net.TCPAddr{IP: server.IP.Mask(net.CIDRMask(24, 32)).To4()}
	client.IP[3] = 1
	dialled = &pipeConn{UnixConn: near, local: client, remote: server, bastionID: bastionID}
	accepted = &pipeConn{UnixConn: far, local: server, remote: client, bastionID: bastionID}
	return dialled, accepted, nil
}

func socketpair() (*net.UnixConn, *net.UnixConn, error) {
	// Without the lock, a process started between the two calls would inherit
	// the descriptors and keep the connection open.
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

// fileConn makes a connection of a descriptor, which it closes: the connection
// has a copy.
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

// connect hands one end of a new connection to Accept and answers the other.
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

// Close ends Accept; connections that were accepted stay.
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is the address in the virtual network.
func (l *pipeListener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.address) }
