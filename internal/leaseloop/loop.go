package leaseloop

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// firstLease waits for the first lease. If none comes, the code is not ExitOK.
//
// If the table denies the reads or does not exist, firstLease waits for Timing.Refusal
// only, because a refusal that lasts needs a change of the configuration. It does not end
// at the first refusal, because IAM is eventually consistent: a task that starts soon
// after a deployment can be denied for a moment (IAM User Guide, "Changes that I make are
// not always immediately visible"). AWS states no limit; a maintainer of pulumi-awsx
// reports about 2 s (issue 927). If a permission takes longer than Timing.Refusal
// to become visible, this task ends, and the bastion's next attempt can read the lease.
func firstLease(ctx context.Context, cfg Config, log *slog.Logger) (bastion.Lease, int) {
	limit := time.NewTimer(cfg.Timing.FirstLease)
	defer limit.Stop()
	poll := time.NewTicker(cfg.Timing.Poll)
	defer poll.Stop()
	failed, answered := false, false
	var refusedAt time.Time // when the table began to refuse reads; zero if it does not
	for {
		call, cancel := context.WithTimeout(ctx, cfg.Timing.Call)
		lease, err := cfg.Lease.Read(call)
		cancel()
		if err == nil && lease.Generation > 0 {
			if !lease.Open {
				log.Info("first lease is closed already", "reason", lease.EndReason)
			}
			return lease, bastion.ExitOK
		}
		if err != nil && !errors.Is(err, bastion.ErrNotFound) && ctx.Err() == nil && !failed {
			failed = true
			log.Warn("lease not readable, retrying", "error", err)
		}
		refusal, refused := refusalCode(err)
		switch now := cfg.Now(); {
		case refused && refusedAt.IsZero():
			refusedAt = now
		case refused && now.Sub(refusedAt) >= cfg.Timing.Refusal:
			log.Error("table of leases refuses reads", "waited", now.Sub(refusedAt).String(), "error", err)
			return bastion.Lease{}, refusal
		case err == nil || errors.Is(err, bastion.ErrNotFound):
			refusedAt, answered = time.Time{}, true
		}
		select {
		case <-ctx.Done():
			log.Info("stopped before the first lease")
			return bastion.Lease{}, bastion.ExitTerminated
		case <-limit.C:
			log.Error("no lease", "waited", cfg.Timing.FirstLease.String(), "error", err)
			switch {
			case refused:
				return bastion.Lease{}, refusal
			case !answered && isUnreachable(err):
				return bastion.Lease{}, bastion.ExitUnreachable
			}
			return bastion.Lease{}, bastion.ExitNoLease
		case <-poll.C:
		}
	}
}

// refusalCode returns the exit code for a table that refuses a read, and false if err
// is no refusal.
func refusalCode(err error) (code int, refused bool) {
	switch {
	case errors.Is(err, bastion.ErrDenied):
		return bastion.ExitDenied, true
	case errors.Is(err, bastion.ErrNoTable):
		return bastion.ExitNoTable, true
	}
	return 0, false
}

// isUnreachable reports whether err means that the table could not be reached, or did not
// respond within the time limit.
func isUnreachable(err error) bool {
	return errors.Is(err, bastion.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded)
}

// loop is one bastion's loop. Only the goroutine that called Run uses it.
type loop struct {
	cfg    Config
	server Server

	lease    bastion.Lease // in force
	leasedAt time.Time     // when it was put in force

	begunAt   time.Time // when the first lease was put in force
	listening bool      // server.Listen has succeeded

	sent    bastion.Report // the last report that was written
	sentAt  time.Time
	readyAt time.Time // when the first report was written

	decidedAt time.Time // when decide was last called
	decideAt  time.Time // when it is due again
	pollAt    time.Time
	reportAt  time.Time // after a failed report: no report before this time
	idleAt    time.Time // after a failed idle end: no idle end before this time
	drainAt   time.Time // when remaining handshakes are closed; zero unless an idle end waits for them

	readFailing, reportFailing bool // the failure is logged once
}

// stop is the decision to end.
type stop struct {
	cause  Cause
	ending bastion.Ending // for the last report; zero unless the task ends by its deadline or as idle
	code   int            // exit code
}

// run serves until an end is decided, and then ends.
func (l *loop) run(ctx context.Context, first bastion.Lease) int {
	l.begunAt = l.cfg.Now()
	l.setLease(first)
	l.pollAt = l.cfg.Now().Add(l.cfg.Timing.Poll)
	var end *stop
	for end == nil {
		if end = l.step(ctx); end == nil {
			end = l.wait(ctx)
		}
	}
	return l.finish(ctx, end)
}

// listen opens the listener, once. The lease in force has not expired.
func (l *loop) listen() *stop {
	if l.listening {
		return nil
	}
	if err := l.server.Listen(); err != nil {
		return l.listenerFailed(err)
	}
	l.listening = true
	return nil
}

func (l *loop) listenerFailed(err error) *stop {
	l.cfg.Log.Error("listener failed", "error", err)
	return &stop{cause: ListenerFailed, code: bastion.ExitFailure}
}

// step does what is due: it reads the lease, decides by time, and reports. At the
// deadline it does not read the lease first, because a read can be slow. If there is a
// newer lease, the table refuses the ending.
func (l *loop) step(ctx context.Context) *stop {
	now := l.cfg.Now()
	d := l.decide(now)
	if d.end != bastion.EndDeadline && !now.Before(l.pollAt) {
		if end, _ := l.poll(ctx); end != nil {
			return end
		}
		now = l.cfg.Now()
		d = l.decide(now)
	}
	l.decidedAt, l.decideAt = now, d.next
	if d.warn > 0 {
		l.server.Warn(d.warn)
	}
	var end *stop
	switch d.end {
	case bastion.EndDeadline:
		return l.endAtDeadline(ctx)
	case bastion.EndIdle:
		end = l.endIdle(ctx, now)
	default:
		l.resume()
		end = l.listen()
	}
	if end != nil {
		return end
	}
	return l.reportIfDue(ctx)
}

func (l *loop) decide(now time.Time) timeDecision {
	open, lastUse := l.server.Connections()
	return decide(timeInput{
		now: now, decidedAt: l.decidedAt, lease: l.lease,
		unusedSince: unusedSince(l.readyAt, l.leasedAt, lastUse, open),
	}, l.cfg.Timing.Warnings)
}

// wait waits until the next step is due, the server changes, or the task must end.
func (l *loop) wait(ctx context.Context) *stop {
	next := bastion.Earlier(bastion.Earlier(l.decideAt, l.pollAt), l.nextReport())
	timer := time.NewTimer(next.Sub(l.cfg.Now()))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return l.terminated(ctx)
	case err := <-l.server.Failed():
		return l.listenerFailed(err)
	case <-l.server.Changed():
	case <-timer.C:
	}
	return nil
}

// terminated ends the bastion after SIGTERM. The control plane closes the lease just
// before it calls StopTask, so the lease, read once more, usually has the reason.
func (l *loop) terminated(ctx context.Context) *stop {
	if end, _ := l.poll(context.WithoutCancel(ctx)); end != nil {
		return end
	}
	return &stop{cause: Terminated, code: bastion.ExitTerminated}
}

// poll reads the lease and puts a newer one in force. It returns a stop if the lease is
// closed or removed. If the lease cannot be read, the one in force stays, and poll
// returns the error.
func (l *loop) poll(ctx context.Context) (*stop, error) {
	call, cancel := l.call(ctx)
	lease, err := l.cfg.Lease.Read(call)
	cancel()
	l.pollAt = l.cfg.Now().Add(l.cfg.Timing.Poll)
	switch {
	case errors.Is(err, bastion.ErrNotFound):
		return &stop{cause: LeaseRemoved}, nil
	case err != nil:
		if !l.readFailing && ctx.Err() == nil {
			l.cfg.Log.Warn("lease not readable, keeping the last one", "error", err)
		}
		l.readFailing = true
		return nil, err
	}
	l.readFailing = false
	if lease.Generation <= l.lease.Generation {
		return nil, nil
	}
	if !lease.Open {
		l.server.Reply(lease.ConsoleReply)
		return &stop{cause: causeOf(lease.EndReason)}, nil
	}
	l.setLease(lease)
	return nil, nil
}

// setLease puts a lease in force.
func (l *loop) setLease(lease bastion.Lease) {
	now := l.cfg.Now()
	if !lease.Deadline.Equal(l.lease.Deadline) {
		l.decidedAt = now // skip the warnings whose time has passed already
	}
	l.lease, l.leasedAt = lease, now
	closed := l.server.SetLease(lease)
	l.server.Reply(lease.ConsoleReply)
	var keys []string
	for _, a := range lease.Admissions() {
		if fingerprint := a.Key.Fingerprint(); fingerprint != "" { // an invalid key has none
			keys = append(keys, fingerprint+" from "+bastion.SourceList(a.Sources))
		}
	}
	l.cfg.Log.Info("lease in force", "generation", lease.Generation, "deadline", lease.Deadline,
		"keys", keys, "idle", lease.IdleTimeout.String(), "connections_closed", closed)
}

// call returns the context of one call to the table of leases. A call that begins before
// the deadline ends at the deadline at the latest.
func (l *loop) call(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := l.cfg.Timing.Call
	if left := l.lease.Deadline.Sub(l.cfg.Now()); left > 0 {
		limit = min(limit, left)
	}
	return context.WithTimeout(ctx, limit)
}

// report returns the current report.
func (l *loop) report() bastion.Report {
	open, lastUse := l.server.Connections()
	keys, _ := l.server.HostKeys()
	return bastion.Report{
		HostKey:        keys[0],
		MoreHostKeys:   keys[1:],
		Generation:     l.lease.Generation,
		Connections:    open,
		LastUsedAt:     lastUse.UTC(),
		ConsoleRequest: l.server.ConsoleRequest(),
	}
}

// nextReport returns when the next report is due. The first one waits for host keys,
// because the person saves the keys that the first response of the API has.
func (l *loop) nextReport() time.Time {
	due := bastion.Later(reportDue(l.sent, l.sentAt, l.report(), l.cfg.Timing), l.reportAt)
	if _, complete := l.server.HostKeys(); !complete {
		due = bastion.Later(due, l.begunAt.Add(l.cfg.Timing.HostKeys))
	}
	return due
}

// reportIfDue writes the report if it is due. The first report makes the bastion ready.
func (l *loop) reportIfDue(ctx context.Context) *stop {
	if l.nextReport().After(l.cfg.Now()) {
		return nil
	}
	switch err := l.write(ctx, l.report()); {
	case errors.Is(err, bastion.ErrNotFound):
		return &stop{cause: LeaseRemoved}
	case err == nil && l.readyAt.IsZero():
		l.readyAt = l.sentAt
		var keys []string
		for _, key := range l.sent.HostKeys() {
			keys = append(keys, key.Fingerprint())
		}
		l.cfg.Log.Info("ready", "host_keys", keys, "generation", l.sent.Generation)
	}
	return nil
}

// write writes a report. If the report has an ending and the table has a newer lease,
// it returns ErrConflict.
func (l *loop) write(ctx context.Context, report bastion.Report) error {
	call, cancel := l.call(ctx)
	defer cancel()
	err := l.cfg.Lease.Report(call, report)
	now := l.cfg.Now()
	if errors.Is(err, bastion.ErrConflict) {
		return err // no failure of the table
	}
	if err != nil {
		l.reportAt = now.Add(l.cfg.Timing.Poll)
		if !l.reportFailing && ctx.Err() == nil {
			l.cfg.Log.Warn("report not written, retrying", "error", err)
		}
		l.reportFailing = true
		return err
	}
	l.sent, l.sentAt, l.reportAt, l.reportFailing = report, now, time.Time{}, false
	return nil
}
