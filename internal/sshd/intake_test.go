package sshd

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// stuckHost adds a host that reads nothing until free is closed. It returns the number of
// bytes that the host has read.
func (r *fixture) stuckHost(address string, free <-chan struct{}) *atomic.Int64 {
	received := new(counter)
	r.memoryHost(address, func(conn net.Conn) {
		defer conn.Close()
		_, _ = io.Copy(received, conn)
	})
	dial := r.network.hosts[netip.MustParseAddrPort(address)]
	r.network.add(address, func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		return &stuckConn{memoryConn: conn.(memoryConn), free: free, closed: make(chan struct{})}, err
	})
	return &received.n
}

// stuckConn is the bastion's connection to a stuckHost. Without a limit of its buffer,
// memoryConn would take everything.
type stuckConn struct {
	memoryConn
	free   <-chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (c *stuckConn) Write(b []byte) (int, error) {
	select {
	case <-c.free:
		return c.memoryConn.Write(b)
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *stuckConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.memoryConn.Close()
}

// sender is a client that can tell what the server has not read.
type sender struct {
	*ssh.Client
	stream *memoryStream
}

func (r *fixture) sender() sender {
	r.t.Helper()
	conn, err := r.connect()
	if err != nil {
		r.t.Fatal(err)
	}
	c, channels, requests, err := ssh.NewClientConn(conn, "bastion", r.client(ssh.PublicKeys(r.key)))
	if err != nil {
		r.t.Fatal(err)
	}
	client := ssh.NewClient(c, channels, requests)
	r.t.Cleanup(func() { client.Close() })
	return sender{client, conn.(memoryConn).out}
}

func (s sender) unread() int {
	s.stream.mu.Lock()
	defer s.stream.mu.Unlock()
	return s.stream.buffer.Len()
}

// upload opens forwards, sends a window of data on each, in turns, and returns when the
// server reads no more.
func (s sender) upload(t *testing.T, address string, count int) {
	t.Helper()
	var conns []net.Conn
	for range count {
		conns = append(conns, forward(t, s.Client, address))
	}
	const turns = 64
	for range turns {
		for _, conn := range conns {
			if _, err := io.CopyN(conn, zeros{}, channelWindow/turns); err != nil {
				t.Fatal(err)
			}
		}
	}
	after(0)
}

// wantEcho checks that a client can use a forward, also for more than its share.
func wantEcho(t *testing.T, client *ssh.Client, address string) {
	t.Helper()
	conn := forward(t, client, address)
	message := strings.Repeat("message ", 1<<17)
	go func() { _, _ = io.WriteString(conn, message) }()
	got := make([]byte, len(message))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != message {
		t.Errorf("the echo differs, error %v", err)
	}
	conn.Close()
}

// 20 uploads wait for their destinations: the server reads no more than its limit, other
// clients can work, and after minutes nothing is lost.
func TestUploadsThatWaitForTheirDestinationUseLimitedMemory(t *testing.T) {
	for _, connections := range []int{1, 10} {
		t.Run(fmt.Sprintf("%d connections", connections), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *fixture) {
				const count, limit = 20, 4 << 20
				r.cfg.Limits.Undelivered = limit
				free := make(chan struct{})
				received := r.stuckHost("10.0.0.1:7", free)
				r.memoryHost("10.0.0.2:7", echo)
				r.run()
				after(0)
				var senders []sender
				for range connections {
					s := r.sender()
					s.upload(t, "10.0.0.1:7", count/connections)
					senders = append(senders, s)
				}
				unread := 0
				for _, s := range senders {
					unread += s.unread()
				}
				if read := count*channelWindow - unread; read < limit-1<<20 || read > 2*limit {
					t.Errorf("the server has read %d bytes; its limit is %d", read, limit)
				}
				wantEcho(t, r.dial(), "10.0.0.2:7")
				after(2 * time.Minute) // longer than a silent client has
				if lines := r.log.all(msgConnection); len(lines) > 0 {
					t.Errorf("connections have ended: %v", lines)
				}
				wantEcho(t, r.dial(), "10.0.0.2:7")
				close(free)
				after(0)
				if n := received.Load(); n != count*channelWindow {
					t.Errorf("the destination has read %d bytes, want %d", n, count*channelWindow)
				}
				for _, s := range senders {
					wantEcho(t, s.Client, "10.0.0.2:7")
				}
				for _, l := range r.log.all(msgForward) {
					if l.text("requested") != "10.0.0.2:7" {
						t.Errorf("line %v", l)
					}
				}
			})
		})
	}
}

func TestUploadsThatWaitForMinutesAreCut(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.cfg.Limits.Undelivered = 4 << 20
		r.stuckHost("10.0.0.1:7", nil)
		r.memoryHost("10.0.0.2:7", echo)
		r.run()
		after(0)
		stuck, small := r.sender(), r.sender()
		small.upload(t, "10.0.0.1:7", 1)
		stuck.upload(t, "10.0.0.1:7", 10)
		after(3*time.Minute - time.Second)
		if lines := r.log.all(msgForward); len(lines) > 0 {
			t.Errorf("forwards have ended before three minutes: %v", lines)
		}
		after(10 * time.Second)
		lines := r.log.all(msgForward)
		if len(lines) != 5 {
			t.Errorf("%d forwards have ended, want half of 10", len(lines))
		}
		for _, l := range lines {
			if l.text("result") != causeMemory.result || l.number("connection") != 1 {
				t.Errorf("line %v", l)
			}
		}
		after(15 * time.Minute) // until the rest is within the limit
		wantEcho(t, stuck.Client, "10.0.0.2:7")
		if lines := r.log.all(msgConnection); len(lines) > 0 {
			t.Errorf("connections have ended: %v", lines)
		}
	})
}

// A session that has not started anything reads nothing.
func TestConnectionWithStuckSessionsIsEnded(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.cfg.Limits.Undelivered = 4 << 20
		r.run()
		after(0)
		s := r.sender()
		var sessions []ssh.Channel
		for range 4 {
			channel, requests, err := s.OpenChannel("session", nil)
			if err != nil {
				t.Fatal(err)
			}
			go ssh.DiscardRequests(requests)
			sessions = append(sessions, channel)
		}
		for _, channel := range sessions {
			if _, err := io.CopyN(channel, zeros{}, channelWindow); err != nil {
				t.Fatal(err)
			}
		}
		after(3*time.Minute - time.Second)
		if lines := r.log.all(msgConnection); len(lines) > 0 {
			t.Errorf("the connection has ended: %v", lines)
		}
		after(10 * time.Second)
		if lines := r.log.all(msgConnection); len(lines) != 1 || lines[0].text("result") != causeMemory.result {
			t.Errorf("connection lines %v", lines)
		}
	})
}

// Small packets have much overhead, which is read and never delivered.
func TestOverheadIsNotCountedAsData(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.cfg.Limits.Undelivered = 64 << 10
		r.memoryHost("10.0.0.1:7", echo)
		r.run()
		after(0)
		conn := forward(t, r.dial(), "10.0.0.1:7")
		began := time.Now()
		for range 10_000 {
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if waited := time.Since(began); waited == 0 || waited > time.Minute {
			t.Errorf("the client waited %s for the correction", waited)
		}
		if lines := r.log.all(msgForward); len(lines) > 0 {
			t.Errorf("the forward has ended: %v", lines)
		}
	})
}

// Extended data (standard error) belongs to sessions. A client that sends it in forwards
// must not fill the memory with it.
func TestExtendedDataOfForwardsIsDiscarded(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.cfg.Limits.Undelivered = 4 << 20
		r.memoryHost("10.0.0.1:7", echo)
		r.run()
		after(0)
		s := r.sender()
		var channels []ssh.Channel
		for range 4 {
			channel, requests, err := s.OpenChannel("direct-tcpip", ssh.Marshal(directTCPIP{Host: "10.0.0.1", Port: 7}))
			if err != nil {
				t.Fatal(err)
			}
			go ssh.DiscardRequests(requests)
			channels = append(channels, channel)
		}
		for _, channel := range channels {
			if _, err := io.CopyN(channel.Stderr(), zeros{}, 2*channelWindow); err != nil {
				t.Fatal(err)
			}
		}
		after(10 * time.Second)
		if n := s.unread(); n > 0 {
			t.Errorf("the server has not read %d bytes", n)
		}
	})
}
