package lambdamode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fakeService returns what a test sets.
type fakeService struct {
	reaped  reaped
	orphans int
	err     error // of Sweep

	calls    []string
	deadline time.Time
}

type reaped struct {
	bastion.ReapResult
	err error
}

func (f *fakeService) Reap(ctx context.Context) (bastion.ReapResult, error) {
	f.calls = append(f.calls, "Reap")
	f.deadline, _ = ctx.Deadline()
	return f.reaped.ReapResult, f.reaped.err
}

func (f *fakeService) Sweep(context.Context) (int, error) {
	f.calls = append(f.calls, "Sweep")
	return f.orphans, f.err
}

// fakeStore holds one record, which is due.
type fakeStore struct {
	rec     bastion.Record
	err     error // of Due
	queries int   // calls of Due

	open      int
	uncounted error // of CountOpen
}

func (f *fakeStore) CountOpen(context.Context) (int, error) { return f.open, f.uncounted }

func (f *fakeStore) Due(_ context.Context, now time.Time, limit int) ([]string, error) {
	f.queries++
	if f.err != nil || f.rec.DueAt.IsZero() || f.rec.DueAt.After(now) {
		return nil, f.err
	}
	return []string{f.rec.ID}[:limit], nil
}

func (f *fakeStore) Fetch(_ context.Context, id string) (bastion.Record, error) {
	if id != f.rec.ID {
		return bastion.Record{}, bastion.ErrNotFound
	}
	return f.rec, nil
}

type reaperFixture struct {
	*Reaper
	service *fakeService
	store   *fakeStore
	out     *bytes.Buffer // the metrics
	logged  *bytes.Buffer
}

func newReaperFixture() reaperFixture {
	r := reaperFixture{service: &fakeService{}, store: &fakeStore{}, out: &bytes.Buffer{}, logged: &bytes.Buffer{}}
	now := func() time.Time { return noon }
	r.Reaper = &Reaper{service: r.service, dueList: r.store, records: r.store, now: now, overdueAfter: overdueAfter,
		metrics: &metrics{out: r.out, stack: "way-in", now: now}, log: slog.New(slog.NewJSONHandler(r.logged, nil))}
	return r
}

func TestReaperFollowsTheSchedule(t *testing.T) {
	for _, test := range []struct {
		input, want string
	}{
		{`{"action":"reap"}`, "Reap"},
		{`{"action":"sweep"}`, "Sweep"},
		{`{"action":"Reap"}`, ""},
		{`{}`, ""},
		{`{"version":"2.0","rawPath":"/bastions","requestContext":{"http":{"method":"DELETE"}}}`, ""},
	} {
		r := newReaperFixture()
		var schedule Schedule
		if err := json.Unmarshal([]byte(test.input), &schedule); err != nil {
			t.Fatal(err)
		}
		err := r.Handle(t.Context(), schedule)
		if got := strings.Join(r.service.calls, " "); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: did %q, %v", test.input, got, err)
		}
	}
}

func TestFailureOfOneBastionIsLogged(t *testing.T) {
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		bastion.ReapResult
		err           error
		fails, logged bool
		metrics       string
	}{
		"nothing due":                 {},
		"three due":                   {ReapResult: bastion.ReapResult{Started: 3}},
		"two bastions fail":           {bastion.ReapResult{Started: 3, Failed: 2}, broken, false, false, `"FailedConverges":2`}, // Reap logs them
		"a later query fails":         {bastion.ReapResult{Started: 3}, broken, false, true, ""},
		"the store cannot be reached": {err: broken, fails: true},
	} {
		r := newReaperFixture()
		r.service.reaped = reaped{test.ReapResult, test.err}
		err := r.Handle(t.Context(), Schedule{Action: "reap"})
		if (err != nil) != test.fails || strings.Contains(r.logged.String(), "broken") != test.logged {
			t.Errorf("%s: %v; log: %s", name, err, r.logged)
		}
		if got := r.out.String(); test.metrics == "" && got != "" || !strings.Contains(got, test.metrics) {
			t.Errorf("%s: metrics %q", name, got)
		}
	}
}

// overdueAfter is the limit in these tests.
const overdueAfter = 2 * time.Minute

func TestOverdueIsMeasured(t *testing.T) {
	never := time.Time{}
	for name, test := range map[string]struct {
		due, failingSince time.Time
		want, bastion     string
	}{
		"nothing due":                            {never, never, "", ""},
		"due just now":                           {noon.Add(-time.Minute), never, "", ""},
		"long overdue":                           {noon.Add(-6 * time.Minute), never, `"OldestOverdue":360`, "missed"},
		"due later":                              {noon.Add(time.Minute), never, "", ""},
		"at the border":                          {noon.Add(-overdueAfter), never, "", ""},
		"just after it":                          {noon.Add(-overdueAfter - time.Second), never, `"OldestOverdue":121`, "missed"},
		"its converges just began to fail":       {noon.Add(time.Minute), noon.Add(-overdueAfter), "", ""},
		"its converges have failed for long":     {noon.Add(time.Minute), noon.Add(-time.Hour), `"OldestOverdue":3600`, "failing"},
		"failing, and another is due for longer": {noon.Add(-6 * time.Minute), noon.Add(-5 * time.Minute), `"OldestOverdue":360`, "missed"},
	} {
		r := newReaperFixture()
		r.service.reaped.FailingSince, r.service.reaped.FailingID = test.failingSince, "failing"
		r.store.rec = bastion.Record{ID: "missed", DueAt: test.due}
		if err := r.Handle(t.Context(), Schedule{Action: "reap"}); err != nil || r.store.queries != 1 {
			t.Fatalf("%s: %v after %d queries", name, err, r.store.queries)
		}
		if got := r.out.String(); test.want == "" && got != "" || !strings.Contains(got, test.want) {
			t.Errorf("%s: metrics %q", name, got)
		}
		if got := r.logged.String(); test.bastion == "" && got != "" || !strings.Contains(got, `"bastion":"`+test.bastion) && test.bastion != "" {
			t.Errorf("%s: log %q", name, got)
		}
	}
	r := newReaperFixture()
	r.store.err = errors.New("broken")
	if err := r.Handle(t.Context(), Schedule{Action: "reap"}); err == nil {
		t.Error("an error of the measurement is not returned")
	}
}

func TestOpenBastionsAreCounted(t *testing.T) {
	for _, test := range []struct {
		open    int
		err     error
		metrics string
	}{{0, nil, ""}, {3, nil, "OpenBastions=3"}, {0, errors.New("broken"), ""}} {
		r := newReaperFixture()
		r.store.open, r.store.uncounted = test.open, test.err
		if err := r.Handle(t.Context(), Schedule{Action: "reap"}); err != nil || strings.Join(r.service.calls, " ") != "Reap" {
			t.Errorf("%d open, %v: did %q, %v", test.open, test.err, r.service.calls, err)
		}
		if got := metricsIn(t, r.out.String()); got != test.metrics {
			t.Errorf("%d open, %v: metrics %q, want %q", test.open, test.err, got, test.metrics)
		}
		if logged := strings.Contains(r.logged.String(), "open bastions not counted"); logged != (test.err != nil) {
			t.Errorf("%d open, %v: log %q", test.open, test.err, r.logged)
		}
	}
}

func TestOrphansAreCounted(t *testing.T) {
	for _, test := range []struct {
		orphans int
		err     error
		want    string
	}{{0, nil, ""}, {2, nil, `"Orphans":2`}, {1, errors.New("broken"), `"Orphans":1`}} {
		r := newReaperFixture()
		r.service.orphans, r.service.err = test.orphans, test.err
		if err := r.Handle(t.Context(), Schedule{Action: "sweep"}); !errors.Is(err, test.err) {
			t.Errorf("%d orphans: %v", test.orphans, err)
		}
		if got := r.out.String(); test.want == "" && got != "" || !strings.Contains(got, test.want) {
			t.Errorf("%d orphans: metrics %q", test.orphans, got)
		}
	}
}

func TestReaperEndsBeforeItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 55*time.Second)
		defer cancel()
		r := newReaperFixture()
		if err := r.Handle(ctx, Schedule{Action: "reap"}); err != nil {
			t.Fatal(err)
		}
		if got, want := time.Until(r.service.deadline), 53*time.Second; got != want {
			t.Errorf("the domain has %s, want %s", got, want)
		}
	})
}
