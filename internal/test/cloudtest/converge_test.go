package cloudtest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// A converge that finds, when it writes, that another was first goes on from what
// that one wrote: it is no error, and the other's intent is carried out.
func TestConvergeContinuesFromANewerRecord(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		rec := w.ready()
		w.kill()
		time.Sleep(5 * time.Second) // until it shows
		overtaken := false
		service := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.At("Records.Replace", 1, func(_ context.Context, _ string, do func() error) error {
			overtaken = true
			if _, err := w.service.Extend(ctx, alice(home), rec.ID, 10*time.Hour, 0); err != nil {
				t.Error(err)
			}
			return do()
		})))
		after, err := service.Converge(ctx, rec.ID, bastion.ObserverSteps)
		if err != nil || !overtaken || after.Attempt.Number != 2 || !after.Intent.Deadline.After(rec.Intent.Deadline) {
			t.Errorf("overtaken %t, attempt %d until %s, %v", overtaken, after.Attempt.Number, after.Intent.Deadline, err)
		}
	})
}

// closing is alice's bastion, closed as soon as it was ready, and its task and
// interface gone: its group is all that is left, younger than a stale read may be.
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
		w.t.Fatalf("not only a group: %+v", inv)
	}
	return rec
}

// A converge that deleted the group knows it, though reads still show the group, or
// what they do not show might be too young to.
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

// A group that is gone when it is to be deleted is what was wanted.
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

// dead is a cloud in which no group can be made.
func dead(ctx context.Context, call string, do func() error) error {
	if call == "Groups.Create" {
		return cloudtest.FailBefore(ctx, call, do)
	}
	return do()
}

// A bastion that is closed while a converge makes its group: the same converge
// takes the group away again, and knows that it is gone.
func TestCloseWhileTheGroupIsCreated(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		rec, _, err := w.serviceOn(cloudtest.Wrap(w.ports(), dead)).Create(ctx, bastion.CreateRequest{Caller: alice(home), Key: keyA})
		if err != nil {
			t.Fatal(err)
		}
		closer := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.At("Groups.Describe", 1, cloudtest.FailBefore))) // it only writes the intent
		service := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.At("Groups.Create", 1, func(_ context.Context, _ string, do func() error) error {
			err := do()
			if _, err := closer.Close(ctx, alice(home), rec.ID, 0); err != nil {
				t.Error(err)
			}
			time.Sleep(5 * time.Second) // until it shows
			return err
		})))
		rec, err = service.Converge(ctx, rec.ID, bastion.ReaperSteps)
		if err != nil || rec.State() != bastion.Closed || rec.FinishedAt.IsZero() || len(w.cloud.Inventory().Groups) > 0 {
			t.Errorf("%s, finished %s, %v: %+v", rec.State(), rec.FinishedAt, err, w.cloud.Inventory().Groups)
		}
		w.rest("closed")
	})
}

// What a repeat of the request leaves out stays as it is; a reason that it gives is
// written down.
func TestRepeatedCreateKeepsTheReason(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		for _, row := range []struct{ given, want string }{{"orders", "orders"}, {"", "orders"}, {"invoices", "invoices"}} {
			ctx, cancel := invocation()
			rec, _, err := w.service.Create(ctx, bastion.CreateRequest{Caller: alice(home), Key: keyA, Reason: row.given, Wait: 25 * time.Second})
			cancel()
			if err != nil || rec.Intent.Reason != row.want {
				t.Errorf("given %q: %q, %v", row.given, rec.Intent.Reason, err)
			}
		}
	})
}

// Where the default is more than any bastion may have, that is what one gets.
func TestDefaultTTLIsWithinMaxTTL(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.service.Config.DefaultTTL = 100 * time.Hour
		rec, err := w.create(w.service, home, keyA)
		if err != nil || !rec.Intent.Deadline.Equal(rec.LatestDeadline) || rec.LatestDeadline.After(time.Now().Add(w.service.Config.MaxTTL)) {
			t.Errorf("until %s, at the latest %s, %v", rec.Intent.Deadline, rec.LatestDeadline, err)
		}
	})
}

// One converge ends in its time, though its caller has all the time there is and a
// call gets no answer.
func TestConvergeEndsAtItsTimeout(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		began := time.Now()
		hanging := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.At("Groups.Describe", 1, cloudtest.HangBefore)))
		if _, err := hanging.Converge(context.Background(), rec.ID, bastion.ReaperSteps); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != timing.CallTimeout {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}
