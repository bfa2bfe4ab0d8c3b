package sshd

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The lease moves while the ending is on its way: the table refuses it, and
// nobody is cut. In both cases, at the very moment.
func TestLeaseMovesFirst(t *testing.T) {
	for _, reason := range []bastion.EndReason{bastion.EndIdle, bastion.EndDeadline} {
		t.Run(string(reason), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
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
			bubble(t, func(t *testing.T, r *rig) {
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
