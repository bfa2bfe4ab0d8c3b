package bastion

import (
	"strings"
	"testing"
	"time"
)

// Whether its owner knows is no reason for a bastion to stay unsettled, or to be
// unfinished, or for the owner to be told any later.
func TestDecideSettlesWhatIsUntold(t *testing.T) {
	next := Decide(tabled, with(made(), ready, notify), inUse(1), t0.Add(5*time.Minute)).Next
	if !next.UnsettledUntil.IsZero() || !next.UntoldSince.Equal(t0.Add(5*time.Minute)) {
		t.Errorf("ready: unsettled until %s, untold since %s", next.UnsettledUntil, next.UntoldSince)
	}
	again := Decide(tabled, next, inUse(1), t0.Add(6*time.Minute)).Next
	if !again.UntoldSince.Equal(next.UntoldSince) {
		t.Errorf("a try that failed is forgotten: untold since %s", again.UntoldSince)
	}
	over := with(made(), ready, ended, closed, notify, untold(time.Minute))
	next = Decide(tabled, over, Observed{GroupGone: true, Tasks: stopped(0), Lease: tombstone()}, t0.Add(6*time.Minute)).Next
	if next.FinishedAt.IsZero() || !next.UnsettledUntil.IsZero() {
		t.Errorf("closed: finished %s, unsettled until %s", next.FinishedAt, next.UnsettledUntil)
	}
}

// What was told is written down, and with it goes the haste to tell it.
func TestDecideWritesDownWhatWasTold(t *testing.T) {
	at := t0.Add(10 * time.Minute)
	first := Decide(tabled, with(made(), ready, settled, notify), inUse(1), at)
	seen := inUse(1)
	seen.Told = &first.Actions[0].Notice
	second := Decide(tabled, first.Next, seen, at.Add(time.Second))
	next := second.Next
	if len(second.Actions) > 0 || next.Told != first.Actions[0].Notice || !next.UntoldSince.IsZero() || !next.DueAt.Equal(at.Add(time.Second+5*time.Minute)) {
		t.Errorf("%s, told %s, untold since %s, due %s", say(second.Actions), next.Told, next.UntoldSince, next.DueAt)
	}
	late := Decide(tabled, with(first.Next, moved), seen, at.Add(time.Second))
	if want := "Notify(starting/address, attempt 1)"; !strings.HasSuffix(say(late.Actions), want) {
		t.Errorf("it moved while its owner was told that it is ready: %s, want %s", say(late.Actions), want)
	}
}

// With no time to warn ahead nobody is warned.
func TestDecideWarnsOnlyWhereItIsAskedTo(t *testing.T) {
	never := tabled
	never.Warn = 0
	plan := Decide(never, with(made(), ready, settled, notify, told), inUse(1), t0.Add(59*time.Minute))
	if len(plan.Actions) > 0 || !plan.Next.DueAt.Equal(t0.Add(time.Hour)) {
		t.Errorf("%s, due %s", say(plan.Actions), plan.Next.DueAt)
	}
}
