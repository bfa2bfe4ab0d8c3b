package cloudtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// If another request has written the record first, the converge reads the newer record
// and continues with its intent. It returns no error.
func TestConvergeContinuesFromANewerRecord(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		rec := w.ready()
		w.kill()
		time.Sleep(5 * time.Second) // until reads show it
		extended := false
		service := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.At("Records.Replace", 1, func(_ context.Context, _ string, do func() error) error {
			extended = true
			if _, err := w.service.Extend(ctx, alice(home), rec.ID, 10*time.Hour, 0); err != nil {
				t.Error(err)
			}
			return do()
		})))
		after, err := service.Converge(ctx, rec.ID, bastion.ObserverSteps)
		if err != nil || !extended || after.Attempt.Number != 2 || !after.Intent.Deadline.After(rec.Intent.Deadline) {
			t.Errorf("extended meanwhile %t, attempt %d, deadline %s, error %v", extended, after.Attempt.Number, after.Intent.Deadline, err)
		}
	})
}

// closing creates alice's bastion, closes it as soon as it is ready, and waits until
// its task and network interface are gone. Only the group is left, and it is so young
// that a stale read could still miss it.
func (w *world) closing() bastion.Record {
	w.t.Helper()
	ctx := context.Background()
	rec, err := w.create(w.service, home, keyA)
	if err == nil {
		rec, err = w.service.Close(ctx, alice(home), rec.ID, 0)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(30 * time.Second)
	if inv := w.cloud.Inventory(); len(inv.Live()) > 0 || len(inv.Groups) != 1 || inv.Groups[0].InUse {
		w.t.Fatalf("want one unused group and no task: %+v", inv)
	}
	return rec
}

// A converge that deleted the group finishes the bastion, even if stale reads still
// show the group, or the group is so young that its absence proves nothing.
func TestConvergeRemembersWhatItDeleted(t *testing.T) {
	for _, staleness := range []time.Duration{0, 5 * time.Second} {
		t.Run(fmt.Sprint("staleness ", staleness), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, staleness)
				rec := w.closing()
				rec, err := w.service.Converge(context.Background(), rec.ID, bastion.ReaperSteps)
				if err != nil || rec.FinishedAt.IsZero() || len(w.cloud.Inventory().Groups) > 0 {
					t.Errorf("finished %s, %v", rec.FinishedAt, err)
				}
				w.rest("closed")
			})
		})
	}
}

// If the group is gone already, its deletion counts as successful.
func TestDeletedGroupIsNoError(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.closing()
		gone := cloudtest.At("Groups.Delete", 1, func(_ context.Context, call string, do func() error) error {
			return fmt.Errorf("%s: %w (%v)", call, bastion.ErrNotFound, do())
		})
		if _, err := w.serviceOn(cloudtest.Wrap(w.ports(), gone)).Converge(context.Background(), rec.ID, bastion.ReaperSteps); err != nil {
			t.Error(err)
		}
		w.rest("closed")
	})
}

// failGroups is a hook that fails every creation of a group.
func failGroups(ctx context.Context, call string, do func() error) error {
	if call == "Groups.Create" {
		return cloudtest.FailBefore(ctx, call, do)
	}
	return do()
}

// If a bastion is closed while a converge creates its group, the same converge deletes
// the group and finishes the bastion.
func TestCloseWhileTheGroupIsCreated(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		rec, _, err := w.serviceOn(cloudtest.Wrap(w.ports(), failGroups)).Create(ctx, bastion.CreateRequest{Caller: alice(home), Key: keyA})
		if err != nil {
			t.Fatal(err)
		}
		closer := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.At("Groups.Describe", 1, cloudtest.FailBefore))) // its converge fails: it only stores the intent
		service := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.At("Groups.Create", 1, func(_ context.Context, _ string, do func() error) error {
			err := do()
			if _, err := closer.Close(ctx, alice(home), rec.ID, 0); err != nil {
				t.Error(err)
			}
			time.Sleep(5 * time.Second) // until reads show the group
			return err
		})))
		rec, err = service.Converge(ctx, rec.ID, bastion.ReaperSteps)
		if err != nil || rec.State() != bastion.Closed || rec.FinishedAt.IsZero() || len(w.cloud.Inventory().Groups) > 0 {
			t.Errorf("%s, finished %s, %v: %+v", rec.State(), rec.FinishedAt, err, w.cloud.Inventory().Groups)
		}
		w.rest("closed")
	})
}

// A repeated request without a reason keeps the stored one; a new reason replaces it.
func TestRepeatedCreateKeepsTheReason(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		for _, row := range []struct{ given, want string }{{"orders", "orders"}, {"", "orders"}, {"invoices", "invoices"}} {
			ctx, cancel := invocation()
			rec, _, err := w.service.Create(ctx, bastion.CreateRequest{Caller: alice(home), Key: keyA, Reason: row.given, Wait: 25 * time.Second})
			cancel()
			if err != nil || rec.Intent.Reason != row.want {
				t.Errorf("reason %q: stored %q, error %v", row.given, rec.Intent.Reason, err)
			}
		}
	})
}

// If another request removes an added key while Create waits, Create does not report the key
// as added.
func TestKeyRemovedMeanwhileIsNotReportedAsAdded(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		w.ready()
		add := bastion.CreateRequest{Caller: alice(travel), Key: keyB}
		removed := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.At("Keys.RememberKey", 1, func(_ context.Context, _ string, do func() error) error {
			if _, _, err := w.service.Create(ctx, bastion.CreateRequest{Caller: alice(home), Key: keyA, OnlyKey: true}); err != nil {
				t.Error(err)
			}
			return do()
		})))
		rec, change, err := removed.Create(ctx, add)
		if err != nil || change.AddedKey != "" || len(rec.Intent.Keys) != 1 || rec.Intent.Keys[0] != keyA {
			t.Errorf("removed meanwhile: keys %q, added %q, error %v", rec.Intent.Keys, change.AddedKey, err)
		}
		rec, change, err = w.service.Create(ctx, add)
		if err != nil || change.AddedKey != keyB || len(rec.Intent.Keys) != 2 {
			t.Errorf("not removed: keys %q, added %q, error %v", rec.Intent.Keys, change.AddedKey, err)
		}
	})
}

// A default TTL beyond the maximum is reduced to the maximum.
func TestDefaultTTLIsWithinMaxTTL(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.service.Config.DefaultTTL = 100 * time.Hour
		rec, err := w.create(w.service, home, keyA)
		if err != nil || !rec.Intent.Deadline.Equal(rec.LatestDeadline) || rec.LatestDeadline.After(time.Now().Add(w.service.Config.MaxTTL)) {
			t.Errorf("deadline %s, latest deadline %s, error %v", rec.Intent.Deadline, rec.LatestDeadline, err)
		}
	})
}

// A converge ends at its own timeout if a call hangs, even if its caller has no deadline.
func TestConvergeEndsAtItsTimeout(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		began := time.Now()
		hanging := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.At("Records.Fetch", 1, cloudtest.HangBefore)))
		if _, err := hanging.Converge(context.Background(), rec.ID, bastion.ReaperSteps); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != timing.CallTimeout {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// If ECS does not describe the task of the first attempt, nothing is stopped.
func TestUnreadableTaskIsNotStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		rec := w.ready()
		var recorder cloudtest.Recorder
		service := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.Chain(recorder.Hook, cloudtest.At("Tasks.Fetch", 1, cloudtest.FailBefore))))
		if err := service.Observe(t.Context(), rec.ID); !errors.Is(err, cloudtest.ErrInjected) {
			t.Errorf("observe: %v, want the injected error", err)
		}
		for _, call := range recorder.Calls() {
			if call == "Tasks.Stop" {
				t.Error("StopTask was called")
			}
		}
		w.rest("")
	})
}

// A read that hangs ends after StepTimeout, is not repeated in the same converge, and does
// not keep the converge from the other reads and their steps.
func TestHangingReadLeavesTimeForTheOthers(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		if _, err := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.At("Records.Fetch", 2, cloudtest.FailBefore))).Close(context.Background(), alice(home), rec.ID, 0); err != nil {
			t.Fatal(err) // only the intent is stored
		}
		var recorder cloudtest.Recorder
		hang := func(ctx context.Context, call string, do func() error) error {
			if call == "Groups.Describe" {
				return cloudtest.HangBefore(ctx, call, do)
			}
			return do()
		}
		began := time.Now()
		after, err := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.Chain(recorder.Hook, hang))).Converge(context.Background(), rec.ID, bastion.ReaperSteps)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != timing.StepTimeout || after.Failing.Since.IsZero() {
			t.Errorf("after %s: %v, failing %+v", time.Since(began), err, after.Failing)
		}
		count := map[string]int{}
		for _, call := range recorder.Calls() {
			count[call]++
		}
		if count["Groups.Describe"] != 1 || count["Leases.Write"] != 1 || count["Tasks.Stop"] != 1 {
			t.Errorf("calls %v, want one of Groups.Describe, Leases.Write and Tasks.Stop", count)
		}
		w.rest("closed")
	})
}

// An extend may write leases only. It does not clear the failure of a step that only the
// reaper can take.
func TestExtendDoesNotClearFailing(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		rec := w.ready()
		if err := w.cloud.Groups().Authorize(ctx, rec.Group.ID, netip.PrefixFrom(travel, 32)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // until reads show the rule
		refuse := func(ctx context.Context, call string, do func() error) error {
			if call == "Groups.Revoke" {
				return cloudtest.FailBefore(ctx, call, do)
			}
			return do()
		}
		failing, err := w.serviceOn(cloudtest.Wrap(w.ports(), refuse)).Converge(ctx, rec.ID, bastion.ReaperSteps)
		if err == nil || failing.Failing.Since.IsZero() {
			t.Fatalf("failing %+v, %v", failing.Failing, err)
		}
		extended, err := w.service.Extend(ctx, alice(home), rec.ID, 10*time.Hour, 0)
		if err != nil || extended.Failing != failing.Failing {
			t.Errorf("after the extend: failing %+v, want %+v; %v", extended.Failing, failing.Failing, err)
		}
		w.rest("extended")
		if rec := w.only(); rec.Failing != (bastion.Failing{}) {
			t.Errorf("after the reaper: failing %+v", rec.Failing)
		}
	})
}

// A converge needs a task's endpoints only while the record of an open bastion has none.
func TestMissingEndpointsFailAStartOnly(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		rec := w.ready()
		down := &breakdown{err: cloudtest.ErrInjected, hits: func(call string) bool { return call == callEndpoints }}
		down.turn(true)
		if after, err := down.service(w).Converge(ctx, rec.ID, bastion.ReaperSteps); err != nil || after.State() != bastion.Ready {
			t.Errorf("ready before: %s, %v", after.State(), err)
		}
		w.kill()
		time.Sleep(5 * time.Second) // until reads show it
		w.service.Converge(ctx, rec.ID, bastion.ReaperSteps)
		time.Sleep(20 * time.Second) // until the next task has endpoints
		if after, err := down.service(w).Converge(ctx, rec.ID, bastion.ReaperSteps); err == nil || after.Attempt.Number != 2 || after.Failing.Since.IsZero() || after.State() != bastion.Starting {
			t.Errorf("next attempt %d: %s, failing %+v, %v", after.Attempt.Number, after.State(), after.Failing, err)
		}
		down.turn(false)
		w.rest("the endpoints can be read again")
	})
}

// The group of a closed bastion can be in use for a while after its task's end. After that
// time, a group in use counts as a failure.
func TestGroupInUseForLongIsAFailure(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		rec := w.closing()
		inUse := func(ctx context.Context, call string, do func() error) error {
			if call == "Groups.Delete" {
				return bastion.ErrInUse
			}
			return do()
		}
		service := w.serviceOn(cloudtest.Wrap(w.ports(), inUse))
		for _, row := range []struct {
			after time.Duration // since the previous row
			fails bool
		}{{0, false}, {29 * time.Minute, false}, {2 * time.Minute, true}} {
			time.Sleep(row.after)
			after, err := service.Converge(ctx, rec.ID, bastion.ReaperSteps)
			if errors.Is(err, bastion.ErrInUse) != row.fails || after.Failing.Since.IsZero() == row.fails {
				t.Errorf("%s later: %v, failing %+v", row.after, err, after.Failing)
			}
		}
		w.rest("no longer in use")
	})
}
