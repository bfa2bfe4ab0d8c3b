package sshd

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// cause is why a connection ends.
type cause struct {
	result string // for the audit
	notice string // for its consoles; may be empty
}

func (c *cause) Error() string { return c.result }

var (
	causeLeft = &cause{result: "closed by the client"}
	causeDead = &cause{result: "no answer to keepalives"}
	causeKey  = &cause{"its key was replaced", "The key of this connection was replaced by another."}
)

// connection is one authenticated connection.
type connection struct {
	*server
	who   actor
	key   string // that the client signed with, in wire form
	wire  *wire
	ssh   *ssh.ServerConn
	since time.Time

	// ctx ends when the connection is to end; its cause is a *cause. present ends
	// with it, and when the client has left: what it sent may still be on its
	// way to a destination then.
	ctx     context.Context
	cancel  context.CancelCauseFunc
	present context.Context
	leave   context.CancelFunc

	slots   chan struct{} // one taken by each channel
	helpers sync.WaitGroup

	mu       sync.Mutex
	consoles map[*console]struct{}
}

func newConnection(s *server, w actor, wire *wire, sshConn *ssh.ServerConn) *connection {
	c := &connection{
		server: s, who: w, wire: wire, ssh: sshConn, since: s.cfg.Now(),
		// Only what the last, successful attempt left counts.
		key:      sshConn.Permissions.Extensions[keyPermission],
		slots:    make(chan struct{}, s.cfg.Limits.Channels),
		consoles: map[*console]struct{}{},
	}
	c.who.key = s.connections.inForce()[c.key]
	c.ctx, c.cancel = context.WithCancelCause(s.ctx)
	c.present, c.leave = context.WithCancel(c.ctx)
	return c
}

// end tells the connection to end. The first cause stands. It does not wait.
func (c *connection) end(why *cause) { c.cancel(why) }

// run serves the connection until the client has left. wait waits for what it
// left behind.
func (c *connection) run(channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	gone := make(chan struct{}) // closed when the client is
	c.helpers.Go(func() { c.globalRequests(requests) })
	c.helpers.Go(func() { c.keepalive(gone) })
	c.helpers.Go(func() { c.close(gone) })
	for channel := range channels {
		c.take(channel)
	}
	c.leave()
	close(gone)
}

// wait waits for the connection's goroutines, and answers why it ended.
func (c *connection) wait() string {
	c.helpers.Wait()
	c.cancel(causeLeft)
	return context.Cause(c.ctx).Error()
}

// take serves one channel in a goroutine of its own, if there is a slot left.
func (c *connection) take(channel ssh.NewChannel) {
	serve, kind := c.channelServer(channel.ChannelType())
	if serve == nil {
		c.audit.refusal(c.who, kindChannel, "this type of channel is not served", slog.String("asked", clip(channel.ChannelType())))
		_ = channel.Reject(kind, "A bastion forwards connections (-J, -L, -D, -W) and has a status console; nothing else.")
		return
	}
	if c.ctx.Err() != nil {
		_ = channel.Reject(ssh.Prohibited, "This connection is being closed.")
		return
	}
	select {
	case c.slots <- struct{}{}:
	default:
		c.audit.refusal(c.who, kindChannel, "too many channels are open on this connection", slog.Int("limit", c.cfg.Limits.Channels))
		_ = channel.Reject(ssh.ResourceShortage, "Too many forwards and sessions are open on this connection; close some.")
		return
	}
	c.helpers.Go(func() {
		defer func() { <-c.slots }()
		serve(channel)
	})
}

// channelServer is who serves a type of channel, or nil and why nobody does.
func (c *connection) channelServer(channelType string) (func(ssh.NewChannel), ssh.RejectionReason) {
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

// globalRequests answers requests that concern the whole connection: no to all.
func (c *connection) globalRequests(requests <-chan *ssh.Request) {
	for request := range requests {
		_ = request.Reply(false, nil)
		switch request.Type {
		case "keepalive@openssh.com", "no-more-sessions@openssh.com":
			// Every stock client sends these; a no does as well as a yes.
		default:
			c.audit.refusal(c.who, kindRequest, "this request is not served", slog.String("asked", clip(request.Type)))
		}
	}
}

// keepalive finds out whether the client is still there. Anything it sends says
// so; a keepalive makes one that has nothing to say speak up. A stock client
// answers that it does not know the request, which is an answer.
func (c *connection) keepalive(gone <-chan struct{}) {
	ticker := time.NewTicker(c.cfg.Timing.Keepalive)
	defer ticker.Stop()
	asking := make(chan struct{}, 1) // full while an answer is awaited: requests have no time limit of their own
	for {
		select {
		case <-gone:
			return
		case <-ticker.C:
		}
		if c.wire.silence() > c.cfg.Timing.Keepalive*time.Duration(c.cfg.Timing.Missed) {
			c.end(causeDead)
			return
		}
		select {
		case asking <- struct{}{}:
			c.helpers.Go(func() {
				_, _, _ = c.ssh.SendRequest("keepalive@openssh.com", true, nil)
				<-asking
			})
		default:
		}
	}
}

// close waits for the connection's end to be wanted, and brings it about: first
// the channels, each in its own way; then the connection, by telling the client
// and letting it go first. Each is given some time, and none more.
func (c *connection) close(gone <-chan struct{}) {
	defer c.ssh.Close()
	select {
	case <-gone:
		return
	case <-c.ctx.Done():
	}
	grace := time.NewTimer(c.cfg.Timing.Grace)
	defer grace.Stop()
	if c.fillSlots(grace.C, gone) {
		halfClose(c.wire.Conn)
		grace.Reset(c.cfg.Timing.Grace)
		select {
		case <-gone:
		case <-grace.C:
		}
	}
}

// fillSlots waits until all channels have ended; then no new one can begin. It
// reports whether that came before both.
func (c *connection) fillSlots(late <-chan time.Time, gone <-chan struct{}) bool {
	for range cap(c.slots) {
		select {
		case c.slots <- struct{}{}:
		case <-late:
			return false
		case <-gone:
			return false
		}
	}
	return true
}

// tell writes a notice to the connection's consoles. It does not wait.
func (c *connection) notify(notice string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for console := range c.consoles {
		select {
		case console.notices <- notice:
		default: // it does not read; it has enough to read
		}
	}
}
