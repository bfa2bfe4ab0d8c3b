package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"
	"time"

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
	f.result = "the client left before the connection was made"
	if client, requests, err := channel.Accept(); err == nil {
		r := relay{client: client, closed: discard(requests), target: target, linger: c.cfg.Timing.Linger, cut: c.ctx.Done()}
		f.in, f.out, f.result = r.run()
		if f.result == resultCut {
			f.result = context.Cause(c.ctx).Error()
		}
		c.audit.forward(c.actor, f)
		// The channel keeps its slot until the client has closed it too.
		<-r.closed
		return
	}
	c.audit.forward(c.actor, f)
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

// relay copies between a client's channel and a destination. When one side stops sending,
// the relay closes the other side for writing, and the other direction continues.
type relay struct {
	client ssh.Channel
	closed <-chan struct{} // closed when the client has closed the channel
	target net.Conn
	linger time.Duration   // limit for delivering the client's data after it has closed the channel
	cut    <-chan struct{} // closed when the relay must end at once
}

// resultCut is the result of a relay that was cut.
const resultCut = "cut"

// transfer is the outcome of one direction.
type transfer struct {
	bytes int64
	err   error // of the destination's connection
}

// run copies until both directions have ended, and closes both sides.
func (r *relay) run() (in, out int64, result string) {
	up, down := make(chan transfer, 1), make(chan transfer, 1)
	go func() { up <- r.toTarget() }()
	go func() { down <- r.toClient() }()

	var sent, received *transfer
	var late <-chan time.Time
	closed, cut := r.closed, r.cut
	result = "ok"
	for sent == nil || received == nil {
		select {
		case t := <-up:
			sent = &t
		case t := <-down:
			received = &t
		case <-closed:
			closed, result = nil, "closed by the client"
			timer := time.NewTimer(r.linger)
			defer timer.Stop()
			late = timer.C
		case <-late:
			late = nil
			_ = r.target.Close()
		case <-cut:
			cut, result = nil, resultCut
			_ = r.target.Close()
			_ = r.client.Close()
		}
	}
	_ = r.client.Close()
	_ = r.target.Close()
	if result != resultCut && (isReset(sent.err) || isReset(received.err)) {
		result = "reset by the destination"
	}
	return sent.bytes, received.bytes, result
}

// toTarget copies the client's data to the destination, and then half-closes the
// destination. It delivers all of it, even if the client leaves meanwhile.
func (r *relay) toTarget() transfer {
	n, err := io.Copy(r.target, received{r.client})
	halfClose(r.target)
	if err != nil {
		// The destination accepts no more data. OpenSSH reports this with the same request.
		_, _ = r.client.SendRequest("eow@openssh.com", false, nil)
	}
	return transfer{n, err}
}

// toClient copies the destination's data to the client, and then half-closes the channel.
func (r *relay) toClient() transfer {
	source := &source{Reader: r.target}
	n, err := io.Copy(r.client, source)
	_ = r.client.CloseWrite()
	switch {
	case source.err != nil:
		// The connection to the destination is lost in both directions.
		_ = r.client.Close()
	case err != nil:
		// The client does not read any more. If data stayed unread, the kernel would
		// reset the connection, and the destination could lose what the client sent.
		_, _ = io.Copy(io.Discard, r.target)
	}
	return transfer{n, source.err}
}

// received reads all that a client sent. If the library cannot acknowledge data to a
// client that has left, it returns the data together with an error. Read drops that error.
type received struct{ io.Reader }

func (r received) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if n > 0 {
		return n, nil
	}
	return n, err
}

// source stores the error of a failed read.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
