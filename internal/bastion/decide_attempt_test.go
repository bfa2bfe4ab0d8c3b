package bastion

import (
	"testing"
	"time"
)

// The end of an attempt is counted if the attempt failed while the bastion was open.
// If the bastion was ready for StableAfter before, the count starts again at one.
func TestDecideCountsFailures(t *testing.T) {
	killed := func(lease *LeaseItem) Observed {
		return Observed{Group: group("A"), Tasks: stopped(137), Lease: lease}
	}
	for _, row := range []struct {
		name string
		rec  Record
		seen Observed
		at   time.Duration
		want int
	}{
		{"killed before it was stable", with(created(), ready, failures(2)), killed(reported(1)), 59 * time.Second, 3},
		{"killed after it was stable", with(created(), ready, failures(2)), killed(reported(1)), time.Minute, 1},
		{"exited with 0 under an older generation, after it was stable", with(created(), ready, generation(3), failures(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: reported(1)}, 10 * time.Minute, 1},
		{"exited with 0 under an older generation, before it was stable", with(created(), ready, generation(3), failures(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: reported(1)}, 59 * time.Second, 3},
		{"reported an ending of an older generation, before it was stable", with(created(), ready, generation(3), failures(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: ending(1, EndIdle)}, 59 * time.Second, 3},
		{"exited with 0 and never reported", with(created(), hasGroup, running, failures(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: leased(1)}, 10 * time.Minute, 3},
		{"exited with 0 while closing", with(created(), ready, closed, failures(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: reported(1)}, 59 * time.Second, 2},
		{"killed while closing", with(created(), ready, closed, failures(2)), killed(reported(1)), 10 * time.Minute, 2},
	} {
		next := Decide(testConfig, row.rec, row.seen, t0.Add(row.at)).Next
		if next.Failures != row.want || next.Attempt.EndedAt.IsZero() {
			t.Errorf("%s: %d failures, want %d; ended %s", row.name, next.Failures, row.want, next.Attempt.EndedAt)
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

func TestDecideIgnoresConsoleRequestsUnlessOpenAndRunning(t *testing.T) {
	requesting := func(verb Verb) *LeaseItem {
		item := reported(1)
		item.Report.ConsoleRequest = ConsoleRequest{Number: 1, Verb: verb, TTL: 2 * time.Hour}
		return item
	}
	for name, row := range map[string]struct {
		rec  Record
		seen Observed
	}{
		"the task has ended": {with(created(), ready, settled, ended, nextAttemptAt(time.Hour)), Observed{Group: group("A"), Lease: requesting(VerbClose)}},
		"closing":            {with(created(), ready, closed), Observed{Group: group(), Tasks: tasks(TaskStopping), Lease: requesting(VerbExtend)}},
	} {
		next := Decide(testConfig, row.rec, row.seen, t0.Add(10*time.Minute)).Next
		if next.Intent.Generation != row.rec.Intent.Generation || next.Intent.ConsoleReply != (ConsoleReply{}) || !next.Intent.Deadline.Equal(row.rec.Intent.Deadline) {
			t.Errorf("%s: the intent is %+v", name, next.Intent)
		}
	}
}

// A stale read can show a task without its endpoints.
func TestDecideKeepsTheEndpoint(t *testing.T) {
	seen := inUse(1)
	seen.Tasks[0].Endpoints = nil
	if next := Decide(testConfig, with(created(), ready, settled), seen, t0.Add(10*time.Minute)).Next; next.State() != Ready || next.Endpoint() != endpoint {
		t.Errorf("%s at %s", next.State(), next.Endpoint())
	}
}
