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
	t0         = time.Date(2026, 3, 1, 3, 0, 0, 0, time.UTC)
	srcA       = netip.MustParsePrefix("192.0.2.1/32")
	srcB       = netip.MustParsePrefix("192.0.2.2/32")
	endpoint   = netip.MustParseAddrPort("198.51.100.9:2222")
	testConfig = Config{
		DefaultTTL: time.Hour, MaxTTL: 8 * time.Hour, WarnBefore: 10 * time.Minute,
		Subnets: []string{"subnet-a", "subnet-b"}, TaskDefinition: "bastion:7", MaxAttempts: 5,
		Timing: Timing{
			Settle: 4 * time.Minute, ReadLag: 2 * time.Minute, Backoff: 10 * time.Second,
			StableAfter: time.Minute, WatchInterval: 15 * time.Second, CheckInterval: 5 * time.Minute,
			GiveUpAfter: 15 * time.Minute,
		},
	}
)

// Each row is a specification. It has a record, an observation and a time after t0,
// and what Decide must return for them: the actions, the state and DueAt, also as a
// time after t0. Each bastion was created at t0 with a deadline of one hour. In rows
// with "settled", the intent last changed long ago.
func TestDecide(t *testing.T) {
	for _, row := range []struct {
		name string
		rec  Record
		seen Observed
		at   time.Duration
		want string        // the actions, in order
		show string        // the state and, after a slash, the stage or the end
		due  time.Duration // after t0; 0 for never
	}{
		{"new record: create the group",
			created(), Observed{}, 0,
			"CreateGroup", "starting/security group", 15 * time.Second},
		{"new group: revoke the default egress rule and admit the source",
			created(), Observed{Group: group("out")}, 0,
			"RevokeEgress(out) AuthorizeIngress(192.0.2.1/32)", "starting/security group", 15 * time.Second},
		{"group is missing 30 s after it was first seen: the read may be stale",
			with(created(), hasGroup), Observed{}, 30 * time.Second,
			"", "starting/security group", 45 * time.Second},
		{"group is missing after the read lag: create it again",
			with(created(), hasGroup), Observed{}, 3 * time.Minute,
			"CreateGroup", "starting/security group", 3*time.Minute + 15*time.Second},
		{"group is right: begin the first attempt",
			with(created(), hasGroup), Observed{Group: group("A")}, time.Second,
			"RunTask(1)", "starting/capacity", 16 * time.Second},
		{"task is missing: send RunTask again for the same attempt",
			with(created(), hasGroup, begun), Observed{Group: group("A")}, time.Minute,
			"RunTask(1)", "starting/capacity", 75 * time.Second},
		{"task is missing after the replay window: begin the next attempt",
			with(created(), hasGroup, begun), Observed{Group: group("A")}, 56 * time.Minute,
			"RunTask(2)", "starting/capacity", 56*time.Minute + 15*time.Second},
		{"RunTask refused the attempt: begin the next one at once, in the other subnet",
			with(created(), hasGroup, begun), Observed{Group: group("A"), Taken: refusedTask(1)}, time.Second,
			"RunTask(2)", "starting/capacity", 16 * time.Second},
		{"RunTask refused an earlier attempt: send RunTask for the current one",
			with(created(), hasGroup, begun, second), Observed{Group: group("A"), Taken: refusedTask(1)}, time.Second,
			"RunTask(2)", "starting/capacity", 16 * time.Second},
		{"second refusal: wait before the next attempt",
			with(created(), hasGroup, begun, failures(1)), Observed{Group: group("A"), Taken: refusedTask(1)}, time.Second,
			"", "starting/capacity", 11 * time.Second},
		{"fifth refusal: fail and clean up",
			with(created(), hasGroup, begun, failures(4)), Observed{Group: group("A"), Taken: refusedTask(1)}, time.Second,
			"RevokeIngress(A) DeleteGroup", "failed/failed (capacity_unavailable)", 16 * time.Second},
		{"task was found: write its lease",
			with(created(), hasGroup, begun), Observed{Group: group("A"), Tasks: tasks(TaskProvisioning)}, time.Second,
			"WriteLease(1)", "starting/capacity", 16 * time.Second},
		{"task is PENDING: wait for the image",
			with(created(), hasGroup, running), Observed{Group: group("A"), Tasks: tasks(TaskPending), Lease: leased(1)}, 9 * time.Second,
			"", "starting/image", 24 * time.Second},
		{"task is RUNNING but has not reported: wait for the host key",
			with(created(), hasGroup, running), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: leased(1)}, 9 * time.Second,
			"", "starting/host key", 24 * time.Second},
		{"task reports the generation: ready, and due at UnsettledUntil",
			with(created(), hasGroup, running), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: reported(1)}, 9 * time.Second,
			"", "ready/", 4 * time.Minute},
		{"ready and settled: do nothing",
			with(created(), ready, settled), inUse(1), 10 * time.Minute,
			"", "ready/", 15 * time.Minute},
		{"ready and near the deadline: due at the deadline",
			with(created(), ready, settled), inUse(1), 58 * time.Minute,
			"", "ready/", time.Hour},
		{"ready, task is missing within the read lag: wait",
			with(created(), ready), Observed{Group: group("A"), Lease: reported(1)}, time.Minute,
			"", "ready/", 4 * time.Minute},
		{"ready, task is missing after the read lag: end its lease first",
			with(created(), ready, settled), Observed{Group: group("A"), Lease: reported(1)}, 10 * time.Minute,
			"EndLease", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"attempt and lease have ended: begin the next attempt",
			with(created(), ready, settled, ended), Observed{Group: group("A"), Lease: tombstone()}, 10 * time.Minute,
			"RunTask(2)", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"task was killed: end its lease, then try again",
			with(created(), ready, settled), Observed{Group: group("A"), Tasks: stopped(137), Lease: reported(1)}, 10 * time.Minute,
			"EndLease", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"task reports that it is ending because it was idle: close",
			with(created(), ready, settled), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: ending(1, EndIdle)}, 10 * time.Minute,
			"RevokeIngress(A) WriteLease(2) StopTask", "closing/idle", 10*time.Minute + 15*time.Second},
		{"task reports an ending of an older generation: let it end",
			with(created(), ready, generation(2)), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: ending(1, EndIdle)}, 10 * time.Minute,
			"", "starting/lease", 10*time.Minute + 15*time.Second},
		{"task has stopped with an ending of an older generation: try again",
			with(created(), ready, generation(2)), Observed{Group: group("A"), Tasks: stopped(0), Lease: ending(1, EndIdle)}, 10 * time.Minute,
			"EndLease", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"task has stopped with an ending of the current generation: close",
			with(created(), ready, settled), Observed{Group: group("A"), Tasks: stopped(137), Lease: ending(1, EndIdle)}, 10 * time.Minute,
			"RevokeIngress(A) EndLease DeleteGroup", "closing/idle", 10*time.Minute + 15*time.Second},
		{"task exited with 0 under the current generation: close",
			with(created(), ready, settled), Observed{Group: group("A"), Tasks: stopped(0), Lease: reported(1)}, 10 * time.Minute,
			"RevokeIngress(A) EndLease DeleteGroup", "closing/task", 10*time.Minute + 15*time.Second},
		{"source has moved: replace the ingress rule and write the lease",
			with(created(), ready, moved), inUse(1), 10 * time.Minute,
			"RevokeIngress(A) AuthorizeIngress(192.0.2.2/32) WriteLease(2)", "starting/address", 10*time.Minute + 15*time.Second},
		{"source has moved, task still reports the older generation: wait",
			with(created(), ready, moved), Observed{Group: group("B"), Tasks: tasks(TaskRunning), Lease: leasedReported(2, 1)}, 10 * time.Minute,
			"", "starting/lease", 10*time.Minute + 15*time.Second},
		{"source has moved, task reports the new generation: ready",
			with(created(), ready, moved), Observed{Group: group("B"), Tasks: tasks(TaskRunning), Lease: reported(2)}, 10 * time.Minute,
			"", "ready/", 14 * time.Minute},
		{"several sources: revoke the wrong rule first, then admit each missing source",
			with(created(), ready, twoKeys), Observed{Group: group("A", "C"), Tasks: tasks(TaskRunning), Lease: reported(2)}, 10 * time.Minute,
			"RevokeIngress(C) AuthorizeIngress(192.0.2.2/32) AuthorizeIngress(198.51.100.0/28)", "starting/address", 10*time.Minute + 15*time.Second},
		{"several sources in another order: ready",
			with(created(), ready, twoKeys, settled), Observed{Group: group("N", "B", "A"), Tasks: tasks(TaskRunning), Lease: reported(2)}, 10 * time.Minute,
			"", "ready/", 15 * time.Minute},
		{"several sources, one is missing: not ready",
			with(created(), ready, twoKeys, settled), Observed{Group: group("A", "N"), Tasks: tasks(TaskRunning), Lease: reported(2)}, 10 * time.Minute,
			"AuthorizeIngress(192.0.2.2/32)", "starting/address", 10*time.Minute + 15*time.Second},
		{"several sources, one has two rules: revoke one",
			with(created(), ready, twoKeys, settled), Observed{Group: group("A", "B", "N", "A again"), Tasks: tasks(TaskRunning), Lease: reported(2)}, 10 * time.Minute,
			"RevokeIngress(A again)", "starting/address", 10*time.Minute + 15*time.Second},
		{"several sources before the first attempt: no task while one is missing",
			with(created(), hasGroup, twoKeys), Observed{Group: group("A", "B")}, time.Second,
			"AuthorizeIngress(198.51.100.0/28)", "starting/capacity", 16 * time.Second},
		{"source of a key that was taken away: revoke it and write the lease",
			with(created(), ready, twoKeys, onlyFirstKey), Observed{Group: group("A", "B", "N"), Tasks: tasks(TaskRunning), Lease: reported(2)}, 10 * time.Minute,
			"RevokeIngress(B) RevokeIngress(N) WriteLease(3)", "starting/address", 10*time.Minute + 15*time.Second},
		{"sources of both families, an endpoint in one: not ready",
			with(created(), ready, bothFamilies, settled), Observed{Group: group("A", "6"), Tasks: tasks(TaskRunning), Lease: reported(1)}, 10 * time.Minute,
			"", "starting/lease", 10*time.Minute + 15*time.Second},
		{"unexpected ingress rule: revoke it",
			with(created(), ready, settled), Observed{Group: group("A", "B"), Tasks: tasks(TaskRunning), Lease: reported(1)}, 10 * time.Minute,
			"RevokeIngress(B)", "starting/address", 10*time.Minute + 15*time.Second},
		{"task of an earlier attempt runs: stop it",
			with(created(), ready, settled, attempt(2)), Observed{Group: group("A"), Tasks: append(tasks(TaskPending), task(2, TaskRunning)), Lease: of(2, reported(1))}, 10 * time.Minute,
			"StopTask", "ready/", 10*time.Minute + 15*time.Second},
		{"task of the ended attempt runs before the next attempt: stop it",
			with(created(), ready, settled, ended, nextAttemptAt(time.Hour)), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: tombstone()}, 10 * time.Minute,
			"StopTask", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"closing, task of the ended attempt runs: stop it",
			with(created(), ready, ended, closed), Observed{Group: group(), Tasks: tasks(TaskRunning), Lease: tombstone()}, 5 * time.Minute,
			"StopTask", "closing/closed", 5*time.Minute + 15*time.Second},
		{"task exited with 0 under an older generation: try again",
			with(created(), ready, generation(3)), Observed{Group: group("A"), Tasks: stopped(0), Lease: leasedReported(2, 1)}, 10 * time.Minute,
			"EndLease", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"report of another task: ignore it",
			with(created(), hasGroup, running), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: of(9, reported(1))}, 9 * time.Second,
			"", "starting/host key", 24 * time.Second},
		{"host key with a line break: ignore it",
			with(created(), hasGroup, running), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: reportedKey("ssh-ed25519 AAAA\nProxyCommand x")}, 9 * time.Second,
			"", "starting/host key", 24 * time.Second},
		{"ending with a reason that bastiond does not report: ignore it",
			with(created(), ready, settled), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: ending(1, EndFailed)}, 10 * time.Minute,
			"", "ready/", 15 * time.Minute},
		{"attempt's group is gone and no task was found: begin the next attempt",
			with(created(), begun, groupGone), Observed{Group: group("A")}, 10 * time.Minute,
			"RunTask(2)", "starting/capacity", 10*time.Minute + 15*time.Second},
		{"attempt's group is gone but the task runs: keep it",
			with(created(), ready, settled, groupGone), inUse(1), 10 * time.Minute,
			"", "ready/", 15 * time.Minute},
		{"egress rule in a ready bastion's group: revoke it",
			with(created(), ready, settled), Observed{Group: group("A", "out"), Tasks: tasks(TaskRunning), Lease: reported(1)}, 10 * time.Minute,
			"RevokeEgress(out)", "starting/address", 10*time.Minute + 15*time.Second},
		{"ready, group is missing within the read lag: not ready, because its rules are not known",
			with(created(), ready), Observed{Tasks: tasks(TaskRunning), Lease: reported(1)}, time.Minute,
			"", "starting/address", time.Minute + 15*time.Second},
		{"two rules for the source: revoke one",
			with(created(), ready, settled), Observed{Group: group("A", "A again"), Tasks: tasks(TaskRunning), Lease: reported(1)}, 10 * time.Minute,
			"RevokeIngress(A again)", "starting/address", 10*time.Minute + 15*time.Second},
		{"lease has ended but the task runs: wait for the task's end",
			with(created(), ready, settled), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: tombstone()}, 10 * time.Minute,
			"", "starting/lease", 10*time.Minute + 15*time.Second},
		{"no endpoint in the source's family: not ready",
			with(created(), ready, settled, fromIPv6), Observed{Group: group("6"), Tasks: tasks(TaskRunning), Lease: reported(1)}, 10 * time.Minute,
			"", "starting/lease", 10*time.Minute + 15*time.Second},
		{"deadline has passed: close",
			with(created(), ready, settled), inUse(1), time.Hour,
			"RevokeIngress(A) WriteLease(2) StopTask", "closing/deadline", time.Hour + 15*time.Second},
		{"closed while RunTask may still be called: not finished",
			with(created(), hasGroup, begun, closed), Observed{Group: group()}, 3 * time.Minute,
			"", "closing/closed", 3*time.Minute + 15*time.Second},
		{"closed, and RunTask cannot be called any more: delete the group",
			with(created(), hasGroup, begun, closed), Observed{Group: group()}, 5 * time.Minute,
			"DeleteGroup", "closing/closed", 5*time.Minute + 15*time.Second},
		{"closing, task is STOPPING: wait",
			with(created(), ready, closed), Observed{Group: group(), Tasks: tasks(TaskStopping), Lease: reported(2)}, 2 * time.Minute,
			"", "closing/closed", 2*time.Minute + 15*time.Second},
		{"closing, task has stopped: end the lease and delete the group",
			with(created(), ready, closed), Observed{Group: group(), Tasks: stopped(0), Lease: reported(2)}, 2 * time.Minute,
			"EndLease DeleteGroup", "closing/closed", 2*time.Minute + 15*time.Second},
		{"closing, only the lease is left: end it before the bastion is finished",
			with(created(), ready, ended, closed), Observed{Tasks: stopped(0), Lease: reported(2)}, 10 * time.Minute,
			"EndLease", "closing/closed", 10*time.Minute + 15*time.Second},
		{"closing, network interface still has the group: delete the group again",
			with(created(), ready, ended, closed), Observed{Group: group(), Tasks: stopped(0), Lease: tombstone()}, 2 * time.Minute,
			"DeleteGroup", "closing/closed", 2*time.Minute + 15*time.Second},
		{"closing, group is missing within the read lag: wait",
			with(created(), ready, ended, closed), Observed{Tasks: stopped(0), Lease: tombstone()}, time.Minute,
			"", "closing/closed", time.Minute + 15*time.Second},
		{"closing, group was deleted by this converge: finished",
			with(created(), ready, ended, closed), Observed{GroupGone: true, Tasks: stopped(0), Lease: tombstone()}, time.Minute,
			"", "closed/closed", 5 * time.Minute},
		{"closed and unsettled, group was created again: delete it",
			with(created(), ready, ended, closed, finishedAt), Observed{Group: group("A"), Tasks: stopped(0), Lease: tombstone()}, 3 * time.Minute,
			"RevokeIngress(A) DeleteGroup", "closed/closed", 3*time.Minute + 15*time.Second},
		{"closed, tombstone is gone: do nothing",
			with(created(), ready, ended, closed, finishedAt), Observed{}, 48 * time.Hour,
			"", "closed/closed", 0},
		{"closed and settled: never due again",
			with(created(), ready, ended, closed, finishedAt), Observed{Lease: tombstone()}, 6 * time.Minute,
			"", "closed/closed", 0},

		// In these rows a part could not be read. What the record knows of it stays.
		{"group unknown, new record: do not create the group",
			created(), Observed{Unknown: GroupPart}, 20 * time.Second,
			"", "starting/delayed", 20 * time.Second},
		{"group unknown after the read lag: do not create it again",
			with(created(), hasGroup), Observed{Unknown: GroupPart}, 10 * time.Minute,
			"", "starting/delayed", 10 * time.Minute},
		{"group unknown, ready: stay ready",
			with(created(), ready, settled), unreadableGroup(), 10 * time.Minute,
			"", "ready/", 10 * time.Minute},
		{"group unknown, task reports for the first time: not ready",
			with(created(), hasGroup, running, admits), unreadableGroup(), 20 * time.Second,
			"", "starting/delayed", 20 * time.Second},
		{"group unknown, source has moved: write the lease",
			with(created(), ready, moved), unreadableGroup(), 10 * time.Minute,
			"WriteLease(2)", "starting/delayed", 10 * time.Minute},
		{"group unknown, closed: close the lease and stop the task",
			with(created(), ready, closed), unreadableGroup(), 2 * time.Minute,
			"WriteLease(2) StopTask", "closing/closed", 2 * time.Minute},
		{"group unknown, nothing else is left: not finished",
			with(created(), ready, ended, closed), Observed{Unknown: GroupPart, Tasks: stopped(0), Lease: tombstone()}, 10 * time.Minute,
			"", "closing/closed", 10 * time.Minute},
		{"tasks unknown after the read lag: the task is not lost",
			with(created(), ready, settled), Observed{Unknown: TasksPart, Group: group("A"), Lease: reported(1)}, 10 * time.Minute,
			"", "ready/", 10 * time.Minute},
		{"tasks unknown, no task is known: send RunTask again for the same attempt",
			with(created(), hasGroup, begun), Observed{Unknown: TasksPart, Group: group("A")}, time.Minute,
			"RunTask(1)", "starting/delayed", time.Minute},
		{"tasks unknown after the replay window: do not send RunTask, which could start a second task",
			with(created(), hasGroup, begun, until(2*time.Hour, 0)), Observed{Unknown: TasksPart, Group: group("A")}, 56 * time.Minute,
			"", "starting/delayed", 56 * time.Minute},
		{"tasks unknown, attempt and lease have ended: do not begin the next attempt",
			with(created(), ready, settled, ended), Observed{Unknown: TasksPart, Group: group("A"), Lease: tombstone()}, 10 * time.Minute,
			"", "starting/delayed", 10 * time.Minute},
		{"tasks unknown, source has moved: replace the ingress rule and write the lease",
			with(created(), ready, moved), Observed{Unknown: TasksPart, Group: group("A"), Lease: reported(1)}, 10 * time.Minute,
			"RevokeIngress(A) AuthorizeIngress(192.0.2.2/32) WriteLease(2)", "starting/delayed", 10 * time.Minute},
		{"tasks unknown, closed: revoke ingress, close the lease and stop the task by its ID",
			with(created(), ready, closed), Observed{Unknown: TasksPart, Group: group("A"), Lease: reported(1)}, 2 * time.Minute,
			"RevokeIngress(A) WriteLease(2) StopTask", "closing/closed", 2 * time.Minute},
		{"tasks unknown, closed, attempt has ended: keep the group",
			with(created(), ready, ended, closed), Observed{Unknown: TasksPart, Group: group("A"), Lease: tombstone()}, 10 * time.Minute,
			"RevokeIngress(A)", "closing/closed", 10 * time.Minute},
		{"tasks unknown, nothing else is left: not finished",
			with(created(), ready, ended, closed), Observed{Unknown: TasksPart, GroupGone: true, Lease: tombstone()}, 10 * time.Minute,
			"", "closing/closed", 10 * time.Minute},
		{"lease unknown, ready: stay ready",
			with(created(), ready, settled), Observed{Unknown: LeasePart, Group: group("A"), Tasks: tasks(TaskRunning)}, 10 * time.Minute,
			"", "ready/", 10 * time.Minute},
		{"lease unknown, task was killed: do not end the attempt",
			with(created(), ready, settled), Observed{Unknown: LeasePart, Group: group("A"), Tasks: stopped(137)}, 10 * time.Minute,
			"", "ready/", 10 * time.Minute},
		{"lease unknown, task exited with 0: do not end the attempt",
			with(created(), ready, settled), Observed{Unknown: LeasePart, Group: group("A"), Tasks: stopped(0)}, 10 * time.Minute,
			"", "ready/", 10 * time.Minute},
		{"lease unknown, task is missing after the read lag: wait for its last report",
			with(created(), ready, settled), Observed{Unknown: LeasePart, Group: group("A")}, 10 * time.Minute,
			"", "ready/", 10 * time.Minute},
		{"lease unknown, key has changed: write the lease",
			with(created(), ready, generation(2)), Observed{Unknown: LeasePart, Group: group("A"), Tasks: tasks(TaskRunning)}, 10 * time.Minute,
			"WriteLease(2)", "starting/delayed", 10 * time.Minute},
		{"lease unknown, closed: revoke ingress, close the lease and stop the task",
			with(created(), ready, closed), Observed{Unknown: LeasePart, Group: group("A"), Tasks: tasks(TaskRunning)}, 2 * time.Minute,
			"RevokeIngress(A) WriteLease(2) StopTask", "closing/closed", 2 * time.Minute},
		{"lease unknown, closed, task has stopped: wait for its last report",
			with(created(), ready, closed), Observed{Unknown: LeasePart, Group: group(), Tasks: stopped(0)}, 2 * time.Minute,
			"WriteLease(2)", "closing/closed", 2 * time.Minute},
		{"lease unknown, closed, attempt has ended: end the lease and delete the group, but do not finish",
			with(created(), ready, ended, closed), Observed{Unknown: LeasePart, GroupGone: true, Tasks: stopped(0)}, 2 * time.Minute,
			"EndLease", "closing/closed", 2 * time.Minute},
		{"endpoints unknown: not ready",
			with(created(), hasGroup, running, noEndpoint), Observed{Unknown: EndpointsPart, Group: group("A"), Tasks: []Task{withoutEndpoints(task(1, TaskRunning))}, Lease: reported(1)}, 20 * time.Second,
			"", "starting/delayed", 20 * time.Second},
		{"ready, but unsettled, group unknown: not settled",
			with(created(), ready), unreadableGroup(), 5 * time.Minute,
			"", "ready/", 5 * time.Minute},
		{"no time to read the tasks: no failure, and due as before",
			with(created(), hasGroup, running), Observed{Unknown: TasksPart, NoTime: TasksPart, Group: group("A"), Lease: leased(1)}, time.Minute,
			"", "starting/capacity", 0},
		{"everything unknown at the deadline: close, write the lease and stop the task by its ID",
			with(created(), ready, settled), Observed{Unknown: GroupPart | TasksPart | LeasePart}, time.Hour,
			"WriteLease(2) StopTask", "closing/deadline", time.Hour},

		// In these rows AWS refused a step of the group in this converge.
		{"CreateGroup refused: count it and try again",
			created(), Observed{Taken: refusedStep(Action{Step: CreateGroup}, CapacityFailure, false)}, 20 * time.Second,
			"", "starting/security group", 20 * time.Second},
		{"CreateGroup refused for the second time: wait before the next try",
			with(created(), failures(1)), Observed{Taken: refusedStep(Action{Step: CreateGroup, Try: 1}, CapacityFailure, false)}, 20 * time.Second,
			"", "starting/security group", 20 * time.Second},
		{"only an earlier try of CreateGroup was refused: try again",
			with(created(), failures(1)), Observed{Taken: refusedStep(Action{Step: CreateGroup}, CapacityFailure, false)}, time.Second,
			"CreateGroup", "starting/security group", 16 * time.Second},
		{"pause after a refusal: do not create the group",
			with(created(), failures(2), nextAttemptAt(time.Minute)), Observed{}, 20 * time.Second,
			"", "starting/security group", 35 * time.Second},
		{"pause after a refusal: remove wrong rules, but do not admit the source",
			with(created(), hasGroup, failures(2), nextAttemptAt(time.Minute)), Observed{Group: group("B", "out")}, 20 * time.Second,
			"RevokeEgress(out) RevokeIngress(B)", "starting/security group", 35 * time.Second},
		{"source of a bastion in use has moved during a pause: admit it",
			with(created(), ready, moved, nextAttemptAt(time.Hour)), Observed{Group: group(), Tasks: tasks(TaskRunning), Lease: reported(2)}, 20 * time.Minute,
			"AuthorizeIngress(192.0.2.2/32)", "starting/address", 20*time.Minute + 15*time.Second},
		{"CreateGroup refused for the fifth time: fail",
			with(created(), failures(4)), Observed{Taken: refusedStep(Action{Step: CreateGroup, Try: 4}, CapacityFailure, false)}, 20 * time.Second,
			"", "failed/failed (capacity_unavailable)", 20 * time.Second},
		{"AuthorizeIngress refused for the fifth time: fail and delete the group",
			with(created(), hasGroup, failures(4)), Observed{Group: group(), Taken: refusedStep(Action{Step: AuthorizeIngress, Try: 4, GroupID: "sg", Source: srcA}, CapacityFailure, false)}, 20 * time.Second,
			"DeleteGroup", "failed/failed (capacity_unavailable)", 20 * time.Second},
		{"AuthorizeIngress denied for a new group, whose tags may not be visible: try again later",
			with(created(), hasGroup, failures(4)), Observed{Group: group(), Taken: refusedStep(Action{Step: AuthorizeIngress, Try: 4, GroupID: "sg", Source: srcA}, failurePermission, true)}, 2 * time.Minute,
			"AuthorizeIngress(192.0.2.1/32)", "starting/delayed", 2 * time.Minute},
		{"AuthorizeIngress denied after the read lag: fail",
			with(created(), hasGroup, failures(4)), Observed{Group: group(), Taken: refusedStep(Action{Step: AuthorizeIngress, Try: 4, GroupID: "sg", Source: srcA}, failurePermission, true)}, 2*time.Minute + time.Second,
			"DeleteGroup", "failed/failed (misconfigured)", 2*time.Minute + time.Second},
		{"move refused: keep the task, and show the stage address",
			with(created(), ready, moved, failures(4)), Observed{Group: group(), Tasks: tasks(TaskRunning), Lease: reported(2), Taken: refusedStep(Action{Step: AuthorizeIngress, Try: 4, GroupID: "sg", Source: srcB}, CapacityFailure, false)}, 20 * time.Minute,
			"AuthorizeIngress(192.0.2.2/32)", "starting/address", 20 * time.Minute},
		{"starting, and the converges fail for less than the limit: continue",
			with(created(), failingSince(time.Minute)), Observed{Unknown: GroupPart}, 16*time.Minute - 1,
			"", "starting/delayed", 16*time.Minute - 1},
		{"starting, and the converges fail for too long: fail",
			with(created(), failingSince(time.Minute)), Observed{Unknown: GroupPart}, 16 * time.Minute,
			"", "failed/failed (aws_unavailable)", 16 * time.Minute},
		{"ready, and the converges fail for long: keep the task",
			with(created(), ready, settled, failingSince(time.Minute)), unreadableGroup(), 40 * time.Minute,
			"", "ready/", 40 * time.Minute},

		// In these rows the owner receives notices. In rows with "notified", LastNotice
		// is the current notice.
		{"new record: notify",
			with(created(), notify), Observed{}, 0,
			"CreateGroup Notify(starting/security group, attempt 0)", "starting/security group", 15 * time.Second},
		{"new record, notice was sent: do not notify again",
			with(created(), notify, notified), Observed{}, 0,
			"CreateGroup", "starting/security group", 15 * time.Second},
		{"stage has changed: notify",
			with(created(), hasGroup, running, notify, notified), Observed{Group: group("A"), Tasks: tasks(TaskPending), Lease: leased(1)}, 9 * time.Second,
			"Notify(starting/image, attempt 1)", "starting/image", 24 * time.Second},
		{"ready: notify",
			with(created(), ready, settled, notify), inUse(1), 10 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 10*time.Minute + 15*time.Second},
		{"ready and settled, notice was sent: do nothing",
			with(created(), ready, settled, notify, notified), inUse(1), 10 * time.Minute,
			"", "ready/", 15 * time.Minute},
		{"generation has changed, but the notice is the same: do not notify",
			with(created(), ready, settled, notify, notified, generation(2)), inUse(2), 10 * time.Minute,
			"", "ready/", 15 * time.Minute},
		{"source has moved and the bastion is ready again: notify",
			with(created(), ready, notify, notified, moved, settled), Observed{Group: group("B"), Tasks: tasks(TaskRunning), Lease: reported(2)}, 10 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 10*time.Minute + 15*time.Second},
		{"move is refused: notify of the refusal",
			with(created(), ready, notify, notified, moved, settled), Observed{Group: group(), Tasks: tasks(TaskRunning), Lease: reported(2), Taken: refusedMove()}, 10 * time.Minute,
			"AuthorizeIngress(192.0.2.2/32) Notify(starting/address, refused (capacity_unavailable), attempt 1)", "starting/address", 10 * time.Minute},
		{"move is still refused, notice was sent: do not notify again",
			with(created(), ready, moved, settled, refusedFailing, admitsNothing, notify, notified), Observed{Group: group(), Tasks: tasks(TaskRunning), Lease: reported(2), Taken: refusedMove()}, 10 * time.Minute,
			"AuthorizeIngress(192.0.2.2/32)", "starting/address", 10 * time.Minute},
		{"move is no longer refused: notify",
			with(created(), ready, moved, settled, refusedFailing, admitsNothing, notify, notified), Observed{Group: group("B"), Tasks: tasks(TaskRunning), Lease: leasedReported(2, 1)}, 10 * time.Minute,
			"Notify(starting/lease, attempt 1)", "starting/lease", 10*time.Minute + 15*time.Second},
		{"a key was added, with the same source: notify",
			with(created(), ready, settled, notify, notified, secondKey), inUse(1), 10 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 10*time.Minute + 15*time.Second},
		{"deadline has changed: notify",
			with(created(), ready, settled, notify, notified, until(2*time.Hour, 9*time.Minute)), inUse(1), 10 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 10*time.Minute + 15*time.Second},
		{"attempt has changed: notify",
			with(created(), ready, settled, notify, notified, attempt(2)), Observed{Group: group("A"), Tasks: []Task{task(2, TaskRunning)}, Lease: of(2, reported(1))}, 10 * time.Minute,
			"Notify(ready, attempt 2)", "ready/", 10*time.Minute + 15*time.Second},
		{"notice is pending: notify again",
			with(created(), ready, settled, notify, notified, pending(10*time.Minute)), inUse(1), 10 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 10*time.Minute + 15*time.Second},
		{"notice pending for a minute: due again after another minute",
			with(created(), ready, settled, notify, pending(9*time.Minute)), inUse(1), 10 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 11 * time.Minute},
		{"notice pending for long: due again after the check interval",
			with(created(), ready, settled, notify, pending(time.Minute)), inUse(1), 20 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 25 * time.Minute},
		{"notice pending for long, deadline is sooner: due at the deadline",
			with(created(), ready, settled, notify, pending(time.Minute), until(time.Hour, time.Hour)), inUse(1), 58 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", time.Hour},
		{"warning is sooner than the check interval: due at the warning",
			with(created(), ready, settled, notify, notified), inUse(1), 48 * time.Minute,
			"", "ready/", 50 * time.Minute},
		{"time of the warning: notify with a warning",
			with(created(), ready, settled, notify, notified), inUse(1), 50 * time.Minute,
			"Notify(ready, warning, attempt 1)", "ready/", 50*time.Minute + 15*time.Second},
		{"time of the warning, but the owner receives no notices: do nothing",
			with(created(), ready, settled), inUse(1), 50 * time.Minute,
			"", "ready/", 55 * time.Minute},
		{"warning was sent: do not send it again",
			with(created(), ready, settled, notify, warningSent), inUse(1), 51 * time.Minute,
			"", "ready/", 56 * time.Minute},
		{"extended after the warning: notify of the new deadline",
			with(created(), ready, settled, notify, warningSent, until(2*time.Hour, 55*time.Minute)), inUse(1), 55 * time.Minute,
			"Notify(ready, attempt 1)", "ready/", 55*time.Minute + 15*time.Second},
		{"time of the second warning: notify with a warning",
			with(created(), ready, settled, notify, until(2*time.Hour, 55*time.Minute), notified), inUse(1), 110 * time.Minute,
			"Notify(ready, warning, attempt 1)", "ready/", 110*time.Minute + 15*time.Second},
		{"deadline was set only the warning time ahead: no warning",
			with(created(), ready, settled, notify, until(10*time.Minute+300*time.Millisecond, 0), notified), inUse(1), time.Minute,
			"", "ready/", 6 * time.Minute},
		{"extended by less than the warning time: no second warning",
			with(created(), ready, settled, notify, until(63*time.Minute, 55*time.Minute), notified), inUse(1), 56 * time.Minute,
			"", "ready/", 61 * time.Minute},
		{"time of the warning, but not ready: no warning",
			with(created(), ready, settled, notify, generation(2), notified), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: leasedReported(2, 1)}, 51 * time.Minute,
			"", "starting/lease", 51*time.Minute + 15*time.Second},
		{"ready only after the time of the warning: one notice with the warning",
			with(created(), hasGroup, running, settled, notify, notified), inUse(1), 51 * time.Minute,
			"Notify(ready, warning, attempt 1)", "ready/", 51*time.Minute + 15*time.Second},
		{"deadline has passed: close first, then notify",
			with(created(), ready, settled, notify, warningSent), inUse(1), time.Hour,
			"RevokeIngress(A) WriteLease(2) StopTask Notify(closing, attempt 1)", "closing/deadline", time.Hour + 15*time.Second},
		{"failed: notify before the clean-up",
			with(created(), hasGroup, begun, failures(4), notify, notified), Observed{Group: group("A"), Taken: refusedTask(1)}, time.Second,
			"RevokeIngress(A) DeleteGroup Notify(failed, attempt 1)", "failed/failed (capacity_unavailable)", 16 * time.Second},
		{"finished: notify",
			with(created(), ready, ended, closed, notify, notified), Observed{GroupGone: true, Tasks: stopped(0), Lease: tombstone()}, time.Minute,
			"Notify(closed, attempt 1)", "closed/closed", time.Minute + 15*time.Second},
		{"closed, settled and notified: never due again",
			with(created(), ready, ended, closed, finishedAt, notify, notified), Observed{Lease: tombstone()}, 6 * time.Minute,
			"", "closed/closed", 0},
		{"closed and settled, notice pending for a minute: due again after another minute",
			with(created(), ready, ended, closed, finishedAt, notify, pending(5*time.Minute)), Observed{Lease: tombstone()}, 6 * time.Minute,
			"Notify(closed, attempt 1)", "closed/closed", 7 * time.Minute},
		{"closed, notice pending for nearly an hour: notify again",
			with(created(), ready, ended, closed, finishedAt, notify, pending(2*time.Minute)), Observed{Lease: tombstone()}, 61 * time.Minute,
			"Notify(closed, attempt 1)", "closed/closed", 66 * time.Minute},
		{"closed for an hour: stop notifying",
			with(created(), ready, ended, closed, finishedAt, notify, pending(2*time.Minute)), Observed{Lease: tombstone()}, 62 * time.Minute,
			"", "closed/closed", 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			plan := Decide(testConfig, row.rec, row.seen, t0.Add(row.at))
			if got := describe(plan.Actions); got != row.want {
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

func TestDecideRepliesToTheConsole(t *testing.T) {
	for _, row := range []struct {
		name     string
		request  ConsoleRequest
		code     Code
		deadline time.Duration
		open     bool
	}{
		{"extend", ConsoleRequest{1, VerbExtend, 2 * time.Hour}, "", 2*time.Hour + 10*time.Minute, true},
		{"extend to an earlier time: the deadline stays", ConsoleRequest{1, VerbExtend, time.Minute}, "", time.Hour, true},
		{"extend beyond the cap", ConsoleRequest{1, VerbExtend, 9 * time.Hour}, CodeTTLBeyondCap, time.Hour, true},
		{"extend by zero", ConsoleRequest{1, VerbExtend, 0}, CodeTTLInvalid, time.Hour, true},
		{"close", ConsoleRequest{1, VerbClose, 0}, "", time.Hour, false},
		{"unknown verb", ConsoleRequest{1, "dance", 0}, CodeNotFound, time.Hour, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			seen := inUse(1)
			seen.Lease.Report.ConsoleRequest = row.request
			next := Decide(testConfig, with(created(), ready, settled), seen, t0.Add(10*time.Minute)).Next
			if a := next.Intent.ConsoleReply; a.Number != 1 || a.Code != row.code || a.Message == "" {
				t.Errorf("reply: %+v, want code %q", a, row.code)
			}
			if got := next.Intent.Deadline.Sub(t0); got != row.deadline {
				t.Errorf("deadline after %s, want %s", got, row.deadline)
			}
			if next.Intent.Open != row.open || next.Intent.Generation != 2 {
				t.Errorf("open %t, generation %d", next.Intent.Open, next.Intent.Generation)
			}
			again := Decide(testConfig, next, seen, t0.Add(11*time.Minute)).Next
			if again.Intent.Generation != 2 {
				t.Error("the request was processed twice")
			}
		})
	}
}

func TestDecideIgnoresExtendAfterTheDeadline(t *testing.T) {
	seen := inUse(1)
	seen.Lease.Report.ConsoleRequest = ConsoleRequest{1, VerbExtend, 3 * time.Hour}
	next := Decide(testConfig, with(created(), ready, settled), seen, t0.Add(time.Hour+30*time.Second)).Next
	if next.Intent.Open || next.End.Reason != EndDeadline {
		t.Errorf("open %t until %s", next.Intent.Open, next.Intent.Deadline)
	}
}

// The first attempts of many bastions are spread over the subnets.
func TestFirstAttemptsUseAllSubnets(t *testing.T) {
	used := map[string]int{}
	for i := range 300 {
		rec := with(created(), hasGroup)
		rec.ID = fmt.Sprintf("%016d", i)
		config := testConfig
		config.Subnets = []string{"subnet-a", "subnet-b", "subnet-c"}
		used[Decide(config, rec, Observed{Group: group("A")}, t0.Add(time.Second)).Next.Attempt.Subnet]++
	}
	for _, subnet := range []string{"subnet-a", "subnet-b", "subnet-c"} {
		if used[subnet] < 50 {
			t.Errorf("first attempts in each subnet, of 300: %v", used)
		}
	}
}

func TestDecideBeginsTheNextAttemptInTheNextSubnet(t *testing.T) {
	rec := with(created(), ready, settled, ended)
	rec.ID = "a" // whose first attempt is in subnet-a
	rec.Intent.ConsoleReply = ConsoleReply{Number: 3}
	if first := rec.subnet(testConfig.Subnets, 1); first != "subnet-a" {
		t.Errorf("the first attempt is in %s", first)
	}
	three, first := []string{"a", "b", "c"}, 0
	for first = range three {
		if rec.subnet(three, 1) == three[first] {
			break
		}
	}
	for n := 1; n <= 7; n++ {
		if got, want := rec.subnet(three, n), three[(first+n-1)%3]; got != want {
			t.Errorf("attempt %d of three subnets is in %s, want %s", n, got, want)
		}
	}
	next := Decide(testConfig, rec, Observed{Group: group("A"), Lease: tombstone()}, t0.Add(10*time.Minute)).Next
	if a := next.Attempt; a.Number != 2 || a.Subnet != "subnet-b" || a.GroupID != "sg" || a.TaskDefinition != "bastion:7" || next.Intent.ConsoleReply.Number != 0 {
		t.Errorf("attempt %+v, console reply %+v", a, next.Intent.ConsoleReply)
	}
}

// The receipt of a task that has stopped is added to the record, within the limits
// of a report.
func TestDecideMergesReceipts(t *testing.T) {
	item := reported(1)
	item.Report.Receipt = Receipt{StartedAt: t0, EndedAt: t0.Add(time.Minute), Connections: 2}
	for i := range 10 * MaxDestinations {
		item.Report.Receipt.Destinations = append(item.Report.Receipt.Destinations, Destination{Name: fmt.Sprint(i, strings.Repeat("x", 1000)), Forwards: 1})
	}
	next := Decide(testConfig, with(created(), ready, settled), Observed{Group: group("A"), Tasks: stopped(137), Lease: item}, t0.Add(10*time.Minute)).Next
	if r := next.Receipt; r.Connections != 2 || len(r.Destinations) != MaxDestinations || len(r.Destinations[0].Name) > MaxDestinationName {
		t.Errorf("%d connections, %d destinations", r.Connections, len(r.Destinations))
	}
	twice := next.Receipt.Merge(Receipt{StartedAt: t0, EndedAt: t0.Add(time.Hour), Connections: 1, Destinations: []Destination{{Name: "new", Forwards: 3}}})
	if twice.Connections != 3 || twice.Unnamed != 3 || !twice.EndedAt.Equal(t0.Add(time.Hour)) || len(twice.Destinations) != MaxDestinations {
		t.Errorf("merged: %d connections, %d unnamed, %d destinations", twice.Connections, twice.Unnamed, len(twice.Destinations))
	}
}

func TestValidateReportsEveryProblem(t *testing.T) {
	err := Config{DefaultTTL: -1, WarnBefore: -1, Quota: Quota{Total: -1}, Timing: Timing{Settle: time.Second, CallTimeout: time.Second}}.Validate()
	for _, part := range []string{"warning time", "default ttl", "maximum lifetime", "family", "total quota", "at least one bastion", "subnet", "task definition", "attempt", "poll interval", "settle time"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is missing from: %v", part, err)
		}
	}
}

// The functions below build the records and observations of the rows.

func created() Record {
	r := Record{
		ID: "b", Owner: "local:alice", Name: "default", CreatedAt: t0, LatestDeadline: t0.Add(8 * time.Hour),
		Intent:  Intent{Open: true, Source: srcA, Keys: []Key{"ssh-ed25519 AAAA"}, Deadline: t0.Add(time.Hour), DeadlineSetAt: t0},
		Version: 1,
	}
	r.intentChanged(t0, testConfig.Timing)
	r.DueAt = t0
	return r
}

func with(r Record, edits ...func(*Record)) Record {
	for _, edit := range edits {
		edit(&r)
	}
	return r
}

func groupGone(r *Record) { r.Attempt.GroupID = "sg-gone" }
func nextAttemptAt(d time.Duration) func(*Record) {
	return func(r *Record) { r.NextAttemptAt = t0.Add(d) }
}
func fromIPv6(r *Record) {
	r.Intent.Source = netip.MustParsePrefix("2001:db8::1/128")
	r.Group.Ingress = r.Intent.Source
}
func hasGroup(r *Record) { r.Group = GroupStatus{ID: "sg", FirstSeenAt: t0} }
func begun(r *Record) {
	r.Attempt = Attempt{Number: 1, GroupID: "sg", Subnet: "subnet-a", TaskDefinition: "bastion:7", CreatedAt: t0}
}
func running(r *Record) {
	begun(r)
	r.Attempt.TaskID, r.Attempt.TaskSeenAt = "task1", t0
	r.Attempt.Endpoints = []netip.AddrPort{endpoint}
}
func ready(r *Record) {
	hasGroup(r)
	running(r)
	r.Group.Ingress = srcA
	r.Attempt.HostKey, r.Attempt.Generation, r.Attempt.ReadyAt, r.Attempt.Status = "ssh-ed25519 HOST", 1, t0, TaskRunning
	r.SeenAt = t0
}
func second(r *Record)  { r.Attempt.Number = 2 }
func settled(r *Record) { r.UnsettledUntil = time.Time{} }
func ended(r *Record)   { r.Attempt.EndedAt = t0.Add(time.Minute) }

// twoKeys gives the record a second key with two sources of its own.
func twoKeys(r *Record) {
	r.Intent.admit([]Admission{
		{Key: "ssh-ed25519 AAAA", Sources: []netip.Prefix{srcA}},
		{Key: "ssh-ed25519 BBBB", Sources: []netip.Prefix{srcB, netip.MustParsePrefix("198.51.100.0/28")}, Named: true},
	}, srcB)
	r.intentChanged(t0, testConfig.Timing)
	r.DueAt = t0
}
func onlyFirstKey(r *Record) {
	r.Intent.admit(r.Intent.Admissions()[:1], srcA)
	r.intentChanged(t0.Add(10*time.Minute), testConfig.Timing)
	r.DueAt = t0
}
func bothFamilies(r *Record) {
	r.Intent.admit([]Admission{{Key: "ssh-ed25519 AAAA", Sources: []netip.Prefix{srcA, netip.MustParsePrefix("2001:db8::1/128")}, Named: true}}, srcA)
}
func moved(r *Record) {
	r.Intent.Source = srcB
	r.intentChanged(t0.Add(10*time.Minute), testConfig.Timing)
	r.DueAt = t0
}
func closed(r *Record) {
	r.close(End{Reason: EndClosed, At: t0.Add(time.Minute)}, testConfig.Timing)
	r.DueAt = t0
}
func finishedAt(r *Record) { r.Group, r.FinishedAt = GroupStatus{}, t0.Add(2*time.Minute) }

func notify(r *Record)   { r.Notify = true }
func notified(r *Record) { r.LastNotice = r.notice(0, t0) }
func secondKey(r *Record) {
	all := r.Intent.Admissions()
	r.Intent.admit(append(all, Admission{Key: "ssh-ed25519 BBBB", Sources: all[0].Sources}), r.Intent.Source)
}
func warningSent(r *Record) { notified(r); r.LastNotice.Warning = true }

func pending(since time.Duration) func(*Record) {
	return func(r *Record) { r.NotifyPendingSince = t0.Add(since) }
}
func until(deadline, setAt time.Duration) func(*Record) {
	return func(r *Record) { r.Intent.Deadline, r.Intent.DeadlineSetAt = t0.Add(deadline), t0.Add(setAt) }
}

func failures(n int) func(*Record) {
	return func(r *Record) { r.Failures, r.FailureCodes = n, slices.Repeat([]FailureCode{FailureNetwork}, n) }
}
func generation(n int64) func(*Record) { return func(r *Record) { r.Intent.Generation = n } }
func attempt(n int) func(*Record) {
	return func(r *Record) { r.Attempt.Number, r.Attempt.TaskID = n, fmt.Sprint("task", n) }
}

// group returns a group with these rules: "A", "B" and "6" are ingress rules, and
// "out" is the default egress rule.
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
		case "C":
			g.Ingress = append(g.Ingress, Rule{ID: id, Source: netip.MustParsePrefix("192.0.2.3/32")})
		case "N":
			g.Ingress = append(g.Ingress, Rule{ID: id, Source: netip.MustParsePrefix("198.51.100.0/28")})
		case "6":
			g.Ingress = append(g.Ingress, Rule{ID: id, Source: netip.MustParsePrefix("2001:db8::1/128")})
		case "out":
			g.Egress = append(g.Egress, Rule{ID: id, Egress: true})
		}
	}
	return g
}

func task(n int, status TaskStatus) Task {
	return Task{ID: fmt.Sprint("task", n), BastionID: "b", Attempt: n, Status: status, Endpoints: []netip.AddrPort{endpoint}}
}
func tasks(status TaskStatus) []Task { return []Task{task(1, status)} }
func stopped(exit int) []Task {
	stopped := task(1, TaskStopped)
	stopped.StopCode, stopped.ExitCode = "EssentialContainerExited", &exit
	return []Task{stopped}
}

// refusedTask returns the result of a RunTask for the nth attempt that was refused.
func refusedTask(n int) map[Action]error {
	return map[Action]error{{Step: RunTask, Attempt: n}: &RefusedError{Failure: CapacityFailure}}
}

// refusedMove returns the result of an AuthorizeIngress for srcB that was refused.
func refusedMove() map[Action]error {
	return map[Action]error{{Step: AuthorizeIngress, GroupID: "sg", Source: srcB}: &RefusedError{Failure: CapacityFailure}}
}

func refusedFailing(r *Record) { r.Failing = Failing{t0, CapacityFailure} }
func admitsNothing(r *Record)  { r.Group.Ingress = netip.Prefix{} }

// refusedStep returns the result of an action that AWS refused.
func refusedStep(a Action, failure Failure, denied bool) map[Action]error {
	return map[Action]error{a: fmt.Errorf("step: %w", &RefusedError{Failure: failure, Denied: denied})}
}

// unreadableGroup returns an observation of a bastion in use whose group could not be read.
func unreadableGroup() Observed {
	return Observed{Unknown: GroupPart, Tasks: tasks(TaskRunning), Lease: reported(1)}
}

func admits(r *Record)     { r.Group.Ingress = srcA }
func noEndpoint(r *Record) { r.Attempt.Endpoints = nil }
func failingSince(d time.Duration) func(*Record) {
	return func(r *Record) { r.Failing.Since = t0.Add(d) }
}
func withoutEndpoints(t Task) Task {
	t.Endpoints = nil
	return t
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
func reportedKey(key Key) *LeaseItem {
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

func describe(actions []Action) string {
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
