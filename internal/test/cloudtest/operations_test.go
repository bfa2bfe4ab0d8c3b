package cloudtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

// simulate runs a test in simulated time, on a cloud whose reads are up to a second old.
func simulate(t *testing.T, run func(*testing.T, *world)) {
	synctest.Test(t, func(t *testing.T) { run(t, newWorld(t, time.Second)) })
}

func wantCode(t *testing.T, err error, want bastion.Code) {
	t.Helper()
	var refusal *bastion.Error
	if !errors.As(err, &refusal) || refusal.Code != want || refusal.Message == "" {
		t.Errorf("error: %v, want code %s", err, want)
	}
}

func TestConcurrentCreatesMakeOneBastion(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		var made atomic.Int64
		var wg sync.WaitGroup
		ids := make([]string, 20)
		for i := range ids {
			wg.Go(func() {
				ctx, cancel := invocation()
				defer cancel()
				rec, change, err := w.service.Create(ctx, bastion.CreateRequest{Caller: alice(home), Key: keyA, Wait: 25 * time.Second})
				if err != nil || rec.State() != bastion.Ready {
					t.Errorf("caller %d: %s, %v", i, rec.State(), err)
				}
				ids[i] = rec.ID
				if change.Created {
					made.Add(1)
				}
			})
		}
		wg.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Errorf("callers got different bastions: %s and %s", ids[0], id)
			}
		}
		if inv := w.cloud.Inventory(); made.Load() != 1 || len(inv.Tasks) != 1 || len(inv.Groups) != 1 {
			t.Errorf("%d bastions created, %d tasks, %d groups", made.Load(), len(inv.Tasks), len(inv.Groups))
		}
		w.rest("twenty concurrent creates")
	})
}

func TestInvalidCreateIsRefused(t *testing.T) {
	long := 13 * time.Hour
	zero, short := time.Duration(0), 999*time.Millisecond
	private := netip.MustParsePrefix("10.1.2.3/32")
	for _, row := range []struct {
		what string
		edit func(*bastion.CreateRequest, *bastion.Config)
		code bastion.Code
	}{
		{"no key", func(r *bastion.CreateRequest, _ *bastion.Config) { r.Key = "" }, bastion.CodeKeyRequired},
		{"a name with a newline", func(r *bastion.CreateRequest, _ *bastion.Config) { r.Name = "a\nb" }, bastion.CodeNameInvalid},
		{"a reason with a newline", func(r *bastion.CreateRequest, _ *bastion.Config) { r.Reason = "a\nb" }, bastion.CodeReasonInvalid},
		{"no time", func(r *bastion.CreateRequest, _ *bastion.Config) { r.TTL = &zero }, bastion.CodeTTLInvalid},
		{"less than a second", func(r *bastion.CreateRequest, _ *bastion.Config) { r.TTL = &short }, bastion.CodeTTLInvalid},
		{"too much time", func(r *bastion.CreateRequest, _ *bastion.Config) { r.TTL = &long }, bastion.CodeTTLBeyondCap},
		{"all addresses", func(r *bastion.CreateRequest, _ *bastion.Config) {
			r.Sources = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		}, bastion.CodeSourceTooWide},
		{"a prefix where only single addresses are allowed", func(r *bastion.CreateRequest, c *bastion.Config) {
			r.Sources = []netip.Prefix{netip.MustParsePrefix("10.1.2.0/31")}
			c.SourceOverride, c.WidestIPv4 = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, 32
		}, bastion.CodeSourceTooWide},
		{"an IPv6 prefix that is one bit too wide", func(r *bastion.CreateRequest, c *bastion.Config) {
			r.Sources = []netip.Prefix{netip.MustParsePrefix("2001:db8::/63")}
			c.SourceOverride, c.WidestIPv6 = []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}, 64
		}, bastion.CodeSourceTooWide},
		{"a prefix that is wider than the permitted one", func(r *bastion.CreateRequest, c *bastion.Config) {
			r.Sources = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
			c.SourceOverride, c.WidestIPv4 = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/17"), netip.MustParsePrefix("10.9.128.0/17")}, 8
		}, bastion.CodeSourceNotAllowed},
		{"a list whose last source is not permitted", func(r *bastion.CreateRequest, c *bastion.Config) {
			r.Sources = []netip.Prefix{netip.MustParsePrefix("10.9.0.1/32"), private}
			c.SourceOverride = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
		}, bastion.CodeSourceNotAllowed},
		{"a list with a source of the wrong family", func(r *bastion.CreateRequest, c *bastion.Config) {
			r.Sources = []netip.Prefix{private, netip.MustParsePrefix("2001:db8::1/128")}
			c.SourceOverride, c.IPv6 = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}, false
		}, bastion.CodeSourceFamily},
		{"six sources", func(r *bastion.CreateRequest, c *bastion.Config) {
			r.Sources = hosts(6)
			c.SourceOverride = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}, bastion.CodeSourceInvalid},
		{"only_key without a key", func(r *bastion.CreateRequest, _ *bastion.Config) { r.Key, r.OnlyKey = "", true }, bastion.CodeKeyRequired},
		{"a mapped address", func(r *bastion.CreateRequest, _ *bastion.Config) {
			r.Sources = []netip.Prefix{netip.MustParsePrefix("::ffff:10.1.2.3/128")}
		}, bastion.CodeSourceInvalid},
		{"a source without permission", func(r *bastion.CreateRequest, _ *bastion.Config) { r.Sources = []netip.Prefix{private} }, bastion.CodeSourceNotAllowed},
		{"a source outside the permitted ranges", func(r *bastion.CreateRequest, c *bastion.Config) {
			r.Sources = []netip.Prefix{private}
			c.SourceOverride = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
		}, bastion.CodeSourceNotAllowed},
		{"no source where one is required", func(_ *bastion.CreateRequest, c *bastion.Config) { c.RequireSource = true }, bastion.CodeSourceRequired},
		{"no address at all", func(r *bastion.CreateRequest, _ *bastion.Config) { r.Caller.Address = netip.Addr{} }, bastion.CodeSourceInvalid},
		{"the wrong family", func(_ *bastion.CreateRequest, c *bastion.Config) { c.IPv4 = false }, bastion.CodeSourceFamily},
		{"the total quota", func(_ *bastion.CreateRequest, c *bastion.Config) { c.Quota.Total = 0 }, bastion.CodeQuotaTotal},
		{"the owner's quota", func(_ *bastion.CreateRequest, c *bastion.Config) { c.Quota.PerOwner = 0 }, bastion.CodeQuotaOwner},
		{"a malformed name before a missing key", func(r *bastion.CreateRequest, _ *bastion.Config) { r.Key, r.Name = "", "-" }, bastion.CodeNameInvalid},
	} {
		t.Run(row.what, func(t *testing.T) {
			simulate(t, func(t *testing.T, w *world) {
				req := bastion.CreateRequest{Caller: alice(home), Key: keyA}
				row.edit(&req, &w.service.Config)
				_, _, err := w.service.Create(context.Background(), req)
				wantCode(t, err, row.code)
				if inv := w.cloud.Inventory(); len(inv.Records)+len(inv.Groups)+len(inv.Tasks) > 0 {
					t.Errorf("a refused create left: %+v", inv)
				}
				if _, err := w.service.Keys.RememberedKey(context.Background(), alice(home).Owner); !errors.Is(err, bastion.ErrNotFound) {
					t.Errorf("the key of a refused request is remembered (%v)", err)
				}
			})
		})
	}
}

// hosts returns n single addresses.
func hosts(n int) (all []netip.Prefix) {
	for i := range n {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}), 32))
	}
	return all
}

func TestKeyIsRemembered(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		first := w.ready()
		if _, err := w.service.Close(context.Background(), alice(home), first.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		again, err := w.create(w.service, home, "")
		if err != nil || again.ID == first.ID || again.Intent.Keys[0] != keyA {
			t.Errorf("second bastion %s with keys %v, error %v", again.ID, again.Intent.Keys, err)
		}
	})
}

func TestDeadlinesOnlyMoveLater(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		extend := func(ttl time.Duration) (bastion.Record, error) {
			return w.service.Extend(context.Background(), alice(home), rec.ID, ttl, 10*time.Second)
		}
		if same, err := extend(time.Minute); err != nil || !same.Intent.Deadline.Equal(rec.Intent.Deadline) || same.Intent.Generation != rec.Intent.Generation {
			t.Errorf("extended by less than is left: %+v, error %v", same.Intent, err)
		}
		later, err := extend(9 * time.Hour)
		if err != nil || later.State() != bastion.Ready || later.Intent.Deadline.Before(time.Now().Add(9*time.Hour-time.Minute)) {
			t.Errorf("extended: %s until %s, error %v", later.State(), later.Intent.Deadline, err)
		}
		_, err = extend(12 * time.Hour)
		wantCode(t, err, bastion.CodeTTLBeyondCap)
		_, err = extend(-time.Second)
		wantCode(t, err, bastion.CodeTTLInvalid)

		short := time.Minute
		ctx, cancel := invocation()
		defer cancel()
		again, _, err := w.service.Create(ctx, bastion.CreateRequest{Caller: alice(home), TTL: &short, Wait: 5 * time.Second})
		if err != nil || !again.Intent.Deadline.Equal(later.Intent.Deadline) {
			t.Errorf("create with less than is left: deadline %s, error %v", again.Intent.Deadline, err)
		}
		w.rest("extended")
	})
}

// The request that created a bastion can be repeated later and from another address,
// although its ttl now exceeds what is left of the maximum lifetime.
func TestRepeatedCreateWithLongestTTLIsAccepted(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		longest := w.service.Config.MaxTTL
		create := func(from netip.Addr) (bastion.Record, error) {
			ctx, cancel := invocation()
			defer cancel()
			rec, _, err := w.service.Create(ctx, bastion.CreateRequest{Caller: alice(from), Key: keyA, TTL: &longest, Wait: 25 * time.Second})
			return rec, err
		}
		first, err := create(home)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		again, err := create(travel)
		if err != nil || again.ID != first.ID || again.Intent.Source.Addr() != travel || !again.Intent.Deadline.Equal(first.LatestDeadline) {
			t.Errorf("%+v, %v", again.Intent, err)
		}
	})
}

func TestOtherOwnersFindNothing(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		ctx := context.Background()
		mallory := bastion.Caller{Owner: "local:mallory", Address: home}
		_, err := w.service.Get(ctx, mallory, rec.ID, 0)
		wantCode(t, err, bastion.CodeNotFound)
		_, err = w.service.Extend(ctx, mallory, rec.ID, time.Hour, 0)
		wantCode(t, err, bastion.CodeNotFound)
		_, err = w.service.Close(ctx, mallory, rec.ID, 0)
		wantCode(t, err, bastion.CodeNotFound)
		if recs, err := w.service.List(ctx, mallory, 0); err != nil || len(recs) != 0 {
			t.Errorf("list: %v, %v", recs, err)
		}
		if recs, err := w.service.CloseAll(ctx, mallory, 0); err != nil || len(recs) != 0 {
			t.Errorf("close all: %v, %v", recs, err)
		}
		root := bastion.Caller{Owner: "local:root", Admin: true}
		if recs, err := w.service.CloseAll(ctx, root, 0); err != nil || len(recs) != 0 {
			t.Errorf("an admin's close all closed others': %v, %v", recs, err)
		}
		if recs, err := w.service.List(ctx, root, 0); err != nil || len(recs) != 1 {
			t.Errorf("an admin's list: %v, %v", recs, err)
		}
		_, err = w.service.Extend(ctx, root, rec.ID, 10*time.Hour, 0) // only the owner can extend
		wantCode(t, err, bastion.CodeNotFound)
		w.rest("requests of other owners")
		if closed, err := w.service.Close(ctx, root, rec.ID, time.Minute); err != nil || closed.Intent.Open {
			t.Errorf("an admin's close: %v", err)
		}
	})
}

func TestCapacityRefusedFiveTimesFails(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.cloud.RefuseCapacity(5)
		rec, err := w.create(w.service, home, keyA)
		if err != nil {
			t.Fatal(err)
		}
		w.reap(10 * time.Minute)
		rec, err = w.service.Get(context.Background(), alice(home), rec.ID, 0)
		if err != nil || rec.State() != bastion.Failed || rec.End.Failure.Code != bastion.FailureCapacity || rec.Attempt.Number != 5 {
			t.Errorf("%s, %+v after %d attempts, %v", rec.State(), rec.End, rec.Attempt.Number, err)
		}
		w.rest("failed")
		if inv := w.cloud.Inventory(); len(inv.Groups)+len(inv.Tasks) > 0 {
			t.Errorf("left in the cloud: %+v", inv)
		}
		if next, err := w.create(w.service, home, keyA); err != nil || next.ID == rec.ID || next.State() != bastion.Ready {
			t.Errorf("next create: %s, error %v", next.State(), err)
		}
	})
}

func TestKilledTaskIsReplaced(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		before := w.ready()
		w.kill()
		w.reap(7 * time.Minute)
		after := w.only()
		if after.ID != before.ID || after.State() != bastion.Ready || after.Attempt.Number != 2 || after.Attempt.HostKey == before.Attempt.HostKey {
			t.Errorf("before: %+v\nafter: %s %+v", before.Attempt, after.State(), after.Attempt)
		}
		w.rest("killed")
	})
}

// The first report waits for the second host key for three seconds. A key that comes
// later is reported, and recorded in the next converge.
func TestAllHostKeysAreRecorded(t *testing.T) {
	for _, after := range []time.Duration{0, 2 * time.Second, time.Minute} {
		t.Run(after.String(), func(t *testing.T) {
			simulate(t, func(t *testing.T, w *world) {
				w.runner.SecondHostKeyAfter = after
				rec, err := w.create(w.service, home, keyA)
				if err != nil {
					t.Fatal(err)
				}
				both := []bastion.Key{simtask.HostKey(rec.Attempt.TaskID), simtask.HostKey(rec.Attempt.TaskID + ", second")}
				want := both
				if after > 3*time.Second {
					want = both[:1]
				}
				if got := rec.Attempt.HostKeys(); rec.State() != bastion.Ready || !slices.Equal(got, want) {
					t.Errorf("%s with the host keys %q, want %q", rec.State(), got, want)
				}
				w.reap(10 * time.Minute)
				if got := w.record(rec.ID); got.State() != bastion.Ready || !slices.Equal(got.Attempt.HostKeys(), both) {
					t.Errorf("later, %s with the host keys %q, want %q", got.State(), got.Attempt.HostKeys(), both)
				}
			})
		})
	}
}

// A task whose timer is broken runs on after its deadline. The reaper ends it.
func TestReaperEndsTaskThatDoesNotEndItself(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.runner.BrokenTimer = true
		rec := w.ready()
		time.Sleep(time.Until(rec.Intent.Deadline))
		w.reap(2 * time.Minute)
		if live := w.cloud.Inventory().Live(); len(live) > 0 {
			t.Errorf("two minutes after the deadline: %+v", live)
		}
		w.rest("expired")
		if rec, _ = w.service.Records.Fetch(context.Background(), rec.ID); rec.End.Reason != bastion.EndDeadline {
			t.Errorf("end: %s", rec.End)
		}
	})
}

// With the reaper stopped, the task ends itself at its deadline.
func TestTaskEndsItselfAtItsDeadline(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		time.Sleep(time.Until(rec.Intent.Deadline) + 5*time.Second)
		if live := w.cloud.Inventory().Live(); len(live) > 0 {
			t.Errorf("after the deadline: %+v", live)
		}
		w.rest("expired")
	})
}

func TestIdleEndsOnlyUnusedBastions(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.service.Config.IdleTimeout = 30 * time.Minute
		rec := w.ready()
		w.runner.Use(rec.Attempt.TaskID, 1)
		w.reap(2 * time.Hour)
		if w.only().State() != bastion.Ready {
			t.Fatal("a bastion in use ended")
		}
		w.runner.Use(rec.Attempt.TaskID, 0)
		w.reap(20 * time.Minute)
		if w.only().State() != bastion.Ready {
			t.Fatal("ended before the idle time-out")
		}
		w.reap(15 * time.Minute)
		w.rest("idle")
		if rec, _ = w.service.Records.Fetch(context.Background(), rec.ID); rec.End.Reason != bastion.EndIdle {
			t.Errorf("end reason %q, state %s", rec.End.Reason, rec.State())
		}
	})
}

// The owner extends the bastion just before the task writes its ending, and the new lease
// would be written after the ending: another task must start.
func TestExtensionWrittenAfterTheEndingStartsAnotherTask(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.service.Config.IdleTimeout = 30 * time.Minute
		rec := w.ready()
		time.Sleep(time.Until(rec.Attempt.ReadyAt.Add(30*time.Minute - 5*time.Second)))
		pause := cloudtest.PauseBefore() // holds the converge that would write the lease
		service := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.At("Leases.Write", 1, pause.Hook)))
		service.Config.IdleTimeout = 30 * time.Minute
		ended := make(chan bastion.Record)
		go func() {
			ctx, cancel := invocation()
			defer cancel()
			rec, err := service.Extend(ctx, alice(home), rec.ID, 10*time.Hour, 20*time.Second)
			if err != nil {
				t.Error(err)
			}
			ended <- rec
		}()
		<-pause.Reached()
		time.Sleep(10 * time.Second) // meanwhile the task writes its ending
		pause.Release()
		<-ended
		w.rest("extended at the end")
		if after := w.only(); after.ID != rec.ID || after.Attempt.Number != 2 || after.State() != bastion.Ready {
			t.Errorf("%s %s, attempt %d", after.ID, after.State(), after.Attempt.Number)
		}
	})
}

// An extension that is written to the lease before the task's ending keeps the task
// running, at the deadline and at the idle time-out. An extension after the ending
// starts another task, or is refused because the deadline has passed.
func TestExtensionAroundTheTasksOwnEnd(t *testing.T) {
	for _, reason := range []bastion.EndReason{bastion.EndDeadline, bastion.EndIdle} {
		for before := -2 * time.Second; before <= 5*time.Second; before += 500 * time.Millisecond {
			t.Run(fmt.Sprintf("%s, %s before", reason, before), func(t *testing.T) {
				simulate(t, func(t *testing.T, w *world) {
					lifetime := new(45 * time.Minute)
					if reason == bastion.EndIdle {
						w.service.Config.IdleTimeout = 30 * time.Minute
						lifetime = nil
					}
					rec := w.readyFor(lifetime)
					end, ttl := rec.Intent.Deadline, 3*time.Hour
					if reason == bastion.EndIdle {
						item, err := w.cloud.Leases().Fetch(t.Context(), rec.Attempt.TaskID)
						if err != nil {
							t.Fatal(err)
						}
						end = w.runner.Server(rec.Attempt.TaskID).LeasedAt().Add(item.Lease.IdleTimeout)
						ttl = 10 * time.Hour
					}
					time.Sleep(time.Until(end) - before)
					_, err := w.service.Extend(context.Background(), alice(home), rec.ID, ttl, 0)
					if before <= 0 && reason == bastion.EndDeadline {
						wantCode(t, err, bastion.CodeNotOpen)
						w.rest("extended too late")
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					w.rest("extended")
					after := w.only()
					if before > 0 && after.Attempt.Number != 1 {
						t.Errorf("extended %s before the end: attempt %d, want the first task to continue", before, after.Attempt.Number)
					}
					if after.ID != rec.ID || after.State() != bastion.Ready {
						t.Errorf("%s %s, want %s ready", after.ID, after.State(), rec.ID)
					}
				})
			})
		}
	}
}

func TestConsoleRequestsAreCarriedOut(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		request := func(verb bastion.Verb, ttl time.Duration) bastion.ConsoleReply {
			w.runner.Request(rec.Attempt.TaskID, verb, ttl)
			time.Sleep(10 * time.Second)
			if err := w.service.Observe(context.Background(), rec.ID); err != nil {
				t.Error(err)
			}
			item, err := w.cloud.Leases().Fetch(context.Background(), rec.Attempt.TaskID)
			if err != nil {
				t.Error(err)
			}
			return item.Lease.ConsoleReply
		}
		if reply := request(bastion.VerbExtend, 10*time.Hour); reply.Number != 1 || reply.Code != "" {
			t.Errorf("extend: %+v", reply)
		}
		if reply := request(bastion.VerbExtend, 100*time.Hour); reply.Number != 2 || reply.Code != bastion.CodeTTLBeyondCap {
			t.Errorf("extend beyond the cap: %+v", reply)
		}
		w.rest("extended by console")
		request(bastion.VerbClose, 0)
		w.rest("closed by console")
		if rec, _ = w.service.Records.Fetch(context.Background(), rec.ID); rec.End.Reason != bastion.EndConsole {
			t.Errorf("end: %s", rec.End)
		}
	})
}

// A sweep every second ends nothing that a record accounts for.
func TestSweepKeepsRunningBastions(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.service.Config.Timing.SweepGrace = 2 * time.Second
		ctx, stop := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := w.service.Sweep(context.Background()); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Second)
			}
		})
		rec := w.ready()
		w.reap(time.Hour)
		stop()
		wg.Wait()
		if after := w.only(); after.Attempt.Number != 1 || after.State() != bastion.Ready {
			t.Errorf("after an hour of sweeps: %s, attempt %d of %s", after.State(), after.Attempt.Number, rec.ID)
		}
	})
}

// A function that may not take a step makes the bastion due at once, for the reaper.
func TestStepOutsideTheSetMakesTheBastionDue(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		if !rec.DueAt.After(time.Now()) {
			t.Fatalf("due already at %s", rec.DueAt)
		}
		w.kill()
		time.Sleep(5 * time.Second) // until reads show it
		after, err := w.service.Converge(context.Background(), rec.ID, bastion.ExtendSteps)
		if err != nil || after.DueAt.After(time.Now()) || len(w.cloud.Inventory().Live()) > 0 {
			t.Errorf("due %s, now %s, error %v", after.DueAt, time.Now(), err)
		}
		w.rest("left to the reaper")
	})
}

// A group that a late call created for a finished bastion is an orphan.
func TestSweepDeletesGroupOfFinishedBastion(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		ctx := context.Background()
		if _, err := w.service.Close(ctx, alice(home), rec.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		w.rest("closed")
		if _, err := w.cloud.Groups().Create(ctx, bastion.GroupSpec{BastionID: rec.ID}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(11 * time.Minute)
			if _, err := w.service.Sweep(ctx); err != nil {
				t.Error(err)
			}
		}
		w.rest("swept")
	})
}

func TestExpiredBastionFreesItsName(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.runner.BrokenTimer = true
		first := w.ready()
		time.Sleep(time.Until(first.Intent.Deadline) + time.Second)
		_, err := w.service.Extend(context.Background(), alice(home), first.ID, time.Hour, 0)
		wantCode(t, err, bastion.CodeNotOpen)
		second, err := w.create(w.service, home, "")
		if err != nil || second.ID == first.ID || second.State() != bastion.Ready {
			t.Errorf("%s, %v", second.State(), err)
		}
		w.rest("expired and created again")
	})
}

// A request without a key keeps the remembered key, also for the next bastion.
func TestRequestWithoutAKeyKeepsTheRememberedKey(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		w.ready()
		for range 2 {
			if _, err := w.create(w.service, home, ""); err != nil {
				t.Fatal(err)
			}
			if key, err := w.service.Keys.RememberedKey(ctx, alice(home).Owner); err != nil || key != keyA {
				t.Errorf("remembered %q, %v", key, err)
			}
			w.service.CloseAll(ctx, alice(home), time.Minute)
		}
	})
}

// Without an idle timeout, a request that changes nothing raises no generation.
func TestRepeatedRequestRaisesTheGenerationOnlyForTheIdleTimeout(t *testing.T) {
	for idle, want := range map[time.Duration]int64{0: 0, time.Hour: 1} {
		simulate(t, func(t *testing.T, w *world) {
			w.service.Config.IdleTimeout = idle
			w.service.Config.DefaultTTL = 20 * time.Minute
			long := 8 * time.Hour
			ctx := context.Background()
			before, _, err := w.service.Create(ctx, bastion.CreateRequest{Caller: alice(home), Key: keyA, TTL: &long, Wait: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			after, _, err := w.service.Create(ctx, bastion.CreateRequest{Caller: alice(home), Wait: time.Minute})
			if err != nil || after.Intent.Generation-before.Intent.Generation != want {
				t.Errorf("idle timeout %s: from generation %d to %d, %v", idle, before.Intent.Generation, after.Intent.Generation, err)
			}
		})
	}
}
