package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
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
		r.resolver.results["db.internal"] = [][]netip.Addr{addrs("10.0.0.1", "10.0.0.2")}
		r.run()
		after(0)
		client := r.dial()
		go func() { _, _ = client.Dial("tcp", "db.internal:7") }()
		<-dialing
		began := time.Now()
		client.Close()
		<-stopped
		if waited := time.Since(began); waited > time.Second {
			t.Errorf("the dial went on for %s after the client had left", waited)
		}
		after(time.Second)
		if dialed := r.network.dials(); dialed != "10.0.0.1:7" {
			t.Errorf("the bastion connected to %s, want the first address only", dialed)
		}
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
				if lines := append(r.log.all(msgRefusal), r.log.all(msgForward)...); len(lines) != 0 {
					t.Errorf("lines about a channel that was never opened: %v", lines)
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

// A pending connection that the server closes neither proves a key nor enters. One that has
// proved its key already enters, unless the bastion has ended or the client is too late.
func TestClosedPendingConnectionDoesNotEnter(t *testing.T) {
	const late = "not authenticated within 2m0s"
	for name, test := range map[string]struct {
		end            func(*connectionTable)
		signed, proved string // why a connection in this stage does not enter
	}{
		"the bastion ends":        {(*connectionTable).close, errClosed.Error(), errClosed.Error()},
		"an idle end is due":      {func(t *connectionTable) { t.drain(time.Now()) }, errClosed.Error(), ""},
		"another client connects": {func(t *connectionTable) { _ = t.begin(newPending()) }, errEvicted.Error(), ""},
		"the client is too late":  {func(*connectionTable) { after(2 * time.Minute) }, late, late},
		"nothing happens":         {func(*connectionTable) {}, "", ""},
	} {
		for proved, want := range map[bool]string{false: test.signed, true: test.proved} {
			t.Run(fmt.Sprintf("%s, proved %t", name, proved), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					table, p := newPendingTable(1).connectionTable, newPending()
					defer table.close()
					table.setKeys(keySet{"key": {0, "SHA256:key", prefixes("127.0.0.1/32")}})
					check := func(what string, err error) {
						if (err == nil) != (want == "") || err != nil && err.Error() != want {
							t.Errorf("%s returns %v, want %q", what, err, want)
						}
					}
					if err := table.begin(p); err != nil {
						t.Fatal(err)
					}
					table.reach(p, stageSigned)
					if proved {
						if err := table.prove(p, "key"); err != nil {
							t.Fatal(err)
						}
					}
					test.end(table)
					if !proved {
						check("prove", table.prove(p, "key"))
					}
					check("enter", table.enter(p, &connection{key: "key"}))
					if open, _ := table.use(); (open == 1) != (want == "") {
						t.Errorf("%d connections are open", open)
					}
					if _, pending := table.pending[p]; pending {
						t.Error("the connection is still pending")
					}
					check("giveUp", table.giveUp(p))
					after(3 * time.Minute) // no clock may close a connection that has entered
					if _, err := p.conn.Write([]byte{0}); (err == nil) != (want == "") {
						t.Errorf("writing to the connection returns %v", err)
					}
				})
			})
		}
	}
}

// What a client reads whose proved key is refused, and what it should do next.
func TestRefusalOfAProvedKeySaysWhatToDo(t *testing.T) {
	table := newPendingTable(1)
	table.setKeys(keySet{"key": {0, "SHA256:key", prefixes("127.0.0.1/32")}})
	h := &handshake{connections: table.connectionTable, pending: newPending()}
	for next, err := range map[string]error{
		"the bastion has ended. Request it again.":                                                                                         errClosed,
		"too many unauthenticated connections: this one was the oldest. Connect again.":                                                    errEvicted,
		"too many open connections. Close some, and connect again.":                                                                        errTooManyOpen,
		"the key was removed from the bastion. This bastion now accepts the key SHA256:key. Request the bastion with a key that you have.": errKeyRemoved,
	} {
		if got, want := h.deniedBanner(err), "bastion: login refused: "+next+"\n"; got != want {
			t.Errorf("banner %q, want %q", got, want)
		}
	}
}

// A newcomer waits, because no connection may begin or because all places are taken by
// connections that are too young to make room.
func TestWaitingNewcomer(t *testing.T) {
	pause := func(t *connectionTable, _ *pendingConnection) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.paused = true
	}
	type step func(*connectionTable, *pendingConnection)
	closed := func(t *connectionTable, _ *pendingConnection) { t.close() }
	resume := func(t *connectionTable, _ *pendingConnection) { t.resume() }
	drain := func(t *connectionTable, _ *pendingConnection) { t.drain(time.Time{}) }
	giveUp := func(t *connectionTable, young *pendingConnection) { _ = t.giveUp(young) }
	prove := func(t *connectionTable, young *pendingConnection) { t.reach(young, stageProved) }
	wait := func(*connectionTable, *pendingConnection) { after(time.Second) }
	for name, test := range map[string]struct {
		young  bool   // another connection has the only place
		steps  []step // before the last one, the newcomer waits
		err    error
		waited time.Duration
		evicts bool
	}{
		"paused, then resumed":              {false, []step{pause, wait, resume}, nil, time.Second, false},
		"paused, then closed":               {false, []step{pause, wait, closed}, errClosed, time.Second, false},
		"no place, then one is free":        {true, []step{giveUp}, nil, 0, false},
		"no place for a second":             {true, []step{wait}, nil, time.Second, true},
		"no place, then closed":             {true, []step{closed}, errClosed, 0, false},
		"no place, then a key is proved":    {true, []step{prove, wait}, errTooManyPending, time.Second, false},
		"no place, then drained, resumed":   {true, []step{drain, wait, wait, resume}, nil, 2 * time.Second, true},
		"no place, then drained and closed": {true, []step{drain, giveUp, wait, closed}, errClosed, time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table, young := newPendingTable(1).connectionTable, newPending()
				defer table.close()
				steps := test.steps
				if test.young {
					if err := table.begin(young); err != nil {
						t.Fatal(err)
					}
					table.reach(young, stageSpeaking)
				} else {
					steps[0](table, nil)
					steps = steps[1:]
				}
				began, ended := time.Now(), make(chan error, 1)
				go func() { ended <- table.begin(newPending()) }()
				for _, next := range steps {
					synctest.Wait()
					if len(ended) > 0 {
						t.Fatal("the newcomer does not wait")
					}
					next(table, young)
				}
				if err := <-ended; err != test.err || time.Since(began) != test.waited {
					t.Errorf("begin returns %v after %s, want %v after %s", err, time.Since(began), test.err, test.waited)
				}
				if evicted := young.ended == errEvicted; evicted != test.evicts {
					t.Errorf("the other connection has ended with %v", young.ended)
				}
			})
		})
	}
}

// Draining closes what began at or before the given time, and returns when the oldest of
// the others began. A connection that has proved a key does not count.
func TestDrainReturnsTheOldestThatRemains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newPendingTable(20).connectionTable
		defer table.close()
		began := time.Now()
		var signed []*pendingConnection
		for i := range 10 {
			p := newPending()
			if err := table.begin(p); err != nil {
				t.Fatal(err)
			}
			if i%2 == 1 {
				table.reach(p, stageProved)
			} else {
				table.reach(p, stageSigned)
				signed = append(signed, p)
			}
			time.Sleep(time.Second)
		}
		at := func(second int) time.Time { return began.Add(time.Duration(second) * time.Second) }
		for _, test := range []struct {
			until  time.Time
			want   time.Time
			closed int
		}{
			{at(-1), at(0), 0}, {at(0), at(2), 1}, {at(1), at(2), 1}, {at(2), at(4), 2}, {at(7), at(8), 4}, {at(8), time.Time{}, 5}, {at(20), time.Time{}, 5},
		} {
			if got := table.drain(test.until); !got.Equal(test.want) {
				t.Errorf("until %s: the oldest began at %s, want %s", test.until, got, test.want)
			}
			for i, p := range signed {
				if _, err := p.conn.Write([]byte{0}); (err != nil) != (i < test.closed) {
					t.Errorf("until %s: writing to connection %d returns %v", test.until, i, err)
				}
			}
		}
	})
}

// stalledConn is a server's side of a connection whose writes wait while it is stalled, as
// when the client's kernel takes no more.
type stalledConn struct {
	memoryConn
	mu     sync.Mutex
	free   sync.Cond
	stall  bool
	closed bool
	waits  chan struct{} // receives a value when a write begins to wait
}

func (c *stalledConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.stall && !c.closed {
		select {
		case c.waits <- struct{}{}:
		default:
		}
		c.free.Wait()
	}
	if c.closed {
		return 0, io.ErrClosedPipe
	}
	return c.memoryConn.Write(b)
}

func (c *stalledConn) Close() error {
	c.fail()
	return c.memoryConn.Close()
}

// SetWriteDeadline makes a stalled connection's writes fail at once. Simulated time would
// not pass until the deadline, because the server then waits for a lock of the library.
func (c *stalledConn) SetWriteDeadline(time.Time) error {
	c.fail()
	return nil
}

// fail makes all writes fail.
func (c *stalledConn) fail() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.free.Broadcast()
}

func (c *stalledConn) set(stall bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stall = stall
	c.free.Broadcast()
}

// The client has signed with its key, and the server's last message of the authentication
// is on its way, when something else happens: the client does not enter. Without that, it
// does.
func TestKeyIsRefusedBetweenProofAndEntry(t *testing.T) {
	other := newKey(t)
	for name, test := range map[string]struct {
		change func(*fixture) error
		reason string
	}{
		"nothing": {func(*fixture) error { return nil }, ""},
		"the key is removed": {func(r *fixture) error {
			return r.table.Write(func(l *bastion.Lease) { l.Keys, l.KeySources = []bastion.Key{authorized(other)}, nil })
		}, errKeyRemoved.Error()},
		"the key's source moves": {func(r *fixture) error {
			return r.table.Write(move(0, "192.0.2.7/32"))
		}, "is not admitted from 127.0.0.1, only from 192.0.2.7"},
		"the other key's source moves": {func(r *fixture) error {
			return r.table.Write(move(1, "192.0.2.7/32"))
		}, ""},
		"the last place is taken": {func(r *fixture) error {
			client, err := r.dialWith(r.client(ssh.PublicKeys(other)))
			if err == nil {
				r.t.Cleanup(func() { client.Close() })
			}
			return err
		}, errTooManyOpen.Error()},
		"the lease is closed": {func(r *fixture) error {
			return r.table.Write(func(l *bastion.Lease) { l.Open, l.EndReason = false, bastion.EndClosed })
		}, errClosed.Error()},
		"the task is stopped":    {func(r *fixture) error { r.terminate(); return nil }, errClosed.Error()},
		"the client is too late": {func(*fixture) error { after(2 * time.Minute); return nil }, "not authenticated within 2m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *fixture) {
				r.cfg.Limits.Connections = 1
				r.withSecondKey(other, "127.0.0.1/32")
				r.run()
				after(0)
				up, down := newMemoryStream(), newMemoryStream()
				conn := &stalledConn{memoryConn: memoryConn{up, down}, waits: make(chan struct{}, 1)}
				conn.free.L = &conn.mu
				r.memory.conns <- conn
				offered, sign := make(chan struct{}), make(chan struct{})
				entered := make(chan *ssh.Client)
				go func() {
					defer close(entered)
					c, channels, requests, err := ssh.NewClientConn(memoryConn{down, up}, "bastion", r.client(ssh.PublicKeys(waitingSigner{r.key, offered, sign})))
					if err != nil {
						return
					}
					client := ssh.NewClient(c, channels, requests)
					if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err != nil {
						client.Close()
						return
					}
					entered <- client
				}()
				<-offered
				// Simulated time stops if the library waits for a lock that the stalled
				// write holds. Now all its goroutines wait for something else.
				after(0)
				conn.set(true)
				close(sign)
				<-conn.waits
				if err := test.change(r); err != nil {
					t.Fatal(err)
				}
				after(4 * time.Second) // the lease is read every three seconds
				conn.set(false)
				client := <-entered
				if (client != nil) != (test.reason == "") {
					t.Errorf("the client entered: %t", client != nil)
				}
				if client != nil {
					client.Close()
				}
				r.stop()
				lines := r.log.all(msgRefusal)
				if test.reason == "" {
					if n := r.table.LastReport().Receipt.Connections; n != 1 || len(lines) != 0 {
						t.Errorf("the receipt counts %d connections; refusal lines %v", n, lines)
					}
					return
				}
				if len(lines) != 1 || lines[0].text("kind") != kindAuthentication || !strings.Contains(lines[0].text("reason"), test.reason) {
					t.Errorf("refusal lines %v, want one with reason %q", lines, test.reason)
				}
				for _, l := range r.log.all(msgConnection) {
					if l.text("key") == authorized(r.key).Fingerprint() {
						t.Errorf("connection line %v of a client that did not enter", l)
					}
				}
			})
		})
	}
}

// The table hangs from ten seconds before the deadline on. Tunnels work and clients enter
// until the call that reports the ending has failed. Then everything ends.
func TestHangingTableAcrossTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.cfg.Lease = simtask.HangingTable{Table: r.table, From: time.Now().Add(time.Hour - 10*time.Second)}
		r.memoryHost("10.0.0.1:5432", echo)
		r.run()
		after(0)
		client := r.dial()
		console := r.console(client, false)
		console.await("Commands:")
		tunnel := forward(t, client, "10.0.0.1:5432")
		works := func() {
			t.Helper()
			if _, err := tunnel.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(tunnel, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
		}
		after(time.Hour - 5*time.Second)
		works()
		r.dial()
		after(5*time.Second + 4*time.Second) // the call takes at most five seconds
		works()
		if r.ended() {
			t.Fatal("the bastion ended during the call")
		}
		after(2 * time.Second)
		console.await("bastion: This bastion reached its deadline.\n")
		if status := console.status(); status != 0 {
			t.Errorf("the console's exit status is %d, want 0", status)
		}
		if err := client.Wait(); err == nil {
			t.Error("the connection is open")
		}
		after(5 * time.Second) // the last report hangs, too
		if !r.ended() || r.code != bastion.ExitOK {
			t.Errorf("ended %t, exit code %d", r.ended(), r.code)
		}
		if lines := r.log.all(msgConnection); len(lines) != 2 || lines[0].text("result") != string(leaseloop.Deadline) {
			t.Errorf("connection lines %v", lines)
		}
		if n := len(r.log.all(msgReceipt)); n != 1 {
			t.Errorf("%d receipt lines, want 1", n)
		}
	})
}

// closingConn is an SSH connection that can only be closed.
type closingConn struct {
	ssh.Conn
	closed chan time.Time
}

func (c closingConn) Close() error {
	c.closed <- time.Now()
	return nil
}

// A connection that must end waits for its channels, then half-closes and waits for the
// client, each for as long as Timing.Grace allows.
func TestClosingWaitsForChannelsAndThenForTheClient(t *testing.T) {
	const grace, never = 10 * time.Second, time.Hour
	for name, test := range map[string]struct {
		free, left         time.Duration // when the channel ends, and when the client leaves
		halfClosed, closed time.Duration
	}{
		"nobody leaves":                  {never, never, never, grace},
		"channel ends":                   {8 * time.Second, never, 8 * time.Second, 8*time.Second + grace},
		"channel ends and client leaves": {8 * time.Second, 9 * time.Second, 8 * time.Second, 9 * time.Second},
		"client leaves with its channel": {never, 3 * time.Second, never, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := Config{Timing: Timing{Grace: grace}}.withDefaults()
				up, down := newMemoryStream(), newMemoryStream()
				closed := make(chan time.Time, 1)
				c := &connection{
					server: &server{cfg: cfg}, wire: &wire{Conn: memoryConn{up, down}},
					ssh: &ssh.ServerConn{Conn: closingConn{closed: closed}}, slots: make(chan struct{}, 2),
				}
				c.ctx, c.cancel = context.WithCancelCause(t.Context())
				c.slots <- struct{}{}
				left := make(chan struct{})
				go c.close(left)
				after(time.Minute)
				if len(closed) != 0 {
					t.Fatal("closed although it need not end")
				}
				began := time.Now()
				c.end(causeKeyRemoved)
				time.AfterFunc(test.free, func() { <-c.slots })
				time.AfterFunc(test.left, func() { close(left) })
				halfClosed := make(chan time.Time, 1)
				go func() {
					_, _ = io.Copy(io.Discard, memoryConn{down, up})
					halfClosed <- time.Now()
				}()
				if waited := (<-closed).Sub(began); waited != test.closed {
					t.Errorf("closed after %s, want %s", waited, test.closed)
				}
				c.wire.Conn.Close()
				if at := (<-halfClosed).Sub(began); at != min(test.halfClosed, test.closed) {
					t.Errorf("half-closed after %s, want %s", at, test.halfClosed)
				}
				synctest.Wait()
				time.Sleep(2 * never) // the timers have run
			})
		})
	}
}
