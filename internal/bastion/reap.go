package bastion

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// reapBatch is how many due records are asked for at once, reapers how many are
// converged at the same time: enough to keep to the rates that the cloud allows,
// and so few that none waits for its turn longer than a call may take.
const (
	reapBatch = 200
	reapers   = 8
)

// lastStart is how much time must be left for one more to be begun: about what a
// converge takes that has to wait for its turn at every call. One that takes
// longer leaves its record due.
const lastStart = 10 * time.Second

// Reap converges every record that was due when it began, the most overdue first
// and each of them once, and answers how many it took up. One that fails stays
// due and hinders no other; the errors are joined. When the deadline of ctx
// leaves no time for more, the rest stays due, which is no error.
func (s *Service) Reap(ctx context.Context) (int, error) {
	began := s.now()
	taken := map[string]bool{}
	var failed error
	for {
		limit := reapBatch + len(taken) // those that stayed due come again
		ids, err := s.DueList.Due(ctx, began, limit)
		if err != nil {
			return len(taken), errors.Join(failed, fmt.Errorf("list due records: %w", err))
		}
		last := len(ids) < limit
		ids = slices.DeleteFunc(ids, func(id string) bool { return taken[id] })
		failed = errors.Join(failed, s.reapAll(ctx, ids, taken))
		if last || len(ids) == 0 || outOfTime(ctx) {
			return len(taken), failed
		}
	}
}

// reapAll converges the records, and notes those that it took up.
func (s *Service) reapAll(ctx context.Context, ids []string, taken map[string]bool) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, reapers)
	errs := make([]error, len(ids))
	for i, id := range ids {
		slots <- struct{}{}
		if outOfTime(ctx) {
			break
		}
		taken[id] = true
		wg.Go(func() {
			defer func() { <-slots }()
			_, errs[i] = s.Converge(ctx, id, ReaperSteps)
			if errs[i] != nil && ctx.Err() != nil { // its end came first
				errs[i] = ErrNoTime
			}
		})
	}
	wg.Wait()
	failed := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return errors.Is(err, ErrNoTime) })
	if late := len(errs) - len(failed); late > 0 {
		s.Log.Info("no time left: they stay due", "bastions", late)
	}
	return errors.Join(failed...)
}

// outOfTime reports whether it is too late to begin with one more.
func outOfTime(ctx context.Context) bool {
	deadline, limited := ctx.Deadline()
	return ctx.Err() != nil || limited && time.Until(deadline) < lastStart
}

// Observe converges one bastion that something has happened to. One that there
// is no record of is fine: the sweep finds what it left. When many things happen
// at once and its turn does not come, the record becomes due, for the reaper.
func (s *Service) Observe(ctx context.Context, id string) error {
	_, err := s.Converge(ctx, id, ObserverSteps)
	if errors.Is(err, ErrNoTime) {
		_, err = s.change(ctx, Caller{Admin: true}, id, func(next *Record) error {
			next.DueAt = s.dueNow(*next)
			return nil
		})
	}
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
