package sshd

import (
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

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
			bubble(t, func(t *testing.T, r *rig) {
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
