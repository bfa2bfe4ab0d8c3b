package sshd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

func TestOnlyAuthenticatedConnectionsCount(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
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

// Somebody's other window waits for a passphrase when the idle time is over.
func TestStuckHandshakeKeepsNobodyOut(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.run()
		after(9*time.Minute + 30*time.Second)
		conn, err := r.connect()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		after(33 * time.Second)
		asked := time.Now()
		client := r.dial()
		if waited := time.Since(asked); waited > 0 {
			t.Errorf("the right key waited %s", waited)
		}
		after(30 * time.Minute)
		client.Close()
		r.endsAfter(10*time.Minute, bastion.EndIdle)
	})
}

// One stuck handshake has had its time when idle is due, another has just begun.
func TestStuckHandshakesAreCutOneByOne(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.run()
		for _, wait := range []time.Duration{9*time.Minute + 55*time.Second, 13 * time.Second} {
			after(wait)
			conn, err := r.connect()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		r.endsAfter(10*time.Second, bastion.EndIdle)
	})
}

func TestQuietTunnelKeepsItAlive(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
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

func TestEndsAtTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.run()
		after(0)
		client := r.dial()
		r.endsAfter(time.Hour, bastion.EndDeadline)
		if err := client.Wait(); err == nil {
			t.Error("the connection is open still")
		}
	})
}

// A client whose machine is gone: no answer, and no end of the connection.
func TestDeadClientDoesNotKeepItAlive(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
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
	bubble(t, func(t *testing.T, r *fixture) {
		r.run()
		after(0)
		console := r.console(r.dial(), false)
		console.await("Commands:")
		after(50 * time.Minute)
		console.await("closes in 10 minutes")
		after(9 * time.Minute)
		console.await("closes in 1 minute,")
		after(61 * time.Second)
		console.await("reached its deadline")
		if status := console.status(); status != 0 {
			t.Errorf("exit status %d, want 0", status)
		}
		if n := strings.Count(console.text(), "closes in"); n != 2 {
			t.Errorf("%d warnings, want 2:\n%s", n, console.text())
		}
	})
}

func TestReasonOfEachEndReachesConsoles(t *testing.T) {
	other := newKey(t)
	for want, end := range map[string]func(*bastion.Lease){
		"closed by its owner": func(l *bastion.Lease) { l.Open, l.EndReason = false, bastion.EndClosed },
		"from its console":    func(l *bastion.Lease) { l.Open, l.EndReason = false, bastion.EndConsole },
		"was replaced":        func(l *bastion.Lease) { l.Keys = []bastion.Key{authorized(other)} },
	} {
		t.Run(want, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *fixture) {
				r.run()
				after(0)
				console := r.console(r.dial(), true)
				console.await(prompt)
				if err := r.table.Write(end); err != nil {
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

// The lease moves while the ending is on its way: the table refuses it, and
// nobody is cut. In both cases, at the very moment.
func TestLeaseMovesFirst(t *testing.T) {
	for _, reason := range []bastion.EndReason{bastion.EndIdle, bastion.EndDeadline} {
		t.Run(string(reason), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *fixture) {
				if reason == bastion.EndDeadline {
					r.table.Lease.IdleTimeout = 0
					r.table.Lease.Deadline = time.Now().Add(10 * time.Minute)
				}
				moved := make(chan struct{})
				var waiting net.Conn
				r.table.Around = func(report bastion.Report, apply func() error) error {
					if report.Ending.Reason != "" && report.Ending.Generation == 1 {
						// The owner asks again, and connects, before the ending is written.
						if err := r.table.Write(func(l *bastion.Lease) { l.Deadline = time.Now().Add(time.Hour) }); err != nil {
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
					t.Fatalf("the client that connected then is refused: %v\n%s", err, r.journal.text())
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
	bubble(t, func(t *testing.T, r *fixture) {
		var waiting net.Conn
		r.table.Around = func(report bastion.Report, apply func() error) error {
			if report.Ending.Reason == "" || waiting != nil {
				return apply()
			}
			var err error
			if waiting, err = r.connect(); err != nil {
				t.Error(err)
			}
			err = apply()
			if err := r.table.Write(func(l *bastion.Lease) {}); !errors.Is(err, bastion.ErrConflict) {
				t.Errorf("the lease of a task that is ending is renewed: %v", err)
			}
			return err
		}
		r.run()
		after(10*time.Minute + time.Second)
		if !r.ended() || r.code != bastion.ExitOK {
			t.Fatalf("ended: %v, code %d", r.ended(), r.code)
		}
		if _, _, _, err := ssh.NewClientConn(waiting, "bastion", r.client(ssh.PublicKeys(r.key))); err == nil {
			t.Error("it got in after the end")
		}
		if n := r.table.LastReport().Receipt.Connections; n != 0 {
			t.Errorf("the receipt counts %d connections", n)
		}
	})
}

// A handshake is in flight when idle is due.
func TestHandshakeInFlightKeepsItAlive(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
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
		if r.table.LastReport().Ending.Reason != "" {
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

// Every moment of a client's arrival around the end: it gets in and stays, or
// it never gets in.
func TestUseAtEveryMomentOfTheEnd(t *testing.T) {
	for offset := -3 * time.Second; offset <= 3*time.Second; offset += 250 * time.Millisecond {
		t.Run(fmt.Sprint(offset), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *fixture) {
				// The table takes its time, so that there are moments within the call.
				r.table.Around = func(report bastion.Report, apply func() error) error {
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
					if !r.ended() || r.table.LastReport().Receipt.Connections != 0 {
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
