package bastion

import (
	"fmt"
	"time"
)

// This file holds the changes of intent. If code elsewhere changes a field of the
// intent, it calls intentChanged afterwards, with two exceptions: a change of the
// reason, and beginAttempt, which removes the console reply before the new task has a
// lease.

// intentChanged raises the generation, makes the record unsettled, and makes it
// due within WatchInterval. Nothing has been seen under the new intent.
func (r *Record) intentChanged(now time.Time, timing Timing) {
	r.Intent.Generation++
	r.SeenAt = time.Time{}
	r.UnsettledUntil = now.Add(timing.Settle)
	if soon := now.Add(timing.WatchInterval); r.DueAt.IsZero() || soon.Before(r.DueAt) {
		r.DueAt = soon
	}
}

// close changes the intent to closed. If it is closed already, close changes
// nothing.
func (r *Record) close(end End, timing Timing) {
	if !r.Intent.Open {
		return
	}
	r.Intent.Open = false
	r.End = end
	r.intentChanged(end.At, timing)
}

// extend moves the deadline to now + ttl, unless the deadline is later already, and
// reports whether it moved the deadline. The caller must then call intentChanged.
// *Error: CodeTTLInvalid, CodeTTLBeyondCap.
func (r *Record) extend(ttl time.Duration, now time.Time) (bool, error) {
	deadline, err := r.deadlineAfter(ttl, now)
	if err != nil || !deadline.After(r.Intent.Deadline) {
		return false, err
	}
	r.Intent.Deadline, r.Intent.DeadlineSetAt = deadline, now
	return true, nil
}

// deadlineAfter returns the time now + ttl, rounded up to a whole second. It
// refuses a time beyond LatestDeadline.
func (r *Record) deadlineAfter(ttl time.Duration, now time.Time) (time.Time, error) {
	if err := checkTTL(ttl); err != nil {
		return time.Time{}, err
	}
	deadline := wholeSecond(now.Add(ttl))
	if deadline.After(r.LatestDeadline) {
		left := max(0, r.LatestDeadline.Sub(now))
		return time.Time{}, Errorf(CodeTTLBeyondCap,
			"This bastion can be extended until %s, which is %s from now; a ttl of %s exceeds that. Request a shorter ttl, or close the bastion and start a new one.",
			r.LatestDeadline.Format(time.RFC3339), FormatTTL(left), FormatTTL(ttl))
	}
	return deadline, nil
}

// checkTTL refuses a ttl of less than a second, because deadlines are whole seconds.
func checkTTL(ttl time.Duration) error {
	if ttl < time.Second {
		return Errorf(CodeTTLInvalid, "The ttl %s is less than a second. Request a longer one, for example 30m or 2h.", ttl)
	}
	return nil
}

// replyToConsole grants or refuses a console's request and stores the reply. The
// reply is part of the lease, so the generation rises even if nothing else changes.
func (r *Record) replyToConsole(request ConsoleRequest, now time.Time, timing Timing) {
	r.Intent.ConsoleReply = ConsoleReply{Number: request.Number}
	reply := &r.Intent.ConsoleReply
	switch request.Verb {
	case VerbClose:
		reply.Message = "This bastion is being closed."
		r.close(End{Reason: EndConsole, At: now}, timing)
		return
	case VerbExtend:
		_, err := r.extend(request.TTL, now)
		if refusal, ok := err.(*Error); ok {
			reply.Code, reply.Message = refusal.Code, refusal.Message
		} else {
			reply.Message = fmt.Sprintf("The deadline is %s.", r.Intent.Deadline.Format(time.RFC3339))
		}
	default:
		reply.Code, reply.Message = CodeNotFound, "A console can only request extend or close."
	}
	r.intentChanged(now, timing)
}

// wholeSecond rounds t up to a whole second. Deadlines are shown in whole seconds
// and must not be earlier than requested.
func wholeSecond(t time.Time) time.Time {
	if second := t.Truncate(time.Second); second.Before(t) {
		return second.Add(time.Second)
	}
	return t
}
