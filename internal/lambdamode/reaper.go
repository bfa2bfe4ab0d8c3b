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
		Reap(context.Context) (bastion.ReapResult, error)
		Sweep(context.Context) (int, error)
	}
	dueList bastion.DueList
	records interface {
		Fetch(ctx context.Context, id string) (bastion.Record, error)
		CountOpen(ctx context.Context) (int, error)
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

// Handle reaps or sweeps. It returns an error of Reap only if Reap started no converge. A
// converge that fails is counted, and Reap logs it; its record stays due. Handle always
// returns an error of Sweep, and of the query for overdue records.
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
	r.countOpen(ctx)
	result, err := r.service.Reap(ctx)
	if err != nil && result.Started == 0 {
		return err
	}
	if err != nil && result.Failed == 0 { // Reap logs the converges that failed
		r.log.ErrorContext(ctx, "reap failed", "error", err.Error())
	}
	if result.Failed > 0 {
		r.metrics.count(metricFailedConverges, result.Failed)
	}
	if result.Started > 0 {
		r.log.InfoContext(ctx, "reaped", "count", result.Started, "failed", result.Failed)
	}
	return r.overdue(ctx, result.FailingID, result.FailingSince)
}

// countOpen measures how many bastions are open. A run without the measurement is no
// failed run: what needs the table of records fails by itself.
func (r *Reaper) countOpen(ctx context.Context) {
	open, err := r.records.CountOpen(ctx)
	if err != nil {
		r.log.WarnContext(ctx, "open bastions not counted", "error", err.Error())
	}
	if open > 0 {
		r.metrics.count(metricOpen, open)
	}
}

// overdue measures how long the oldest overdue record is overdue. A record is overdue if
// its converges have failed for longer than overdueAfter, counted from the first failure.
// It is also overdue if no run of the reaper has converged it, counted from its DueAt.
// id is the record that has failed for longest, and failingSince the time of its first
// failure; both are zero if no record fails.
func (r *Reaper) overdue(ctx context.Context, id string, failingSince time.Time) error {
	now := r.now()
	late := time.Duration(0)
	if !failingSince.IsZero() {
		late = now.Sub(failingSince)
	}
	missedID, missed, err := r.missed(ctx, now)
	if missed > late {
		id, late = missedID, missed
	}
	if late > r.overdueAfter {
		r.log.WarnContext(ctx, "overdue", "bastion", id, "late", late.String())
		r.metrics.seconds(metricOverdue, late)
	}
	return err
}

// missed returns the oldest record that is due and that no run has converged for
// overdueAfter, and for how long it is due. It returns zeros if there is none.
func (r *Reaper) missed(ctx context.Context, now time.Time) (id string, late time.Duration, err error) {
	ids, err := r.dueList.Due(ctx, now.Add(-r.overdueAfter), 1)
	if err != nil {
		return "", 0, fmt.Errorf("list overdue records: %w", err)
	}
	if len(ids) == 0 {
		return "", 0, nil
	}
	rec, err := r.records.Fetch(ctx, ids[0])
	if err != nil {
		return "", 0, fmt.Errorf("fetch overdue record %s: %w", ids[0], err)
	}
	if rec.DueAt.IsZero() { // reads of the index may be stale
		return "", 0, nil
	}
	return rec.ID, now.Sub(rec.DueAt), nil
}

func (r *Reaper) sweep(ctx context.Context) error {
	orphans, err := r.service.Sweep(ctx)
	if orphans > 0 {
		r.metrics.count(metricOrphans, orphans)
	}
	return err
}
