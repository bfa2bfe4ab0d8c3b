package localcloud

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Runner runs the processes of tasks.
type Runner interface {
	// Run runs the process of one task and returns its exit code. The end of ctx
	// stands for SIGTERM.
	Run(ctx context.Context, task Process) int
}

// Process holds the resources that the process of a task can use.
type Process struct {
	TaskID, BastionID string
	// Addr is the task's address.
	Addr netip.AddrPort
	// Lease is the task's own item in the table of leases. When the process has been
	// killed, all calls fail.
	Lease bastion.TaskLease
	// Listen starts to listen on Addr. It can be called once; in a cloud without
	// sockets it returns an error. Before the call, connections are refused. After
	// it, a connection from an address that the security group does not admit is
	// closed, and no byte is sent. Accepted connections implement syscall.Conn and
	// interface{ CloseWrite() error }, like those of package net.
	Listen func() (net.Listener, error)
}

// idleRunner waits for SIGTERM.
type idleRunner struct{}

func (idleRunner) Run(ctx context.Context, _ Process) int {
	<-ctx.Done()
	return bastion.ExitTerminated
}

// process holds the resources of a task's process until kill releases them.
type process struct {
	public Process
	lease  *taskLease

	mu       sync.Mutex
	killed   bool
	socket   *socket // nil if the process listens, or if the cloud has no sockets
	listener net.Listener
	conns    map[*conn]struct{}
}

// newProcess returns the process of a task whose address is known. c.mu is held.
func (c *Cloud) newProcess(t *task, s *socket) *process {
	p := &process{
		lease:  &taskLease{table: c.leases, taskID: t.state.ID},
		socket: s,
		conns:  map[*conn]struct{}{},
	}
	p.public = Process{
		TaskID:    t.state.ID,
		BastionID: t.state.BastionID,
		Addr:      t.state.Endpoints[0],
		Lease:     p.lease,
		Listen: func() (net.Listener, error) {
			return p.listen(func(peer netip.Addr) bool { return c.admits(t, peer) })
		},
	}
	return p
}

// endpoints returns the address of the socket. If s is nil, it returns invented
// addresses that no other task has. c.mu is held.
func (c *Cloud) endpoints(s *socket) []netip.AddrPort {
	if s != nil {
		return []netip.AddrPort{s.addr}
	}
	c.addresses++
	n := c.addresses
	v4 := netip.AddrFrom4([4]byte{198, 18 + byte(n>>16)&1, byte(n >> 8), byte(n)})
	v6 := netip.MustParseAddr("2001:db8::").As16()
	v6[13], v6[14], v6[15] = byte(n>>16), byte(n>>8), byte(n)
	return []netip.AddrPort{netip.AddrPortFrom(v4, sshPort), netip.AddrPortFrom(netip.AddrFrom16(v6), sshPort)}
}

const sshPort = 2222

// admits reports whether the current state of the task's security group admits the
// address.
func (c *Cloud) admits(t *task, peer netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return t.group.admits(peer.Unmap())
}

// listen implements Process.Listen.
func (p *process) listen(admits func(netip.Addr) bool) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.killed:
		return nil, fmt.Errorf("listen in task %s: %w", p.public.TaskID, errKilled)
	case p.socket == nil:
		return nil, fmt.Errorf("listen in task %s: the task listens already, or the cloud has no sockets", p.public.TaskID)
	}
	inner, err := p.socket.listen()
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", p.public.Addr, err)
	}
	p.socket, p.listener = nil, inner
	return &listener{Listener: inner, process: p, admits: admits}, nil
}

// kill closes the sockets of the process and revokes its access to the lease.
func (p *process) kill() {
	p.lease.revoke()
	p.mu.Lock()
	p.killed = true
	socket, listener, conns := p.socket, p.listener, p.conns
	p.socket, p.listener, p.conns = nil, nil, nil
	p.mu.Unlock()
	if socket != nil {
		socket.close()
	}
	if listener != nil {
		listener.Close()
	}
	for conn := range conns {
		conn.TCPConn.Close()
	}
}

// add registers an open connection. It returns false if the process was killed.
func (p *process) add(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *process) remove(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

var errKilled = errors.New("the process was killed")

// listener accepts only connections that the security group admits.
type listener struct {
	net.Listener
	process *process
	admits  func(netip.Addr) bool
}

// Accept returns the next connection that the group admits. It closes every other
// connection and sends no byte to it. Connections that are open already are not
// checked again.
func (l *listener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp := inner.(*net.TCPConn)
		c := &conn{TCPConn: tcp, process: l.process}
		peer := tcp.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		if l.admits(peer) && l.process.add(c) {
			return c, nil
		}
		tcp.Close()
	}
}

// conn is a connection that is closed when its process is killed.
type conn struct {
	*net.TCPConn
	process *process
}

// Close closes the connection.
func (c *conn) Close() error {
	c.process.remove(c)
	return c.TCPConn.Close()
}

// socket is the address of a task. It is reserved before the task listens.
type socket struct {
	addr     netip.AddrPort
	reserved reservation
}

// reserve reserves an address for a task. In a cloud without sockets it returns nil.
func (c *Cloud) reserve() (*socket, error) {
	if !c.cfg.Host.IsValid() {
		return nil, nil
	}
	reserved, port, err := bind(c.cfg.Host)
	if err != nil {
		return nil, err
	}
	return &socket{addr: netip.AddrPortFrom(c.cfg.Host, port), reserved: reserved}, nil
}

func (s *socket) listen() (net.Listener, error) { return s.reserved.listen() }

func (s *socket) close() { s.reserved.close() }
