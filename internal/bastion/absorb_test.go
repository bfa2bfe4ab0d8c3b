package bastion

import (
	"testing"
	"time"
)

// How an attempt's end counts: towards the limit only if it failed, was wanted, and
// had not been ready for a while.
func TestDecideCountsFailures(t *testing.T) {
	killed := func(lease *LeaseItem) Observed {
		return Observed{Group: group("A"), Tasks: stopped(137), Lease: lease}
	}
	for _, row := range []struct {
		what string
		rec  Record
		seen Observed
		at   time.Duration
		want int
	}{
		{"killed before it was stable", with(made(), ready, failures(2)), killed(reported(1)), 59 * time.Second, 3},
		{"killed when it was stable: the count begins anew", with(made(), ready, failures(2)), killed(reported(1)), time.Minute, 1},
		{"ended on purpose under an older intent, when it was stable: as often as that happens", with(made(), ready, generation(3), failures(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: reported(1)}, 10 * time.Minute, 1},
		{"ended on purpose under an older intent, before it was stable", with(made(), ready, generation(3), failures(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: reported(1)}, 59 * time.Second, 3},
		{"says that it ended, under an older intent, before it was stable", with(made(), ready, generation(3), failures(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: ending(1, EndIdle)}, 59 * time.Second, 3},
		{"exit code 0 without a word: no image of ours does that", with(made(), hasGroup, running, failures(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: leased(1)}, 10 * time.Minute, 3},
		{"ended on purpose while it was closing", with(made(), ready, closed, failures(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: reported(1)}, 59 * time.Second, 2},
		{"killed while it was closing", with(made(), ready, closed, failures(2)), killed(reported(1)), 10 * time.Minute, 2},
	} {
		next := Decide(tabled, row.rec, row.seen, t0.Add(row.at)).Next
		if next.Failures != row.want || next.Attempt.EndedAt.IsZero() {
			t.Errorf("%s: %d failures, want %d; ended %s", row.what, next.Failures, row.want, next.Attempt.EndedAt)
		}
	}
}

func TestBackoffDoubles(t *testing.T) {
	const base = 10 * time.Second
	for failures, want := range map[int]time.Duration{0: 0, 1: 0, 2: base, 3: 2 * base, 4: 4 * base, 12: 1024 * base, 100: 1024 * base} {
		if got := backoff(base, failures); got != want {
			t.Errorf("after %d failures %s, want %s", failures, got, want)
		}
	}
}

// What was asked in a console is answered by an open bastion to the task that runs.
func TestDecideAnswersNobodyElse(t *testing.T) {
	asking := func(verb Verb) *LeaseItem {
		item := reported(1)
		item.Report.ConsoleRequest = ConsoleRequest{Number: 1, Verb: verb, TTL: 2 * time.Hour}
		return item
	}
	for what, row := range map[string]struct {
		rec  Record
		seen Observed
	}{
		"its task has ended": {with(made(), ready, settled, ended, pausing(time.Hour)), Observed{Group: group("A"), Lease: asking(VerbClose)}},
		"it is closing":      {with(made(), ready, closed), Observed{Group: group(), Tasks: tasks(TaskStopping), Lease: asking(VerbExtend)}},
	} {
		next := Decide(tabled, row.rec, row.seen, t0.Add(10*time.Minute)).Next
		if next.Intent.Generation != row.rec.Intent.Generation || next.Intent.ConsoleReply != (ConsoleReply{}) || !next.Intent.Deadline.Equal(row.rec.Intent.Deadline) {
			t.Errorf("%s: the intent is %+v", what, next.Intent)
		}
	}
}

// An address that was seen once stays while its task does: a stale read may lack it.
func TestDecideKeepsTheAddress(t *testing.T) {
	seen := inUse(1)
	seen.Tasks[0].Endpoints = nil
	if next := Decide(tabled, with(made(), ready, settled), seen, t0.Add(10*time.Minute)).Next; next.State() != Ready || next.Endpoint() != where {
		t.Errorf("%s at %s", next.State(), next.Endpoint())
	}
}
