package lambdamode

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Schedule is the payload that EventBridge Scheduler sends to the reaper.
type Schedule struct {
	Action string `json:"action"` // "reap" or "sweep"
}

// Reaper is the function that the schedules invoke: it runs the reaper and the sweep.
type Reaper struct {
	service interface {
		Reap(context.Context) (int, error)
		Sweep(context.Context) (int, error)
	}
	dueList bastion.DueList
	records interface {
		Fetch(ctx context.Context, id string) (bastion.Record, error)
	}
	overdueAfter time.Duration // see config.Config.OverdueAfter
	metrics      *metrics
	now          func() time.Time
	log          *slog.Logger
}

// Reaper returns the function.
func (a *App) Reaper() *Reaper {
	a.pace.SetShare(backgroundShare)
	a.notifyOwners()
	return &Reaper{service: a.Service, dueList: a.Service.DueList, records: a.Service.Records, overdueAfter: a.Config.OverdueAfter(), metrics: a.metrics, now: time.Now, log: a.log}
}

// Handle reaps or sweeps. It returns an error of Reap only if Reap started no converge;
// otherwise it logs the error, and the records that failed stay due. It always returns
// an error of Sweep.
func (r *Reaper) Handle(ctx context.Context, schedule Schedule) error {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	switch schedule.Action {
	case "reap":
		return r.reap(ctx)
	case "sweep":
		return r.sweep(ctx)
	}
	return fmt.Errorf(`unknown action %q: the reaper knows "reap" and "sweep"`, schedule.Action)
}

func (r *Reaper) reap(ctx context.Context) error {
	count, err := r.service.Reap(ctx)
	if err != nil && count == 0 {
		return err
	}
	if err != nil {
		r.log.ErrorContext(ctx, "reap failed", "error", err.Error())
	}
	if count > 0 {
		r.log.InfoContext(ctx, "reaped", "count", count)
	}
	return r.overdue(ctx)
}

// overdue logs how late the longest-due record is, if the reaper should have converged
// it by now, and writes the metric.
func (r *Reaper) overdue(ctx context.Context) error {
	now := r.now()
	ids, err := r.dueList.Due(ctx, now.Add(-r.overdueAfter), 1)
	if err != nil {
		return fmt.Errorf("list overdue records: %w", err)
	}
	if len(ids) == 0 {
		return nil
	}
	rec, err := r.records.Fetch(ctx, ids[0])
	if err != nil {
		return fmt.Errorf("fetch an overdue record: %w", err)
	}
	if late := now.Sub(rec.DueAt); !rec.DueAt.IsZero() && late > r.overdueAfter { // reads of the index may be stale
		r.log.WarnContext(ctx, "overdue", "bastion", rec.ID, "late", late.String())
		r.metrics.seconds(metricOverdue, late)
	}
	return nil
}

func (r *Reaper) sweep(ctx context.Context) error {
	orphans, err := r.service.Sweep(ctx)
	if orphans > 0 {
		r.metrics.count(metricOrphans, orphans)
	}
	return err
}
