package leaseloop_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

// fixture is a loop with a server and a table in memory. The deadline is in an hour, the
// idle time-out is ten minutes.
type fixture struct {
	t         *testing.T
	cfg       leaseloop.Config
	table     *simtask.Table
	server    *simtask.Server
	started   bool // the loop has had its first lease
	log       lockedBuffer
	terminate context.CancelFunc
	exited    chan struct{}
	code      int
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// bubble runs a test in simulated time. The test starts the loop itself.
func bubble(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{t: t, table: &simtask.Table{}, server: simtask.NewServer(simtask.HostKey("host")), exited: make(chan struct{})}
		f.server.SetHostKeys(simtask.HostKey("host"))
		f.cfg = leaseloop.Config{BastionID: "b1", Lease: f.table, Now: time.Now, Log: slog.New(slog.NewTextHandler(&f.log, nil))}
		f.table.Lease = bastion.Lease{
			BastionID: "b1", Owner: "local:alice", Name: "default", Generation: 1, Open: true,
			Source: netip.MustParsePrefix("127.0.0.1/32"), Keys: []bastion.Key{simtask.HostKey("alice")},
			Deadline: time.Now().Add(time.Hour), IdleTimeout: 10 * time.Minute,
		}
		test(t, f)
	})
}

// run starts the loop, and stops it at the end of the test.
func (f *fixture) run() {
	ctx, cancel := context.WithCancel(context.Background())
	f.terminate = cancel
	go func() {
		defer close(f.exited)
		f.code = leaseloop.Run(ctx, f.cfg, func(bastion.Lease, *slog.Logger) leaseloop.Server {
			f.started = true
			return f.server
		})
	}()
	f.t.Cleanup(func() {
		cancel()
		<-f.exited
	})
	synctest.Wait()
}

// after waits for d, and then until all goroutines of the bubble are blocked.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (f *fixture) ended() bool {
	select {
	case <-f.exited:
		return true
	default:
		return false
	}
}

func (f *fixture) wantRunning() {
	f.t.Helper()
	if f.ended() {
		f.t.Fatalf("ended with code %d, cause %q:\n%s", f.code, f.server.EndCause(), f.log.String())
	}
}

// wantEnd checks that the loop has ended, and that a receipt is reported.
func (f *fixture) wantEnd(code int, cause leaseloop.Cause, ending bastion.Ending) {
	f.t.Helper()
	if !f.ended() {
		f.t.Fatalf("not ended:\n%s", f.log.String())
	}
	if f.code != code || f.server.EndCause() != cause {
		f.t.Errorf("ended with code %d, cause %q; want code %d, cause %q", f.code, f.server.EndCause(), code, cause)
	}
	if report := f.table.LastReport(); report.Ending != ending || !f.table.Removed && report.Receipt.EndedAt.IsZero() {
		f.t.Errorf("last report %+v, want ending %+v and a receipt", report, ending)
	}
}

// wantEndAfter checks that the loop ends by its own decision after d, and not before.
func (f *fixture) wantEndAfter(d time.Duration, cause leaseloop.Cause, reason bastion.EndReason) {
	f.t.Helper()
	after(d - time.Second)
	f.wantRunning()
	after(time.Second)
	f.wantEnd(bastion.ExitOK, cause, bastion.Ending{Reason: reason, Generation: f.table.Lease.Generation})
}

// unreachable makes reports fail.
func unreachable(bastion.Report, func() error) error { return simtask.ErrTable }

// enter opens an authenticated connection.
func (f *fixture) enter() *simtask.Conn {
	f.t.Helper()
	c := f.server.Begin()
	if c == nil || !c.Enter() {
		f.t.Fatal("connection refused")
	}
	return c
}

func TestMissingFirstLeaseEndsTheTask(t *testing.T) {
	for name, c := range map[string]struct {
		readErr error
		code    int
		after   time.Duration
	}{
		"no lease":      {nil, bastion.ExitNoLease, 5 * time.Minute},
		"unreachable":   {simtask.ErrTable, bastion.ExitUnreachable, 5 * time.Minute},
		"hanging reads": {context.DeadlineExceeded, bastion.ExitUnreachable, 5 * time.Minute},
		"other error":   {errors.New("decode lease"), bastion.ExitNoLease, 5 * time.Minute},
		"denied":        {simtask.ErrDenied, bastion.ExitDenied, 15 * time.Second},
		"no table":      {simtask.ErrNoTable, bastion.ExitNoTable, 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fixture) {
				f.table.Lease, f.table.ReadErr = bastion.Lease{}, c.readErr
				f.run()
				after(c.after - time.Second)
				f.wantRunning()
				after(2 * time.Second)
				if !f.ended() || f.code != c.code || f.started || f.table.Reports() > 0 {
					t.Errorf("ended %t, code %d, server %t, %d reports", f.ended(), f.code, f.started, f.table.Reports())
				}
			})
		})
	}
}

// IAM can deny the first reads of a task that starts soon after a deployment.
func TestShortRefusalBeforeTheFirstLeaseIsWaitedFor(t *testing.T) {
	for name, readErr := range map[string]error{"denied": simtask.ErrDenied, "no table": simtask.ErrNoTable} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fixture) {
				f.table.ReadErr = readErr
				f.run()
				after(14 * time.Second)
				f.wantRunning()
				f.table.Change(func(tb *simtask.Table) { tb.ReadErr = nil })
				after(time.Second)
				f.wantRunning()
				if got := f.table.LastReport().Generation; got != 1 {
					t.Errorf("reported generation %d, want 1", got)
				}
			})
		})
	}
}

// The time limit for refusals counts from the latest read that the table answered.
func TestAnswerBetweenRefusalsResetsTheirLimit(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.table.Lease, f.table.ReadErr = bastion.Lease{}, simtask.ErrDenied
		f.run()
		after(13 * time.Second)
		f.table.Change(func(tb *simtask.Table) { tb.ReadErr = nil })
		after(3 * time.Second)
		f.table.Change(func(tb *simtask.Table) { tb.ReadErr = simtask.ErrDenied })
		after(16 * time.Second)
		f.wantRunning()
		after(3 * time.Second)
		if !f.ended() || f.code != bastion.ExitDenied {
			t.Errorf("ended %t, code %d", f.ended(), f.code)
		}
	})
}

// A table that answered once can be reached: the task has no lease, whatever the last
// reads returned.
func TestTableThatAnsweredBeforeIsNotUnreachable(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.table.Lease = bastion.Lease{}
		f.run()
		after(4 * time.Minute)
		f.table.Change(func(tb *simtask.Table) { tb.ReadErr = simtask.ErrTable })
		after(2 * time.Minute)
		if !f.ended() || f.code != bastion.ExitNoLease {
			t.Errorf("ended %t, code %d", f.ended(), f.code)
		}
	})
}

// If Timing.FirstLease is shorter than Timing.Refusal, the exit code is still that of the
// refusal.
func TestRefusalAtTheFirstLeaseLimitKeepsItsExitCode(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.cfg.Timing.FirstLease = 5 * time.Second
		f.table.ReadErr = simtask.ErrDenied
		f.run()
		after(6 * time.Second)
		if !f.ended() || f.code != bastion.ExitDenied {
			t.Errorf("ended %t, code %d", f.ended(), f.code)
		}
	})
}

func TestLateFirstLeaseIsServed(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		lease := f.table.Lease
		f.table.Lease = bastion.Lease{}
		f.run()
		after(4 * time.Minute)
		f.table.Change(func(tb *simtask.Table) { tb.Lease = lease })
		after(3 * time.Second)
		if report := f.table.LastReport(); report.Generation != 1 || report.HostKey != simtask.HostKey("host") {
			t.Errorf("report %+v", report)
		}
		f.enter()
	})
}

// makingHostKeys lets the server still make its second host key.
func (f *fixture) makingHostKeys() { f.server = simtask.NewServer(simtask.HostKey("host")) }

func TestFirstReportWaitsForHostKeys(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.makingHostKeys()
		f.run()
		after(2 * time.Second)
		if n := f.table.Reports(); n != 0 {
			t.Fatalf("%d reports while a host key is being made", n)
		}
		f.server.SetHostKeys(simtask.HostKey("host"), simtask.HostKey("second"))
		synctest.Wait()
		if keys := f.table.LastReport().HostKeys(); !slices.Equal(keys, []bastion.Key{simtask.HostKey("host"), simtask.HostKey("second")}) {
			t.Errorf("the first report has the host keys %q", keys)
		}
	})
}

// The report does not wait longer than three seconds, and a key that comes later is
// reported at once.
func TestLateHostKeyIsReportedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.makingHostKeys()
		f.run()
		after(3*time.Second - 1)
		if n := f.table.Reports(); n != 0 {
			t.Fatalf("%d reports before three seconds have passed", n)
		}
		after(1)
		if keys := f.table.LastReport().HostKeys(); !slices.Equal(keys, []bastion.Key{simtask.HostKey("host")}) {
			t.Errorf("after three seconds: the host keys %q", keys)
		}
		after(10 * time.Second)
		before := f.table.Reports()
		f.server.SetHostKeys(simtask.HostKey("host"), simtask.HostKey("second"))
		synctest.Wait()
		if keys := f.table.LastReport().HostKeys(); len(keys) != 2 || keys[1] != simtask.HostKey("second") || f.table.Reports() != before+1 {
			t.Errorf("%d reports more, with the host keys %q", f.table.Reports()-before, keys)
		}
	})
}

// An end does not wait for host keys.
func TestEndDoesNotWaitForHostKeys(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.makingHostKeys()
		f.run()
		f.terminate()
		synctest.Wait()
		if !f.ended() || f.code != bastion.ExitTerminated {
			t.Errorf("ended %t, code %d", f.ended(), f.code)
		}
	})
}

func TestSignalBeforeTheFirstLeaseEndsTheTask(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.table.Lease = bastion.Lease{}
		f.run()
		f.terminate()
		synctest.Wait()
		if !f.ended() || f.code != bastion.ExitTerminated || f.started {
			t.Errorf("ended %t, code %d, server %t", f.ended(), f.code, f.started)
		}
	})
}

func TestClosedFirstLeaseStartsNoServer(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.table.Lease.Open = false
		f.run()
		if !f.ended() || f.code != bastion.ExitOK || f.started {
			t.Errorf("ended %t, code %d, server %t", f.ended(), f.code, f.started)
		}
	})
}

func TestExpiredFirstLeaseIsNotServed(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.table.Lease.Deadline = time.Now().Add(-time.Second)
		f.server.ListenError = errors.New("must not listen")
		f.run()
		f.wantEnd(bastion.ExitOK, leaseloop.Deadline, bastion.Ending{Reason: bastion.EndDeadline, Generation: 1})
	})
}

// The first lease has expired, and is renewed before the ending is written.
func TestRenewedFirstLeaseIsServed(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.table.Lease.Deadline = time.Now().Add(-time.Second)
		f.table.Around = func(report bastion.Report, apply func() error) error {
			if report.Ending.Reason != "" && report.Ending.Generation == 1 {
				if err := f.table.Write(func(l *bastion.Lease) { l.Deadline = time.Now().Add(time.Hour) }); err != nil {
					t.Error(err)
				}
			}
			return apply()
		}
		f.run()
		f.wantRunning()
		if got := f.table.LastReport(); got.Generation != 2 || got.HostKey == "" {
			t.Errorf("report %+v, want generation 2", got)
		}
		f.enter()
	})
}

func TestListenerThatFailsEndsTheTask(t *testing.T) {
	t.Run("at the start", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fixture) {
			f.server.ListenError = errors.New("address in use")
			f.run()
			f.wantEnd(bastion.ExitFailure, leaseloop.ListenerFailed, bastion.Ending{})
		})
	})
	t.Run("later", func(t *testing.T) {
		bubble(t, func(t *testing.T, f *fixture) {
			f.run()
			f.server.Fail(errors.New("too many open files"))
			synctest.Wait()
			f.wantEnd(bastion.ExitFailure, leaseloop.ListenerFailed, bastion.Ending{})
		})
	})
}

func TestClosedLeaseEndsTheTask(t *testing.T) {
	for reason, cause := range map[bastion.EndReason]leaseloop.Cause{
		bastion.EndClosed: leaseloop.Closed, bastion.EndConsole: leaseloop.ClosedFromConsole,
		bastion.EndDeadline: leaseloop.Deadline, bastion.EndIdle: leaseloop.Idle,
	} {
		t.Run(string(reason), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fixture) {
				f.run()
				reply := bastion.ConsoleReply{Number: 1, Message: "The bastion is being closed."}
				if err := f.table.Write(func(l *bastion.Lease) { l.Open, l.EndReason, l.ConsoleReply = false, reason, reply }); err != nil {
					t.Fatal(err)
				}
				after(3 * time.Second)
				f.wantEnd(bastion.ExitOK, cause, bastion.Ending{})
				if got := f.server.LastReply(); got != reply {
					t.Errorf("reply %+v, want %+v", got, reply)
				}
			})
		})
	}
}

func TestRemovedLeaseEndsTheTask(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		f.table.Change(func(tb *simtask.Table) { tb.Removed = true })
		after(3 * time.Second)
		f.wantEnd(bastion.ExitOK, leaseloop.LeaseRemoved, bastion.Ending{})
	})
}

func TestSignalEndsTheTaskWithAReceipt(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		f.enter()
		f.terminate()
		synctest.Wait()
		f.wantEnd(bastion.ExitTerminated, leaseloop.Terminated, bastion.Ending{})
		if n := f.table.LastReport().Receipt.Connections; n != 1 {
			t.Errorf("the receipt counts %d connections, want 1", n)
		}
	})
}

// StopTask comes after the close of the lease, but before the next poll.
func TestSignalAfterTheLeaseWasClosedEndsAsClosed(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		if err := f.table.Write(func(l *bastion.Lease) { l.Open, l.EndReason = false, bastion.EndClosed }); err != nil {
			t.Fatal(err)
		}
		f.terminate()
		synctest.Wait()
		f.wantEnd(bastion.ExitOK, leaseloop.Closed, bastion.Ending{})
	})
}

func TestNewLeaseIsInForceWithinOnePoll(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		after(7 * time.Second)
		if err := f.table.Write(func(l *bastion.Lease) { l.Deadline = l.Deadline.Add(time.Minute) }); err != nil {
			t.Fatal(err)
		}
		after(3 * time.Second)
		if got := f.table.LastReport().Generation; got != 2 || f.server.Lease().Generation != 2 {
			t.Errorf("reported generation %d after one poll, want 2", got)
		}
	})
}

func TestOlderGenerationIsIgnored(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.table.Lease.Generation = 5
		f.run()
		f.table.Change(func(tb *simtask.Table) { tb.Lease.Generation, tb.Lease.Open = 4, false })
		after(time.Minute)
		f.wantRunning()
	})
}

func TestUnreadableTableKeepsTheLease(t *testing.T) {
	for name, readErr := range map[string]error{"unreachable": simtask.ErrTable, "denied": simtask.ErrDenied, "no table": simtask.ErrNoTable} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fixture) {
				f.run()
				before := f.enter()
				f.table.Change(func(tb *simtask.Table) { tb.ReadErr = readErr })
				after(20 * time.Minute)
				f.wantRunning()
				f.enter()
				f.table.Change(func(tb *simtask.Table) { tb.ReadErr = nil; tb.Lease.Generation++ })
				after(3 * time.Second)
				if got := f.table.LastReport().Generation; got != 2 || before.Ended() {
					t.Errorf("reported generation %d, want 2; the connection was cut: %t", got, before.Ended())
				}
				if n := strings.Count(f.log.String(), "level=WARN"); n != 1 {
					t.Errorf("%d warnings, want 1:\n%s", n, f.log.String())
				}
			})
		})
	}
}

func TestReplacedKeyClosesConnections(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.run()
		old := f.enter()
		if err := f.table.Write(func(l *bastion.Lease) { l.Keys = []bastion.Key{simtask.HostKey("bob")} }); err != nil {
			t.Fatal(err)
		}
		after(3 * time.Second)
		if !old.Ended() {
			t.Error("the connection of the replaced key is still open")
		}
	})
}

func TestReportFollowsChangesAndComesEveryMinute(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.table.Lease.IdleTimeout = 0
		f.run()
		after(30*time.Minute + time.Second)
		if n := f.table.Reports(); n != 31 {
			t.Errorf("%d reports in half an hour without a change, want 31", n)
		}
		before := f.table.Reports()
		f.enter()
		after(time.Second)
		if n := f.table.Reports() - before; n != 1 || f.table.LastReport().Connections != 1 {
			t.Errorf("%d reports of a new connection: %+v", n, f.table.LastReport())
		}
		f.server.Request(bastion.VerbExtend, 2*time.Hour)
		synctest.Wait()
		want := bastion.ConsoleRequest{Number: 1, Verb: bastion.VerbExtend, TTL: 2 * time.Hour}
		if got := f.table.LastReport().ConsoleRequest; got != want {
			t.Errorf("reported request %+v, want %+v at once", got, want)
		}
	})
}

func TestReportIsRetried(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		failures := 3
		f.table.Around = func(_ bastion.Report, apply func() error) error {
			if failures > 0 {
				failures--
				return simtask.ErrTable
			}
			return apply()
		}
		f.run()
		after(8 * time.Second)
		if n := f.table.Reports(); n != 0 {
			t.Errorf("%d reports after three failures, want 0", n)
		}
		after(time.Second)
		if n := f.table.Reports(); n != 1 {
			t.Errorf("%d reports after three failures and three polls, want 1", n)
		}
	})
}

func TestWarningsComeBeforeTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.table.Lease.IdleTimeout = 0
		f.run()
		after(50*time.Minute - time.Nanosecond)
		if got := f.server.Warned(); len(got) != 0 {
			t.Errorf("warnings %v more than ten minutes before the deadline", got)
		}
		after(time.Nanosecond)
		after(9 * time.Minute)
		if got, want := f.server.Warned(), []time.Duration{10 * time.Minute, time.Minute}; !slices.Equal(got, want) {
			t.Errorf("warnings %v, want %v", got, want)
		}
	})
}
