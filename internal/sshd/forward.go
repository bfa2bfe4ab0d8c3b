package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"

	"golang.org/x/crypto/ssh"
)

// directTCPIP is the data that opens a direct-tcpip channel (RFC 4254, 7.2).
type directTCPIP struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

// forward serves one direct-tcpip channel: it finds the destination, connects to it,
// and copies both ways. It calls free when the client's side is closed.
func (c *connection) forward(channel ssh.NewChannel, free func()) {
	f := forwarded{since: c.cfg.Now()}
	var open directTCPIP
	if err := ssh.Unmarshal(channel.ExtraData(), &open); err != nil {
		c.refuseForward(channel, f, prohibited("The request to forward is malformed."))
		return
	}
	target, err := c.connect(&f, open.Host, open.Port)
	if err != nil {
		c.refuseForward(channel, f, err)
		return
	}
	defer target.Close()
	client, requests, err := channel.Accept()
	if err != nil {
		f.result = "the client left before the connection was made"
		c.audit.forward(c.actor, f)
		return
	}
	// Extended data makes no sense in a forward. Unread, it would stay in memory.
	extended := make(chan struct{})
	go func() {
		defer close(extended)
		_, _ = io.Copy(io.Discard, client.Stderr())
	}()
	ctx, cut := context.WithCancelCause(c.ctx)
	defer cut(nil)
	upload := c.wire.inflow.upload(cut)
	defer upload.done()
	r := relay{client: client, closed: discard(requests), target: target, upload: upload, linger: c.cfg.Timing.Linger, cut: ctx.Done()}
	lingers := false
	r.left = func() bool {
		select {
		case c.lingering <- struct{}{}:
			lingers = true
			free()
		default: // this forward keeps its slot instead
		}
		return lingers
	}
	f.traffic, f.result = r.run()
	if f.result == resultCut {
		f.result = context.Cause(ctx).Error()
	}
	c.audit.forward(c.actor, f)
	if lingers {
		<-c.lingering
	}
	// The channel keeps its slot until the client has closed it too.
	<-r.closed
	<-r.drained
	<-extended
}

// connect finds the destination and dials its addresses in order until one connects. Its
// errors are *refused.
func (c *connection) connect(f *forwarded, host string, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(c.clientCtx, c.cfg.Timing.Resolve)
	defer cancel()
	var err error
	f.destination, err = findDestination(ctx, c.cfg.Resolver, c.policy(), host, port)
	if err != nil {
		return nil, err
	}
	var causes error
	for _, addr := range f.addrs {
		ctx, cancel := context.WithTimeout(c.clientCtx, c.cfg.Timing.Dial)
		conn, err := c.cfg.Dialer.Dial(ctx, addr)
		cancel()
		if err == nil {
			f.address = addr.String()
			return conn, nil
		}
		causes = errors.Join(causes, fmt.Errorf("dial %s: %w", addr, err))
		if c.clientCtx.Err() != nil {
			break
		}
	}
	return nil, &refused{ssh.ConnectionFailed,
		fmt.Sprintf("The bastion could not connect to %s: %s.", f.name, plainDialError(causes)), causes}
}

// refuseForward rejects the channel and writes its audit line. If the destination could not
// be resolved or connected to, the line has the message forward, otherwise refusal.
func (c *connection) refuseForward(channel ssh.NewChannel, f forwarded, err error) {
	var r *refused
	if !errors.As(err, &r) {
		r = &refused{ssh.ConnectionFailed, "The bastion could not connect.", err}
	}
	if r.reason == ssh.ConnectionFailed {
		f.result = clip(r.Error())
		c.audit.forward(c.actor, f)
	} else {
		attrs := []slog.Attr{slog.String("requested", f.name)}
		if len(f.dropped) > 0 {
			attrs = append(attrs, slog.Any("dropped", f.dropped))
		}
		c.audit.refusal(c.actor, kindForward, r.message, attrs...)
	}
	_ = channel.Reject(r.reason, r.message)
}

// discard refuses all requests. The returned channel is closed when there are no more,
// because the SSH channel or the connection was closed.
func discard(requests <-chan *ssh.Request) <-chan struct{} {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		for request := range requests {
			_ = request.Reply(false, nil)
		}
	}()
	return closed
}
