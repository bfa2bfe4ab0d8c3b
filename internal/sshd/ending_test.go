package sshd

import (
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

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

// Somebody's other window waits for a passphrase when the idle time is over.
func TestStuckHandshakeKeepsNobodyOut(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
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

// One stuck handshake has had its time; another has just begun. While that one
// gets its own, a third waits, and is refused when the bastion has ended.
func TestStuckHandshakesEndOneByOne(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
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
		if !r.ended() || r.code != bastion.ExitOK {
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
		if !r.ended() || r.code != bastion.ExitFailure {
			t.Errorf("ended: %v, code %d, want %d", r.ended(), r.code, bastion.ExitFailure)
		}
		if report := r.table.last(); report.Ending != (bastion.Ending{}) || report.Receipt.Connections != 1 {
			t.Errorf("the last report is %+v, want a receipt and no ending", report)
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
		r.table.lease.IdleTimeout = 0
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
