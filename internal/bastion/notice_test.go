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
	if !next.UnsettledUntil.IsZero() {
		t.Errorf("ready: unsettled until %s", next.UnsettledUntil)
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
	rec := with(made(), ready, settled, notify)
	begun := rec
	begun.markNotifying(rec.notice(tabled.WarnBefore, at), 7, at)
	begun.DueAt = at.Add(15 * time.Second)
	for _, row := range []struct {
		what  string
		told  int64
		edits []func(*Record)
		want  string
	}{
		{"told", 7, nil, ""},
		{"not told", 0, nil, "Notify(ready, attempt 1)"},
		{"told, and it has moved since", 7, []func(*Record){moved}, "Notify(starting/address, attempt 1)"},
		{"told, and somebody else is telling since", 6, nil, "Notify(ready, attempt 1)"},
	} {
		seen := inUse(1)
		seen.NotifiedVersion = row.told
		plan := Decide(tabled, with(begun, row.edits...), seen, at.Add(time.Second))
		if got := say(plan.Actions); !strings.HasSuffix(got, row.want) || row.want == "" && got != "" {
			t.Errorf("%s: %s, want %s", row.what, got, row.want)
		}
		if next := plan.Next; row.want == "" && (!next.NotifyPendingSince.IsZero() || !next.DueAt.Equal(at.Add(time.Second+5*time.Minute))) {
			t.Errorf("%s: untold since %s, due %s", row.what, next.NotifyPendingSince, next.DueAt)
		}
	}
	again := begun
	again.markNotifying(Notice{State: Closed}, 9, at.Add(time.Minute))
	if again.LastNotice.State != Closed || again.LastNoticeVersion != 9 || !again.NotifyPendingSince.Equal(at) {
		t.Errorf("a try that failed is forgotten: %s in %d, untold since %s", again.LastNotice, again.LastNoticeVersion, again.NotifyPendingSince)
	}
}

// With no time to warn ahead nobody is warned.
func TestDecideWarnsOnlyWhereItIsAskedTo(t *testing.T) {
	never := tabled
	never.WarnBefore = 0
	plan := Decide(never, with(made(), ready, settled, notify, told), inUse(1), t0.Add(59*time.Minute))
	if len(plan.Actions) > 0 || !plan.Next.DueAt.Equal(t0.Add(time.Hour)) {
		t.Errorf("%s, due %s", say(plan.Actions), plan.Next.DueAt)
	}
}
