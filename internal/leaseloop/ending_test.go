package leaseloop_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

func TestEndsAtTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		c := f.enter()
		after(time.Hour - time.Nanosecond)
		f.wantRunning()
		after(time.Nanosecond)
		f.wantEnd(bastion.ExitOK, leaseloop.Deadline, bastion.Ending{Reason: bastion.EndDeadline, Generation: 1})
		if !c.Ended() {
			t.Error("the connection is still open")
		}
	})
}

func TestEndsAtTheExtendedDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		f.enter()
		after(59 * time.Minute)
		if err := f.table.Write(func(l *bastion.Lease) { l.Deadline = l.Deadline.Add(time.Hour) }); err != nil {
			t.Fatal(err)
		}
		f.wantEndAfter(61*time.Minute, leaseloop.Deadline, bastion.EndDeadline)
	})
}

func TestEndsAtTheDeadlineWithoutTheTable(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		f.enter()
		f.table.Change(func(tb *simtask.Table) { tb.ReadErr, tb.Around = simtask.ErrTable, unreachable })
		after(time.Hour - time.Nanosecond)
		f.wantRunning()
		after(time.Nanosecond)
		if !f.ended() || f.code != bastion.ExitOK || f.server.EndCause() != leaseloop.Deadline {
			t.Errorf("ended %t, code %d, cause %q", f.ended(), f.code, f.server.EndCause())
		}
	})
}

// The table hangs, as DynamoDB does when packets are dropped: no call outlasts its
// time limit.
func TestHangingTableDelaysTheDeadlineByOneCall(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.cfg.Lease = simtask.HangingTable{Table: f.table, From: time.Now().Add(time.Minute)}
		f.run()
		f.enter()
		after(time.Hour)
		f.wantRunning() // the report of the ending hangs
		after(5 * time.Second)
		if f.server.EndCause() != leaseloop.Deadline {
			t.Errorf("five seconds after the deadline the server has ended with %q, want %q", f.server.EndCause(), leaseloop.Deadline)
		}
	})
}

// A newer lease exists but cannot be read. The exit code makes the control plane start
// another task.
func TestConflictWithoutAReadableLeaseFails(t *testing.T) {
	for name, breakTable := range map[string]func(*simtask.Table){
		"unreadable": func(tb *simtask.Table) { tb.ReadErr = simtask.ErrTable },
		"conflict without a newer lease": func(tb *simtask.Table) {
			tb.Around = func(r bastion.Report, apply func() error) error {
				if r.Ending.Reason != "" {
					return bastion.ErrConflict
				}
				return apply()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fixture) {
				f.run()
				f.enter()
				after(time.Hour - 2*time.Second) // after the last poll
				f.table.Change(breakTable)
				if name == "unreadable" {
					f.table.Change(func(tb *simtask.Table) { tb.Lease.Generation++ })
				}
				after(2 * time.Second)
				f.wantEnd(bastion.ExitFailure, leaseloop.Deadline, bastion.Ending{})
			})
		})
	}
}

// The table could not be reached at the deadline. It accepts the last report, and has a
// newer lease.
func TestUnreadExtensionOfTheDeadlineEndsAsAFailure(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		f.enter()
		f.table.Change(func(tb *simtask.Table) {
			tb.ReadErr = simtask.ErrTable
			tb.Lease.Generation = 2
			tb.Around = func(report bastion.Report, apply func() error) error {
				if report.Receipt.EndedAt.IsZero() {
					return simtask.ErrTable
				}
				return apply()
			}
		})
		after(time.Hour)
		f.wantEnd(bastion.ExitFailure, leaseloop.Deadline, bastion.Ending{})
		if n := f.table.LastReport().Receipt.Connections; n != 1 {
			t.Errorf("the receipt counts %d connections, want 1", n)
		}
	})
}

// The lease is renewed just before the ending is written: the task continues.
func TestRenewedLeaseWinsOverTheEnding(t *testing.T) {
	for _, reason := range []bastion.EndReason{bastion.EndIdle, bastion.EndDeadline} {
		t.Run(string(reason), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fixture) {
				if reason == bastion.EndDeadline {
					f.table.Lease.IdleTimeout, f.table.Lease.Deadline = 0, time.Now().Add(10*time.Minute)
				}
				f.table.Around = func(report bastion.Report, apply func() error) error {
					if report.Ending.Reason != "" && report.Ending.Generation == 1 {
						if err := f.table.Write(func(l *bastion.Lease) { l.Deadline = time.Now().Add(time.Hour) }); err != nil {
							t.Error(err)
						}
					}
					return apply()
				}
				f.run()
				after(10 * time.Minute)
				f.wantRunning()
				if got := f.table.LastReport(); got.Generation != 2 || got.Ending != (bastion.Ending{}) {
					t.Errorf("report %+v, want generation 2 and no ending", got)
				}
				c := f.enter()
				after(30 * time.Minute)
				if f.wantRunning(); c.Ended() {
					t.Error("the connection was closed")
				}
			})
		})
	}
}

// The ending is written first: the lease can no longer be renewed.
func TestEndingWinsOverARenewal(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.table.Around = func(report bastion.Report, apply func() error) error {
			err := apply()
			if report.Ending.Reason != "" {
				if err := f.table.Write(func(*bastion.Lease) {}); !errors.Is(err, bastion.ErrConflict) {
					t.Errorf("the lease of an ending task was renewed: %v", err)
				}
			}
			return err
		}
		f.run()
		f.wantEndAfter(10*time.Minute, leaseloop.Idle, bastion.EndIdle)
	})
}

func TestRemovedLeaseAtAnIdleEndEndsTheTask(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.table.Around = func(report bastion.Report, apply func() error) error {
			if report.Ending.Reason != "" {
				f.table.Change(func(tb *simtask.Table) { tb.Removed = true })
			}
			return apply()
		}
		f.run()
		after(10 * time.Minute)
		f.wantEnd(bastion.ExitOK, leaseloop.LeaseRemoved, bastion.Ending{})
	})
}

func TestIdleCountsFromReady(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.table.Around = unreachable
		f.run()
		after(20 * time.Minute)
		f.table.Change(func(tb *simtask.Table) { tb.Around = nil })
		after(3 * time.Second)
		f.wantEndAfter(10*time.Minute, leaseloop.Idle, bastion.EndIdle)
	})
}

func TestIdleCountsFromTheLastUse(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		after(9 * time.Minute)
		c := f.enter()
		after(20 * time.Minute)
		c.Leave()
		f.wantEndAfter(10*time.Minute, leaseloop.Idle, bastion.EndIdle)
	})
}

func TestIdleCountsFromTheLatestLease(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		after(9 * time.Minute)
		if err := f.table.Write(func(*bastion.Lease) {}); err != nil {
			t.Fatal(err)
		}
		after(3 * time.Second)
		f.wantEndAfter(10*time.Minute, leaseloop.Idle, bastion.EndIdle)
	})
}

func TestIdleEndIsRetriedUntilTheTableAcceptsIt(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		after(time.Minute)
		f.table.Change(func(tb *simtask.Table) { tb.Around = unreachable })
		after(20 * time.Minute)
		f.wantRunning()
		f.table.Change(func(tb *simtask.Table) { tb.Around = nil })
		after(3 * time.Second)
		f.wantEnd(bastion.ExitOK, leaseloop.Idle, bastion.Ending{Reason: bastion.EndIdle, Generation: 1})
	})
}

// The table accepted the ending, but its response was lost. Connections wait until a
// repeated write succeeds, because the control plane may be closing the bastion already.
func TestLostResponseToAnIdleEndKeepsConnectionsWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		lost := false
		f.table.Around = func(report bastion.Report, apply func() error) error {
			if report.Ending.Reason != "" && !lost {
				lost = true
				return errors.Join(apply(), simtask.ErrTable)
			}
			return apply()
		}
		f.run()
		after(10 * time.Minute)
		f.wantRunning()
		var late *simtask.Conn
		go func() { late = f.server.Begin() }()
		after(5 * time.Second)
		f.wantEnd(bastion.ExitOK, leaseloop.Idle, bastion.Ending{Reason: bastion.EndIdle, Generation: 1})
		if late != nil {
			t.Error("a connection began during the end")
		}
	})
}

func TestHandshakeDelaysTheIdleEnd(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		after(10*time.Minute - time.Second)
		slow := f.server.Begin()
		after(5 * time.Second)
		f.wantRunning()
		if !slow.Enter() {
			t.Error("the handshake was closed within ten seconds")
		}
		after(30 * time.Minute)
		f.wantRunning()
	})
}

func TestHangingHandshakeIsClosedAtTheIdleEnd(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		after(10*time.Minute - time.Second)
		stuck := f.server.Begin()
		f.wantEndAfter(time.Second+10*time.Second, leaseloop.Idle, bastion.EndIdle)
		if stuck.Enter() {
			t.Error("the connection entered after the end")
		}
	})
}

func TestProvedHandshakeIsNotClosedAtTheIdleEnd(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		after(10*time.Minute - time.Second)
		c := f.server.Begin()
		c.Prove()
		after(30 * time.Second)
		f.wantRunning()
		if !c.Enter() {
			t.Error("a proved key was refused")
		}
	})
}

// One hanging handshake has used up its ten seconds, another has just begun. It gets its
// own ten seconds, and new connections wait meanwhile.
func TestHangingHandshakesAreClosedOneByOne(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		after(9*time.Minute + 55*time.Second)
		first := f.server.Begin()
		after(13 * time.Second)
		second := f.server.Begin()
		after(9 * time.Second)
		if !first.Ended() || second.Ended() {
			t.Errorf("first closed %t, second closed %t; want only the first", first.Ended(), second.Ended())
		}
		f.wantEndAfter(time.Second, leaseloop.Idle, bastion.EndIdle)
	})
}

// A client that connects at any time around the idle end is admitted and stays
// connected, or is never admitted.
func TestClientAroundTheIdleEndIsNeverDisconnected(t *testing.T) {
	for offset := -3 * time.Second; offset <= 3*time.Second; offset += 250 * time.Millisecond {
		t.Run(fmt.Sprint(offset), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fixture) {
				f.table.Around = func(_ bastion.Report, apply func() error) error {
					time.Sleep(time.Second)
					err := apply()
					time.Sleep(time.Second)
					return err
				}
				f.run()
				after(10*time.Minute + 2*time.Second + offset) // ready after two seconds
				c := f.server.Begin()
				entered := c != nil && c.Enter()
				after(20 * time.Minute)
				if entered && (f.ended() || c.Ended()) {
					t.Error("an admitted client was disconnected")
				}
				if !entered && (!f.ended() || f.table.LastReport().Receipt.Connections != 0) {
					t.Error("the client was refused, but the bastion has not ended unused")
				}
			})
		})
	}
}
