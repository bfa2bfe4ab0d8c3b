package sshd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/crypto/ssh"
)

// directTCPIP is what a direct-tcpip channel is opened with (RFC 4254, 7.2).
type directTCPIP struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

// forward serves one direct-tcpip channel: it finds the destination, connects,
// and copies both ways.
func (c *connection) forward(channel ssh.NewChannel) {
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
	f.result = "the client was gone before the connection was made"
	if client, requests, err := channel.Accept(); err == nil {
		r := relay{client: client, gone: discard(requests), target: target, linger: c.cfg.Timing.Linger, cut: c.ctx.Done()}
		f.in, f.out, f.result = r.run()
		if f.result == resultCut {
			f.result = context.Cause(c.ctx).Error()
		}
		c.audit.forward(c.who, f)
		// The slot stays taken until the client has closed its side too.
		<-r.gone
		return
	}
	c.audit.forward(c.who, f)
}

// connect finds the destination and connects to the first of its addresses that
// answers. It answers *refused.
func (c *connection) connect(f *forwarded, host string, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(c.present, c.cfg.Timing.Resolve)
	defer cancel()
	var err error
	f.destination, err = findDestination(ctx, c.cfg.Resolver, c.policy(), host, port)
	if err != nil {
		return nil, err
	}
	var causes error
	for _, addr := range f.addrs {
		ctx, cancel := context.WithTimeout(c.present, c.cfg.Timing.Dial)
		conn, err := c.cfg.Dialer.Dial(ctx, addr)
		cancel()
		if err == nil {
			f.address = addr.String()
			return conn, nil
		}
		causes = errors.Join(causes, fmt.Errorf("dial %s: %w", addr, err))
		if c.present.Err() != nil {
			break
		}
	}
	return nil, &refused{ssh.ConnectionFailed,
		fmt.Sprintf("The bastion could not connect to %s: %s.", f.name, plainDialError(causes)), causes}
}

// refuseForward rejects the channel and writes the one line for it: what policy
// forbids is a refusal; what did not work is a forward that came to nothing.
func (c *connection) refuseForward(channel ssh.NewChannel, f forwarded, err error) {
	var r *refused
	if !errors.As(err, &r) {
		r = &refused{ssh.ConnectionFailed, "The bastion could not connect.", err}
	}
	if r.reason == ssh.ConnectionFailed {
		f.result = clip(r.Error())
		c.audit.forward(c.who, f)
	} else {
		attrs := []slog.Attr{slog.String("asked", f.name)}
		if len(f.dropped) > 0 {
			attrs = append(attrs, slog.Any("dropped", f.dropped))
		}
		c.audit.refusal(c.who, kindForward, r.message, attrs...)
	}
	_ = channel.Reject(r.reason, r.message)
}

// discard refuses a channel's requests, and closes what it answers when the
// channel is closed: by the client, or with the connection.
func discard(requests <-chan *ssh.Request) <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for request := range requests {
			_ = request.Reply(false, nil)
		}
	}()
	return gone
}
