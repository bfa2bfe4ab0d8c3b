package bastion

import (
	"reflect"
	"slices"
	"testing"
	"time"
)

// The end of an attempt is counted if the attempt failed while the bastion was open.
// If the bastion was ready for StableAfter before, the count starts again. If its task
// then ended on purpose, nothing is counted.
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
		{"exited with 0 under an older generation, after it was stable", with(created(), ready, generation(3), failures(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: reported(1)}, 10 * time.Minute, 0},
		{"reported an ending of an older generation, after it was stable", with(created(), ready, generation(3), failures(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: ending(1, EndIdle)}, 10 * time.Minute, 0},
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
		// The record has the codes of the same failures, and the latest is that of the attempt.
		if n := len(next.FailureCodes); n != row.want || next.Attempt.Failure.Code != "" && next.Intent.Open && next.FailureCodes[n-1] != next.Attempt.Failure.Code {
			t.Errorf("%s: the codes are %q, and the attempt failed with %q", row.name, next.FailureCodes, next.Attempt.Failure.Code)
		}
	}
}

// RunTask's parameters are those with which the attempt began: ECS refuses a repeat with
// others. The next attempt has the new settings.
func TestDecideKeepsTheSettingsOfAnAttempt(t *testing.T) {
	before, after := testConfig, testConfig
	before.Tags, before.TaskDefinition = []Tag{{Key: "CostCenter", Value: "42"}}, "bastion:7"
	after.Tags, after.TaskDefinition, after.Subnets = []Tag{{Key: "CostCenter", Value: "43"}}, "bastion:8", []string{"subnet-z"}
	open := Observed{Group: group("A")}
	announced := Decide(before, with(created(), hasGroup), open, t0.Add(time.Second)).Next
	if a := announced.Attempt; a.Number != 1 || a.TaskDefinition != "bastion:7" || !slices.Equal(a.Tags, before.Tags) {
		t.Fatalf("the attempt is %+v", a)
	}
	repeated := Decide(after, announced, open, t0.Add(time.Minute))
	if got := describe(repeated.Actions); got != "RunTask(1)" || !reflect.DeepEqual(repeated.Next.Attempt, announced.Attempt) {
		t.Errorf("%s; the attempt is %+v, want %+v", got, repeated.Next.Attempt, announced.Attempt)
	}
	ready := with(created(), ready, ended, failures(1))
	ready.Attempt.Tags = before.Tags
	next := Decide(after, ready, Observed{Group: group("A"), Lease: tombstone()}, t0.Add(2*time.Minute)).Next.Attempt
	if next.Number != 2 || next.Subnet != "subnet-z" || next.TaskDefinition != "bastion:8" || !slices.Equal(next.Tags, after.Tags) {
		t.Errorf("the next attempt is %+v", next)
	}
}

// With MaxAttempts 1, a bastion fails at its first failed attempt. The end of a stable
// attempt under an older generation is not a failure.
func TestDecideWithOneAttempt(t *testing.T) {
	config := testConfig
	config.MaxAttempts = 1
	exited := func(exit int, lease *LeaseItem) Observed {
		return Observed{Group: group("A"), Tasks: stopped(exit), Lease: lease}
	}
	extended := with(created(), ready, generation(2))
	for _, row := range []struct {
		name string
		rec  Record
		seen Observed
		at   time.Duration
		want string // the actions, in order
		show string // the state and, after a slash, the stage or the end
	}{
		{"extended while the stable task reported its ending: end the lease, then try again",
			extended, exited(0, ending(1, EndIdle)), 10 * time.Minute,
			"EndLease", "starting/capacity"},
		{"extended while the stable task exited with 0: end the lease, then try again",
			extended, exited(0, leasedReported(2, 1)), 10 * time.Minute,
			"EndLease", "starting/capacity"},
		{"the lease of the ended task is a tombstone: begin the next attempt at once",
			with(extended, ended), exited(0, tombstone()), 10 * time.Minute,
			"RunTask(2)", "starting/capacity"},
		{"extended while the task reported its ending, before it was stable: fail",
			extended, exited(0, ending(1, EndIdle)), 59 * time.Second,
			"RevokeIngress(A) EndLease DeleteGroup", "failed/failed (task_crashed)"},
		{"stable task was killed: fail",
			extended, exited(137, leasedReported(2, 1)), 10 * time.Minute,
			"RevokeIngress(A) EndLease DeleteGroup", "failed/failed (task_crashed)"},
	} {
		t.Run(row.name, func(t *testing.T) {
			plan := Decide(config, row.rec, row.seen, t0.Add(row.at))
			if got := describe(plan.Actions); got != row.want {
				t.Errorf("actions: %s\n   want: %s", got, row.want)
			}
			if got := shown(plan.Next); got != row.show {
				t.Errorf("state: %s, want %s", got, row.show)
			}
		})
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

// The record says that a task has stopped, whatever the last status was that a read showed.
func TestDecideRecordsTheStatusOfAnEndedAttempt(t *testing.T) {
	for name, seen := range map[string]Observed{
		"refused": {Group: group("A"), Taken: refusedTask(1)},
		"lost":    {Group: group("A"), Lease: reported(1)},
		"stopped": {Group: group("A"), Tasks: stopped(137), Lease: reported(1)},
	} {
		rec := with(created(), ready, settled)
		if next := Decide(testConfig, rec, seen, t0.Add(10*time.Minute)).Next; next.Attempt.Status != TaskStopped || next.Attempt.EndedAt.IsZero() {
			t.Errorf("%s: %s, ended %s", name, next.Attempt.Status, next.Attempt.EndedAt)
		}
	}
}

// A bastion that matches its intent but was not seen is "delayed" if it had been ready,
// and waits for its host key otherwise.
func TestStageOfABastionThatWasNotSeen(t *testing.T) {
	unseen := func(r *Record) { r.SeenAt = time.Time{} }
	never := func(r *Record) { r.Attempt.ReadyAt = time.Time{} }
	for _, row := range []struct {
		rec  Record
		want string
	}{
		{with(created(), ready), ""},
		{with(created(), ready, unseen), "delayed"},
		{with(created(), ready, unseen, never), "host key"},
		{with(created(), ready, unseen, generation(2)), "lease"},
		{with(created(), ready, closed), ""},
		{with(created(), ready, closed, failingSince(0)), "delayed"},
	} {
		if got := row.rec.Stage(); got != row.want {
			t.Errorf("%s with %+v: stage %q, want %q", row.rec.State(), row.rec.Failing, got, row.want)
		}
	}
}
