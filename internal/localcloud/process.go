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

// Runner is what runs in a task's container.
type Runner interface {
	// Run answers the exit code. ctx is done when SIGTERM comes.
	Run(ctx context.Context, task Process) int
}

// Process is what a task's process has of the world.
type Process struct {
	TaskID, BastionID string
	// Addr is where the task can be reached.
	Addr netip.AddrPort
	// Lease is the task's own item in the table of leases. It fails when the
	// process has been killed.
	Lease bastion.TaskLease
	// Listen begins to listen at Addr, once; before that, connections are
	// refused. Whom the security group does not admit is disconnected without a
	// byte. The connections accepted are of type interface{ CloseWrite() error }
	// and syscall.Conn, as those of net. Without sockets, it answers an error.
	Listen func() (net.Listener, error)
}

// idleRunner is a process that does nothing.
type idleRunner struct{}

func (idleRunner) Run(ctx context.Context, _ Process) int {
	<-ctx.Done()
	return 143
}

// process is what a task's process holds, and loses when it dies.
type process struct {
	view  Process
	lease *taskLease

	mu       sync.Mutex
	dead     bool
	socket   *socket // until it listens; nil if there are no sockets
	listener net.Listener
	conns    map[*conn]struct{}
}

// newProcess makes the process of a task that has its address. c.mu is held.
func (c *Cloud) newProcess(t *task, s *socket) *process {
	p := &process{
		lease:  &taskLease{table: c.leases, taskID: t.state.ID},
		socket: s,
		conns:  map[*conn]struct{}{},
	}
	p.view = Process{
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

// endpoints are a task's addresses: the socket's, or made-up ones that no other
// task has. c.mu is held.
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

// admits reports whether the task's security group, as it truly is, lets the
// address in.
func (c *Cloud) admits(t *task, peer netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return t.group.admits(peer.Unmap())
}

// listen begins to listen.
func (p *process) listen(admits func(netip.Addr) bool) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.dead:
		return nil, fmt.Errorf("listen in task %s: %w", p.view.TaskID, errDead)
	case p.socket == nil:
		return nil, fmt.Errorf("listen in task %s: it listens already, or the cloud has no sockets", p.view.TaskID)
	}
	inner, err := p.socket.listen()
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", p.view.Addr, err)
	}
	p.socket, p.listener = nil, inner
	return &listener{Listener: inner, process: p, admits: admits}, nil
}

// die takes everything from the process.
func (p *process) die() {
	p.lease.revoke()
	p.mu.Lock()
	p.dead = true
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

// keep holds a connection until it is closed; false if the process is dead.
func (p *process) keep(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *process) drop(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

var errDead = errors.New("the process is dead")
