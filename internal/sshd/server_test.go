package sshd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/leaseloop"
)

// serverBubble runs a test in simulated time with a server that no lease loop controls, so
// that the test sees its state. The server admits the fixture's key.
func serverBubble(t *testing.T, test func(t *testing.T, r *fixture, s *server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newFixture(t)
		r.memory = newMemoryListener()
		cfg := r.cfg.withDefaults()
		hosts, err := newHostKeys(cfg.Rand)
		if err != nil {
			t.Fatal(err)
		}
		hosts.addRSA(testRSAKey, cfg.Log)
		s := newServer(cfg, slog.New(slog.NewJSONHandler(r.log, nil)), hosts)
		s.SetLease(r.table.Lease)
		if err := s.Listen(); err != nil {
			t.Fatal(err)
		}
		test(t, r, s)
		s.Close(leaseloop.Closed)
		synctest.Wait()
	})
}

// connectAs connects with a key to a server in memory.
func (r *fixture) connectAs(key ssh.Signer, change func(*ssh.ClientConfig)) (*ssh.Client, error) {
	conn, err := r.memory.dial()
	if err != nil {
		return nil, err
	}
	config := &ssh.ClientConfig{User: "bastion", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}
	change(config)
	c, channels, requests, err := ssh.NewClientConn(conn, "bastion", config)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), nil
}

func nothing(*ssh.ClientConfig) {}

// All turns for Diffie-Hellman exchanges are taken for longer than the first clock allows.
// A client that waits for one gets in when one is free. When it exchanges keys again after
// its login, the wait closes nothing either.
func TestClientWaitsForItsTurn(t *testing.T) {
	serverBubble(t, func(t *testing.T, r *fixture, s *server) {
		take := func() {
			for range maxExchanges {
				s.exchanges <- struct{}{}
			}
		}
		take()
		entered := make(chan *ssh.Client, 1)
		go func() {
			client, err := r.connectAs(r.key, func(c *ssh.ClientConfig) {
				c.KeyExchanges = []string{ssh.KeyExchangeDH14SHA256}
				c.RekeyThreshold = 1 << 16
			})
			if err != nil {
				t.Errorf("the client is refused: %v", err)
			}
			entered <- client
		}()
		after(time.Minute)
		if len(entered) != 0 {
			t.Fatal("the client has not waited")
		}
		<-s.exchanges
		client := <-entered
		if client == nil {
			return
		}
		defer client.Close()
		if n := len(s.exchanges); n != maxExchanges-1 {
			t.Errorf("%d turns are taken after the exchange", n)
		}
		s.exchanges <- struct{}{}
		var enough atomic.Bool
		done := make(chan error, 1)
		go func() {
			var err error
			for err == nil && !enough.Load() { // until the next exchange
				_, _, err = client.SendRequest("x", true, make([]byte, 1<<12))
			}
			done <- err
		}()
		after(4 * time.Minute)
		enough.Store(true)
		if len(done) != 0 {
			t.Fatalf("during the second exchange: %v", <-done)
		}
		<-s.exchanges
		<-s.exchanges
		if err := <-done; err != nil {
			t.Errorf("after the second exchange: %v", err)
		}
	})
}

// After clients have used forwards and left, nothing of them remains in the server.
func TestClientsThatLeftLeaveNothing(t *testing.T) {
	serverBubble(t, func(t *testing.T, r *fixture, s *server) {
		r.memoryHost("10.0.0.1:7", echo)
		for range 3 {
			client, err := r.connectAs(r.key, nothing)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				conn := forward(t, client, "10.0.0.1:7")
				if _, err := conn.Write([]byte("ping")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
					t.Fatal(err)
				}
				conn.Close()
			}
			after(5 * time.Second) // the last forward ends a second after its client has left
			s.intake.mu.Lock()
			for f := range s.intake.inflows {
				if len(f.uploads) != 0 || f.bytes != 0 {
					t.Errorf("%d uploads remain, with %d bytes", len(f.uploads), f.bytes)
				}
			}
			s.intake.mu.Unlock()
			client.Close()
		}
		after(time.Minute)
		s.intake.mu.Lock()
		defer s.intake.mu.Unlock()
		if n := len(s.intake.inflows); n != 0 || s.intake.total != 0 {
			t.Errorf("%d inflows remain, with %d bytes", n, s.intake.total)
		}
		if open, _ := s.connections.use(); open != 0 || len(s.connections.pending) != 0 || len(s.exchanges) != 0 {
			t.Errorf("%d connections are open, %d pending; %d turns are taken", open, len(s.connections.pending), len(s.exchanges))
		}
	})
}

// A client that asks a person about the host key, or for a passphrase, has two minutes.
func TestClientThatThinksGetsIn(t *testing.T) {
	serverBubble(t, func(t *testing.T, r *fixture, _ *server) {
		client, err := r.connectAs(r.key, func(c *ssh.ClientConfig) {
			c.HostKeyCallback = func(string, net.Addr, ssh.PublicKey) error {
				time.Sleep(time.Minute)
				return nil
			}
			c.Auth = []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
				time.Sleep(50 * time.Second)
				return []ssh.Signer{r.key}, nil
			})}
		})
		if err != nil {
			t.Fatal(err)
		}
		after(3 * time.Minute) // the clock does not count any more
		if _, _, err := client.SendRequest("x", true, nil); err != nil {
			t.Errorf("the connection was closed: %v", err)
		}
		client.Close()
	})
}

// lossyConn is a client's connection that loses what the client writes once it is broken.
type lossyConn struct {
	net.Conn
	broken atomic.Bool
}

func (c *lossyConn) Write(b []byte) (int, error) {
	if c.broken.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// A client that is too late reads why it was closed.
func TestClientThatIsTooLateReadsWhy(t *testing.T) {
	serverBubble(t, func(t *testing.T, r *fixture, _ *server) {
		memory, err := r.memory.dial()
		if err != nil {
			t.Fatal(err)
		}
		conn := &lossyConn{Conn: memory}
		defer conn.Close()
		config := &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey()}
		config.Auth = []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			conn.broken.Store(true)
			return []ssh.Signer{r.key}, nil
		})}
		shown := banners(config)
		began := time.Now()
		if _, _, _, err := ssh.NewClientConn(conn, "bastion", config); err == nil {
			t.Error("the client got in")
		}
		if waited := time.Since(began); waited != 2*time.Minute {
			t.Errorf("closed after %s, want 2m", waited)
		}
		if want := []string{"bastion: connection closed: not authenticated within 2m0s. Connect again.\n"}; !slices.Equal(*shown, want) {
			t.Errorf("banners %q, want %q", *shown, want)
		}
	})
}

// The only place belongs to a client that has proved its key. The newcomer is refused, reads
// why, and is closed.
func TestNewcomerReadsWhyItIsRefused(t *testing.T) {
	serverBubble(t, func(t *testing.T, r *fixture, s *server) {
		s.connections.limits.Handshakes = 1
		s.cfg.Limits.Handshakes = 1
		p := newPending()
		if err := s.connections.begin(p); err != nil {
			t.Fatal(err)
		}
		s.connections.reach(p, stageProved)
		conn, err := r.memory.dial()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if want := append([]byte("SSH-2.0-bastiond\r\n"), disconnect(errTooManyPending)...); err != nil || string(got) != string(want) {
			t.Errorf("received %q (%v), want %q", got, err, want)
		}
		_ = s.connections.giveUp(p)
		lines := r.log.all(msgRefusal)
		if len(lines) != 1 || lines[0].text("kind") != kindConnection || lines[0].text("reason") != errTooManyPending.Error() || lines[0].number("limit") != 1 {
			t.Errorf("refusal lines %v", lines)
		}
	})
}

// deadlineConn is a connection on which a write without a deadline is an error.
type deadlineConn struct {
	memoryConn
	deadline atomic.Bool
	t        *testing.T
}

func (c *deadlineConn) SetWriteDeadline(time.Time) error { c.deadline.Store(true); return nil }

func (c *deadlineConn) Write(b []byte) (int, error) {
	if !c.deadline.Load() {
		c.t.Error("a write has no deadline")
	}
	return c.memoryConn.Write(b)
}

// A client that does not read cannot hold up the server when it says why it closes.
func TestTellingHasATimeLimit(t *testing.T) {
	newConn := func() *deadlineConn {
		return &deadlineConn{memoryConn: memoryConn{newMemoryStream(), newMemoryStream()}, t: t}
	}
	refuse(newConn(), errTooManyPending)
	for _, reached := range []stage{stageSpeaking, stageSigned} {
		conn := newConn()
		p := &pendingConnection{conn: conn}
		p.setPreAuth(&preAuth{})
		p.tell(reached, errEvicted)
		if !conn.deadline.Load() {
			t.Errorf("stage %d has no deadline", reached)
		}
	}
}

// failingListener fails a number of times with each error before it accepts a connection.
type failingListener struct {
	*memoryListener
	failures []error
}

func (l *failingListener) Accept() (net.Conn, error) {
	if len(l.failures) == 0 {
		return l.memoryListener.Accept()
	}
	err := l.failures[0]
	l.failures = l.failures[1:]
	if err == nil {
		return memoryConn{newMemoryStream(), newMemoryStream()}, nil
	}
	return nil, err
}

// The listener counts as failed after 20 errors one after another. A lack of descriptors
// does not count, however long it lasts.
func TestErrorsOfAccept(t *testing.T) {
	times := func(n int, err error) []error { return slices.Repeat([]error{err}, n) }
	connection := []error{nil}
	for name, test := range map[string]struct {
		failures []error
		want     error // nil if the listener still works
	}{
		"too many":               {times(maxAcceptErrors, syscall.ECONNABORTED), syscall.ECONNABORTED},
		"almost too many":        {times(maxAcceptErrors-1, syscall.ECONNABORTED), nil},
		"with connections":       {slices.Concat(times(19, syscall.ECONNABORTED), connection, times(19, syscall.ECONNABORTED), connection), nil},
		"no descriptors":         {times(50, syscall.EMFILE), nil},
		"no descriptors at all":  {times(50, syscall.ENFILE), nil},
		"other errors afterward": {append(times(50, syscall.EMFILE), times(18, syscall.ECONNABORTED)...), nil},
		"closed":                 {times(1, net.ErrClosed), net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newFixture(t)
				listener := &failingListener{newMemoryListener(), test.failures}
				cfg := r.cfg.withDefaults()
				cfg.Listen = func() (net.Listener, error) { return listener, nil }
				hosts, err := newHostKeys(cfg.Rand)
				if err != nil {
					t.Fatal(err)
				}
				hosts.addRSA(nil, slog.New(slog.DiscardHandler))
				s := newServer(cfg, slog.New(slog.DiscardHandler), hosts)
				s.SetLease(r.table.Lease)
				began := time.Now()
				if err := s.Listen(); err != nil {
					t.Fatal(err)
				}
				var failed error
				select {
				case failed = <-s.Failed():
				case <-time.After(time.Minute):
				}
				if !errors.Is(failed, test.want) || (failed == nil) != (test.want == nil) {
					t.Errorf("the listener fails with %v, want %v", failed, test.want)
				}
				if waited := time.Since(began); failed != nil && waited != time.Duration(len(test.failures)-1)*50*time.Millisecond {
					t.Errorf("it fails after %s", waited)
				}
				s.Close(leaseloop.Closed)
			})
		})
	}
}

// A lack of descriptors can last for hours. It is logged when it begins, and then once a
// minute.
func TestLackOfDescriptorsIsLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFixture(t)
		listener := &failingListener{newMemoryListener(), slices.Repeat([]error{syscall.EMFILE}, 2000)} // 100 s
		cfg := r.cfg.withDefaults()
		cfg.Listen = func() (net.Listener, error) { return listener, nil }
		hosts, err := newHostKeys(cfg.Rand)
		if err != nil {
			t.Fatal(err)
		}
		hosts.addRSA(nil, slog.New(slog.DiscardHandler))
		var log bytes.Buffer
		s := newServer(cfg, slog.New(slog.NewTextHandler(&log, nil)), hosts)
		s.SetLease(r.table.Lease)
		if err := s.Listen(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		s.Close(leaseloop.Closed)
		if lines := strings.Count(log.String(), "accept failed"); lines != 2 {
			t.Errorf("%d lines:\n%.1000s", lines, log.String())
		}
	})
}

// Every change of what a report contains wakes the lease loop.
func TestTableTellsItsChanges(t *testing.T) {
	changes := 0
	cfg := Config{}.withDefaults()
	table := newConnectionTable(time.Now, cfg.Limits, cfg.Timing, func() { changes++ })
	table.setKeys(keySet{"key": {0, "SHA256:key", prefixes("127.0.0.1/32")}})
	begin := func() *pendingConnection {
		p := newPending()
		if err := table.begin(p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	want := func(what string, n int) {
		t.Helper()
		if changes != n {
			t.Errorf("%d changes after %s, want %d", changes, what, n)
		}
	}
	if !table.pause() {
		t.Error("the empty table cannot be paused")
	}
	table.resume()
	p, other, c := begin(), begin(), &connection{key: "key"}
	want("begin", 0)
	if table.pause() || table.paused {
		t.Error("a table with a pending connection was paused")
	}
	if err := table.enter(p, c); err != nil {
		t.Fatal(err)
	}
	want("enter", 1)
	if err := table.enter(other, &connection{key: "unknown"}); err == nil {
		t.Fatal("an unknown key entered")
	}
	want("a refusal", 2)
	_ = table.giveUp(begin())
	want("giveUp", 3)
	if table.pause() || table.paused {
		t.Error("a table with an open connection was paused")
	}
	table.drain(time.Time{})
	if table.pause() || !table.paused {
		t.Error("pause ends the draining")
	}
	now := time.Now()
	table.leave(c, now)
	want("leave", 4)
	if open, last := table.use(); open != 0 || !last.Equal(now) {
		t.Errorf("%d open, last use %s", open, last)
	}
	table.leave(&connection{key: "key"}, now.Add(-time.Minute)) // its last use was earlier
	if _, last := table.use(); !last.Equal(now) {
		t.Errorf("last use %s, want %s", last, now)
	}
}

// Keys are listed in the order of the lease, with the number of their own connections.
func TestKeysAreInTheOrderOfTheLease(t *testing.T) {
	table := newPendingTable(10).connectionTable
	keys := keySet{}
	var want []string
	for i := range 10 {
		name := fmt.Sprintf("SHA256:%d", 9-i)
		keys[name] = admittedKey{i, name, prefixes("127.0.0.1/32")}
		want = append(want, name)
		for range i % 3 {
			table.open[&connection{actor: actor{key: name}}] = struct{}{}
		}
	}
	table.setKeys(keys)
	for i, use := range table.keyUse() {
		if use.fingerprint != want[i] || use.open != i%3 {
			t.Errorf("key %d is %s with %d connections, want %s with %d", i, use.fingerprint, use.open, want[i], i%3)
		}
	}
	if got := keys.accepted(newPending().from); got != "the key "+strings.Join(want, " or ") {
		t.Errorf("accepted: %s", got)
	}
}

func TestNoteHasALimit(t *testing.T) {
	var list []string
	for i := range 2 * maxOffers {
		list = note(note(list, fmt.Sprint(i)), fmt.Sprint(i))
	}
	if len(list) != maxOffers || list[maxOffers-1] != fmt.Sprint(maxOffers-1) {
		t.Errorf("the list has %d items, want %d: %s", len(list), maxOffers, list)
	}
}

// The gate learns of each signature of a host key, whichever method the library calls.
func TestSigningIsNoted(t *testing.T) {
	signer, err := ssh.NewSignerWithAlgorithms(newKey(t).(ssh.AlgorithmSigner), []string{ssh.KeyAlgoED25519})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	noting := notingSigner{signer, func() { asked++ }}
	if _, err := noting.Sign(nil, []byte("data")); err != nil || asked != 1 {
		t.Errorf("error %v, noted %d times", err, asked)
	}
	if _, err := noting.SignWithAlgorithm(nil, []byte("data"), ssh.KeyAlgoED25519); err != nil || asked != 2 {
		t.Errorf("error %v, noted %d times", err, asked)
	}
}
