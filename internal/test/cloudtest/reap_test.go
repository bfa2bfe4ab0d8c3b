package cloudtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// fill creates n expired records with no task or group, due one second apart.
func (w *world) fill(n int) (ids []string) {
	w.t.Helper()
	now := time.Now().UTC()
	for i := range n {
		rec := bastion.Record{
			ID: fmt.Sprintf("due%013d", i), Owner: fmt.Sprint("local:", i), Name: "default", Version: 1, CreatedAt: now,
			Intent: bastion.Intent{Generation: 1, Open: true, Deadline: now}, DueAt: now.Add(time.Duration(i-n) * time.Second),
		}
		if err := w.service.Records.Create(context.Background(), rec, bastion.Quota{PerOwner: 1, Total: n}); err != nil {
			w.t.Fatal(err)
		}
		ids = append(ids, rec.ID)
	}
	return ids
}

// observations counts how often each bastion was observed.
type observations struct {
	mu    sync.Mutex
	times map[string]int
	order []string // of the first observations
}

// countingGroups is a port that counts Describe, and fails it if the test wants so.
type countingGroups struct {
	bastion.Groups
	seen *observations
	fail func(ctx context.Context, id string) error
}

func (g countingGroups) Describe(ctx context.Context, id, groupID string) (bastion.Group, error) {
	g.seen.mu.Lock()
	if g.seen.times[id]++; g.seen.times[id] == 1 {
		g.seen.order = append(g.seen.order, id)
	}
	g.seen.mu.Unlock()
	if err := g.fail(ctx, id); err != nil {
		return bastion.Group{}, err
	}
	return g.Groups.Describe(ctx, id, groupID)
}

// counted returns a service with counting groups, and the counts.
func (w *world) counted(fail func(ctx context.Context, id string) error) (*bastion.Service, *observations) {
	seen := &observations{times: map[string]int{}}
	p := w.ports()
	p.Groups = countingGroups{p.Groups, seen, fail}
	return w.serviceOn(p), seen
}

// More records are due than one query returns, and some of them fail and stay due. The
// reaper must take each record once, and a failure must not keep it from the others.
func TestReaperTakesEachRecordOnce(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ids := w.fill(650)
		broken := func(id string) bool { return id[len(id)-1]%3 == 0 }
		broke := 0
		for _, id := range ids {
			if broken(id) {
				broke++
			}
		}
		service, seen := w.counted(func(_ context.Context, id string) error {
			if broken(id) {
				return cloudtest.ErrInjected
			}
			return nil
		})
		service.Records = stuck{service.Records, broken}
		ctx, cancel := invocation()
		defer cancel()
		result, err := service.Reap(ctx)
		if result.Started != len(ids) || result.Failed != broke || !errors.Is(err, cloudtest.ErrInjected) {
			t.Errorf("%d of %d taken, %d failed: %v", result.Started, len(ids), result.Failed, err)
		}
		for _, id := range ids {
			if n := seen.times[id]; n == 0 || broken(id) && n > 1 {
				t.Errorf("%s was observed %d times", id, n)
			}
		}
	})
}

// The log of the reaper names each bastion whose converge fails, since when, and AWS's
// refusal. The result names the bastion that has failed for longest.
func TestReaperLogsFailedConverges(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		first := w.ready()
		time.Sleep(time.Minute)
		second, _, err := w.service.Create(context.Background(), bastion.CreateRequest{Caller: bastion.Caller{Owner: "local:bob", Address: home}, Key: keyA, Wait: 25 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		refusal := &bastion.RefusedError{Failure: bastion.CapacityFailure, Detail: "RulesPerSecurityGroupLimitExceeded"}
		service := w.serviceOn(cloudtest.Wrap(w.ports(), func(_ context.Context, call string, do func() error) error {
			if call == "Groups.Revoke" || call == "Groups.Delete" {
				return refusal
			}
			return do()
		}))
		var logged bytes.Buffer
		service.Log = slog.New(slog.NewJSONHandler(&logged, nil))
		var failing time.Time
		for _, rec := range []bastion.Record{first, second} {
			ctx, cancel := invocation()
			if _, err := service.Close(ctx, bastion.Caller{Owner: rec.Owner}, rec.ID, 0); err != nil {
				t.Error(err)
			}
			cancel()
			if failing.IsZero() {
				failing = time.Now().UTC()
			}
			time.Sleep(time.Minute)
		}
		logged.Reset()
		ctx, cancel := invocation()
		defer cancel()
		result, err := service.Reap(ctx)
		if !errors.Is(err, refusal) || result.Failed != 2 || result.FailingID != first.ID || !result.FailingSince.Equal(failing) {
			t.Errorf("%+v, want 2 failed, %s since %s: %v", result, first.ID, failing, err)
		}
		named := map[string]bool{}
		for line := range strings.Lines(logged.String()) {
			var l struct {
				Msg, Bastion, Error string
				Failing             bastion.Failing
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			if l.Msg != "converge failed" {
				continue
			}
			named[l.Bastion] = true
			if !strings.Contains(l.Error, refusal.Detail) || l.Failing.Refusal != refusal.Failure || l.Failing.Since.IsZero() {
				t.Errorf("logged %s", line)
			}
		}
		if !maps.Equal(named, map[string]bool{first.ID: true, second.ID: true}) {
			t.Errorf("the log names %v: %s", named, &logged)
		}
	})
}

// stuck is a store that cannot write some records, so that they stay due.
type stuck struct {
	bastion.Records
	broken func(id string) bool
}

func (s stuck) Replace(ctx context.Context, prev, next bastion.Record) error {
	if s.broken(prev.ID) {
		return cloudtest.ErrInjected
	}
	return s.Records.Replace(ctx, prev, next)
}

// If there is no time to observe one record, the run returns no error, and the record
// stays due at the same time.
func TestErrNoTimeIsNoErrorOfTheRun(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ids := w.fill(20)
		service, seen := w.counted(func(_ context.Context, id string) error {
			if id == ids[3] {
				return fmt.Errorf("DescribeSecurityGroups: %w", bastion.ErrNoTime)
			}
			return nil
		})
		ctx, cancel := invocation()
		defer cancel()
		if result, err := service.Reap(ctx); result.Started != 20 || err != nil {
			t.Errorf("%d taken, %v", result.Started, err)
		}
		want := time.Now().UTC().Add(-17 * time.Second)
		if rec, err := service.Records.Fetch(ctx, ids[3]); err != nil || !rec.DueAt.Equal(want) || rec.Failing != (bastion.Failing{}) || seen.times[ids[3]] != 1 {
			t.Errorf("the record with ErrNoTime is due %s, want %s, was observed %d times, and has failing %+v: %v", rec.DueAt, want, seen.times[ids[3]], rec.Failing, err)
		}
	})
}

// If there is no time for a step, the steps of the other services are taken.
func TestNoTimeForAStepDoesNotStopTheOthers(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		var recorder cloudtest.Recorder
		service := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.Chain(recorder.Hook, func(_ context.Context, call string, do func() error) error {
			if call == "Groups.Revoke" {
				return bastion.ErrNoTime
			}
			return do()
		})))
		time.Sleep(time.Until(rec.Intent.Deadline))
		if _, err := service.Converge(context.Background(), rec.ID, bastion.ReaperSteps); !errors.Is(err, bastion.ErrNoTime) {
			t.Error(err)
		}
		if made := recorder.Calls(); !slices.Contains(made, "Leases.Write") || !slices.Contains(made, "Tasks.Stop") {
			t.Errorf("calls %s, want also Leases.Write and Tasks.Stop", strings.Join(made, " "))
		}
		if rec, err := w.service.Records.Fetch(context.Background(), rec.ID); err != nil || rec.Failing != (bastion.Failing{}) {
			t.Errorf("a lack of time counts as a failure: %+v, %v", rec.Failing, err)
		}
		w.rest("no time for the first step")
	})
}

// An observer that gets ErrNoTime makes the bastion due for the reaper at once.
func TestFailedObservationMakesTheBastionDue(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		service, _ := w.counted(func(context.Context, string) error { return bastion.ErrNoTime })
		if err := service.Observe(context.Background(), rec.ID); err != nil {
			t.Error(err)
		}
		if due, err := service.DueList.Due(context.Background(), time.Now(), 10); err != nil || !slices.Equal(due, []string{rec.ID}) {
			t.Errorf("due: %q, error %v", due, err)
		}
		if err := service.Observe(context.Background(), "unknown"); err != nil {
			t.Error(err)
		}
		w.rest("not observed")
	})
}

// An observer without time tries again if a person waits for the start. It leaves every
// other bastion to the reaper after one look.
func TestObserverWithoutTimeTriesAgainForAStart(t *testing.T) {
	const pause, end = 5 * time.Second, 25 * time.Second // end: the first pause that ends within 10 s of functionTimeout
	for name, test := range map[string]struct {
		without time.Duration // for which there is no time
		ready   bool          // before the event
		took    time.Duration
		due     bool
	}{
		"start":                       {12 * time.Second, false, 3 * pause, false},
		"start, no time in this call": {time.Hour, false, end, true},
		"ready, so nobody waits":      {time.Hour, true, 0, true},
		"ready, time for the look":    {0, true, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, w *world) {
				rec, _, err := w.service.Create(t.Context(), bastion.CreateRequest{Caller: alice(home), Key: keyA, Wait: time.Second})
				if err != nil || rec.State() != bastion.Starting {
					t.Fatalf("%s: %v", rec.State(), err)
				}
				if test.ready {
					w.reap(10 * time.Minute)
				}
				began := time.Now()
				service, _ := w.counted(func(context.Context, string) error {
					if time.Since(began) < test.without {
						return bastion.ErrNoTime
					}
					return nil
				})
				ctx, cancel := invocation()
				defer cancel()
				if err := service.Observe(ctx, rec.ID); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took != test.took {
					t.Errorf("Observe took %s, want %s", took, test.took)
				}
				rec = w.record(rec.ID)
				if due := !rec.DueAt.After(time.Now()); due != test.due {
					t.Errorf("the bastion, %s, is due at %s; it is %s", rec.State(), rec.DueAt, time.Now())
				}
			})
		})
	}
}

// A slow run takes no new record when little time is left. A converge that the end of
// the run interrupts is no error.
func TestReaperEndsBeforeItsTimeout(t *testing.T) {
	for _, slow := range []time.Duration{2 * time.Second, 3 * time.Second, 4 * time.Second} {
		simulate(t, func(t *testing.T, w *world) {
			ids := w.fill(100)
			service, seen := w.counted(func(ctx context.Context, _ string) error {
				select {
				case <-time.After(slow):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			ctx, cancel := invocation()
			defer cancel()
			result, err := service.Reap(ctx)
			if err != nil || result.Started == 0 || result.Started == len(ids) {
				t.Errorf("calls of %s: %d of %d taken, error %v", slow, result.Started, len(ids), err)
			}
			if slices.Sort(seen.order); !slices.Equal(seen.order, ids[:result.Started]) {
				t.Errorf("calls of %s: taken %q, want the %d most overdue", slow, seen.order, result.Started)
			}
		})
	}
}

// A first attempt can have one task only, so the reaper does not search for others.
func TestFirstAttemptNeedsNoTaskSearch(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		var recorder cloudtest.Recorder
		service := w.serviceOn(cloudtest.Wrap(w.ports(), recorder.Hook))
		converge := func() string {
			if _, err := service.Converge(context.Background(), rec.ID, bastion.ReaperSteps); err != nil {
				t.Error(err)
			}
			return strings.Join(recorder.Calls(), " ")
		}
		if made := converge(); !strings.Contains(made, "Tasks.Fetch") || strings.Contains(made, "Tasks.Describe") {
			t.Errorf("calls for the first attempt: %s", made)
		}
		w.kill()
		w.reap(10 * time.Minute) // starts the second attempt
		if made := converge(); !strings.Contains(made, "Tasks.Describe") {
			t.Errorf("calls for the second attempt: %s", made)
		}
	})
}

// A sweep with too little time leaves the rest to the next sweep, without an error.
func TestSweepEndsBeforeItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		w.orphans()
		if n, err := w.service.Sweep(context.Background()); n != 3 || err != nil {
			t.Fatal(n, err)
		}
		time.Sleep(11 * time.Minute)
		late, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		n, err := w.service.Sweep(late)
		synctest.Wait()
		inv := w.cloud.Inventory()
		if n != 0 || err != nil || len(inv.Live()) != 1 || len(inv.Groups) != 1 {
			t.Errorf("%d orphans, %d tasks, %d groups: %v", n, len(inv.Live()), len(inv.Groups), err)
		}
		w.sweepAgain()
		w.rest("swept again")
	})
}

// A run reports the record that has failed for longest.
func TestReapReportsTheLongestFailing(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ids := w.fill(3)
		others := bastion.ErrNoTime // which is no failure
		service, _ := w.counted(func(_ context.Context, id string) error {
			if id == ids[1] {
				return cloudtest.ErrInjected
			}
			return others
		})
		reap := func() bastion.ReapResult {
			ctx, cancel := invocation()
			defer cancel()
			result, _ := service.Reap(ctx)
			return result
		}
		first := time.Now().UTC()
		reap()
		time.Sleep(time.Minute)
		others = cloudtest.ErrInjected
		if result := reap(); result.FailingID != ids[1] || !result.FailingSince.Equal(first) || result.Failed != 3 {
			t.Errorf("%+v, want %s since %s", result, ids[1], first)
		}
	})
}

// If another writer has written the lease first, a converge is no failure.
func TestLeaseConflictIsNoFailure(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		rec := w.ready()
		conflict := func(ctx context.Context, call string, do func() error) error {
			if call == "Leases.Write" {
				return errors.Join(bastion.ErrConflict, do())
			}
			return do()
		}
		ctx, cancel := invocation()
		defer cancel()
		if _, err := w.service.Extend(ctx, alice(home), rec.ID, 10*time.Hour, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.Chain(conflict))).Extend(ctx, alice(home), rec.ID, 11*time.Hour, 0); err != nil {
			t.Fatal(err)
		}
		if after, err := w.serviceOn(cloudtest.Wrap(w.ports(), conflict)).Converge(ctx, rec.ID, bastion.ReaperSteps); err != nil || after.Failing != (bastion.Failing{}) {
			t.Errorf("failing %+v, %v", after.Failing, err)
		}
	})
}
