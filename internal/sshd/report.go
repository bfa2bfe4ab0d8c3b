package sshd

import (
	"context"
	"errors"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// report is what there is to say now.
func (k *leaseLoop) report() bastion.Report {
	open, lastUse := k.connections.use()
	return bastion.Report{
		HostKey:        publicKey(k.host.PublicKey()),
		Generation:     k.lease.Load().Generation,
		Connections:    open,
		LastUsedAt:     lastUse.UTC(),
		ConsoleRequest: k.asks.request(),
	}
}

// nextReport is when the report is to be sent.
func (k *leaseLoop) nextReport() time.Time {
	return later(reportAt(k.sent, k.sentAt, k.report(), k.cfg.Timing), k.reportAt)
}

// reportIfDue sends the report if it is due. The first makes the bastion ready.
func (k *leaseLoop) reportIfDue(ctx context.Context) *stop {
	if k.nextReport().After(k.cfg.Now()) {
		return nil
	}
	switch err := k.write(ctx, k.report()); {
	case errors.Is(err, bastion.ErrNotFound):
		return &stop{why: causeGone}
	case err == nil && k.ready.IsZero():
		k.ready = k.sentAt
		k.log.Info("ready", "host_key", k.sent.HostKey.Fingerprint(), "generation", k.sent.Generation)
	}
	return nil
}

// write writes a report.
func (k *leaseLoop) write(ctx context.Context, report bastion.Report) error {
	call, cancel := k.call(ctx)
	defer cancel()
	err := k.cfg.Lease.Report(call, report)
	now := k.cfg.Now()
	if err != nil {
		k.reportAt = now.Add(k.cfg.Timing.Poll)
		if !k.unwritten && ctx.Err() == nil {
			k.log.Warn("the report could not be written; trying on", "error", err)
		}
		k.unwritten = true
		return err
	}
	k.sent, k.sentAt, k.reportAt, k.unwritten = report, now, time.Time{}, false
	return nil
}
