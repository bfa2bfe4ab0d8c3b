package bastion

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// A changed intent is settled by a round that began when nobody could be acting on
// an older one any more, and that found nothing left to do.
func TestDecideSettles(t *testing.T) {
	const settledAt = 4 * time.Minute // of a bastion made at t0; closed a minute later, a minute later
	for _, row := range []struct {
		what string
		rec  Record
		seen Observed
		at   time.Duration
		want bool
	}{
		{"ready, at the very moment", with(made(), ready), inUse(1), settledAt, true},
		{"ready, a moment too early", with(made(), ready), inUse(1), settledAt - 1, false},
		{"not ready yet", with(made(), hasGroup, running), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: leased(1)}, 5 * time.Minute, false},
		{"ready, and a stray to be stopped", with(made(), ready), astray(), 5 * time.Minute, false},
		{"closed, and nothing left", with(made(), ready, ended, closed, final), Observed{Lease: tombstone()}, settledAt + time.Minute, true},
		{"closed, and a moment too early", with(made(), ready, ended, closed, final), Observed{Lease: tombstone()}, settledAt + time.Minute - 1, false},
		{"closed, and its group is there again", with(made(), ready, ended, closed, final), Observed{Group: group(), Lease: tombstone()}, 6 * time.Minute, false},
		{"closing", with(made(), ready, closed), Observed{Group: group(), Tasks: tasks(TaskStopping), Lease: reported(2)}, 6 * time.Minute, false},
	} {
		next := Decide(tabled, row.rec, row.seen, t0.Add(row.at)).Next
		if got := next.UnsettledUntil.IsZero(); got != row.want {
			t.Errorf("%s: settled %t, unsettled until %s", row.what, got, next.UnsettledUntil)
		}
		if !next.FinishedAt.Equal(row.rec.FinishedAt) {
			t.Errorf("%s: finished %s, and was %s", row.what, next.FinishedAt, row.rec.FinishedAt)
		}
	}
}

// What a record says of when to look at it next: a time that is still to come stays
// if it is earlier than what follows from the round, which saves a write.
func TestDecideSchedules(t *testing.T) {
	const never = time.Duration(-1)
	due := func(at time.Duration) func(*Record) {
		return func(r *Record) {
			if r.DueAt = t0.Add(at); at == never {
				r.DueAt = time.Time{}
			}
		}
	}
	over := with(made(), ready, ended, closed, final, settled)
	late := 59*time.Minute + 55*time.Second // five seconds before the deadline
	for _, row := range []struct {
		what string
		rec  Record
		seen Observed
		at   time.Duration
		want time.Duration
	}{
		{"an earlier look stays", with(made(), ready, settled, due(11*time.Minute)), inUse(1), 10 * time.Minute, 11 * time.Minute},
		{"a later one does not", with(made(), ready, settled, due(time.Hour)), inUse(1), 10 * time.Minute, 15 * time.Minute},
		{"one that is due now is over", with(made(), ready, settled, due(10*time.Minute)), inUse(1), 10 * time.Minute, 15 * time.Minute},
		{"there was none", with(made(), ready, settled, due(never)), inUse(1), 10 * time.Minute, 15 * time.Minute},
		{"there is no need for one any more", with(over, due(20*time.Minute)), Observed{Lease: tombstone()}, 10 * time.Minute, never},
		{"over, and something to be done again", over, Observed{Group: group(), Lease: tombstone()}, 10 * time.Minute, 10*time.Minute + 15*time.Second},
		{"ready, and something to be done", with(made(), ready, settled), astray(), 10 * time.Minute, 10*time.Minute + 15*time.Second},
		{"starting, and its deadline is near", with(made(), hasGroup, running, settled), Observed{Group: group("A"), Tasks: tasks(TaskRunning), Lease: leased(1)}, late, time.Hour},
		{"pausing, and its deadline is near", with(made(), hasGroup, pausing(2*time.Hour), settled), Observed{Group: group("A")}, late, time.Hour},
		{"pausing for long: the group is watched meanwhile", with(made(), hasGroup, pausing(time.Hour), settled), Observed{Group: group("A")}, 10 * time.Minute, 10*time.Minute + 15*time.Second},
		{"closing, and settled soon", with(made(), ready, closed), Observed{Group: group(), Tasks: tasks(TaskStopping), Lease: reported(2)}, 5*time.Minute - time.Second, 5 * time.Minute},
	} {
		next := Decide(tabled, row.rec, row.seen, t0.Add(row.at)).Next
		got := never
		if !next.DueAt.IsZero() {
			got = next.DueAt.Sub(t0)
		}
		if got != row.want {
			t.Errorf("%s: due after %s, want %s", row.what, got, row.want)
		}
	}
}

// A group is young from when it first showed, so that a read that misses it then
// makes no second one.
func TestDecideKnowsHowOldAGroupIs(t *testing.T) {
	first := Decide(tabled, made(), Observed{Group: group("A")}, t0.Add(10*time.Minute)).Next
	if got := Decide(tabled, first, Observed{}, t0.Add(12*time.Minute)).Next.Group.ID; got != "sg" {
		t.Errorf("two minutes later the group is %q", got)
	}
	if got := Decide(tabled, first, Observed{}, t0.Add(12*time.Minute+1)).Next.Group.ID; got != "" {
		t.Errorf("later still the group is %q", got)
	}
}

// astray is a ready bastion in use, with a task of an earlier attempt beside its own.
func astray() Observed {
	seen := inUse(1)
	seen.Tasks = append(seen.Tasks, task(0, TaskRunning))
	return seen
}

// A lease says all that the record intends, and why when that is to end.
func TestTheLeaseIsTheIntent(t *testing.T) {
	cfg := tabled
	cfg.IdleTimeout, cfg.AllowedDestinations = 15*time.Minute, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	service := &Service{Config: cfg}
	rec := with(made(), ready)
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
