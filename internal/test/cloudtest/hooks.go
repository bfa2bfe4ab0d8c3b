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

// A Fault is one way in which a call goes wrong.
type Fault struct {
	Name  string
	After bool // the call has its effect all the same
	Hook  Hook
}

// Faults are all the ways in which a call goes wrong for its caller.
func Faults() []Fault {
	return []Fault{
		{"fails before its effect", false, FailBefore},
		{"fails after its effect", true, FailAfter},
		{"hangs before its effect", false, HangBefore},
		{"hangs after its effect", true, HangAfter},
	}
}

// FailBefore fails a call that had no effect.
func FailBefore(_ context.Context, call string, _ func() error) error {
	return fmt.Errorf("%s: %w before its effect", call, ErrInjected)
}

// FailAfter fails a call that had its effect, whatever it would have answered.
func FailAfter(_ context.Context, call string, do func() error) error {
	return fmt.Errorf("%s: %w after its effect (%v)", call, ErrInjected, do())
}

// HangBefore keeps the caller, who is to have a deadline, until it is over. The
// call has no effect.
func HangBefore(ctx context.Context, call string, _ func() error) error {
	<-ctx.Done()
	return fmt.Errorf("%s: no answer: %w", call, ctx.Err())
}

// HangAfter keeps the caller until its deadline is over. The call has its effect
// at once.
func HangAfter(ctx context.Context, call string, do func() error) error {
	err := do()
	<-ctx.Done()
	return fmt.Errorf("%s: no answer: %w (%v)", call, ctx.Err(), err)
}

// Pass lets a call through.
func Pass(_ context.Context, _ string, do func() error) error { return do() }

// At has the hook deal with the kth call of a name, and no other: counted from 1,
// of any name where it is empty.
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

// Recorder notes the calls that are made, in the order in which they begin.
type Recorder struct {
	mu    sync.Mutex
	calls []string
}

// Hook notes the call and lets it through.
func (r *Recorder) Hook(_ context.Context, call string, do func() error) error {
	r.mu.Lock()
	r.calls = append(r.calls, call)
	r.mu.Unlock()
	return do()
}

// Calls are the names of the calls so far.
func (r *Recorder) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// Pause holds calls, at their start or after their effect, until it is released.
// A caller whose deadline passes meanwhile is held all the same, as a function
// that the machine under it has frozen.
type Pause struct {
	after             bool
	reached, released chan struct{}
	reach, release    sync.Once
}

// PauseBefore holds calls before their effect.
func PauseBefore() *Pause { return newPause(false) }

// PauseAfter holds calls that have had their effect.
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

// Release lets the held calls go on, and further ones through.
func (p *Pause) Release() { p.release.Do(func() { close(p.released) }) }
