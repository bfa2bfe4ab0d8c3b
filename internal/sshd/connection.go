package sshd

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// cause is why a connection ends.
type cause struct {
	result string // for the audit
	notice string // for the connection's consoles; may be empty
}

func (c *cause) Error() string { return c.result }

var (
	causeClientLeft = &cause{result: "closed by the client"}
	causeDead       = &cause{result: "no reply to keepalives"}
	causeMemory     = &cause{result: "cut: the data that destinations had not read used too much memory"}
	causeKeyRemoved = &cause{"key removed", "Your key was removed from this bastion: a request made another key the only one. To connect again, request the bastion with your key."}
)

// connection is one authenticated connection.
type connection struct {
	*server
	actor actor
	key   string // the key that the client signed with, in wire form
	wire  *wire
	ssh   *ssh.ServerConn
	since time.Time

	// ctx is done when the connection must end; its cause is a *cause. clientCtx is done
	// then, and also when the client has left. Open forwards use ctx, because they still
	// deliver what the client sent before it left.
	ctx          context.Context
	cancel       context.CancelCauseFunc
	clientCtx    context.Context
	cancelClient context.CancelFunc

	slots chan struct{} // has one value for each open channel
	// lingering has one value for each forward that the client has closed, and that still
	// delivers what the client sent.
	lingering chan struct{}
	helpers   sync.WaitGroup

	mu       sync.Mutex
	consoles map[*console]struct{}
}

func newConnection(s *server, client actor, wire *wire, sshConn *ssh.ServerConn) *connection {
	c := &connection{
		server: s, actor: client, wire: wire, ssh: sshConn, since: s.cfg.Now(),
		// The library keeps the permissions of the successful attempt only.
		key:       sshConn.Permissions.Extensions[keyPermission],
		slots:     make(chan struct{}, s.cfg.Limits.Channels),
		lingering: make(chan struct{}, s.cfg.Limits.Channels),
		consoles:  map[*console]struct{}{},
	}
	c.actor.key = sshConn.Permissions.Extensions[fingerprintPermission]
	c.actor.refusals = &refusalLog{line: s.audit.line}
	c.ctx, c.cancel = context.WithCancelCause(s.ctx)
	wire.inflow.end = c.end
	c.clientCtx, c.cancelClient = context.WithCancel(c.ctx)
	return c
}

// end ends the connection with a cause, without waiting. Only the first cause counts.
func (c *connection) end(why *cause) { c.cancel(why) }

// run serves the connection until the client has left. Goroutines may still run then;
// wait waits for them.
func (c *connection) run(channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	left := make(chan struct{}) // closed when the client has left
	c.helpers.Go(func() { c.globalRequests(requests) })
	c.helpers.Go(func() { c.keepalive(left) })
	c.helpers.Go(func() { c.close(left) })
	for channel := range channels {
		c.serveChannel(channel)
	}
	c.cancelClient()
	close(left)
}

// lastUse returns when the client last used the connection, which has just ended: now, or
// when the client last sent data if it did not respond any more.
func (c *connection) lastUse() time.Time {
	now := c.cfg.Now()
	if context.Cause(c.ctx) == causeDead {
		return now.Add(-c.wire.silence())
	}
	return now
}

// wait waits for the connection's goroutines, and returns why it ended.
func (c *connection) wait() string {
	c.helpers.Wait()
	c.cancel(causeClientLeft)
	return context.Cause(c.ctx).Error()
}

// serveChannel serves one channel in a goroutine of its own, if a slot is free.
func (c *connection) serveChannel(channel ssh.NewChannel) {
	serve, reason := c.channelServer(channel.ChannelType())
	if serve == nil {
		c.audit.refusal(c.actor, kindChannel, "channel type not supported", slog.String("requested", clip(channel.ChannelType())))
		_ = channel.Reject(reason, "A bastion forwards connections (-J, -L, -D, -W) and has a status console; nothing else.")
		return
	}
	if c.ctx.Err() != nil {
		_ = channel.Reject(ssh.Prohibited, "This connection is being closed.")
		return
	}
	select {
	case c.slots <- struct{}{}:
	default:
		c.audit.refusal(c.actor, kindChannel, "too many channels on this connection", slog.Int("limit", c.cfg.Limits.Channels))
		_ = channel.Reject(ssh.ResourceShortage, "Too many forwards and sessions are open on this connection; close some.")
		return
	}
	free := sync.OnceFunc(func() { <-c.slots })
	if c.channels.Add(1) > int64(c.cfg.Limits.AllChannels) {
		c.channels.Add(-1)
		free()
		c.audit.refusal(c.actor, kindChannel, "too many channels on this bastion", slog.Int("limit", c.cfg.Limits.AllChannels))
		_ = channel.Reject(ssh.ResourceShortage, "Too many forwards and sessions are open on all connections of this bastion; close some.")
		return
	}
	c.helpers.Go(func() {
		defer c.channels.Add(-1)
		defer free()
		serve(channel, free)
	})
}

// channelServer returns the function that serves a type of channel; nil and the
// reason code if the type is not supported. The function may call free to free the
// channel's slot before it returns.
func (c *connection) channelServer(channelType string) (serve func(channel ssh.NewChannel, free func()), reason ssh.RejectionReason) {
	switch channelType {
	case "direct-tcpip":
		return c.forward, 0
	case "session":
		return c.session, 0
	case "direct-streamlocal@openssh.com", "tun@openssh.com":
		return nil, ssh.Prohibited
	}
	return nil, ssh.UnknownChannelType
}

// globalRequests refuses all requests that concern the whole connection.
func (c *connection) globalRequests(requests <-chan *ssh.Request) {
	for request := range requests {
		_ = request.Reply(false, nil)
		// OpenSSH sends no-more-sessions@openssh.com, and needs no reply.
		if !isKeepalive(request.Type) && request.Type != "no-more-sessions@openssh.com" {
			c.audit.refusal(c.actor, kindRequest, "request type not supported", slog.String("requested", clip(request.Type)))
		}
	}
}

// isKeepalive reports whether a client sent a request only to keep the connection alive:
// keepalive@openssh.com, or the name that another client uses, such as
// keepalive@libssh2.org, keep-alive@bitvise.com (Apache MINA's KeepAliveHandler names it)
// or trilead-ping (Trilead SSH). A failure reply is a valid reply to it.
func isKeepalive(requestType string) bool {
	return strings.HasPrefix(requestType, "keepalive@") || strings.HasPrefix(requestType, "keep-alive@") || requestType == "trilead-ping"
}

// keepalive ends the connection if the client sends nothing for too long. It sends
// keepalive requests, to which an idle client replies that it does not know them.
//
// While the client's host does not reply to the kernel's probes, for example because it
// sleeps, no request is sent. Its data would stay unacknowledged, and the kernel would wait
// longer each time before it sends the data again, up to two minutes. After the host has
// woken up, the client would not receive anything before that. Probes have a fixed
// interval, and do not delay data.
func (c *connection) keepalive(left <-chan struct{}) {
	probe(c.wire.Conn, c.cfg.Timing)
	ticker := time.NewTicker(c.cfg.Timing.Keepalive)
	defer ticker.Stop()
	waiting := make(chan struct{}, 1) // full until the client replies: SendRequest has no time limit
	for {
		select {
		case <-left:
			return
		case <-ticker.C:
		}
		if c.wire.silence() >= c.cfg.Timing.Silence {
			c.end(causeDead)
			return
		}
		if !responds(c.wire.Conn, c.cfg.Timing) {
			continue
		}
		select {
		case waiting <- struct{}{}:
			c.helpers.Go(func() {
				_, _, _ = c.ssh.SendRequest("keepalive@openssh.com", true, nil)
				<-waiting
			})
		default:
		}
	}
}

// close waits until the connection must end, and closes it. Before that it waits for the
// channels to end, and then for the client to close the connection, each for at most
// Timing.Grace.
func (c *connection) close(left <-chan struct{}) {
	defer c.ssh.Close()
	select {
	case <-left:
		return
	case <-c.ctx.Done():
	}
	grace := time.NewTimer(c.cfg.Timing.Grace)
	defer grace.Stop()
	if c.fillSlots(grace.C, left) {
		halfClose(c.wire.Conn)
		grace.Reset(c.cfg.Timing.Grace)
		select {
		case <-left:
		case <-grace.C:
		}
	}
}

// fillSlots waits until no channel has a slot, and takes all slots, so that no new
// channel can begin. It returns false if it receives from late or left before that.
func (c *connection) fillSlots(late <-chan time.Time, left <-chan struct{}) bool {
	for range cap(c.slots) {
		select {
		case c.slots <- struct{}{}:
		case <-late:
			return false
		case <-left:
			return false
		}
	}
	return true
}

// notify sends a notice to the connection's consoles. It does not wait.
func (c *connection) notify(notice string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for console := range c.consoles {
		select {
		case console.notices <- notice:
		default: // this console does not read
		}
	}
}

// wire is the network connection of an SSH connection. It records when the client last
// sent data, turns off delayed acknowledgements during the handshake, and is not read while
// the intake does not allow it.
type wire struct {
	net.Conn
	inflow      *inflow
	now         func() time.Time
	gate        *exchangeGate
	heard       func()       // called when the client sends its first data
	received    atomic.Int64 // when the client last sent data, in Unix nanoseconds
	handshaking atomic.Bool

	// The goroutine that reads uses these.
	bulk   *[bulkBuffer]byte // nil if little data comes
	unread []byte            // the part of bulk that Read has not returned
	most   int               // the size of the latest read into bulk
}

func newWire(conn net.Conn, inflow *inflow, now func() time.Time, gate *exchangeGate, heard func()) *wire {
	w := &wire{Conn: conn, inflow: inflow, now: now, gate: gate, heard: sync.OnceFunc(heard)}
	w.received.Store(now().UnixNano())
	w.handshaking.Store(true)
	quickAck(conn)
	return w
}

func (w *wire) handshakeDone() { w.handshaking.Store(false) }

// The SSH library reads 4 KiB and then the rest of a packet, which is two system calls for
// each packet of an upload. After a read that shows that much data comes, wire therefore
// reads more at once.
const (
	bulkRead   = 4 << 10
	bulkBuffer = 128 << 10
)

var bulkBuffers = sync.Pool{New: func() any { return new([bulkBuffer]byte) }}

func (w *wire) Read(b []byte) (int, error) {
	if len(w.unread) > 0 {
		return w.take(b), nil
	}
	w.inflow.mayRead()
	into := b
	if w.bulk != nil {
		into = w.bulk[:]
	}
	n, err := w.Conn.Read(into)
	w.inflow.add(int64(n))
	if n > 0 {
		w.heard()
		w.received.Store(w.now().UnixNano())
	}
	if w.handshaking.Load() {
		// The kernel turns delayed acknowledgements on again by itself. They would add
		// 40 ms wherever the client waits for one.
		quickAck(w.Conn)
	}
	switch {
	case w.bulk != nil:
		w.unread, w.most = w.bulk[:n], n
		n = w.take(b)
	case n >= bulkRead:
		w.bulk = bulkBuffers.Get().(*[bulkBuffer]byte)
	}
	return n, err
}

// take returns data that was read from the network before. When the latest read was small,
// it gives the buffer back.
func (w *wire) take(b []byte) int {
	n := copy(b, w.unread)
	w.unread = w.unread[n:]
	if len(w.unread) == 0 && w.most < bulkRead {
		bulkBuffers.Put(w.bulk)
		w.bulk = nil
	}
	return n
}

// Close closes the connection, also while it is not read.
func (w *wire) Close() error {
	w.inflow.close()
	w.gate.close()
	return w.Conn.Close()
}

// silence returns the time since the client last sent data. While the connection is not
// read, the client is not silent.
func (w *wire) silence() time.Duration {
	now := w.now().UnixNano()
	if w.inflow.isHeld() {
		w.received.Store(now)
	}
	return time.Duration(now - w.received.Load())
}

// halfClose closes the sending side of a connection, if it can.
func halfClose(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}
