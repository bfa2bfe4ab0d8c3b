package bastion

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// A record is settled by a round that began after UnsettledUntil and found nothing to
// do.
func TestDecideSettles(t *testing.T) {
	// The bastions were created at t0, and closed, if at all, a minute later.
	const settledAt, closedSettledAt = 4 * time.Minute, 5 * time.Minute
	for _, row := range []struct {
		name string
		rec  Record
		seen Observed
		at   time.Duration
		want bool
	}{
		{"ready, at UnsettledUntil", with(created(), ready), inUse(1), settledAt, true},
		{"ready, before UnsettledUntil", with(created(), ready), inUse(1), settledAt - 1, false},
		{"not ready", with(created(), hasGroup, running), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: leased(1)}, 5 * time.Minute, false},
		{"ready, but another task must be stopped", with(created(), ready), withOtherTask(), 5 * time.Minute, false},
		{"ready, but the group is unknown", with(created(), ready), unreadableGroup(), 5 * time.Minute, false},
		{"ready, but the task is missing within the read lag", with(created(), ready, func(r *Record) { r.Attempt.TaskSeenAt = t0.Add(5 * time.Minute) }), Observed{Group: group("A"), Lease: reported(1)}, 5 * time.Minute, false},
		{"finished, at UnsettledUntil", with(created(), ready, ended, closed, finishedAt), Observed{Lease: tombstone()}, closedSettledAt, true},
		{"finished, before UnsettledUntil", with(created(), ready, ended, closed, finishedAt), Observed{Lease: tombstone()}, closedSettledAt - 1, false},
		{"finished, but its group exists again", with(created(), ready, ended, closed, finishedAt), Observed{Group: group(), Lease: tombstone()}, 6 * time.Minute, false},
		{"finished, but the tasks are unknown", with(created(), ready, ended, closed, finishedAt), Observed{Unknown: TasksPart, Lease: tombstone()}, 6 * time.Minute, false},
		{"closing", with(created(), ready, closed), Observed{Group: group(), Tasks: tasks(TaskStopping), Lease: reported(2)}, 6 * time.Minute, false},
	} {
		next := Decide(testConfig, row.rec, row.seen, t0.Add(row.at)).Next
		if got := next.UnsettledUntil.IsZero(); got != row.want {
			t.Errorf("%s: settled %t, unsettled until %s", row.name, got, next.UnsettledUntil)
		}
		if !next.FinishedAt.Equal(row.rec.FinishedAt) {
			t.Errorf("%s: finished %s, and was %s", row.name, next.FinishedAt, row.rec.FinishedAt)
		}
	}
}

// If the record's DueAt is in the future and earlier than the new one, it stays. That
// saves a write.
func TestDecideSchedules(t *testing.T) {
	const never = time.Duration(-1)
	due := func(at time.Duration) func(*Record) {
		return func(r *Record) {
			if r.DueAt = t0.Add(at); at == never {
				r.DueAt = time.Time{}
			}
		}
	}
	finished := with(created(), ready, ended, closed, finishedAt, settled)
	late := 59*time.Minute + 55*time.Second // five seconds before the deadline
	for _, row := range []struct {
		name string
		rec  Record
		seen Observed
		at   time.Duration
		want time.Duration
	}{
		{"an earlier DueAt stays", with(created(), ready, settled, due(11*time.Minute)), inUse(1), 10 * time.Minute, 11 * time.Minute},
		{"a later DueAt is replaced", with(created(), ready, settled, due(time.Hour)), inUse(1), 10 * time.Minute, 15 * time.Minute},
		{"a DueAt that has passed is replaced", with(created(), ready, settled, due(10*time.Minute)), inUse(1), 10 * time.Minute, 15 * time.Minute},
		{"a zero DueAt is replaced", with(created(), ready, settled, due(never)), inUse(1), 10 * time.Minute, 15 * time.Minute},
		{"failing: a DueAt in the future becomes the present time", with(created(), ready, settled, due(11*time.Minute)), unreadableGroup(), 10 * time.Minute, 10 * time.Minute},
		{"failing: a DueAt that has passed becomes the present time", with(created(), ready, settled, due(9*time.Minute)), unreadableGroup(), 10 * time.Minute, 10 * time.Minute},
		{"failing: a DueAt that has just passed stays", with(created(), ready, settled, due(10*time.Minute-14*time.Second)), unreadableGroup(), 10 * time.Minute, 10*time.Minute - 14*time.Second},
		{"no longer failing", with(created(), ready, settled, failingSince(time.Minute), due(10*time.Minute)), inUse(1), 10 * time.Minute, 15 * time.Minute},
		{"finished and settled: a DueAt in the future is removed", with(finished, due(20*time.Minute)), Observed{Lease: tombstone()}, 10 * time.Minute, never},
		{"finished, but its group exists again", finished, Observed{Group: group(), Lease: tombstone()}, 10 * time.Minute, 10*time.Minute + 15*time.Second},
		{"ready, but another task must be stopped", with(created(), ready, settled), withOtherTask(), 10 * time.Minute, 10*time.Minute + 15*time.Second},
		{"starting, deadline is sooner", with(created(), hasGroup, running, settled), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: leased(1)}, late, time.Hour},
		{"waiting for the next attempt, deadline is sooner", with(created(), hasGroup, nextAttemptAt(2*time.Hour), settled), Observed{Group: group("A")}, late, time.Hour},
		{"waiting long for the next attempt: watch the group", with(created(), hasGroup, nextAttemptAt(time.Hour), settled), Observed{Group: group("A")}, 10 * time.Minute, 10*time.Minute + 15*time.Second},
		{"closing, UnsettledUntil is sooner", with(created(), ready, closed), Observed{Group: group(), Tasks: tasks(TaskStopping), Lease: reported(2)}, 5*time.Minute - time.Second, 5 * time.Minute},
	} {
		next := Decide(testConfig, row.rec, row.seen, t0.Add(row.at)).Next
		got := never
		if !next.DueAt.IsZero() {
			got = next.DueAt.Sub(t0)
		}
		if got != row.want {
			t.Errorf("%s: due after %s, want %s", row.name, got, row.want)
		}
	}
}

// The read lag begins when the group is first seen.
func TestDecideKeepsAMissingGroupForTheReadLag(t *testing.T) {
	first := Decide(testConfig, created(), Observed{Group: group("A")}, t0.Add(10*time.Minute)).Next
	if got := Decide(testConfig, first, Observed{}, t0.Add(12*time.Minute)).Next.Group.ID; got != "sg" {
		t.Errorf("after two minutes the group is %q", got)
	}
	if got := Decide(testConfig, first, Observed{}, t0.Add(12*time.Minute+1)).Next.Group.ID; got != "" {
		t.Errorf("after more than two minutes the group is %q", got)
	}
}

// withOtherTask returns the observation of a ready bastion, with one more task of an
// earlier attempt.
func withOtherTask() Observed {
	seen := inUse(1)
	seen.Tasks = append(seen.Tasks, task(0, TaskRunning))
	return seen
}

func TestLeaseFollowsFromTheIntent(t *testing.T) {
	cfg := testConfig
	cfg.IdleTimeout, cfg.AllowedDestinations = 15*time.Minute, []DestinationRule{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), From: 5432, To: 5432}}
	service := &Service{Config: cfg}
	rec := with(created(), ready)
	rec.Intent.ConsoleReply = ConsoleReply{Number: 3, Message: "The deadline is near."}
	want := Lease{
		BastionID: "b", Owner: "local:alice", Name: "default", Generation: 1, Open: true,
		Source: srcA, Keys: []Key{"ssh-ed25519 AAAA"}, Deadline: t0.Add(time.Hour),
		IdleTimeout: cfg.IdleTimeout, AllowedDestinations: cfg.AllowedDestinations, ConsoleReply: rec.Intent.ConsoleReply,
	}
	if got := service.lease(rec); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	want.Generation, want.Open, want.EndReason = 2, false, EndClosed
	if got := service.lease(with(rec, closed)); !reflect.DeepEqual(got, want) {
		t.Errorf("closed: %+v\nwant %+v", got, want)
	}
}
