package bastion

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// reapBatch is how many due records one query returns. reapWorkers is how many of
// them are converged concurrently: enough to use the cloud's rate limits, and few
// enough that no call waits too long for its turn.
const (
	reapBatch   = 200
	reapWorkers = 8
)

// lastStart is how much time must be left to begin with one more record: about as
// long as a converge takes that waits for its turn at every call. A converge that
// takes longer leaves its record due.
const lastStart = 10 * time.Second

// Reap converges every record that was due when Reap began, the most overdue first
// and each of them once, and returns how many it began with. A record that fails
// stays due and does not affect the others; the errors are joined. If the deadline
// of ctx leaves no time for more, the rest stays due, which is not an error.
func (s *Service) Reap(ctx context.Context) (int, error) {
	began := s.now()
	begun := map[string]bool{}
	var failed error
	for {
		limit := reapBatch + len(begun) // records that stayed due are returned again
		ids, err := s.DueList.Due(ctx, began, limit)
		if err != nil {
			return len(begun), errors.Join(failed, fmt.Errorf("list due records: %w", err))
		}
		last := len(ids) < limit
		ids = slices.DeleteFunc(ids, func(id string) bool { return begun[id] })
		failed = errors.Join(failed, s.reapAll(ctx, ids, begun))
		if last || len(ids) == 0 || outOfTime(ctx) {
			return len(begun), failed
		}
	}
}

// reapAll converges the records and adds those that it began with to begun.
func (s *Service) reapAll(ctx context.Context, ids []string, begun map[string]bool) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, reapWorkers)
	errs := make([]error, len(ids))
	for i, id := range ids {
		slots <- struct{}{}
		if outOfTime(ctx) {
			break
		}
		begun[id] = true
		wg.Go(func() {
			defer func() { <-slots }()
			_, errs[i] = s.Converge(ctx, id, ReaperSteps)
			if errs[i] != nil && ctx.Err() != nil { // the run's own deadline passed
				errs[i] = ErrNoTime
			}
		})
	}
	wg.Wait()
	failed := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return errors.Is(err, ErrNoTime) })
	if postponed := len(errs) - len(failed); postponed > 0 {
		s.Log.Info("no time left", "bastions", postponed)
	}
	return errors.Join(failed...)
}

// outOfTime reports whether it is too late to begin with one more record.
func outOfTime(ctx context.Context) bool {
	deadline, limited := ctx.Deadline()
	return ctx.Err() != nil || limited && time.Until(deadline) < lastStart
}

// Observe converges one bastion after an event. If there is no record of it, Observe
// does nothing: the sweep finds what is left. If too many events come at once for
// the rate limits, the record becomes due and the reaper converges it.
func (s *Service) Observe(ctx context.Context, id string) error {
	_, err := s.Converge(ctx, id, ObserverSteps)
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
