package cloudtest_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// The owner is notified of each change once, however often the bastion is converged,
// and warned before each deadline.
func TestOwnerIsNotifiedOfEachChange(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.service.Config.WarnBefore = 40 * time.Minute
		rec := w.ready()
		w.reap(time.Until(rec.Intent.Deadline) - 30*time.Minute)
		extend := func(ttl time.Duration) {
			rec, err := w.service.Extend(context.Background(), alice(home), rec.ID, ttl, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			w.reap(time.Until(rec.Intent.Deadline) - 20*time.Minute)
		}
		extend(2 * time.Hour)
		extend(30 * time.Minute) // less than the warning is ahead: they know how long that is
		ttl := 35 * time.Minute
		if _, _, err := w.service.Create(context.Background(), bastion.CreateRequest{Caller: alice(home), TTL: &ttl, Notify: true}); err != nil {
			t.Fatal(err)
		}
		w.reap(time.Hour)
		w.rest("over")
		var told []string
		for _, notice := range w.mail.all() {
			told = append(told, notice.String())
		}
		want := []string{ // it was ready before the reaper first came by
			"ready, attempt 1", "ready, warning, attempt 1",
			"ready, attempt 1", "ready, warning, attempt 1",
			"ready, attempt 1", "ready, attempt 1", "closing, attempt 1", "closed, attempt 1",
		}
		if !slices.Equal(told, want) {
			t.Errorf("told: %q\nwant: %q", told, want)
		}
	})
}

// A bastion without Notify causes no call of the notifier.
func TestNoNoticeWithoutNotify(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		var recorder cloudtest.Recorder
		service := w.serviceOn(cloudtest.Wrap(w.ports(), recorder.Hook))
		w.service = service
		ctx, cancel := invocation()
		defer cancel()
		rec, _, err := service.Create(ctx, bastion.CreateRequest{Caller: alice(home), Key: keyA, Wait: 25 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		w.reap(time.Until(rec.Intent.Deadline) + 5*time.Minute)
		w.rest("over")
		if made := recorder.Calls(); slices.Contains(made, "Notifier.Notify") || len(w.mail.all()) > 0 {
			t.Errorf("told of it: %v", w.mail.all())
		}
	})
}

// A request with Notify for an existing bastion turns notices on.
func TestNotifyCanBeSetByALaterRequest(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ask := func(notify bool) {
			ctx, cancel := invocation()
			defer cancel()
			req := bastion.CreateRequest{Caller: alice(home), Key: keyA, Notify: notify, Wait: 25 * time.Second}
			if _, _, err := w.service.Create(ctx, req); err != nil {
				t.Fatal(err)
			}
			w.reap(10 * time.Minute)
		}
		ask(false)
		ask(true)
		ask(false) // which takes nothing back
		w.rest("asked three times")
		if !w.only().Notify || len(w.mail.all()) == 0 {
			t.Errorf("notify %t, told %v", w.only().Notify, w.mail.all())
		}
	})
}

// A POST that changes nothing visible raises the generation and causes no notice.
func TestRepeatedRequestsCauseNoNotice(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.service.Config.IdleTimeout = 9 * time.Hour // asking counts as use
		w.service.Config.WarnBefore = 0
		before := w.ready()
		told := len(w.mail.all())
		short := time.Minute // so that the deadline stays
		for range 10 {
			time.Sleep(20 * time.Second)
			if _, _, err := w.service.Create(context.Background(), bastion.CreateRequest{Caller: alice(home), TTL: &short, Notify: true}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second) // until the task has heard of it
			if err := w.service.Observe(context.Background(), before.ID); err != nil {
				t.Error(err)
			}
		}
		w.rest("asked again and again")
		if after := w.only(); after.Intent.Generation != before.Intent.Generation+10 || len(w.mail.all()) != told {
			t.Errorf("generation %d after %d; told %v", after.Intent.Generation, before.Intent.Generation, w.mail.all()[told:])
		}
	})
}

// If the notifier always fails, the bastion runs and ends as any other, is due only
// slightly more often, and is given up an hour after its end.
func TestFailingNotifierHindersNothing(t *testing.T) {
	for name, broken := range map[string]cloudtest.Hook{"fails": cloudtest.FailBefore, "hangs": cloudtest.HangBefore} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, w *world) {
				tries := 0
				w.service = w.serviceOn(cloudtest.Wrap(w.ports(), func(ctx context.Context, call string, do func() error) error {
					if call != "Notifier.Notify" {
						return do()
					}
					tries++
					return broken(ctx, call, do)
				}))
				rec := w.ready() // and no call of the reaper fails
				if !rec.UnsettledUntil.IsZero() || rec.NotifyPendingSince.IsZero() {
					t.Errorf("unsettled until %s, untold since %s", rec.UnsettledUntil, rec.NotifyPendingSince)
				}
				tries = 0
				w.reap(2 * time.Hour)
				if most := 2*12 + 1; tries == 0 || tries > most { // one every five minutes
					t.Errorf("%d tries in two hours, want at most %d", tries, most)
				}
				began := time.Now()
				if _, err := w.service.Close(context.Background(), alice(home), rec.ID, time.Minute); err != nil {
					t.Fatal(err)
				}
				for range 20 {
					time.Sleep(time.Minute)
					tries = 0
					if _, err := w.service.Converge(context.Background(), rec.ID, bastion.ReaperSteps); err != nil || tries > 1 {
						t.Errorf("%d tries in one converge, %v", tries, err)
					}
				}
				rec, _ = w.service.Records.Fetch(context.Background(), rec.ID)
				if took := rec.FinishedAt.Sub(began); rec.FinishedAt.IsZero() || took > 3*time.Minute {
					t.Errorf("finished after %s, at %s", took, rec.FinishedAt)
				}
				if inv := w.cloud.Inventory(); len(inv.Live())+len(inv.Groups) > 0 {
					t.Errorf("left: %+v, %+v", inv.Live(), inv.Groups)
				}
				w.reap(time.Hour)
				rec, _ = w.service.Records.Fetch(context.Background(), rec.ID)
				if tries = 0; !rec.DueAt.IsZero() {
					t.Errorf("over for more than an hour, and due at %s", rec.DueAt)
				}
				if _, err := w.service.Converge(context.Background(), rec.ID, bastion.ReaperSteps); err != nil || tries > 0 {
					t.Errorf("looked at once more: %d tries, %v", tries, err)
				}
			})
		})
	}
}

// Without a notifier, every notice counts as delivered.
func TestWithoutANotifierEverythingSettles(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.service.Notifier = nil
		rec := w.ready()
		if rec.LastNotice.State != bastion.Ready || !rec.NotifyPendingSince.IsZero() {
			t.Errorf("told %s, untold since %s", rec.LastNotice, rec.NotifyPendingSince)
		}
		if _, err := w.service.Close(context.Background(), alice(home), rec.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		w.reap(20 * time.Minute)
		if rec, _ = w.service.Records.Fetch(context.Background(), rec.ID); rec.LastNotice.State != bastion.Closed || !rec.DueAt.IsZero() {
			t.Errorf("told %s, due %s", rec.LastNotice, rec.DueAt)
		}
	})
}

// A process notifies the owner that the bastion waits for its lease, and dies before it
// can confirm that in the record. Soon the bastion is as it was before. The owner must be
// notified of that, though it equals the last confirmed notice.
func TestNoticeIsRepeatedAfterTheNotifyingProcessDied(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		short := time.Minute // so that the deadline stays
		if _, _, err := w.service.Create(context.Background(), bastion.CreateRequest{Caller: alice(home), Key: keyB, TTL: &short, Notify: true}); err != nil {
			t.Fatal(err)
		}
		dead := false
		dying := w.serviceOn(cloudtest.Wrap(w.ports(), func(_ context.Context, call string, do func() error) error {
			if dead {
				return cloudtest.ErrInjected
			}
			dead = call == "Notifier.Notify"
			return do()
		}))
		if err := dying.Observe(context.Background(), rec.ID); err == nil || !dead {
			t.Fatalf("it did not die: %v", err)
		}
		heard := w.mail.all()
		if last := fmt.Sprint(heard[len(heard)-1]); !strings.HasPrefix(last, "starting/lease") {
			t.Fatalf("the last that was told is %s", last)
		}
		w.rest("as before")
	})
}
