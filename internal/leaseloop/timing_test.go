package leaseloop

import (
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

func TestDecide(t *testing.T) {
	start := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	warnings := []time.Duration{10 * time.Minute, time.Minute}
	const never = -1
	cases := []struct {
		name                   string
		now, decided, deadline time.Duration // since start
		idle, unused           time.Duration // unused: when the idle time began; never: in use
		end                    bastion.EndReason
		warn                   time.Duration
		next                   time.Duration
	}{
		{"long before", 0, 0, time.Hour, 0, 0, "", 0, 50 * time.Minute},
		{"the first warning, on time", 50 * time.Minute, 49 * time.Minute, time.Hour, 0, 0, "", 10 * time.Minute, 59 * time.Minute},
		{"the first warning, late", 52 * time.Minute, 49 * time.Minute, time.Hour, 0, 0, "", 10 * time.Minute, 59 * time.Minute},
		{"a warning is not repeated", 51 * time.Minute, 50 * time.Minute, time.Hour, 0, 0, "", 0, 59 * time.Minute},
		{"the second warning", 59 * time.Minute, 58 * time.Minute, time.Hour, 0, 0, "", time.Minute, time.Hour},
		{"two warnings due at once are one", 59 * time.Minute, 0, time.Hour, 0, 0, "", time.Minute, time.Hour},
		{"a short lease starts without a warning", 0, 0, 5 * time.Minute, 0, 0, "", 0, 4 * time.Minute},
		{"a nanosecond before the deadline", time.Hour - 1, 59 * time.Minute, time.Hour, 0, 0, "", 0, time.Hour},
		{"at the deadline", time.Hour, 59 * time.Minute, time.Hour, 0, 0, bastion.EndDeadline, 0, time.Hour},
		{"long after the deadline", 2 * time.Hour, 0, time.Hour, 0, 0, bastion.EndDeadline, 0, 2 * time.Hour},
		{"deadline and idle at once", time.Hour, 0, time.Hour, time.Minute, 0, bastion.EndDeadline, 0, time.Hour},
		{"unused for a short time", 4 * time.Minute, 3 * time.Minute, time.Hour, 5 * time.Minute, 0, "", 0, 5 * time.Minute},
		{"unused for the idle time-out", 5 * time.Minute, 4 * time.Minute, time.Hour, 5 * time.Minute, 0, bastion.EndIdle, 0, 50 * time.Minute},
		{"unused since later", 5 * time.Minute, 4 * time.Minute, time.Hour, 5 * time.Minute, time.Minute, "", 0, 6 * time.Minute},
		{"in use", 20 * time.Minute, 19 * time.Minute, time.Hour, 5 * time.Minute, never, "", 0, 50 * time.Minute},
		{"no idle time-out", 20 * time.Minute, 19 * time.Minute, time.Hour, 0, 0, "", 0, 50 * time.Minute},
	}
	for _, c := range cases {
		in := timeInput{now: at(c.now), decidedAt: at(c.decided), lease: bastion.Lease{Deadline: at(c.deadline), IdleTimeout: c.idle}}
		if c.unused != never {
			in.unusedSince = at(c.unused)
		}
		got := decide(in, warnings)
		want := timeDecision{c.end, c.warn, at(c.next)}
		if got != want {
			t.Errorf("%s: %+v, want %+v", c.name, got, want)
		}
	}
}

func TestUnusedSince(t *testing.T) {
	start := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
	for _, c := range []struct {
		name                   string
		ready, leased, lastUse time.Time
		open                   int
		want                   time.Time
	}{
		{"not ready", time.Time{}, at(0), time.Time{}, 0, time.Time{}},
		{"ready and never used", at(1), at(0), time.Time{}, 0, at(1)},
		{"in use", at(1), at(0), at(2), 1, time.Time{}},
		{"used before", at(1), at(0), at(2), 0, at(2)},
		{"a new lease since", at(1), at(3), at(2), 0, at(3)},
	} {
		if got := unusedSince(c.ready, c.leased, c.lastUse, c.open); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestReportDue(t *testing.T) {
	sentAt := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	timing := Timing{Report: time.Minute, ReportPause: time.Second}
	sent := bastion.Report{Generation: 3, Connections: 1, LastUsedAt: sentAt}
	for _, c := range []struct {
		name   string
		change func(*bastion.Report)
		after  time.Duration
	}{
		{"nothing changed", func(*bastion.Report) {}, time.Minute},
		{"still in use", func(r *bastion.Report) { r.LastUsedAt = sentAt.Add(time.Second) }, time.Minute},
		{"connections", func(r *bastion.Report) { r.Connections = 2 }, time.Second},
		{"generation", func(r *bastion.Report) { r.Generation = 4; r.Connections = 2 }, 0},
		{"a request", func(r *bastion.Report) { r.ConsoleRequest.Number = 1 }, 0},
	} {
		now := sent
		c.change(&now)
		if got := reportDue(sent, sentAt, now, timing); !got.Equal(sentAt.Add(c.after)) {
			t.Errorf("%s: due after %v, want %v", c.name, got.Sub(sentAt), c.after)
		}
	}
	if got := reportDue(bastion.Report{}, time.Time{}, sent, timing); !got.IsZero() {
		t.Errorf("the first report is due at %v, want at once", got)
	}
}
