package bastion

import (
	"strings"
	"testing"
	"time"
)

// A pending notice must not delay settling or finishing.
func TestDecideSettlesWithAPendingNotice(t *testing.T) {
	next := Decide(testConfig, with(created(), ready, notify), inUse(1), t0.Add(5*time.Minute)).Next
	if !next.UnsettledUntil.IsZero() {
		t.Errorf("ready: unsettled until %s", next.UnsettledUntil)
	}
	closing := with(created(), ready, ended, closed, notify, pending(time.Minute))
	next = Decide(testConfig, closing, Observed{GroupGone: true, Tasks: stopped(0), Lease: tombstone()}, t0.Add(6*time.Minute)).Next
	if next.FinishedAt.IsZero() || !next.UnsettledUntil.IsZero() {
		t.Errorf("closed: finished %s, unsettled until %s", next.FinishedAt, next.UnsettledUntil)
	}
}

func TestDecideRecordsThatANoticeWasSent(t *testing.T) {
	at := t0.Add(10 * time.Minute)
	rec := with(created(), ready, settled, notify)
	sending := rec
	sending.markNotifying(rec.notice(testConfig.WarnBefore, at), 7, at)
	sending.DueAt = at.Add(15 * time.Second)
	for _, row := range []struct {
		name  string
		sent  int64
		edits []func(*Record)
		want  string
	}{
		{"sent", 7, nil, ""},
		{"not sent", 0, nil, "Notify(ready, attempt 1)"},
		{"sent, and the source has moved since", 7, []func(*Record){moved}, "Notify(starting/address, attempt 1)"},
		{"sent for an older version", 6, nil, "Notify(ready, attempt 1)"},
	} {
		seen := inUse(1)
		seen.NotifiedVersion = row.sent
		plan := Decide(testConfig, with(sending, row.edits...), seen, at.Add(time.Second))
		if got := describe(plan.Actions); !strings.HasSuffix(got, row.want) || row.want == "" && got != "" {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
		if next := plan.Next; row.want == "" && (!next.NotifyPendingSince.IsZero() || !next.DueAt.Equal(at.Add(time.Second+5*time.Minute))) {
			t.Errorf("%s: pending since %s, due %s", row.name, next.NotifyPendingSince, next.DueAt)
		}
	}
	again := sending
	again.markNotifying(Notice{State: Closed}, 9, at.Add(time.Minute))
	if again.LastNotice.State != Closed || again.LastNoticeVersion != 9 || !again.NotifyPendingSince.Equal(at) {
		t.Errorf("second try: %s for version %d, pending since %s", again.LastNotice, again.LastNoticeVersion, again.NotifyPendingSince)
	}
}

func TestDecideSendsNoWarningWithoutWarnBefore(t *testing.T) {
	never := testConfig
	never.WarnBefore = 0
	plan := Decide(never, with(created(), ready, settled, notify, notified), inUse(1), t0.Add(59*time.Minute))
	if len(plan.Actions) > 0 || !plan.Next.DueAt.Equal(t0.Add(time.Hour)) {
		t.Errorf("%s, due %s", describe(plan.Actions), plan.Next.DueAt)
	}
}
