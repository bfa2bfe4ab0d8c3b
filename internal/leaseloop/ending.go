package leaseloop

import (
	"context"
	"errors"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Cause is why a bastion ends.
type Cause string

// The causes.
const (
	Deadline          Cause = "deadline reached"
	Idle              Cause = "idle"
	Closed            Cause = "closed by its owner or an administrator"
	ClosedFromConsole Cause = "closed from its console"
	LeaseRemoved      Cause = "lease removed"
	Terminated        Cause = "stopped by a signal"
	ListenerFailed    Cause = "listener failed"
)

// causeOf returns the cause for the end reason of a closed lease.
func causeOf(reason bastion.EndReason) Cause {
	switch reason {
	case bastion.EndConsole:
		return ClosedFromConsole
	case bastion.EndDeadline:
		return Deadline
	case bastion.EndIdle:
		return Idle
	}
	return Closed
}

// reportEnding writes a report with the decision to end. It returns ErrConflict if the
// table has a newer lease.
func (l *loop) reportEnding(ctx context.Context, reason bastion.EndReason) (bastion.Ending, error) {
	report := l.report()
	report.Ending = bastion.Ending{Reason: reason, Generation: report.Generation}
	l.cfg.Log.Info("ending", "reason", reason, "generation", report.Generation)
	return report.Ending, l.write(ctx, report)
}

// endAtDeadline ends the bastion. If the table has a newer lease, it puts that lease in
// force instead, and the next step decides again. If the table cannot be reached, the
// bastion ends anyway.
func (l *loop) endAtDeadline(ctx context.Context) *stop {
	ending, err := l.reportEnding(ctx, bastion.EndDeadline)
	switch {
	case errors.Is(err, bastion.ErrNotFound):
		return &stop{cause: LeaseRemoved}
	case !errors.Is(err, bastion.ErrConflict):
		return &stop{cause: Deadline, ending: ending}
	}
	end, err := l.poll(ctx)
	if end != nil {
		return end
	}
	if err != nil || l.lease.Generation == ending.Generation {
		// A newer lease exists but cannot be read. The exit code makes the control plane
		// start another task.
		return &stop{cause: Deadline, code: bastion.ExitFailure}
	}
	return nil
}

// endIdle ends an idle bastion without cutting a client that is about to connect:
// handshakes get time to finish, new connections wait while the ending is written,
// and the bastion ends only if the table accepts the ending.
func (l *loop) endIdle(ctx context.Context, now time.Time) *stop {
	if now.Before(l.idleAt) {
		l.decideAt = bastion.Earlier(l.decideAt, l.idleAt)
		return nil
	}
	if !l.server.Pause() {
		l.drain(now)
		return nil
	}
	ending, err := l.reportEnding(ctx, bastion.EndIdle)
	switch {
	case err == nil:
		return &stop{cause: Idle, ending: ending}
	case errors.Is(err, bastion.ErrNotFound):
		return &stop{cause: LeaseRemoved}
	}
	l.idleAt = l.cfg.Now().Add(l.cfg.Timing.Poll)
	l.decideAt = bastion.Earlier(l.decideAt, l.idleAt)
	if !errors.Is(err, bastion.ErrConflict) {
		// The ending may have been written, and the control plane may be closing the
		// bastion. New connections wait until a repeated write succeeds or is refused.
		return nil
	}
	end, _ := l.poll(ctx)
	l.resume()
	return end
}

// drain gives handshakes time to finish before an idle end. When a handshake ends,
// Server.Changed wakes the loop. Until drainAt, new connections may begin. After it they wait, and each
// handshake is closed when it has taken as long as Timing.Drain.
func (l *loop) drain(now time.Time) {
	if l.drainAt.IsZero() {
		l.drainAt = now.Add(l.cfg.Timing.Drain)
	}
	if now.Before(l.drainAt) {
		l.decideAt = bastion.Earlier(l.decideAt, l.drainAt)
		return
	}
	if oldest := l.server.Drain(now.Add(-l.cfg.Timing.Drain)); !oldest.IsZero() {
		l.decideAt = bastion.Earlier(l.decideAt, oldest.Add(l.cfg.Timing.Drain))
	}
}

// resume makes waiting connections begin, because no idle end is due.
func (l *loop) resume() {
	l.drainAt = time.Time{}
	l.server.Resume()
}

// finish closes the server and writes the last report, with the receipt.
func (l *loop) finish(ctx context.Context, end *stop) int {
	receipt := l.server.Close(end.cause)
	report := l.report()
	report.Ending, report.Receipt = end.ending, receipt
	ctx = context.WithoutCancel(ctx)
	err := l.write(ctx, report)
	if errors.Is(err, bastion.ErrConflict) {
		// The table could not be reached at the deadline. Now it can, and has a newer lease.
		end.code, report.Ending = bastion.ExitFailure, bastion.Ending{}
		err = l.write(ctx, report)
	}
	l.cfg.Log.Info("ended", "reason", string(end.cause), "code", end.code, "reported", err == nil)
	return end.code
}
