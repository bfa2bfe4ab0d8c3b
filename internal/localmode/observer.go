package localmode

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// observer turns what happens to tasks into calls of Observe, as the event rule
// and the table's stream do on AWS. However fast events come, one bastion is
// looked at by one call at a time, and by one more after the last event.
type observer struct {
	ctx     context.Context
	observe func(ctx context.Context, bastionID string) error
	log     *slog.Logger

	running sync.WaitGroup
	mu      sync.Mutex
	again   map[string]bool // of the bastions being looked at: whether there is news
}

func newObserver(ctx context.Context, log *slog.Logger) *observer {
	return &observer{ctx: ctx, log: log, again: map[string]bool{}}
}

// notify says that something happened to a bastion. It does not wait.
func (o *observer) notify(bastionID string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ctx.Err() != nil {
		return
	}
	if _, busy := o.again[bastionID]; busy {
		o.again[bastionID] = true
		return
	}
	o.again[bastionID] = false
	o.running.Go(func() { o.look(bastionID) })
}

func (o *observer) look(bastionID string) {
	for more := true; more; more = o.news(bastionID) {
		if err := o.observe(o.ctx, bastionID); err != nil && o.ctx.Err() == nil {
			o.log.Warn("observe", "bastion", bastionID, "error", err)
		}
	}
}

// news reports whether something happened since the last look began.
func (o *observer) news(bastionID string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.again[bastionID] && o.ctx.Err() == nil {
		o.again[bastionID] = false
		return true
	}
	delete(o.again, bastionID)
	return false
}

// wait returns when nothing is being looked at any more. The context must have
// ended, and every notify returned.
func (o *observer) wait() { o.running.Wait() }

// every calls a schedule's function at each interval until the context ends.
func every(ctx context.Context, interval time.Duration, run func(context.Context)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			run(ctx)
		}
	}
}
