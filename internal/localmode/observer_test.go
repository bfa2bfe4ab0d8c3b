package localmode

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestObserverLooksOnceMoreAfterTheLastEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		o := newObserver(ctx, slog.New(slog.DiscardHandler))
		var looks, atOnce, most atomic.Int32
		o.observe = func(context.Context, string) error {
			looks.Add(1)
			most.Store(max(most.Load(), atOnce.Add(1)))
			time.Sleep(time.Second)
			atOnce.Add(-1)
			return errors.New("always fails") // and hinders nothing
		}
		for range 100 {
			o.notify("b1")
		}
		synctest.Wait()
		if looks.Load() != 1 {
			t.Errorf("%d looks at the first events, want 1", looks.Load())
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if looks.Load() != 2 || most.Load() != 1 {
			t.Errorf("%d looks, %d at once, want 2 and 1", looks.Load(), most.Load())
		}
		o.notify("b1")
		cancel()
		o.wait()
		o.notify("b1")
		if looks.Load() != 3 {
			t.Errorf("%d looks, want 3", looks.Load())
		}
	})
}

func TestScheduleRunsUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		runs := 0
		every(ctx, time.Second, func(context.Context) { runs++ })
		if runs != 3 {
			t.Errorf("%d runs in 3.5 s, want 3", runs)
		}
	})
}
