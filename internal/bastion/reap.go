package bastion

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// reapBatch is how many due records one pass takes up, reapers how many at the
// same time.
const (
	reapBatch = 200
	reapers   = 8
)

// Reap converges every record that is due, the most overdue first, and answers
// how many it took up. It starts none for which the deadline of ctx leaves no
// time. One that fails stays due and hinders no other; the errors are joined.
func (s *Service) Reap(ctx context.Context) (int, error) {
	ids, err := s.Store.Due(ctx, s.now(), reapBatch)
	if err != nil {
		return 0, fmt.Errorf("list due records: %w", err)
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, reapers)
	errs := make([]error, len(ids))
	taken := 0
	for i, id := range ids {
		slots <- struct{}{}
		if s.outOfTime(ctx) {
			break
		}
		taken++
		wg.Go(func() {
			defer func() { <-slots }()
			_, errs[i] = s.Converge(ctx, id, MayReap)
		})
	}
	wg.Wait()
	return taken, errors.Join(errs...)
}

func (s *Service) outOfTime(ctx context.Context) bool {
	deadline, limited := ctx.Deadline()
	return ctx.Err() != nil || limited && time.Until(deadline) < s.Config.Timing.CallTimeout
}

// Observe converges one bastion that something has happened to. One that there
// is no record of is fine: the sweep finds what it left.
func (s *Service) Observe(ctx context.Context, id string) error {
	_, err := s.Converge(ctx, id, MayObserve)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
