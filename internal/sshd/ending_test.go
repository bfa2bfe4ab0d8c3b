package sshd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// bubble runs a test in simulated time: the whole bastion, its clients and its
// hosts, without a socket. The idle time is ten minutes, the lease an hour.
func bubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.memory = newMemoryListener()
		r.cfg.Timing = Timing{} // the defaults
		r.table.lease.Deadline = time.Now().Add(time.Hour)
		r.table.lease.Idle = 10 * time.Minute
		test(t, r)
		r.stop()
		synctest.Wait()
	})
}

// after lets time go by and everything come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) ended() bool {
	select {
	case <-r.exited:
		return true
	default:
		return false
	}
}

// endsAfter expects it to end after d, and not before.
func (r *rig) endsAfter(d time.Duration, reason bastion.EndReason) {
	r.t.Helper()
	after(d - time.Second)
	if r.ended() {
		r.t.Fatalf("it ended before %v had gone by:\n%s", d, r.journal.text())
	}
	after(4 * time.Second)
	if !r.ended() {
		r.t.Fatalf("it did not end after %v:\n%s", d, r.journal.text())
	}
	if r.code != ExitOnPurpose {
		r.t.Errorf("exit code %d, want 0", r.code)
	}
	report := r.table.last()
	if want := (bastion.Ending{Reason: reason, Generation: r.table.lease.Generation}); report.Ending != want {
		r.t.Errorf("it reports the ending %+v, want %+v", report.Ending, want)
	}
	if report.Receipt.EndedAt.IsZero() {
		r.t.Error("it reports no receipt")
	}
}

func TestEndsWhenNobodyUsesIt(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		r.endsAfter(10*time.Minute, bastion.EndIdle)
	})
}

func TestIdleCountsFromReady(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.table.around = func(bastion.Report, func() error) error { return errTable }
		r.run()
		after(20 * time.Minute)
		r.table.set(func(tb *table) { tb.around = nil })
		after(3 * time.Second)
		r.endsAfter(10*time.Minute-time.Second, bastion.EndIdle)
	})
}

func TestIdleCountsFromTheLastUse(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		after(9 * time.Minute)
		client := r.dial()
		after(20 * time.Minute)
		client.Close()
		r.endsAfter(10*time.Minute, bastion.EndIdle)
	})
}

func TestOnlyAuthenticatedConnectionsCount(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		after(9*time.Minute + 30*time.Second)
		conn, err := r.connect() // which never says a word
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r.endsAfter(30*time.Second+10*time.Second, bastion.EndIdle) // it gets what a handshake in flight gets
	})
}

func TestQuietTunnelKeepsItAlive(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.memoryHost("10.0.0.1:5432", echo)
		r.run()
		after(0)
		conn := forward(t, r.dial(), "10.0.0.1:5432")
		after(50 * time.Minute)
		if _, err := conn.Write([]byte("still there")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 11)); err != nil {
			t.Fatal(err)
		}
	})
}

// cold is a client's connection that can be frozen, as a client that is
// stopped: what comes is not read.
type cold struct {
	net.Conn
	mu     sync.Mutex
	thawed sync.Cond
	frozen bool
}

func (c *cold) freeze(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = on
	c.thawed.Broadcast()
}

func (c *cold) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.frozen {
		c.thawed.Wait()
	}
	return n, err
}

func TestEndsAtTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		after(0)
		client := r.dial()
		r.endsAfter(time.Hour, bastion.EndDeadline)
		if err := client.Wait(); err == nil {
			t.Error("the connection is open still")
		}
	})
}

func TestDeadlineMoves(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		after(0)
		r.dial()
		after(59 * time.Minute)
		if err := r.table.write(func(l *bastion.Lease) { l.Deadline = l.Deadline.Add(time.Hour) }); err != nil {
			t.Fatal(err)
		}
		r.endsAfter(61*time.Minute, bastion.EndDeadline)
	})
}

func TestDeadlineIsAbsoluteWhenTheTableIsAway(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		after(0)
		r.dial()
		r.table.set(func(tb *table) {
			tb.readErr = errTable
			tb.around = func(bastion.Report, func() error) error { return errTable }
		})
		after(time.Hour + 3*time.Second)
		if !r.ended() || r.code != ExitOnPurpose {
			t.Errorf("ended: %v, code %d", r.ended(), r.code)
		}
	})
}

// The table comes back between the end and the last report, with a newer lease.
func TestDeadlineThatWasMovedUnseenEndsAsAFailure(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		after(0)
		r.table.set(func(tb *table) {
			tb.readErr = errTable
			tb.lease.Generation = 2
			tb.around = func(report bastion.Report, apply func() error) error {
				if report.Receipt.EndedAt.IsZero() {
					return errTable
				}
				return apply()
			}
		})
		client := r.dial()
		defer client.Close()
		after(time.Hour + 3*time.Second)
		if !r.ended() || r.code != ExitFailure {
			t.Errorf("ended: %v, code %d, want %d", r.ended(), r.code, ExitFailure)
		}
		if report := r.table.last(); report.Ending != (bastion.Ending{}) || report.Receipt.Connections != 1 {
			t.Errorf("the last report is %+v, want a receipt and no ending", report)
		}
	})
}

// The lease moves while the ending is on its way: the table refuses it, and
// nobody is cut. In both cases, at the very moment.
func TestLeaseMovesFirst(t *testing.T) {
	for _, reason := range []bastion.EndReason{bastion.EndIdle, bastion.EndDeadline} {
		t.Run(string(reason), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				if reason == bastion.EndDeadline {
					r.table.lease.Idle = 0
					r.table.lease.Deadline = time.Now().Add(10 * time.Minute)
				}
				moved := make(chan struct{})
				var waiting net.Conn
				r.table.around = func(report bastion.Report, apply func() error) error {
					if report.Ending.Reason != "" && report.Ending.Generation == 1 {
						// The owner asks again, and connects, before the ending is written.
						if err := r.table.write(func(l *bastion.Lease) { l.Deadline = time.Now().Add(time.Hour) }); err != nil {
							t.Error(err)
						}
						var err error
						if waiting, err = r.connect(); err != nil {
							t.Error(err)
						}
						close(moved)
					}
					return apply()
				}
				r.run()
				<-moved
				c, channels, requests, err := ssh.NewClientConn(waiting, "bastion", r.client(ssh.PublicKeys(r.key)))
				if err != nil {
					t.Fatalf("who came in that moment does not get in: %v\n%s", err, r.journal.text())
				}
				client := ssh.NewClient(c, channels, requests)
				defer client.Close()
				after(30 * time.Minute)
				if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err != nil || r.ended() {
					t.Errorf("it was cut: %v", err)
				}
			})
		})
	}
}

// The ending is written first: who comes then does not get in, and finds the
// bastion ended; the lease cannot be renewed any more.
func TestEndingComesFirst(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var waiting net.Conn
		r.table.around = func(report bastion.Report, apply func() error) error {
			if report.Ending.Reason == "" || waiting != nil {
				return apply()
			}
			var err error
			if waiting, err = r.connect(); err != nil {
				t.Error(err)
			}
			err = apply()
			if err := r.table.write(func(l *bastion.Lease) {}); !errors.Is(err, bastion.ErrConflict) {
				t.Errorf("the lease of a task that is ending is renewed: %v", err)
			}
			return err
		}
		r.run()
		after(10*time.Minute + time.Second)
		if !r.ended() || r.code != ExitOnPurpose {
			t.Fatalf("ended: %v, code %d", r.ended(), r.code)
		}
		if _, _, _, err := ssh.NewClientConn(waiting, "bastion", r.client(ssh.PublicKeys(r.key))); err == nil {
			t.Error("it got in after the end")
		}
		if n := r.table.last().Receipt.Connections; n != 0 {
			t.Errorf("the receipt counts %d connections", n)
		}
	})
}

// A handshake is in flight when idle is due.
func TestHandshakeInFlightKeepsItAlive(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		after(10*time.Minute - time.Second)
		offered, sign := make(chan struct{}), make(chan struct{})
		client := make(chan *ssh.Client)
		go func() {
			c, err := r.dialWith(r.client(ssh.PublicKeys(late{r.key, offered, sign})))
			if err != nil {
				t.Errorf("it does not get in: %v", err)
			}
			client <- c
		}()
		<-offered
		after(5 * time.Second) // idle was due four seconds ago
		if r.table.last().Ending.Reason != "" {
			t.Fatal("it ends though a handshake is in flight")
		}
		// Who comes now waits, for the ending may yet be written.
		second := make(chan *ssh.Client)
		go func() {
			c, err := r.dialWith(r.client(ssh.PublicKeys(r.key)))
			if err != nil {
				t.Errorf("the second does not get in: %v", err)
			}
			second <- c
		}()
		close(sign)
		first := <-client
		defer first.Close()
		defer (<-second).Close()
		after(30 * time.Minute)
		if r.ended() {
			t.Error("it ended")
		}
	})
}

// A handshake that does not end is cut, and does not keep the bastion alive.
func TestHandshakeThatDoesNotEndIsCut(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		after(10*time.Minute - time.Second)
		offered, sign := make(chan struct{}), make(chan struct{})
		failed := make(chan error)
		go func() {
			_, err := r.dialWith(r.client(ssh.PublicKeys(late{r.key, offered, sign})))
			failed <- err
		}()
		<-offered
		r.endsAfter(time.Second+10*time.Second, bastion.EndIdle)
		close(sign)
		if err := <-failed; err == nil {
			t.Error("it got in after the end")
		}
	})
}

// The table took the ending but did not say so.
func TestEndingOfUnknownFateIsTakenBack(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		failed := false
		r.table.around = func(report bastion.Report, apply func() error) error {
			if report.Ending.Reason != "" && !failed {
				failed = true
				return errors.Join(apply(), errTable)
			}
			return apply()
		}
		r.run()
		after(10*time.Minute + time.Second)
		if !failed || r.ended() {
			t.Fatalf("tried: %v, ended: %v", failed, r.ended())
		}
		if ending := r.table.last().Ending; ending != (bastion.Ending{}) {
			t.Errorf("the table still has the ending %+v", ending)
		}
		r.dial().Close() // and somebody may still come
		r.endsAfter(10*time.Minute, bastion.EndIdle)
	})
}

func TestIdleIsTriedAgainWhenTheTableIsAway(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		after(time.Minute)
		r.table.set(func(tb *table) {
			tb.around = func(bastion.Report, func() error) error { return errTable }
		})
		after(20 * time.Minute)
		if r.ended() {
			t.Fatal("it ended without the table's consent")
		}
		r.table.set(func(tb *table) { tb.around = nil })
		after(5 * time.Second)
		if !r.ended() || r.code != ExitOnPurpose {
			t.Errorf("ended: %v, code %d", r.ended(), r.code)
		}
	})
}

func TestLeaseGoneAtTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.table.around = func(report bastion.Report, apply func() error) error {
			if report.Ending.Reason != "" {
				r.table.set(func(tb *table) { tb.ended = true })
			}
			return apply()
		}
		r.run()
		after(10*time.Minute + time.Second)
		if !r.ended() || r.code != ExitOnPurpose {
			t.Errorf("ended: %v, code %d", r.ended(), r.code)
		}
	})
}

// A client whose machine is gone: no answer, and no end of the connection.
func TestDeadClientDoesNotKeepItAlive(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		after(0)
		conn, err := r.connect()
		if err != nil {
			t.Fatal(err)
		}
		cold := &cold{Conn: conn}
		cold.thawed.L = &cold.mu
		c, channels, requests, err := ssh.NewClientConn(cold, "bastion", r.client(ssh.PublicKeys(r.key)))
		if err != nil {
			t.Fatal(err)
		}
		client := ssh.NewClient(c, channels, requests)
		defer client.Close()
		defer cold.freeze(false)
		after(20 * time.Minute)
		cold.freeze(true)
		after(80 * time.Second)
		if lines := r.journal.all(msgConnection); len(lines) != 1 || lines[0].text("result") != causeDead.result {
			t.Fatalf("connection lines %v", lines)
		}
		r.endsAfter(10*time.Minute-20*time.Second, bastion.EndIdle)
	})
}

func TestWarningsAndReasonReachConsoles(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		after(0)
		console := r.console(r.dial(), false)
		console.await("Commands:")
		after(50 * time.Minute)
		console.await("ends in 10 minutes")
		after(9 * time.Minute)
		console.await("ends in 1 minute,")
		after(61 * time.Second)
		console.await("time is up")
		if status := console.status(); status != 0 {
			t.Errorf("exit status %d, want 0", status)
		}
		if n := strings.Count(console.text(), "ends in"); n != 2 {
			t.Errorf("%d warnings, want 2:\n%s", n, console.text())
		}
	})
}

func TestReasonOfEachEndReachesConsoles(t *testing.T) {
	other := newKey(t)
	for want, end := range map[string]func(*bastion.Lease){
		"closed by its owner": func(l *bastion.Lease) { l.Open, l.EndReason = false, bastion.EndClosed },
		"in its console":      func(l *bastion.Lease) { l.Open, l.EndReason = false, bastion.EndConsole },
		"was replaced":        func(l *bastion.Lease) { l.Keys = []bastion.Key{authorized(other)} },
	} {
		t.Run(want, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				r.run()
				after(0)
				console := r.console(r.dial(), true)
				console.await(prompt)
				if err := r.table.write(end); err != nil {
					t.Fatal(err)
				}
				console.await(want)
				if status := console.status(); status != 0 {
					t.Errorf("exit status %d, want 0", status)
				}
			})
		})
	}
}

func TestReportsNowAndThen(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.table.lease.Idle = 0
		r.run()
		after(30*time.Minute + time.Second)
		r.table.mu.Lock()
		defer r.table.mu.Unlock()
		if n := r.table.reports; n != 31 {
			t.Errorf("%d reports in half an hour, want one a minute", n)
		}
	})
}

func TestNewLeaseIsInForceWithinOnePoll(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.run()
		after(7 * time.Second)
		if err := r.table.write(func(l *bastion.Lease) { l.Deadline = l.Deadline.Add(time.Minute) }); err != nil {
			t.Fatal(err)
		}
		after(3 * time.Second)
		if got := r.table.last().Generation; got != 2 {
			t.Errorf("generation %d is reported after one poll, want 2", got)
		}
	})
}

// Every moment of a client's arrival around the end: it gets in and stays, or
// it never gets in.
func TestUseAtEveryMomentOfTheEnd(t *testing.T) {
	for offset := -3 * time.Second; offset <= 3*time.Second; offset += 250 * time.Millisecond {
		t.Run(fmt.Sprint(offset), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				// The table takes its time, so that there are moments within the call.
				r.table.around = func(report bastion.Report, apply func() error) error {
					time.Sleep(time.Second)
					err := apply()
					time.Sleep(time.Second)
					return err
				}
				r.run()
				after(10*time.Minute + 2*time.Second + offset) // ready after two seconds
				client, err := r.dialWith(r.client(ssh.PublicKeys(r.key)))
				if err != nil {
					after(time.Minute)
					if !r.ended() || r.table.last().Receipt.Connections != 0 {
						t.Errorf("it does not get in (%v), but the bastion has not ended unused: %s", err, r.journal.text())
					}
					return
				}
				defer client.Close()
				after(20 * time.Minute)
				if r.ended() {
					t.Errorf("it was cut: %s", r.journal.text())
				}
			})
		})
	}
}
