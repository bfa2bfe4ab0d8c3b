package bastion

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	t0     = time.Date(2026, 3, 1, 3, 0, 0, 0, time.UTC)
	srcA   = netip.MustParsePrefix("192.0.2.1/32")
	srcB   = netip.MustParsePrefix("192.0.2.2/32")
	where  = netip.MustParseAddrPort("198.51.100.9:2222")
	tabled = Config{
		DefaultTTL: time.Hour, MaxTTL: 8 * time.Hour, WarnBefore: 10 * time.Minute,
		Subnets: []string{"subnet-a", "subnet-b"}, TaskDefinition: "bastion:7", MaxAttempts: 5,
		Timing: Timing{
			Settle: 4 * time.Minute, ReadLag: 2 * time.Minute, Backoff: 10 * time.Second,
			StableAfter: time.Minute, WatchInterval: 15 * time.Second, CheckInterval: 5 * time.Minute,
		},
	}
)

// The rows read: a bastion like this, with the cloud like that, so long after
// t0, wants these actions, has this state, and is looked at again then. Every
// bastion was made at t0 with a deadline of one hour; "settled" ones had their
// last change of intent long ago.
func TestDecide(t *testing.T) {
	for _, row := range []struct {
		what string
		rec  Record
		seen Observed
		at   time.Duration
		want string // the actions, in order
		show string // state, and the stage or the end
		due  time.Duration
	}{
		{"just made, nothing there",
			made(), Observed{}, 0,
			"CreateGroup", "starting/security group", 15 * time.Second},
		{"a new group lets everything out and nothing in",
			made(), Observed{Group: group("out")}, 0,
			"RevokeEgress(out) AuthorizeIngress(192.0.2.1/32)", "starting/security group", 15 * time.Second},
		{"a group that was made a moment ago does not show: no second one",
			with(made(), hasGroup), Observed{}, 30 * time.Second,
			"", "starting/security group", 45 * time.Second},
		{"a group that does not show though it is old is gone",
			with(made(), hasGroup), Observed{}, 3 * time.Minute,
			"CreateGroup", "starting/security group", 3*time.Minute + 15*time.Second},
		{"the group is right: announce the attempt and run it",
			with(made(), hasGroup), Observed{Group: group("A")}, time.Second,
			"RunTask(1)", "starting/capacity", 16 * time.Second},
		{"announced, no task seen: the same attempt again",
			with(made(), hasGroup, announced), Observed{Group: group("A")}, time.Minute,
			"RunTask(1)", "starting/capacity", 75 * time.Second},
		{"announced too long ago to be sent again: the next attempt",
			with(made(), hasGroup, announced), Observed{Group: group("A")}, 56 * time.Minute,
			"RunTask(2)", "starting/capacity", 56*time.Minute + 15*time.Second},
		{"RunTask refused the attempt: the next one, in the other subnet, at once",
			with(made(), hasGroup, announced), Observed{Group: group("A"), Refused: &Refusal{1, CapacityFailure}}, time.Second,
			"RunTask(2)", "starting/capacity", 16 * time.Second},
		{"the refusal was of an earlier attempt: this one is still to be sent",
			with(made(), hasGroup, announced, second), Observed{Group: group("A"), Refused: &Refusal{1, CapacityFailure}}, time.Second,
			"RunTask(2)", "starting/capacity", 16 * time.Second},
		{"refused twice: a pause first",
			with(made(), hasGroup, announced, failures(1)), Observed{Group: group("A"), Refused: &Refusal{1, CapacityFailure}}, time.Second,
			"", "starting/capacity", 11 * time.Second},
		{"refused five times: failed, and cleaned up",
			with(made(), hasGroup, announced, failures(4)), Observed{Group: group("A"), Refused: &Refusal{1, CapacityFailure}}, time.Second,
			"RevokeIngress(A) DeleteGroup", "failed/failed (capacity_unavailable)", 16 * time.Second},
		{"the task is there: give it its lease",
			with(made(), hasGroup, announced), Observed{Group: group("A"), Tasks: tasks(TaskProvisioning)}, time.Second,
			"WriteLease(1)", "starting/capacity", 16 * time.Second},
		{"the task's image is pulled",
			with(made(), hasGroup, running), Observed{Group: group("A"), Tasks: tasks(TaskPending), Lease: leased(1)}, 9 * time.Second,
			"", "starting/image", 24 * time.Second},
		{"the task runs, and has not reported",
			with(made(), hasGroup, running), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: leased(1)}, 9 * time.Second,
			"", "starting/host key", 24 * time.Second},
		{"the task reports: ready, but unsettled, so looked at again when it is settled at the latest",
			with(made(), hasGroup, running), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: reported(1)}, 9 * time.Second,
			"", "ready/", 4 * time.Minute},
		{"ready and settled: nothing to do",
			with(made(), ready, settled), inUse(1), 10 * time.Minute,
			"", "ready/", 15 * time.Minute},
		{"ready, and its deadline is near",
			with(made(), ready, settled), inUse(1), 58 * time.Minute,
			"", "ready/", time.Hour},
		{"a stale read misses the task of a ready bastion: wait",
			with(made(), ready), Observed{Group: group("A"), Lease: reported(1)}, time.Minute,
			"", "ready/", 4 * time.Minute},
		{"the task of a ready bastion is gone: take its lease away before the next attempt",
			with(made(), ready, settled), Observed{Group: group("A"), Lease: reported(1)}, 10 * time.Minute,
			"EndLease", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"its lease is gone too: the next attempt",
			with(made(), ready, settled, ended), Observed{Group: group("A"), Lease: tombstone()}, 10 * time.Minute,
			"RunTask(2)", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"killed from outside: the next attempt follows",
			with(made(), ready, settled), Observed{Group: group("A"), Tasks: stopped(137), Lease: reported(1)}, 10 * time.Minute,
			"EndLease", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"it ended itself, idle: close",
			with(made(), ready, settled), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: ending(1, EndIdle)}, 10 * time.Minute,
			"RevokeIngress(A) WriteLease(2) StopTask", "closing/idle", 10*time.Minute + 15*time.Second},
		{"it wrote its end, then the owner asked for more: wait for its end, do not close",
			with(made(), ready, generation(2)), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: ending(1, EndIdle)}, 10 * time.Minute,
			"", "starting/lease", 10*time.Minute + 15*time.Second},
		{"and when it has stopped, another",
			with(made(), ready, generation(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: ending(1, EndIdle)}, 10 * time.Minute,
			"EndLease", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"exit code 0 without a word: it ended on purpose",
			with(made(), ready, settled), Observed{Group: group("A"), Tasks: stopped(0), Lease: reported(1)}, 10 * time.Minute,
			"RevokeIngress(A) EndLease DeleteGroup", "closing/task", 10*time.Minute + 15*time.Second},
		{"the owner came from elsewhere: move the ingress, tell the task",
			with(made(), ready, moved), inUse(1), 10 * time.Minute,
			"RevokeIngress(A) AuthorizeIngress(192.0.2.2/32) WriteLease(2)", "starting/address", 10*time.Minute + 15*time.Second},
		{"moved, the task has not taken it up",
			with(made(), ready, moved), Observed{Group: group("B"), Tasks: tasks(TaskRunning), Lease: leasedReported(2, 1)}, 10 * time.Minute,
			"", "starting/lease", 10*time.Minute + 15*time.Second},
		{"moved, all agree",
			with(made(), ready, moved), Observed{Group: group("B"), Tasks: tasks(TaskRunning), Lease: reported(2)}, 10 * time.Minute,
			"", "ready/", 14 * time.Minute},
		{"a rule that nobody asked for goes",
			with(made(), ready, settled), Observed{Group: group("A", "B"), Tasks: tasks(TaskRunning), Lease: reported(1)}, 10 * time.Minute,
			"RevokeIngress(B)", "starting/address", 10*time.Minute + 15*time.Second},
		{"a second task, started late by a repeat: stop it",
			with(made(), ready, settled, attempt(2)), Observed{Group: group("A"), Tasks: append(tasks(TaskPending), task(2, TaskRunning)), Lease: of(2, reported(1))}, 10 * time.Minute,
			"StopTask", "ready/", 10*time.Minute + 15*time.Second},
		{"a task that was taken for gone shows again, before the next attempt: stop it",
			with(made(), ready, settled, ended, pausing(time.Hour)), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: tombstone()}, 10 * time.Minute,
			"StopTask", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"closing: a task that was taken for gone shows again: stop it",
			with(made(), ready, ended, closed), Observed{Group: group(), Tasks: tasks(TaskRunning), Lease: tombstone()}, 5 * time.Minute,
			"StopTask", "closing/closed", 5*time.Minute + 15*time.Second},
		{"exit code 0 under an older intent: its owner has asked for more since",
			with(made(), ready, generation(3)), Observed{Group: group("A"), Tasks: stopped(0), Lease: leasedReported(2, 1)}, 10 * time.Minute,
			"EndLease", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"what another task reports does not count",
			with(made(), hasGroup, running), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: of(9, reported(1))}, 9 * time.Second,
			"", "starting/host key", 24 * time.Second},
		{"a host key that would break out of what people paste does not count",
			with(made(), hasGroup, running), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: hostKey("ssh-ed25519 AAAA\nProxyCommand x")}, 9 * time.Second,
			"", "starting/host key", 24 * time.Second},
		{"an ending that no honest task reports does not count",
			with(made(), ready, settled), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: ending(1, EndFailed)}, 10 * time.Minute,
			"", "ready/", 15 * time.Minute},
		{"announced for a group that is gone since: the next attempt",
			with(made(), announced, elsewhere), Observed{Group: group("A")}, 10 * time.Minute,
			"RunTask(2)", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"a task that runs is not lost, whatever group it was announced for",
			with(made(), ready, settled, elsewhere), inUse(1), 10 * time.Minute,
			"", "ready/", 15 * time.Minute},
		{"a group that lets anything out is not ready",
			with(made(), ready, settled), Observed{Group: group("A", "out"), Tasks: tasks(TaskRunning), Lease: reported(1)}, 10 * time.Minute,
			"RevokeEgress(out)", "starting/address", 10*time.Minute + 15*time.Second},
		{"a group that does not show is not known to admit anybody",
			with(made(), ready), Observed{Tasks: tasks(TaskRunning), Lease: reported(1)}, time.Minute,
			"", "starting/address", time.Minute + 15*time.Second},
		{"two rules for the one source: one goes, so that what is open is what is seen",
			with(made(), ready, settled), Observed{Group: group("A", "A again"), Tasks: tasks(TaskRunning), Lease: reported(1)}, 10 * time.Minute,
			"RevokeIngress(A again)", "starting/address", 10*time.Minute + 15*time.Second},
		{"its lease was ended though it runs: a tombstone takes no other, so wait for its end",
			with(made(), ready, settled), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: tombstone()}, 10 * time.Minute,
			"", "starting/lease", 10*time.Minute + 15*time.Second},
		{"no address in the family of the source",
			with(made(), ready, settled, fromIPv6), Observed{Group: group("6"), Tasks: tasks(TaskRunning), Lease: reported(1)}, 10 * time.Minute,
			"", "starting/lease", 10*time.Minute + 15*time.Second},
		{"its time is up",
			with(made(), ready, settled), inUse(1), time.Hour,
			"RevokeIngress(A) WriteLease(2) StopTask", "closing/deadline", time.Hour + 15*time.Second},
		{"closed while an announced attempt is in the dark: not final",
			with(made(), hasGroup, announced, closed), Observed{Group: group()}, 3 * time.Minute,
			"", "closing/closed", 3*time.Minute + 15*time.Second},
		{"nobody can send it any more, and it does not show: final once the group is gone",
			with(made(), hasGroup, announced, closed), Observed{Group: group()}, 5 * time.Minute,
			"DeleteGroup", "closing/closed", 5*time.Minute + 15*time.Second},
		{"closing: the task is on its way",
			with(made(), ready, closed), Observed{Group: group(), Tasks: tasks(TaskStopping), Lease: reported(2)}, 2 * time.Minute,
			"", "closing/closed", 2*time.Minute + 15*time.Second},
		{"closing: the task has stopped",
			with(made(), ready, closed), Observed{Group: group(), Tasks: stopped(0), Lease: reported(2)}, 2 * time.Minute,
			"EndLease DeleteGroup", "closing/closed", 2*time.Minute + 15*time.Second},
		{"closing: all is gone but the lease: it ends before anything is final",
			with(made(), ready, ended, closed), Observed{Tasks: stopped(0), Lease: reported(2)}, 10 * time.Minute,
			"EndLease", "closing/closed", 10*time.Minute + 15*time.Second},
		{"closing: the interface still holds the group",
			with(made(), ready, ended, closed), Observed{Group: group(), Tasks: stopped(0), Lease: tombstone()}, 2 * time.Minute,
			"DeleteGroup", "closing/closed", 2*time.Minute + 15*time.Second},
		{"closing: a group that does not show may be a stale read",
			with(made(), ready, ended, closed), Observed{Tasks: stopped(0), Lease: tombstone()}, time.Minute,
			"", "closing/closed", time.Minute + 15*time.Second},
		{"closing: a group that this converge deleted is gone",
			with(made(), ready, ended, closed), Observed{GroupGone: true, Tasks: stopped(0), Lease: tombstone()}, time.Minute,
			"", "closed/closed", 5 * time.Minute},
		{"closed, unsettled: a late converge made the group again",
			with(made(), ready, ended, closed, final), Observed{Group: group("A"), Tasks: stopped(0), Lease: tombstone()}, 3 * time.Minute,
			"RevokeIngress(A) DeleteGroup", "closed/closed", 3*time.Minute + 15*time.Second},
		{"closed, and the tombstone's time is over too: nothing to do",
			with(made(), ready, ended, closed, final), Observed{}, 48 * time.Hour,
			"", "closed/closed", 0},
		{"closed and settled: never again",
			with(made(), ready, ended, closed, final), Observed{Lease: tombstone()}, 6 * time.Minute,
			"", "closed/closed", 0},

		// From here on the owner is told, and "told" is told of what is the case.
		{"just made: its owner is told what it waits for",
			with(made(), notify), Observed{}, 0,
			"CreateGroup Notify(starting/security group, attempt 0)", "starting/security group", 15 * time.Second},
		{"told already: not again",
			with(made(), notify, told), Observed{}, 0,
			"CreateGroup", "starting/security group", 15 * time.Second},
		{"it waits for something else now",
			with(made(), hasGroup, running, notify, told), Observed{Group: group("A"), Tasks: tasks(TaskPending), Lease: leased(1)}, 9 * time.Second,
			"Notify(starting/image, attempt 1)", "starting/image", 24 * time.Second},
		{"ready",
			with(made(), ready, settled, notify), inUse(1), 10 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 10*time.Minute + 15*time.Second},
		{"ready, settled and told: nothing to do",
			with(made(), ready, settled, notify, told), inUse(1), 10 * time.Minute,
			"", "ready/", 15 * time.Minute},
		{"a change of intent that shows nowhere: nothing to tell",
			with(made(), ready, settled, notify, told, generation(2)), inUse(2), 10 * time.Minute,
			"", "ready/", 15 * time.Minute},
		{"from elsewhere, and ready again",
			with(made(), ready, notify, told, moved, settled), Observed{Group: group("B"), Tasks: tasks(TaskRunning), Lease: reported(2)}, 10 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 10*time.Minute + 15*time.Second},
		{"another deadline",
			with(made(), ready, settled, notify, told, until(2*time.Hour, 9*time.Minute)), inUse(1), 10 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 10*time.Minute + 15*time.Second},
		{"another task",
			with(made(), ready, settled, notify, told, attempt(2)), Observed{Group: group("A"), Tasks: []Task{task(2, TaskRunning)}, Lease: of(2, reported(1))}, 10 * time.Minute,
			"Notify(ready, attempt 2)", "ready/", 10*time.Minute + 15*time.Second},
		{"told, if that worked, which nobody knows: again",
			with(made(), ready, settled, notify, told, untold(10*time.Minute)), inUse(1), 10 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 10*time.Minute + 15*time.Second},
		{"untold for a minute: again after another",
			with(made(), ready, settled, notify, untold(9*time.Minute)), inUse(1), 10 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 11 * time.Minute},
		{"untold for long: when a ready one is looked at anyway",
			with(made(), ready, settled, notify, untold(time.Minute)), inUse(1), 20 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 25 * time.Minute},
		{"untold for long, and its deadline is nearer than the next try",
			with(made(), ready, settled, notify, untold(time.Minute), until(time.Hour, time.Hour)), inUse(1), 58 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", time.Hour},
		{"the warning comes before the next look",
			with(made(), ready, settled, notify, told), inUse(1), 48 * time.Minute,
			"", "ready/", 50 * time.Minute},
		{"the deadline is near: a warning",
			with(made(), ready, settled, notify, told), inUse(1), 50 * time.Minute,
			"Notify(ready, warning, attempt 1)", "ready/", 50*time.Minute + 15*time.Second},
		{"nobody asked to be warned",
			with(made(), ready, settled), inUse(1), 50 * time.Minute,
			"", "ready/", 55 * time.Minute},
		{"warned: once is enough",
			with(made(), ready, settled, notify, warned), inUse(1), 51 * time.Minute,
			"", "ready/", 56 * time.Minute},
		{"extended after the warning: told of the new deadline",
			with(made(), ready, settled, notify, warned, until(2*time.Hour, 55*time.Minute)), inUse(1), 55 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 55*time.Minute + 15*time.Second},
		{"and warned again before that one",
			with(made(), ready, settled, notify, until(2*time.Hour, 55*time.Minute), told), inUse(1), 110 * time.Minute,
			"Notify(ready, warning, attempt 1)", "ready/", 110*time.Minute + 15*time.Second},
		{"whoever asks for ten minutes need not be warned ten minutes before",
			with(made(), ready, settled, notify, until(10*time.Minute+300*time.Millisecond, 0), told), inUse(1), time.Minute,
			"", "ready/", 6 * time.Minute},
		{"a little more time, asked for after the warning: no second one",
			with(made(), ready, settled, notify, until(63*time.Minute, 55*time.Minute), told), inUse(1), 56 * time.Minute,
			"", "ready/", 61 * time.Minute},
		{"not ready when the deadline comes near: no warning",
			with(made(), ready, settled, notify, generation(2), told), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: leasedReported(2, 1)}, 51 * time.Minute,
			"", "starting/lease", 51*time.Minute + 15*time.Second},
		{"ready only when the deadline is near: both in one",
			with(made(), hasGroup, running, settled, notify, told), inUse(1), 51 * time.Minute,
			"Notify(ready, warning, attempt 1)", "ready/", 51*time.Minute + 15*time.Second},
		{"its time is up: it is closed first, and then its owner is told",
			with(made(), ready, settled, notify, warned), inUse(1), time.Hour,
			"RevokeIngress(A) WriteLease(2) StopTask Notify(closing, attempt 1)", "closing/deadline", time.Hour + 15*time.Second},
		{"failed: told at once, before all is cleaned up",
			with(made(), hasGroup, announced, failures(4), notify, told), Observed{Group: group("A"), Refused: &Refusal{1, CapacityFailure}}, time.Second,
			"RevokeIngress(A) DeleteGroup Notify(failed, attempt 1)", "failed/failed (capacity_unavailable)", 16 * time.Second},
		{"nothing is left: closed, and told so",
			with(made(), ready, ended, closed, notify, told), Observed{GroupGone: true, Tasks: stopped(0), Lease: tombstone()}, time.Minute,
			"Notify(closed, attempt 1)", "closed/closed", time.Minute + 15*time.Second},
		{"closed, settled and told: never again",
			with(made(), ready, ended, closed, final, notify, told), Observed{Lease: tombstone()}, 6 * time.Minute,
			"", "closed/closed", 0},
		{"closed and settled, untold for a minute: again after another",
			with(made(), ready, ended, closed, final, notify, untold(5*time.Minute)), Observed{Lease: tombstone()}, 6 * time.Minute,
			"Notify(closed, attempt 1)", "closed/closed", 7 * time.Minute},
		{"closed, and untold for nearly an hour: again",
			with(made(), ready, ended, closed, final, notify, untold(2*time.Minute)), Observed{Lease: tombstone()}, 61 * time.Minute,
			"Notify(closed, attempt 1)", "closed/closed", 66 * time.Minute},
		{"closed for an hour: they know by now, or never will",
			with(made(), ready, ended, closed, final, notify, untold(2*time.Minute)), Observed{Lease: tombstone()}, 62 * time.Minute,
			"", "closed/closed", 0},
	} {
		t.Run(row.what, func(t *testing.T) {
			plan := Decide(tabled, row.rec, row.seen, t0.Add(row.at))
			if got := say(plan.Actions); got != row.want {
				t.Errorf("actions: %s\n   want: %s", got, row.want)
			}
			if got := shown(plan.Next); got != row.show {
				t.Errorf("state: %s, want %s", got, row.show)
			}
			due := time.Duration(0)
			if !plan.Next.DueAt.IsZero() {
				due = plan.Next.DueAt.Sub(t0)
			}
			if due != row.due {
				t.Errorf("due after %s, want %s", due, row.due)
			}
		})
	}
}

func TestDecideAnswersTheConsole(t *testing.T) {
	for _, row := range []struct {
		what     string
		ask      ConsoleRequest
		code     Code
		deadline time.Duration
		open     bool
	}{
		{"more time", ConsoleRequest{1, VerbExtend, 2 * time.Hour}, "", 2*time.Hour + 10*time.Minute, true},
		{"less than it has: nothing moves earlier", ConsoleRequest{1, VerbExtend, time.Minute}, "", time.Hour, true},
		{"beyond the longest lifetime", ConsoleRequest{1, VerbExtend, 9 * time.Hour}, CodeTTLBeyondCap, time.Hour, true},
		{"no time", ConsoleRequest{1, VerbExtend, 0}, CodeTTLInvalid, time.Hour, true},
		{"close", ConsoleRequest{1, VerbClose, 0}, "", time.Hour, false},
		{"nonsense", ConsoleRequest{1, "dance", 0}, CodeNotFound, time.Hour, true},
	} {
		t.Run(row.what, func(t *testing.T) {
			seen := inUse(1)
			seen.Lease.Report.ConsoleRequest = row.ask
			next := Decide(tabled, with(made(), ready, settled), seen, t0.Add(10*time.Minute)).Next
			if a := next.Intent.ConsoleReply; a.Number != 1 || a.Code != row.code || a.Message == "" {
				t.Errorf("answer: %+v, want code %q", a, row.code)
			}
			if got := next.Intent.Deadline.Sub(t0); got != row.deadline {
				t.Errorf("deadline after %s, want %s", got, row.deadline)
			}
			if next.Intent.Open != row.open || next.Intent.Generation != 2 {
				t.Errorf("open %t, generation %d", next.Intent.Open, next.Intent.Generation)
			}
			again := Decide(tabled, next, seen, t0.Add(11*time.Minute)).Next
			if again.Intent.Generation != 2 {
				t.Error("the same request was answered twice")
			}
		})
	}
}

// Past its deadline a bastion is over, whatever somebody types in its console.
func TestDecideGivesNoTimeAfterTheDeadline(t *testing.T) {
	seen := inUse(1)
	seen.Lease.Report.ConsoleRequest = ConsoleRequest{1, VerbExtend, 3 * time.Hour}
	next := Decide(tabled, with(made(), ready, settled), seen, t0.Add(time.Hour+30*time.Second)).Next
	if next.Intent.Open || next.End.Reason != EndDeadline {
		t.Errorf("open %t until %s", next.Intent.Open, next.Intent.Deadline)
	}
}

// Attempts take turns in the subnets, and a new task's console begins anew.
func TestDecideAnnounces(t *testing.T) {
	rec := with(made(), ready, settled, ended)
	rec.Intent.ConsoleReply = ConsoleReply{Number: 3}
	next := Decide(tabled, rec, Observed{Group: group("A"), Lease: tombstone()}, t0.Add(10*time.Minute)).Next
	if a := next.Attempt; a.Number != 2 || a.Subnet != "subnet-b" || a.GroupID != "sg" || a.TaskDefinition != "bastion:7" || next.Intent.ConsoleReply.Number != 0 {
		t.Errorf("%+v, answer %+v", a, next.Intent.ConsoleReply)
	}
}

// A task's receipt goes into the record when the task has stopped, and only as
// much of it as a record may hold.
func TestDecideKeepsReceipts(t *testing.T) {
	item := reported(1)
	item.Report.Receipt = Receipt{StartedAt: t0, EndedAt: t0.Add(time.Minute), Connections: 2}
	for i := range 10 * MaxDestinations {
		item.Report.Receipt.Destinations = append(item.Report.Receipt.Destinations, Destination{Name: fmt.Sprint(i, strings.Repeat("x", 1000)), Forwards: 1})
	}
	next := Decide(tabled, with(made(), ready, settled), Observed{Group: group("A"), Tasks: stopped(137), Lease: item}, t0.Add(10*time.Minute)).Next
	if r := next.Receipt; r.Connections != 2 || len(r.Destinations) != MaxDestinations || len(r.Destinations[0].Name) > MaxDestinationName {
		t.Errorf("%d connections, %d destinations", r.Connections, len(r.Destinations))
	}
	twice := next.Receipt.Merge(Receipt{StartedAt: t0, EndedAt: t0.Add(time.Hour), Connections: 1, Destinations: []Destination{{Name: "new", Forwards: 3}}})
	if twice.Connections != 3 || twice.Unnamed != 3 || !twice.EndedAt.Equal(t0.Add(time.Hour)) || len(twice.Destinations) != MaxDestinations {
		t.Errorf("merged: %d connections, %d unnamed, %d destinations", twice.Connections, twice.Unnamed, len(twice.Destinations))
	}
}

func TestValidateNamesEverything(t *testing.T) {
	err := Config{DefaultTTL: -1, WarnBefore: -1, Quota: Quota{Total: -1}, Timing: Timing{Settle: time.Second, CallTimeout: time.Second}}.Validate()
	for _, part := range []string{"warn ahead", "default ttl", "longest lifetime", "family", "total quota", "at least one bastion", "subnet", "task definition", "attempt", "poll interval", "unsettled"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is missing in: %v", part, err)
		}
	}
}

// What a failed start says to a person: a code to switch on and a sentence that
// ends in something to do.
func TestExplain(t *testing.T) {
	code := func(n int) *int { return &n }
	for _, row := range []struct {
		task Task
		want FailureCode
	}{
		{Task{StopCode: "TaskFailedToStart", StopReason: "CannotPullContainerError: pull image manifest has been retried"}, FailureImage},
		{Task{StopCode: "TaskFailedToStart", StopReason: "ResourceInitializationError: unable to pull secrets or registry auth"}, FailureNetwork},
		{Task{StopCode: "TaskFailedToStart", StopReason: "Capacity is unavailable at this time. Please try again later or in a different availability zone"}, FailureCapacity},
		{Task{StopCode: "TaskFailedToStart", StopReason: "Timeout waiting for network interface provisioning to complete."}, FailureNetwork},
		{Task{StopCode: "TaskFailedToStart", StopReason: "something new"}, FailureStart},
		{Task{StopCode: "SpotInterruption", ExitCode: code(143)}, FailureSpot},
		{Task{StopCode: "UserInitiated", ExitCode: code(143)}, FailureStopped},
		{Task{StopCode: "EssentialContainerExited", ExitCode: code(10)}, FailureLease},
		{Task{StopCode: "EssentialContainerExited", ExitCode: code(137)}, FailureCrash},
	} {
		got := explain(row.task)
		if got.Code != row.want || !strings.HasSuffix(got.Message, ".") {
			t.Errorf("%s %q: %+v, want %s", row.task.StopCode, row.task.StopReason, got, row.want)
		}
	}
}

// What follows builds the rows.

func made() Record {
	r := Record{
		ID: "b", Owner: "local:alice", Name: "default", CreatedAt: t0, LatestDeadline: t0.Add(8 * time.Hour),
		Intent:  Intent{Open: true, Source: srcA, Keys: []Key{"ssh-ed25519 AAAA"}, Deadline: t0.Add(time.Hour), DeadlineSetAt: t0},
		Version: 1,
	}
	r.changed(t0, tabled.Timing)
	r.DueAt = t0 // taken up now
	return r
}

func with(r Record, edits ...func(*Record)) Record {
	for _, edit := range edits {
		edit(&r)
	}
	return r
}

func elsewhere(r *Record) { r.Attempt.GroupID = "sg-gone" }
func pausing(d time.Duration) func(*Record) {
	return func(r *Record) { r.NextAttemptAt = t0.Add(d) }
}
func fromIPv6(r *Record) {
	r.Intent.Source = netip.MustParsePrefix("2001:db8::1/128")
	r.Group.Ingress = r.Intent.Source
}
func hasGroup(r *Record) { r.Group = GroupStatus{ID: "sg", FirstSeenAt: t0} }
func announced(r *Record) {
	r.Attempt = Attempt{Number: 1, GroupID: "sg", Subnet: "subnet-a", TaskDefinition: "bastion:7", CreatedAt: t0}
}
func running(r *Record) {
	announced(r)
	r.Attempt.TaskID, r.Attempt.TaskSeenAt = "task1", t0
	r.Attempt.Endpoints = []netip.AddrPort{where}
}
func ready(r *Record) {
	hasGroup(r)
	running(r)
	r.Group.Ingress = srcA
	r.Attempt.HostKey, r.Attempt.Generation, r.Attempt.ReadyAt, r.Attempt.Status = "ssh-ed25519 HOST", 1, t0, TaskRunning
}
func second(r *Record)  { r.Attempt.Number = 2 }
func settled(r *Record) { r.UnsettledUntil = time.Time{} }
func ended(r *Record)   { r.Attempt.EndedAt = t0.Add(time.Minute) }
func moved(r *Record) {
	r.Intent.Source = srcB
	r.changed(t0.Add(10*time.Minute), tabled.Timing)
	r.DueAt = t0
}
func closed(r *Record) {
	r.close(End{Reason: EndClosed, At: t0.Add(time.Minute)}, tabled.Timing)
	r.DueAt = t0
}
func final(r *Record) { r.Group, r.FinishedAt = GroupStatus{}, t0.Add(2*time.Minute) }

func notify(r *Record) { r.Notify = true }
func told(r *Record)   { r.LastNotice = r.notice(0, t0) }
func warned(r *Record) { told(r); r.LastNotice.Warning = true }

func untold(since time.Duration) func(*Record) {
	return func(r *Record) { r.NotifyPendingSince = t0.Add(since) }
}
func until(deadline, asked time.Duration) func(*Record) {
	return func(r *Record) { r.Intent.Deadline, r.Intent.DeadlineSetAt = t0.Add(deadline), t0.Add(asked) }
}

func failures(n int) func(*Record)     { return func(r *Record) { r.Failures = n } }
func generation(n int64) func(*Record) { return func(r *Record) { r.Intent.Generation = n } }
func attempt(n int) func(*Record) {
	return func(r *Record) { r.Attempt.Number, r.Attempt.TaskID = n, fmt.Sprint("task", n) }
}

// group is a group with these ingress rules ("A" admits srcA), and the default
// egress rule if one is "out".
func group(rules ...string) *Group {
	g := &Group{ID: "sg", BastionID: "b"}
	for _, id := range rules {
		switch id {
		case "A":
			g.Ingress = append(g.Ingress, Rule{ID: id, Source: srcA})
		case "A again":
			g.Ingress = append(g.Ingress, Rule{ID: id, Source: srcA})
		case "B":
			g.Ingress = append(g.Ingress, Rule{ID: id, Source: srcB})
		case "6":
			g.Ingress = append(g.Ingress, Rule{ID: id, Source: netip.MustParsePrefix("2001:db8::1/128")})
		case "out":
			g.Egress = append(g.Egress, Rule{ID: id, Egress: true})
		}
	}
	return g
}

func task(n int, status TaskStatus) Task {
	return Task{ID: fmt.Sprint("task", n), BastionID: "b", Attempt: n, Status: status, Endpoints: []netip.AddrPort{where}}
}
func tasks(status TaskStatus) []Task { return []Task{task(1, status)} }
func stopped(exit int) []Task {
	stopped := task(1, TaskStopped)
	stopped.StopCode, stopped.ExitCode = "EssentialContainerExited", &exit
	return []Task{stopped}
}

func leased(generation int64) *LeaseItem { return leasedReported(generation, 0) }
func reported(generation int64) *LeaseItem {
	return leasedReported(generation, generation)
}
func leasedReported(lease, report int64) *LeaseItem {
	item := &LeaseItem{TaskID: "task1", BastionID: "b", Lease: Lease{Generation: lease, Open: true}}
	if report > 0 {
		item.Report = Report{HostKey: "ssh-ed25519 HOST", Generation: report}
	}
	return item
}
func ending(generation int64, reason EndReason) *LeaseItem {
	item := reported(generation)
	item.Report.Ending = Ending{Reason: reason, Generation: generation}
	return item
}
func hostKey(key Key) *LeaseItem {
	item := reported(1)
	item.Report.HostKey = key
	return item
}
func tombstone() *LeaseItem { return &LeaseItem{TaskID: "task1", BastionID: "b", Ended: true} }
func of(n int, item *LeaseItem) *LeaseItem {
	item.TaskID = fmt.Sprint("task", n)
	return item
}
func inUse(generation int64) Observed {
	return Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: reported(generation)}
}

func say(actions []Action) string {
	var words []string
	for _, a := range actions {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}

func shown(r Record) string {
	if slices.Contains([]State{Starting, Ready}, r.State()) {
		return fmt.Sprintf("%s/%s", r.State(), r.Stage())
	}
	return fmt.Sprintf("%s/%s", r.State(), r.End)
}
