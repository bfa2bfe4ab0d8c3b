package cloudtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// ErrInjected is the error of a call that was made to fail.
var ErrInjected = errors.New("injected failure")

// Fault is one way in which a call fails or hangs.
type Fault struct {
	Name  string
	After bool // the call has its effect
	Hook  Hook
}

// Faults returns all faults.
func Faults() []Fault {
	return []Fault{
		{"fails before its effect", false, FailBefore},
		{"fails after its effect", true, FailAfter},
		{"hangs before its effect", false, HangBefore},
		{"hangs after its effect", true, HangAfter},
	}
}

// FailBefore fails a call without calling do.
func FailBefore(_ context.Context, call string, _ func() error) error {
	return fmt.Errorf("%s: %w before its effect", call, ErrInjected)
}

// FailAfter fails a call after do, whatever do returns.
func FailAfter(_ context.Context, call string, do func() error) error {
	return fmt.Errorf("%s: %w after its effect (%v)", call, ErrInjected, do())
}

// HangBefore waits until ctx is done, and fails the call without calling do. The caller
// must set a deadline.
func HangBefore(ctx context.Context, call string, _ func() error) error {
	<-ctx.Done()
	return fmt.Errorf("%s: no response: %w", call, ctx.Err())
}

// HangAfter calls do, waits until ctx is done, and fails the call.
func HangAfter(ctx context.Context, call string, do func() error) error {
	err := do()
	<-ctx.Done()
	return fmt.Errorf("%s: no response: %w (%v)", call, ctx.Err(), err)
}

// Pass calls do without change.
func Pass(_ context.Context, _ string, do func() error) error { return do() }

// At returns a hook that applies the given hook to the kth call of a name only, counted
// from 1. If the name is empty, calls of every name count.
func At(name string, k int, hook Hook) Hook {
	var mu sync.Mutex
	seen := 0
	return func(ctx context.Context, call string, do func() error) error {
		mu.Lock()
		if name == "" || name == call {
			seen++
		}
		hit := (name == "" || name == call) && seen == k
		mu.Unlock()
		if hit {
			return hook(ctx, call, do)
		}
		return do()
	}
}

// Chain passes a call through all hooks, the first one outermost.
func Chain(hooks ...Hook) Hook {
	return func(ctx context.Context, call string, do func() error) error {
		for _, hook := range slices.Backward(hooks) {
			inner := do
			do = func() error { return hook(ctx, call, inner) }
		}
		return do()
	}
}

// Recorder records calls in the order in which they begin.
type Recorder struct {
	mu    sync.Mutex
	calls []string
}

// Hook records the call and calls do.
func (r *Recorder) Hook(_ context.Context, call string, do func() error) error {
	r.mu.Lock()
	r.calls = append(r.calls, call)
	r.mu.Unlock()
	return do()
}

// Calls returns the names of the calls so far.
func (r *Recorder) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// Pause holds calls, before or after their effect, until Release. It ignores the
// caller's deadline, like a frozen Lambda sandbox.
type Pause struct {
	after             bool
	reached, released chan struct{}
	reach, release    sync.Once
}

// PauseBefore holds calls before their effect.
func PauseBefore() *Pause { return newPause(false) }

// PauseAfter holds calls after their effect.
func PauseAfter() *Pause { return newPause(true) }

func newPause(after bool) *Pause {
	return &Pause{after: after, reached: make(chan struct{}), released: make(chan struct{})}
}

// Hook holds the call.
func (p *Pause) Hook(_ context.Context, _ string, do func() error) error {
	if !p.after {
		p.hold()
		return do()
	}
	err := do()
	p.hold()
	return err
}

func (p *Pause) hold() {
	p.reach.Do(func() { close(p.reached) })
	<-p.released
}

// Reached is closed when the first call is held.
func (p *Pause) Reached() <-chan struct{} { return p.reached }

// Release lets held calls continue. Later calls are not held.
func (p *Pause) Release() { p.release.Do(func() { close(p.released) }) }
