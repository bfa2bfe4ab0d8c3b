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
		extend(30 * time.Minute) // shorter than WarnBefore: no warning
		ttl := 35 * time.Minute
		if _, _, err := w.service.Create(context.Background(), bastion.CreateRequest{Caller: alice(home), TTL: &ttl, Notify: true}); err != nil {
			t.Fatal(err)
		}
		w.reap(time.Hour)
		w.rest("over")
		var got []string
		for _, notice := range w.mail.all() {
			got = append(got, notice.String())
		}
		want := []string{ // the bastion was ready before the first run of the reaper
			"ready, attempt 1", "ready, warning, attempt 1",
			"ready, attempt 1", "ready, warning, attempt 1",
			"ready, attempt 1", "ready, attempt 1", "closing, attempt 1", "closed, attempt 1",
		}
		if !slices.Equal(got, want) {
			t.Errorf("notices %q\nwant %q", got, want)
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
			t.Errorf("Notify was called; notices: %v", w.mail.all())
		}
	})
}

// A request with Notify for an existing bastion turns notices on.
func TestNotifyCanBeSetByALaterRequest(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		request := func(notify bool) {
			ctx, cancel := invocation()
			defer cancel()
			req := bastion.CreateRequest{Caller: alice(home), Key: keyA, Notify: notify, Wait: 25 * time.Second}
			if _, _, err := w.service.Create(ctx, req); err != nil {
				t.Fatal(err)
			}
			w.reap(10 * time.Minute)
		}
		request(false)
		request(true)
		request(false) // does not turn notices off
		w.rest("requested three times")
		if !w.only().Notify || len(w.mail.all()) == 0 {
			t.Errorf("Notify %t, notices %v", w.only().Notify, w.mail.all())
		}
	})
}

// A POST that changes nothing visible raises the generation and causes no notice.
func TestRepeatedRequestsCauseNoNotice(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.service.Config.IdleTimeout = 9 * time.Hour // each request restarts it
		w.service.Config.WarnBefore = 0
		before := w.ready()
		noticesBefore := len(w.mail.all())
		short := time.Minute // so that the deadline stays
		for range 10 {
			time.Sleep(20 * time.Second)
			if _, _, err := w.service.Create(context.Background(), bastion.CreateRequest{Caller: alice(home), TTL: &short, Notify: true}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second) // until the task has read the lease
			if err := w.service.Observe(context.Background(), before.ID); err != nil {
				t.Error(err)
			}
		}
		w.rest("requested ten times")
		if after := w.only(); after.Intent.Generation != before.Intent.Generation+10 || len(w.mail.all()) != noticesBefore {
			t.Errorf("generation %d, before the requests %d; new notices %v", after.Intent.Generation, before.Intent.Generation, w.mail.all()[noticesBefore:])
		}
	})
}

// If the notifier always fails, the bastion runs and ends normally, is due only slightly
// more often, and is not due any more an hour after its end.
func TestBastionEndsNormallyIfItsNotifierFails(t *testing.T) {
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
				rec := w.ready() // fails the test if a run of the reaper returns an error
				if !rec.UnsettledUntil.IsZero() || rec.NotifyPendingSince.IsZero() {
					t.Errorf("unsettled until %s, notice pending since %s", rec.UnsettledUntil, rec.NotifyPendingSince)
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
					t.Errorf("due at %s, more than an hour after the end", rec.DueAt)
				}
				if _, err := w.service.Converge(context.Background(), rec.ID, bastion.ReaperSteps); err != nil || tries > 0 {
					t.Errorf("converge after that hour: %d notices tried, error %v", tries, err)
				}
			})
		})
	}
}

// Without a notifier, every notice counts as delivered.
func TestBastionSettlesWithoutANotifier(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.service.Notifier = nil
		rec := w.ready()
		if rec.LastNotice.State != bastion.Ready || !rec.NotifyPendingSince.IsZero() {
			t.Errorf("last notice %s, pending since %s", rec.LastNotice, rec.NotifyPendingSince)
		}
		if _, err := w.service.Close(context.Background(), alice(home), rec.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		w.reap(20 * time.Minute)
		if rec, _ = w.service.Records.Fetch(context.Background(), rec.ID); rec.LastNotice.State != bastion.Closed || !rec.DueAt.IsZero() {
			t.Errorf("last notice %s, due %s", rec.LastNotice, rec.DueAt)
		}
	})
}

// A process sends the notice that the bastion waits for its lease, and dies before it
// can confirm the notice in the record. Soon the bastion is ready again. The owner must
// be notified of that, although it equals the last confirmed notice.
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
			t.Fatalf("the process did not die: %v", err)
		}
		sent := w.mail.all()
		if last := fmt.Sprint(sent[len(sent)-1]); !strings.HasPrefix(last, "starting/lease") {
			t.Fatalf("last notice %s, want starting/lease", last)
		}
		w.rest("ready again")
	})
}
