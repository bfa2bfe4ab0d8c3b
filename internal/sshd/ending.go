package sshd

import (
	"context"
	"errors"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Why the whole bastion ends.
var (
	causeDeadline   = &cause{"the deadline came", "This bastion's time is up."}
	causeIdle       = &cause{"nobody used it", "This bastion ends because nobody uses it."}
	causeGone       = &cause{"its lease is gone", "This bastion was closed."}
	causeTerminated = &cause{"told to stop", "This bastion was told to stop. Ask for it again if you still need it."}
	causeListener   = &cause{"the listener failed", "This bastion failed and is started again; ask for its new host key."}
)

// causeOf words why the control plane closed the lease.
func causeOf(reason bastion.EndReason) *cause {
	switch reason {
	case bastion.EndConsole:
		return &cause{"closed: " + string(reason), "This bastion is closed, as somebody asked in its console."}
	case bastion.EndDeadline:
		return causeDeadline
	case bastion.EndIdle:
		return causeIdle
	}
	return &cause{"closed: " + string(reason), "This bastion was closed by its owner or an administrator."}
}

// announce writes that the bastion ends. It answers ErrConflict if somebody has
// asked for something meanwhile.
func (k *leaseLoop) announce(ctx context.Context, reason bastion.EndReason) (bastion.Ending, error) {
	report := k.report()
	report.Ending = bastion.Ending{Reason: reason, Generation: report.Generation}
	k.log.Info("ending", "reason", reason, "generation", report.Generation)
	return report.Ending, k.write(ctx, report)
}

// endAtDeadline ends the bastion unless there is a newer lease, which the next
// step judges. The deadline is absolute: when the table cannot be reached, what
// was leased has run out all the same.
func (k *leaseLoop) endAtDeadline(ctx context.Context) *stop {
	ending, err := k.announce(ctx, bastion.EndDeadline)
	switch {
	case errors.Is(err, bastion.ErrNotFound):
		return &stop{why: causeGone}
	case !errors.Is(err, bastion.ErrConflict):
		return &stop{why: causeDeadline, ending: ending}
	}
	end, err := k.poll(ctx)
	if end != nil {
		return end
	}
	if err != nil || k.lease.Load().Generation == ending.Generation {
		// There is more to be had, but not for us: let another be started.
		return &stop{why: causeDeadline, code: bastion.ExitFailure}
	}
	return nil
}

// endIdle ends a bastion that nobody uses, without cutting anybody who may be
// about to: those whose handshake is on get time to finish it, new connections
// wait while the end is written, and it stands only if the table accepts it.
func (k *leaseLoop) endIdle(ctx context.Context, now time.Time) *stop {
	if now.Before(k.idleAt) {
		k.next = sooner(k.next, k.idleAt)
		return nil
	}
	if !k.connections.pause() {
		k.drain(now)
		return nil
	}
	ending, err := k.announce(ctx, bastion.EndIdle)
	switch {
	case err == nil:
		return &stop{why: causeIdle, ending: ending}
	case errors.Is(err, bastion.ErrNotFound):
		return &stop{why: causeGone}
	}
	k.idleAt = k.cfg.Now().Add(k.cfg.Timing.Poll)
	k.next = sooner(k.next, k.idleAt)
	if !errors.Is(err, bastion.ErrConflict) {
		// The ending may have been written, and acted upon. Until a repeat has
		// told, whoever was let in could be cut.
		return nil
	}
	end, _ := k.poll(ctx)
	k.resume()
	return end
}

// drain waits for the handshakes in flight; the keeper is woken when one ends.
// Whoever comes meanwhile is let in, until those that only wait have had their
// time; then newcomers wait too, but for no longer than the latest handshake may
// take.
func (k *leaseLoop) drain(now time.Time) {
	if k.drained.IsZero() {
		k.drained = now.Add(k.cfg.Timing.Drain)
	}
	if now.Before(k.drained) {
		k.next = sooner(k.next, k.drained)
		return
	}
	if oldest := k.connections.drain(now.Add(-k.cfg.Timing.Drain)); !oldest.IsZero() {
		k.next = sooner(k.next, oldest.Add(k.cfg.Timing.Drain))
	}
}

// resume lets those in who were made to wait.
func (k *leaseLoop) resume() {
	k.drained = time.Time{}
	k.connections.resume()
}

// finish ends everything, and says what the bastion was used for.
func (k *leaseLoop) finish(ctx context.Context, end *stop) int {
	k.connections.close()
	if k.listener != nil {
		_ = k.listener.Close()
	}
	k.server.end(end.why)
	k.wg.Wait()

	report := k.report()
	report.Ending, report.Receipt = end.ending, k.audit.close()
	ctx = context.WithoutCancel(ctx)
	err := k.write(ctx, report)
	if errors.Is(err, bastion.ErrConflict) {
		// The table could not be reached at the deadline, and now has a newer
		// lease: this is no end that anybody wanted.
		end.code, report.Ending = bastion.ExitFailure, bastion.Ending{}
		err = k.write(ctx, report)
	}
	k.log.Info("ended", "reason", end.why.result, "code", end.code, "reported", err == nil)
	return end.code
}
