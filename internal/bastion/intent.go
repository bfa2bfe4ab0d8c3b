package bastion

import (
	"fmt"
	"time"
)

// This file holds every change of intent. Each raises the generation, makes the
// record unsettled, and sees to it that somebody looks soon.

func (r *Record) changed(now time.Time, timing Timing) {
	r.Intent.Generation++
	r.UnsettledUntil = now.Add(timing.Settle)
	if soon := now.Add(timing.WatchInterval); r.DueAt.IsZero() || soon.Before(r.DueAt) {
		r.DueAt = soon
	}
}

// close changes the intent to closed; of a bastion that is closed already it
// changes nothing.
func (r *Record) close(end End, timing Timing) {
	if !r.Intent.Open {
		return
	}
	r.Intent.Open = false
	r.End = end
	r.changed(end.At, timing)
}

// extend moves the deadline to at least ttl from now, and reports whether that
// changed it. *Error: CodeTTLInvalid, CodeTTLBeyondCap.
func (r *Record) extend(ttl time.Duration, now time.Time) (bool, error) {
	deadline, err := r.deadline(ttl, now)
	if err != nil || !deadline.After(r.Intent.Deadline) {
		return false, err
	}
	r.Intent.Deadline, r.Intent.DeadlineSetAt = deadline, now
	return true, nil
}

// deadline is ttl from now as a whole second, if the bastion may live so long.
func (r *Record) deadline(ttl time.Duration, now time.Time) (time.Time, error) {
	if err := checkTTL(ttl); err != nil {
		return time.Time{}, err
	}
	deadline := wholeSecond(now.Add(ttl))
	if deadline.After(r.LatestDeadline) {
		left := max(0, r.LatestDeadline.Sub(now))
		return time.Time{}, Errorf(CodeTTLBeyondCap,
			"This bastion can be extended until %s, which is %s from now; a ttl of %s exceeds that. Request less, or close it and start a new one.",
			r.LatestDeadline.Format(time.RFC3339), FormatTTL(left), FormatTTL(ttl))
	}
	return deadline, nil
}

// checkTTL refuses what no deadline can follow from: deadlines are whole seconds.
func checkTTL(ttl time.Duration) error {
	if ttl < time.Second {
		return Errorf(CodeTTLInvalid, "The ttl must be a second or more, for example 30m or 2h; it was %s.", ttl)
	}
	return nil
}

// answer grants or refuses what a console asked for. The answer travels in the
// lease, so that it raises the generation even when nothing else changes.
func (r *Record) replyToConsole(ask ConsoleRequest, now time.Time, timing Timing) {
	r.Intent.ConsoleReply = ConsoleReply{Number: ask.Number}
	answer := &r.Intent.ConsoleReply
	switch ask.Verb {
	case VerbClose:
		answer.Message = "This bastion is being closed."
		r.close(End{Reason: EndConsole, At: now}, timing)
		return
	case VerbExtend:
		_, err := r.extend(ask.TTL, now)
		if refusal, ok := err.(*Error); ok {
			answer.Code, answer.Message = refusal.Code, refusal.Message
		} else {
			answer.Message = fmt.Sprintf("The deadline is %s.", r.Intent.Deadline.Format(time.RFC3339))
		}
	default:
		answer.Code, answer.Message = CodeNotFound, "There is no such request."
	}
	r.changed(now, timing)
}

// wholeSecond rounds up, because deadlines are shown in whole seconds and must
// not be earlier than they were asked for.
func wholeSecond(t time.Time) time.Time {
	if second := t.Truncate(time.Second); second.Before(t) {
		return second.Add(time.Second)
	}
	return t
}
