package sshd

import (
	"fmt"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// moment is all that the decision about time looks at.
type timeInput struct {
	now    time.Time
	judged time.Time // when this was last decided; warnings are due once
	lease  bastion.Lease
	quiet  time.Time // since when nobody has used it; zero while it is in use or not ready
}

// verdict is what time says.
type timeDecision struct {
	end  bastion.EndReason // EndDeadline, EndIdle, or empty
	warn time.Duration     // a warning that is due, as the time before the deadline; 0 for none
	next time.Time         // when to decide again
}

// judge decides whether the bastion is to end, whether consoles are to be
// warned, and when to decide again.
func judge(m timeInput, warnings []time.Duration) timeDecision {
	deadline := m.lease.Deadline
	if !m.now.Before(deadline) {
		return timeDecision{end: bastion.EndDeadline, next: m.now}
	}
	v := timeDecision{next: deadline}
	for _, before := range warnings {
		at := deadline.Add(-before)
		if at.After(m.now) {
			v.next = sooner(v.next, at)
		} else if at.After(m.judged) && (v.warn == 0 || before < v.warn) {
			v.warn = before
		}
	}
	if m.lease.IdleTimeout > 0 && !m.quiet.IsZero() {
		at := m.quiet.Add(m.lease.IdleTimeout)
		if !m.now.Before(at) {
			v.end = bastion.EndIdle
		} else {
			v.next = sooner(v.next, at)
		}
	}
	return v
}

// quietSince is since when nobody has used the bastion: not before it was
// ready, and not before its owner last asked for something, for they are about
// to connect. Zero: it is in use, or not ready.
func quietSince(ready, asked, lastUse time.Time, open int) time.Time {
	if open > 0 || ready.IsZero() {
		return time.Time{}
	}
	return later(later(ready, asked), lastUse)
}

// reportAt is when the report is to be sent: at once if it says something that
// somebody waits for, soon if connections came or went, and now and then
// anyway. sentAt is zero if none was ever sent.
func reportAt(sent bastion.Report, sentAt time.Time, now bastion.Report, t Timing) time.Time {
	switch {
	case sentAt.IsZero(), sent.Generation != now.Generation, sent.ConsoleRequest != now.ConsoleRequest:
		return sentAt
	case sent.Connections != now.Connections:
		return sentAt.Add(t.ReportPause)
	}
	return sentAt.Add(t.Report)
}

// warning words a warning.
func warning(lease bastion.Lease, before time.Duration) string {
	return fmt.Sprintf("This bastion ends in %s, at %s. To keep it, type: extend 30m",
		plainDuration(before), lease.Deadline.UTC().Format(time.RFC3339))
}

func plainDuration(d time.Duration) string {
	switch {
	case d == time.Minute:
		return "1 minute"
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	}
	return d.String()
}

func sooner(a, b time.Time) time.Time {
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
