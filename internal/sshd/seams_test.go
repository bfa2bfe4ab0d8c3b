package sshd

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The tests in this file let two of these meet: a client enters, a connection is cut, a
// connection closes, the bastion ends.

// stubborn is a destination that ignores a half-close: it sends a byte every second until
// its connection is closed.
type stubborn struct{ opened, closed atomic.Int64 }

func (s *stubborn) serve(conn net.Conn) {
	defer conn.Close()
	s.opened.Add(1)
	defer s.closed.Add(1)
	for {
		if _, err := conn.Write([]byte(".")); err != nil {
			return
		}
		time.Sleep(time.Second)
	}
}

func TestCutClosesTheDestination(t *testing.T) {
	other := newKey(t)
	for name, cut := range map[string]func(*fixture) error{
		"the key is removed": func(r *fixture) error {
			return r.table.Write(func(l *bastion.Lease) { l.Keys = []bastion.Key{authorized(other)} })
		},
		"the lease is closed": func(r *fixture) error {
			return r.table.Write(func(l *bastion.Lease) { l.Open, l.EndReason = false, bastion.EndClosed })
		},
		"the task is stopped": func(r *fixture) error { r.terminate(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *fixture) {
				var host stubborn
				r.memoryHost("10.0.0.1:7", host.serve)
				r.run()
				after(0)
				client := r.dial()
				forward(t, client, "10.0.0.1:7")
				half := forward(t, client, "10.0.0.1:7") // the client has stopped sending on this one
				if err := half.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				after(10 * time.Second)
				if host.opened.Load() != 2 || host.closed.Load() != 0 {
					t.Fatalf("%d destinations are connected, %d are closed", host.opened.Load(), host.closed.Load())
				}
				if err := cut(r); err != nil {
					t.Fatal(err)
				}
				after(5 * time.Second) // the lease is read every three seconds
				if n := host.closed.Load(); n != 2 {
					t.Errorf("%d destinations of 2 are closed", n)
				}
				if n := len(r.log.all(msgForward)); n != 2 {
					t.Errorf("%d forward lines, want 2", n)
				}
				if name != "the key is removed" && !r.ended() {
					t.Error("the destinations hold up the end of the bastion")
				}
			})
		})
	}
}

// The last handshakes hang in each of their stages when the bastion ends.
func TestHandshakesDoNotDelayTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.run()
		after(0)
		closed := make(chan struct{}, 3)
		waitForClose := func(conn net.Conn) {
			_, _ = io.Copy(io.Discard, conn)
			closed <- struct{}{}
		}
		for _, sent := range []string{"", "SSH-2.0-test\r\n"} {
			conn, err := r.connect()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, sent); err != nil {
				t.Fatal(err)
			}
			go waitForClose(conn)
		}
		offered, sign := make(chan struct{}), make(chan struct{})
		go func() {
			client, err := r.dialWith(r.client(ssh.PublicKeys(waitingSigner{r.key, offered, sign})))
			if err == nil {
				t.Error("a client was admitted after the end")
				client.Close()
			}
			closed <- struct{}{}
		}()
		<-offered
		if err := r.table.Write(func(l *bastion.Lease) { l.Open, l.EndReason = false, bastion.EndClosed }); err != nil {
			t.Fatal(err)
		}
		after(4 * time.Second)
		if !r.ended() {
			t.Fatal("the handshakes hold up the end of the bastion")
		}
		close(sign)
		for range cap(closed) {
			<-closed
		}
		if n := r.table.LastReport().Receipt.Connections; n != 0 {
			t.Errorf("the receipt counts %d connections", n)
		}
	})
}

// The client leaves while the bastion connects to its destination.
func TestDialEndsWithItsClient(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		dialing, stopped := make(chan struct{}), make(chan struct{})
		r.network.add("10.0.0.1:7", func(ctx context.Context) (net.Conn, error) {
			close(dialing)
			<-ctx.Done()
			close(stopped)
			return nil, ctx.Err()
		})
		r.run()
		after(0)
		client := r.dial()
		go func() { _, _ = client.Dial("tcp", "10.0.0.1:7") }()
		<-dialing
		began := time.Now()
		client.Close()
		<-stopped
		if waited := time.Since(began); waited > time.Second {
			t.Errorf("the dial went on for %s after the client had left", waited)
		}
		after(time.Second)
		if n := len(r.log.all(msgConnection)); n != 1 {
			t.Errorf("%d connection lines, want 1", n)
		}
	})
}

// The destination accepts just after the client has left.
func TestDestinationThatConnectsTooLateIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		var host stubborn
		dialing, left := make(chan struct{}), make(chan struct{})
		r.network.add("10.0.0.1:7", func(ctx context.Context) (net.Conn, error) {
			close(dialing)
			<-left
			up, down := newMemoryStream(), newMemoryStream()
			go host.serve(memoryConn{up, down})
			return memoryConn{down, up}, nil
		})
		r.run()
		after(0)
		client := r.dial()
		go func() { _, _ = client.Dial("tcp", "10.0.0.1:7") }()
		<-dialing
		client.Close()
		after(time.Second)
		close(left)
		after(2 * time.Second)
		if host.opened.Load() != 1 || host.closed.Load() != 1 {
			t.Errorf("%d connections to the destination, %d closed; want 1 and 1", host.opened.Load(), host.closed.Load())
		}
		lines := r.log.all(msgForward)
		if len(lines) != 1 || lines[0].text("result") == resultOK {
			t.Errorf("forward lines %v, want one that says that the client had left", lines)
		}
		if n := len(r.log.all(msgConnection)); n != 1 {
			t.Errorf("%d connection lines, want 1", n)
		}
	})
}

// A connection that is being closed opens no channel, whether its other channels have
// closed already or not.
func TestClosingConnectionOpensNoChannel(t *testing.T) {
	other := newKey(t)
	for name, console := range map[string]bool{"without channels": false, "with a console": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *fixture) {
				r.cfg.Timing.Grace = 10 * time.Second
				r.memoryHost("10.0.0.1:7", echo)
				r.run()
				after(0)
				conn, err := r.connect()
				if err != nil {
					t.Fatal(err)
				}
				frozen := &freezableConn{Conn: conn}
				frozen.thawed.L = &frozen.mu
				c, channels, requests, err := ssh.NewClientConn(frozen, "bastion", r.client(ssh.PublicKeys(r.key)))
				if err != nil {
					t.Fatal(err)
				}
				client := ssh.NewClient(c, channels, requests)
				defer client.Close()
				if console {
					r.console(client, false).await("Commands:")
				}
				frozen.freeze(true) // the client does not see that the server closes
				if err := r.table.Write(func(l *bastion.Lease) { l.Keys = []bastion.Key{authorized(other)} }); err != nil {
					t.Fatal(err)
				}
				after(4 * time.Second)
				opened := make(chan error)
				go func() {
					_, err := client.Dial("tcp", "10.0.0.1:7")
					opened <- err
				}()
				after(30 * time.Second)
				if dialed := r.network.dials(); dialed != "" {
					t.Errorf("the bastion connected to %s", dialed)
				}
				if lines := r.log.all(msgConnection); len(lines) != 1 || lines[0].text("result") != causeKeyRemoved.result {
					t.Errorf("connection lines %v", lines)
				}
				frozen.freeze(false)
				err = <-opened
				refused := new(ssh.OpenChannelError)
				// Without channels, the server has closed its sending side already.
				if err == nil || console && (!errors.As(err, &refused) || refused.Reason != ssh.Prohibited) {
					t.Errorf("opening a channel returned %v, want a refusal", err)
				}
			})
		})
	}
}
