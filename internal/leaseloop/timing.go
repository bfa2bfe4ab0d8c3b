package leaseloop

import (
	"slices"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// timeInput is the input of decide.
type timeInput struct {
	now         time.Time
	decidedAt   time.Time // when decide was last called; only a warning whose time is after it can be due
	lease       bastion.Lease
	unusedSince time.Time // zero while the bastion is in use or not ready
}

// timeDecision is the result of decide.
type timeDecision struct {
	end  bastion.EndReason // EndDeadline, EndIdle, or empty
	warn time.Duration     // the warning that is due, as a time before the deadline; 0 if none is due
	next time.Time         // when to call decide again
}

// decide decides whether the bastion must end and whether consoles must be warned.
func decide(in timeInput, warnings []time.Duration) timeDecision {
	deadline := in.lease.Deadline
	if !in.now.Before(deadline) {
		return timeDecision{end: bastion.EndDeadline, next: in.now}
	}
	d := timeDecision{next: deadline}
	for _, before := range warnings {
		at := deadline.Add(-before)
		if at.After(in.now) {
			d.next = bastion.Earlier(d.next, at)
		} else if at.After(in.decidedAt) && (d.warn == 0 || before < d.warn) {
			d.warn = before
		}
	}
	if in.lease.IdleTimeout > 0 && !in.unusedSince.IsZero() {
		at := in.unusedSince.Add(in.lease.IdleTimeout)
		if !in.now.Before(at) {
			d.end = bastion.EndIdle
		} else {
			d.next = bastion.Earlier(d.next, at)
		}
	}
	return d
}

// unusedSince returns when the idle time began: at the end of the last use, but not
// before the bastion was ready, and not before its latest lease, because an owner who
// has just made a request is about to connect. It returns zero while the bastion is in
// use or not ready.
func unusedSince(readyAt, leasedAt, lastUse time.Time, open int) time.Time {
	if open > 0 || readyAt.IsZero() {
		return time.Time{}
	}
	return bastion.Later(bastion.Later(readyAt, leasedAt), lastUse)
}

// reportDue returns when the next report is due: at once if it is the first one or has
// a new generation or console request, after Timing.ReportPause if the number of
// connections has changed, and otherwise after Timing.Report. sentAt is zero if no
// report was written yet.
func reportDue(sent bastion.Report, sentAt time.Time, now bastion.Report, t Timing) time.Time {
	switch {
	case sentAt.IsZero(), sent.Generation != now.Generation, sent.ConsoleRequest != now.ConsoleRequest,
		!slices.Equal(sent.HostKeys(), now.HostKeys()):
		return sentAt
	case sent.Connections != now.Connections:
		return sentAt.Add(t.ReportPause)
	}
	return sentAt.Add(t.Report)
}
