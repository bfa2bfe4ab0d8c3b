package sshd

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// keeper keeps the bastion in step with its lease and with time. It is the
// goroutine that called Run; its fields are its own.
type leaseLoop struct {
	*server
	listener net.Listener
	down     chan error // gets the reason if the listener fails

	sent   bastion.Report // the last that was written
	sentAt time.Time
	ready  time.Time // when the first was written
	asked  time.Time // when the lease in force was taken
	judged time.Time // when time was last judged

	next     time.Time // when time is to be judged again
	pollAt   time.Time
	reportAt time.Time // not before: the last report failed
	idleAt   time.Time // not before: the last idle end failed
	drained  time.Time // when handshakes in flight are cut; zero unless idle waits for them

	unread, unwritten bool // the last read, or report, failed: said once
}

func newLeaseLoop(s *server) *leaseLoop { return &leaseLoop{server: s, down: make(chan error, 1)} }

// stop is the decision to end.
type stop struct {
	why    *cause
	ending bastion.Ending // for the last report; zero if the end is not the bastion's own decision
	code   int
}

// keep serves until it is decided to end, and then ends.
func (k *leaseLoop) keep(ctx context.Context, lease bastion.Lease) int {
	end := k.start(lease)
	for end == nil {
		if end = k.step(ctx); end == nil {
			end = k.wait(ctx)
		}
	}
	return k.finish(ctx, end)
}

// start takes the first lease and listens, unless the lease has run out.
func (k *leaseLoop) start(lease bastion.Lease) *stop {
	k.take(lease)
	now := k.cfg.Now()
	k.pollAt = now.Add(k.cfg.Timing.Poll)
	if !now.Before(lease.Deadline) {
		return nil
	}
	listener, err := k.cfg.Listen()
	if err != nil {
		k.log.Error("cannot listen", "error", err)
		return &stop{why: causeListener, code: bastion.ExitFailure}
	}
	k.listener = listener
	k.log.Info("listening", "address", listener.Addr().String())
	k.wg.Go(func() {
		if err := k.accept(listener); err != nil {
			k.down <- err
		}
	})
	return nil
}

// step does what is due: it reads the lease, judges time, and reports.
func (k *leaseLoop) step(ctx context.Context) *stop {
	if !k.cfg.Now().Before(k.pollAt) {
		if end, _ := k.poll(ctx); end != nil {
			return end
		}
	}
	now := k.cfg.Now()
	open, lastUse := k.connections.use()
	lease := *k.lease.Load()
	v := judge(timeInput{now, k.judged, lease, quietSince(k.ready, k.asked, lastUse, open)}, k.cfg.Timing.Warnings)
	k.judged, k.next = now, v.next
	if v.warn > 0 {
		k.warn(warning(lease, v.warn))
	}
	var end *stop
	switch v.end {
	case bastion.EndDeadline:
		end = k.endAtDeadline(ctx)
	case bastion.EndIdle:
		end = k.endIdle(ctx, now)
	default:
		k.resume()
	}
	if end != nil {
		return end
	}
	return k.reportIfDue(ctx)
}

// wait waits for the next thing that is due, or for news.
func (k *leaseLoop) wait(ctx context.Context) *stop {
	next := sooner(sooner(k.next, k.pollAt), k.nextReport())
	timer := time.NewTimer(next.Sub(k.cfg.Now()))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return k.terminated(ctx)
	case err := <-k.down:
		k.log.Error("the listener failed", "error", err)
		return &stop{why: causeListener, code: bastion.ExitFailure}
	case <-k.wake:
	case <-timer.C:
	}
	return nil
}

// terminated says why SIGTERM came. StopTask follows the closing of the lease at
// once, so that the lease, read once more, mostly has the reason.
func (k *leaseLoop) terminated(ctx context.Context) *stop {
	if end, _ := k.poll(context.WithoutCancel(ctx)); end != nil {
		return end
	}
	return &stop{why: causeTerminated, code: bastion.ExitTerminated}
}

// poll reads the lease and obeys it. When reading fails it goes on with the
// lease it has, and answers the error.
func (k *leaseLoop) poll(ctx context.Context) (*stop, error) {
	call, cancel := k.call(ctx)
	lease, err := k.cfg.Lease.Read(call)
	cancel()
	k.pollAt = k.cfg.Now().Add(k.cfg.Timing.Poll)
	switch {
	case errors.Is(err, bastion.ErrNotFound):
		return &stop{why: causeGone}, nil
	case err != nil:
		if !k.unread && ctx.Err() == nil {
			k.log.Warn("the lease could not be read; going on with the last", "error", err)
		}
		k.unread = true
		return nil, err
	}
	k.unread = false
	if lease.Generation <= k.lease.Load().Generation {
		return nil, nil
	}
	if !lease.Open {
		k.asks.deliver(lease.ConsoleReply)
		return &stop{why: causeOf(lease.EndReason)}, nil
	}
	k.take(lease)
	return nil, nil
}

// take puts a lease in force.
func (k *leaseLoop) take(lease bastion.Lease) {
	now := k.cfg.Now()
	keys, err := parseKeys(lease.Keys)
	if err != nil {
		k.log.Error("a key of the lease admits nobody", "error", err)
	}
	before := k.lease.Swap(&lease)
	old := k.connections.rekey(keys)
	for _, c := range old {
		c.end(causeKey)
	}
	if before == nil || !before.Deadline.Equal(lease.Deadline) {
		k.judged = now // warnings whose time had passed when the deadline was set are not due
	}
	k.asked = now
	k.asks.deliver(lease.ConsoleReply)
	k.log.Info("lease", "generation", lease.Generation, "deadline", lease.Deadline,
		"keys", keys.fingerprints(), "source", lease.Source, "idle", lease.IdleTimeout.String(), "cut", len(old))
}

// call bounds one call to the table of leases, so that none outlasts the
// deadline.
func (k *leaseLoop) call(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := k.cfg.Timing.Call
	if left := k.lease.Load().Deadline.Sub(k.cfg.Now()); left > 0 {
		limit = min(limit, left)
	}
	return context.WithTimeout(ctx, limit)
}

// warn tells all consoles.
func (k *leaseLoop) warn(notice string) {
	for _, c := range k.connections.everybody() {
		c.notify(notice)
	}
}
