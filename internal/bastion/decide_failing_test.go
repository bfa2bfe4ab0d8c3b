package bastion

import (
	"errors"
	"testing"
	"time"
)

// Failing is set by an unknown part, and by an action of this converge that failed and is
// still needed. Only a round that sees every part, and whose needed actions this converge
// has all taken without an error, clears it.
func TestDecideRecordsFailing(t *testing.T) {
	const since = 5 * time.Minute
	stop, broken := Action{Step: StopTask, TaskID: "task1"}, errors.New("broken")
	other := func(seen Observed, taken map[Action]error) Observed {
		seen.Tasks, seen.Lease = append(tasks(TaskRunning), task(2, TaskRunning)), reported(1)
		seen.Taken = taken
		return seen
	}
	stopOther := Action{Step: StopTask, TaskID: "task2"}
	readyNow := with(created(), ready, settled)
	for _, row := range []struct {
		name  string
		rec   Record
		seen  Observed
		want  time.Duration // Failing.Since after t0; 0 for zero
		fails bool          // Plan.Err is set
	}{
		{"all seen, nothing to do", readyNow, inUse(1), 0, false},
		{"a part is unknown", readyNow, unreadableGroup(), 10 * time.Minute, false},
		{"a part is unknown again", with(readyNow, failingSince(since)), unreadableGroup(), since, false},
		{"a part is unknown for lack of time", readyNow, Observed{Unknown: GroupPart, NoTime: GroupPart, Tasks: tasks(TaskRunning), Lease: reported(1)}, 0, false},
		{"a part is unknown for lack of time, and it failed before", with(readyNow, failingSince(since)), Observed{Unknown: GroupPart, NoTime: GroupPart, Tasks: tasks(TaskRunning), Lease: reported(1)}, since, false},
		{"all seen, nothing to do, and it failed before", with(readyNow, failingSince(since)), inUse(1), 0, false},
		{"an action is needed, and not yet taken", with(readyNow, failingSince(since)), other(inUse(1), nil), since, false},
		{"an action is needed, and was taken without an error", with(readyNow, failingSince(since)), other(inUse(1), map[Action]error{stopOther: nil}), 0, false},
		{"a needed action failed", readyNow, other(inUse(1), map[Action]error{stopOther: broken}), 10 * time.Minute, true},
		{"a needed action failed again", with(readyNow, failingSince(since)), other(inUse(1), map[Action]error{stopOther: broken}), since, true},
		{"a needed action had no time", with(readyNow, failingSince(since)), other(inUse(1), map[Action]error{stopOther: ErrNoTime}), since, false},
		{"an action failed, and is no longer needed", readyNow, func() Observed {
			seen := inUse(1)
			seen.Taken = map[Action]error{stop: broken}
			return seen
		}(), 0, false},
	} {
		plan := Decide(testConfig, row.rec, row.seen, t0.Add(10*time.Minute))
		got := time.Duration(0)
		if !plan.Next.Failing.Since.IsZero() {
			got = plan.Next.Failing.Since.Sub(t0)
		}
		if got != row.want || (plan.Err != nil) != row.fails {
			t.Errorf("%s: failing since %s, want %s; error %v", row.name, got, row.want, plan.Err)
		}
	}
}

// Failing.Refusal is the failure of the latest refusal. When the step fails for another
// reason than a refusal, Refusal becomes zero, and Since stays.
func TestDecideRecordsTheRefusal(t *testing.T) {
	move := Action{Step: AuthorizeIngress, GroupID: "sg", Source: srcB}
	moving := with(created(), ready, moved)
	seen := Observed{Group: group(), Tasks: tasks(TaskRunning), Lease: reported(2), Taken: refusedStep(move, CapacityFailure, false)}
	refused := Decide(testConfig, moving, seen, t0.Add(20*time.Minute)).Next
	if refused.Failing.Refusal != CapacityFailure || refused.Failures != 0 || !refused.Intent.Open {
		t.Errorf("refused: %+v, %d failures", refused.Failing, refused.Failures)
	}
	seen.Taken = map[Action]error{move: errors.New("broken")}
	if later := Decide(testConfig, refused, seen, t0.Add(21*time.Minute)).Next; later.Failing.Refusal.Code != "" || !later.Failing.Since.Equal(refused.Failing.Since) || later.Stage() != "delayed" {
		t.Errorf("later: %+v, stage %s", later.Failing, later.Stage())
	}
	long := with(created(), failingSince(time.Minute))
	long.Failing.Refusal = CapacityFailure
	if gaveUp := Decide(testConfig, long, Observed{}, t0.Add(16*time.Minute)).Next; gaveUp.End.Failure != CapacityFailure {
		t.Errorf("a start that was given up has the failure %+v", gaveUp.End.Failure)
	}
}

// SeenAt is the time of the latest round that saw a ready bastion with all its parts.
func TestDecideRecordsWhenItSawReady(t *testing.T) {
	for _, row := range []struct {
		name string
		rec  Record
		seen Observed
		want time.Duration // after t0; -1 for never
	}{
		{"all parts seen", with(created(), ready, settled), inUse(1), 10 * time.Minute},
		{"group unknown", with(created(), ready, settled), unreadableGroup(), 0},
		{"task missing within the read lag", with(created(), ready, func(r *Record) { r.Attempt.TaskSeenAt = t0.Add(9 * time.Minute) }), Observed{Group: group("A"), Lease: reported(1)}, 0},
		{"task is stopping", with(created(), ready, settled), Observed{Group: group("A"), Tasks: tasks(TaskStopping), Lease: reported(1)}, 0},
		{"report of an older generation", with(created(), ready, generation(2)), inUse(1), -1},
		{"source has moved", with(created(), ready, moved), inUse(1), -1},
		{"first report, task is stopping", with(created(), hasGroup, running), Observed{Group: group("A"), Tasks: tasks(TaskStopping), Lease: reported(1)}, -1},
	} {
		next := Decide(testConfig, row.rec, row.seen, t0.Add(10*time.Minute)).Next
		got := time.Duration(-1)
		if !next.SeenAt.IsZero() {
			got = next.SeenAt.Sub(t0)
		}
		if got != row.want || (next.State() == Ready) != (row.want >= 0) {
			t.Errorf("%s: seen after %s, want %s; %s", row.name, got, row.want, next.State())
		}
	}
}

// People see a refusal only while the bastion is starting or closing: a bastion that is
// ready needs no step, and one that has failed shows the failure of its end.
func TestRefusalIsShownWhileStartingOrClosing(t *testing.T) {
	refused := func(r *Record) { r.Failing = Failing{t0, CapacityFailure} }
	for _, row := range []struct {
		rec  Record
		want Failure
	}{
		{with(created(), refused), CapacityFailure},
		{with(created(), ready, closed, refused), CapacityFailure},
		{with(created(), ready, refused), Failure{}},
		{with(created(), ready, closed, finishedAt, refused), Failure{}},
	} {
		if got := row.rec.Refusal(); got != row.want {
			t.Errorf("%s: %+v, want %+v", row.rec.State(), got, row.want)
		}
	}
}
