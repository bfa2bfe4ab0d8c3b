package lambdamode

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Schedule is what a schedule says.
type Schedule struct {
	Do string `json:"do"` // "reap" or "sweep"
}

// Reaper is the function behind the schedules.
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

// Reaper makes the function.
func (a *App) Reaper() *Reaper {
	a.pace.SetShare(backgroundShare)
	a.notifyOwners()
	return &Reaper{service: a.Service, dueList: a.Service.DueList, records: a.Service.Records, overdueAfter: a.Config.OverdueAfter(), metrics: a.metrics, now: time.Now, log: a.log}
}

// Handle does what a schedule says. An error means that nothing came of it; what
// failed for one bastion is in the log, and its record stays due.
func (r *Reaper) Handle(ctx context.Context, schedule Schedule) error {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	switch schedule.Do {
	case "reap":
		return r.reap(ctx)
	case "sweep":
		return r.sweep(ctx)
	}
	return fmt.Errorf(`this event says to do %q: the reaper is told "reap" or "sweep"`, schedule.Do)
}

func (r *Reaper) reap(ctx context.Context) error {
	taken, err := r.service.Reap(ctx)
	if err != nil && taken == 0 {
		return err
	}
	if err != nil {
		r.log.ErrorContext(ctx, "reap", "error", err.Error())
	}
	if taken > 0 {
		r.log.InfoContext(ctx, "reap", "taken", taken)
	}
	return r.overdue(ctx)
}

// overdue measures what the reaper did not get to, or could not get done.
func (r *Reaper) overdue(ctx context.Context) error {
	now := r.now()
	ids, err := r.dueList.Due(ctx, now.Add(-r.overdueAfter), 1)
	if err != nil {
		return fmt.Errorf("look for what is overdue: %w", err)
	}
	if len(ids) == 0 {
		return nil
	}
	rec, err := r.records.Fetch(ctx, ids[0])
	if err != nil {
		return fmt.Errorf("read what is overdue: %w", err)
	}
	if late := now.Sub(rec.DueAt); !rec.DueAt.IsZero() && late > r.overdueAfter { // the index may be behind
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
