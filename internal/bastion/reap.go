package bastion

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// reapBatch is the maximum number of due records in one query, not counting those
// that this run has started. reapWorkers is how many records are converged
// concurrently: enough to use the cloud's rate limits, and few enough that no call
// waits too long for its turn.
const (
	reapBatch   = 200
	reapWorkers = 8
)

// lastStart is how much time must be left to start one more converge. If a converge
// waits for its turn at every call, it takes about this long. If it takes longer, its
// record stays due.
const lastStart = 10 * time.Second

// ReapResult holds what a run of Reap did.
type ReapResult struct {
	Started int // converges that Reap started
	Failed  int // converges that failed, not counting those that had no time
	// FailingSince is the earliest Failing.Since of the converged records, and FailingID
	// the ID of that record. They are zero if no record has one.
	FailingSince time.Time
	FailingID    string
}

// Reap converges every record that was due when Reap began, the earliest DueAt first
// and each record once. A record whose converge fails stays due and does not affect the
// others; the errors are logged and joined. If too little time is left before the
// deadline of ctx, the other records stay due, which is not an error.
func (s *Service) Reap(ctx context.Context) (ReapResult, error) {
	began := s.now()
	started := map[string]bool{} // by the bastion's ID
	var result ReapResult
	var failed error
	for {
		limit := reapBatch + len(started) // the query also returns started records that are still due
		ids, err := s.DueList.Due(ctx, began, limit)
		if err != nil {
			return result, errors.Join(failed, fmt.Errorf("list due records: %w", err))
		}
		last := len(ids) < limit
		ids = slices.DeleteFunc(ids, func(id string) bool { return started[id] })
		failed = errors.Join(failed, s.reapAll(ctx, ids, started, &result))
		if last || len(ids) == 0 || outOfTime(ctx) {
			return result, failed
		}
	}
}

// reapAll converges the records while there is time, adds their IDs to started, and
// counts them in result.
func (s *Service) reapAll(ctx context.Context, ids []string, started map[string]bool, result *ReapResult) error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex // guards result, failed and noTime
		failed []error
		noTime int
	)
	slots := make(chan struct{}, reapWorkers)
	for _, id := range ids {
		slots <- struct{}{}
		if outOfTime(ctx) {
			break
		}
		started[id] = true
		wg.Go(func() {
			defer func() { <-slots }()
			rec, err := s.Converge(ctx, id, ReaperSteps)
			mu.Lock()
			defer mu.Unlock()
			result.Started++
			if at := rec.Failing.Since; !at.IsZero() && (result.FailingSince.IsZero() || at.Before(result.FailingSince)) {
				result.FailingSince, result.FailingID = at, id
			}
			switch {
			case err == nil:
			case errors.Is(err, ErrNoTime), ctx.Err() != nil: // the deadline of ctx has passed: not a failure
				noTime++
			default:
				result.Failed++
				failed = append(failed, err)
				s.Log.Error("converge failed", "bastion", id, "failing", rec.Failing, "error", err.Error())
			}
		})
	}
	wg.Wait()
	if noTime > 0 {
		s.Log.Info("no time left", "bastions", noTime)
	}
	return errors.Join(failed...)
}

// outOfTime reports whether it is too late to start one more converge.
func outOfTime(ctx context.Context) bool {
	deadline, limited := ctx.Deadline()
	return ctx.Err() != nil || limited && time.Until(deadline) < lastStart
}

// observePause is the time after which Observe tries again.
const observePause = 5 * time.Second

// Observe converges one bastion after an event. If the bastion has no record, Observe
// does nothing; the sweep finds its orphans.
//
// If the rate limits leave no time for a bastion that is starting, Observe tries again
// until the deadline of ctx is near, because a person waits for that bastion. If there is
// still no time, or if the bastion is not starting, its record becomes due at once. The
// reaper then converges it; with many due records, that can take minutes.
func (s *Service) Observe(ctx context.Context, id string) error {
	rec, err := s.Converge(ctx, id, ObserverSteps)
	_, limited := ctx.Deadline()
	for limited && errors.Is(err, ErrNoTime) && rec.State() == Starting && !outOfTime(ctx) && Sleep(ctx, observePause) == nil {
		rec, err = s.Converge(ctx, id, ObserverSteps)
	}
	if errors.Is(err, ErrNoTime) {
		_, err = s.update(ctx, Caller{Admin: true}, id, func(next *Record) error {
			next.DueAt = s.dueNow(*next)
			return nil
		})
	}
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
