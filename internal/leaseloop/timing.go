package leaseloop

import (
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// timeInput is all that decide looks at.
type timeInput struct {
	now         time.Time
	decidedAt   time.Time // when decide was last called: each warning is due once
	lease       bastion.Lease
	unusedSince time.Time // zero while the bastion is in use or not ready
}

// timeDecision is what the time requires.
type timeDecision struct {
	end  bastion.EndReason // EndDeadline, EndIdle, or empty
	warn time.Duration     // the warning that is due, as the time before the deadline; 0 for none
	next time.Time         // when to decide again
}

// decide decides whether the bastion is to end, whether consoles are to be warned,
// and when to decide again.
func decide(in timeInput, warnings []time.Duration) timeDecision {
	deadline := in.lease.Deadline
	if !in.now.Before(deadline) {
		return timeDecision{end: bastion.EndDeadline, next: in.now}
	}
	d := timeDecision{next: deadline}
	for _, before := range warnings {
		at := deadline.Add(-before)
		if at.After(in.now) {
			d.next = earlier(d.next, at)
		} else if at.After(in.decidedAt) && (d.warn == 0 || before < d.warn) {
			d.warn = before
		}
	}
	if in.lease.IdleTimeout > 0 && !in.unusedSince.IsZero() {
		at := in.unusedSince.Add(in.lease.IdleTimeout)
		if !in.now.Before(at) {
			d.end = bastion.EndIdle
		} else {
			d.next = earlier(d.next, at)
		}
	}
	return d
}

// unusedSince returns since when the bastion has had no connection: not before it
// was ready, and not before its latest lease, because an owner who makes a request is
// about to connect. It returns zero while the bastion is in use or not ready.
func unusedSince(readyAt, leasedAt, lastUse time.Time, open int) time.Time {
	if open > 0 || readyAt.IsZero() {
		return time.Time{}
	}
	return later(later(readyAt, leasedAt), lastUse)
}

// reportDue returns when the report is due: at once if the control plane waits for
// what it says, soon if connections came or went, and otherwise after Timing.Report.
// sentAt is zero if none was ever written.
func reportDue(sent bastion.Report, sentAt time.Time, now bastion.Report, t Timing) time.Time {
	switch {
	case sentAt.IsZero(), sent.Generation != now.Generation, sent.ConsoleRequest != now.ConsoleRequest:
		return sentAt
	case sent.Connections != now.Connections:
		return sentAt.Add(t.ReportPause)
	}
	return sentAt.Add(t.Report)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
