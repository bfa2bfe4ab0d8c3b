package sshd

import (
	"cmp"
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

func TestUnauthenticatedConnectionDoesNotPreventTheIdleEnd(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.cfg.Timing.KeyExchange = 2 * time.Minute // longer than the idle end waits
		r.run()
		after(9*time.Minute + 30*time.Second)
		conn, err := r.connect() // sends nothing
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r.wantEndAfter(30*time.Second+10*time.Second, bastion.EndIdle) // an open handshake gets ten seconds
	})
}

// A handshake hangs when the idle end is due, for example because it waits for a
// passphrase. Other clients must still connect at once.
func TestHangingHandshakeDoesNotDelayOtherClients(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.cfg.Timing.KeyExchange = 2 * time.Minute // longer than the idle end waits
		r.run()
		after(9*time.Minute + 30*time.Second)
		conn, err := r.connect()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		after(33 * time.Second)
		began := time.Now()
		client := r.dial()
		if waited := time.Since(began); waited > 0 {
			t.Errorf("the client waited %s", waited)
		}
		after(30 * time.Minute)
		client.Close()
		r.wantEndAfter(10*time.Minute, bastion.EndIdle)
	})
}

// The idle end is due. One hanging handshake has used up its ten seconds, another has
// just begun: the server closes each after its own ten seconds.
func TestHangingHandshakesAreClosedOneByOne(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.cfg.Timing.KeyExchange = 2 * time.Minute // longer than the idle end waits
		r.run()
		for _, wait := range []time.Duration{9*time.Minute + 55*time.Second, 13 * time.Second} {
			after(wait)
			conn, err := r.connect()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		r.wantEndAfter(10*time.Second, bastion.EndIdle)
	})
}

func TestQuietForwardPreventsTheIdleEnd(t *testing.T) {
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
		r.wantEndAfter(time.Hour, bastion.EndDeadline)
		if err := client.Wait(); err == nil {
			t.Error("the connection is still open")
		}
	})
}

// The client's machine has failed: the client sends nothing and closes nothing. The server
// gives it up after Timing.Silence, and the idle time counts from its last sign of life.
func TestDeadClientDoesNotPreventTheIdleEnd(t *testing.T) {
	for _, test := range []struct{ silence, idle, end time.Duration }{
		{0, time.Minute, 15 * time.Minute}, // 0 is the default of 15 minutes
		{0, 25 * time.Minute, 25 * time.Minute},
		{5 * time.Minute, 10 * time.Minute, 10 * time.Minute},
	} {
		t.Run(fmt.Sprintf("silence %s, idle %s", test.silence, test.idle), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *fixture) {
				r.cfg.Timing.Silence, r.table.Lease.IdleTimeout = test.silence, test.idle
				r.run()
				after(0)
				client, conn := r.dialFreezable()
				defer client.Close()
				defer conn.freeze(false)
				after(20*time.Minute + time.Second) // a second after a reply
				conn.freeze(true)
				silence := cmp.Or(test.silence, 15*time.Minute)
				after(silence - 2*time.Second)
				if lines := r.log.all(msgConnection); len(lines) != 0 || r.ended() {
					t.Fatalf("before the end of %s: %v", silence, lines)
				}
				rest := test.end - (silence - time.Second)
				after(3 * time.Second)
				if lines := r.log.all(msgConnection); len(lines) != 1 || lines[0].text("result") != causeDead.result {
					t.Fatalf("connection lines %v", lines)
				}
				if rest > 3*time.Second {
					r.wantEndAfter(rest-3*time.Second, bastion.EndIdle)
				}
				after(3 * time.Second)
				if ending := r.table.LastReport().Ending.Reason; !r.ended() || ending != bastion.EndIdle {
					t.Errorf("ended %t, reason %q", r.ended(), ending)
				}
			})
		})
	}
}

// A laptop sleeps for ten minutes. The idle time is shorter, but does not count meanwhile.
func TestTunnelOfASleepingClientContinues(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.table.Lease.IdleTimeout = time.Minute
		r.memoryHost("10.0.0.1:5432", echo)
		r.run()
		after(0)
		client, conn := r.dialFreezable()
		defer client.Close()
		tunnel := forward(t, client, "10.0.0.1:5432")
		for range 3 {
			after(time.Minute)
			conn.freeze(true)
			after(10 * time.Minute)
			conn.freeze(false)
			after(time.Nanosecond)
			woken := time.Now()
			if _, err := tunnel.Write([]byte("back")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(tunnel, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
			t.Logf("the tunnel works %s after waking", time.Since(woken))
		}
		if lines := r.log.all(msgConnection); len(lines) != 0 {
			t.Errorf("connection lines %v", lines)
		}
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
		"was removed":         func(l *bastion.Lease) { l.Keys = []bastion.Key{authorized(other)} },
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
				if _, rest, _ := strings.Cut(console.text(), want); strings.Contains(rest, prompt) {
					t.Errorf("a prompt follows the reason: %q", rest)
				}
			})
		})
	}
}

// The lease is renewed just before the ending is written: the table refuses the ending,
// and no client is disconnected.
func TestRenewalBeforeTheEndingKeepsClients(t *testing.T) {
	for _, reason := range []bastion.EndReason{bastion.EndIdle, bastion.EndDeadline} {
		t.Run(string(reason), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *fixture) {
				if reason == bastion.EndDeadline {
					r.table.Lease.IdleTimeout = 0
					r.table.Lease.Deadline = time.Now().Add(10 * time.Minute)
				}
				renewed := make(chan struct{})
				var waiting net.Conn
				r.table.Around = func(report bastion.Report, apply func() error) error {
					if report.Ending.Reason != "" && report.Ending.Generation == 1 {
						// Before the ending is written, the lease is renewed and a client connects.
						if err := r.table.Write(func(l *bastion.Lease) { l.Deadline = time.Now().Add(time.Hour) }); err != nil {
							t.Error(err)
						}
						var err error
						if waiting, err = r.connect(); err != nil {
							t.Error(err)
						}
						close(renewed)
					}
					return apply()
				}
				r.run()
				<-renewed
				c, channels, requests, err := ssh.NewClientConn(waiting, "bastion", r.client(ssh.PublicKeys(r.key)))
				if err != nil {
					t.Fatalf("the client is refused: %v\n%s", err, r.log.text())
				}
				client := ssh.NewClient(c, channels, requests)
				defer client.Close()
				after(30 * time.Minute)
				if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err != nil || r.ended() {
					t.Errorf("the client was disconnected: %v", err)
				}
			})
		})
	}
}

// The ending is written first: the lease can no longer be renewed, and a client that
// connects is refused.
func TestEndingBeforeARenewalRefusesClients(t *testing.T) {
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
				t.Errorf("the lease of an ending task was renewed: %v", err)
			}
			return err
		}
		r.run()
		after(10*time.Minute + time.Second)
		if !r.ended() || r.code != bastion.ExitOK {
			t.Fatalf("ended %t, exit code %d", r.ended(), r.code)
		}
		if _, _, _, err := ssh.NewClientConn(waiting, "bastion", r.client(ssh.PublicKeys(r.key))); err == nil {
			t.Error("a client was admitted after the end")
		}
		if n := r.table.LastReport().Receipt.Connections; n != 0 {
			t.Errorf("the receipt counts %d connections", n)
		}
	})
}

// A client is in its handshake when the idle end is due.
func TestHandshakeDelaysTheIdleEnd(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.run()
		after(10*time.Minute - time.Second)
		offered, sign := make(chan struct{}), make(chan struct{})
		client := make(chan *ssh.Client)
		go func() {
			c, err := r.dialWith(r.client(ssh.PublicKeys(waitingSigner{r.key, offered, sign})))
			if err != nil {
				t.Errorf("the client is refused: %v", err)
			}
			client <- c
		}()
		<-offered
		after(5 * time.Second) // the idle end was due four seconds ago
		if r.table.LastReport().Ending.Reason != "" {
			t.Fatal("the server ends during a handshake")
		}
		// A client that connects now is admitted too.
		second := make(chan *ssh.Client)
		go func() {
			c, err := r.dialWith(r.client(ssh.PublicKeys(r.key)))
			if err != nil {
				t.Errorf("the second client is refused: %v", err)
			}
			second <- c
		}()
		close(sign)
		first := <-client
		defer first.Close()
		defer (<-second).Close()
		after(30 * time.Minute)
		if r.ended() {
			t.Error("the server ended")
		}
	})
}

// A client that connects at any time around the idle end is admitted and stays
// connected, or is never admitted.
func TestClientAroundTheIdleEndIsNeverDisconnected(t *testing.T) {
	for offset := -3 * time.Second; offset <= 3*time.Second; offset += 250 * time.Millisecond {
		t.Run(fmt.Sprint(offset), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *fixture) {
				// The table is slow, so that clients connect during a call too.
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
						t.Errorf("the client is refused (%v), but the bastion has not ended unused: %s", err, r.log.text())
					}
					return
				}
				defer client.Close()
				after(20 * time.Minute)
				if r.ended() {
					t.Errorf("the server ended: %s", r.log.text())
				}
			})
		})
	}
}
