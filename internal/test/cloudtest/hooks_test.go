package cloudtest_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

func TestFaults(t *testing.T) {
	effects := map[string]int{
		"fails before its effect": 0, "fails after its effect": 1,
		"hangs before its effect": 0, "hangs after its effect": 1,
	}
	if got := len(cloudtest.Faults()); got != len(effects) {
		t.Fatalf("%d faults, want %d", got, len(effects))
	}
	for _, fault := range cloudtest.Faults() {
		t.Run(fault.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				began, effect := time.Now(), 0
				err := fault.Hook(ctx, "Records.Fetch", func() error { effect++; return nil })
				if err == nil || !strings.Contains(err.Error(), "Records.Fetch") {
					t.Errorf("error %v", err)
				}
				if effect != effects[fault.Name] {
					t.Errorf("%d effects", effect)
				}
				hangs := strings.HasPrefix(fault.Name, "hangs")
				if hung := time.Since(began) == time.Minute; hung != hangs {
					t.Errorf("the call took %s", time.Since(began))
				}
				if is := errors.Is(err, context.DeadlineExceeded); is != hangs {
					t.Errorf("error %v", err)
				}
				if is := errors.Is(err, cloudtest.ErrInjected); is == hangs {
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

func TestAt(t *testing.T) {
	tests := []struct {
		name string
		k    int
		hits []int
	}{
		{"b", 1, []int{1}},
		{"b", 2, []int{3}},
		{"b", 3, nil},
		{"", 3, []int{2}},
		{"", 4, []int{3}},
	}
	for _, tt := range tests {
		hook := cloudtest.At(tt.name, tt.k, cloudtest.FailBefore)
		var hits []int
		for i, call := range []string{"a", "b", "a", "b"} {
			if hook(t.Context(), call, func() error { return nil }) != nil {
				hits = append(hits, i)
			}
		}
		if !slices.Equal(hits, tt.hits) {
			t.Errorf("call %d of %q: hooked calls %v, want %v", tt.k, tt.name, hits, tt.hits)
		}
	}
}

func TestChainIsOutermostFirst(t *testing.T) {
	var order []string
	note := func(name string) cloudtest.Hook {
		return func(_ context.Context, _ string, do func() error) error {
			order = append(order, name)
			return do()
		}
	}
	var recorder cloudtest.Recorder
	hook := cloudtest.Chain(note("first"), recorder.Hook, note("second"), cloudtest.Pass)
	for range 2 {
		if err := hook(t.Context(), "Tasks.Run", func() error { order = append(order, "call"); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"first", "second", "call", "first", "second", "call"}; !slices.Equal(order, want) {
		t.Errorf("order %q", order)
	}
	if want := []string{"Tasks.Run", "Tasks.Run"}; !slices.Equal(recorder.Calls(), want) {
		t.Errorf("recorded %q", recorder.Calls())
	}
}

func TestPause(t *testing.T) {
	for _, after := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			pause := cloudtest.PauseBefore()
			if after {
				pause = cloudtest.PauseAfter()
			}
			effect, done := false, false
			go func() {
				_ = pause.Hook(t.Context(), "Records.Fetch", func() error { effect = true; return nil })
				done = true
			}()
			<-pause.Reached()
			synctest.Wait()
			if effect != after || done {
				t.Errorf("while the call is held: effect %t, done %t", effect, done)
			}
			pause.Release()
			synctest.Wait()
			if !effect || !done {
				t.Errorf("after Release: effect %t, done %t", effect, done)
			}
			if err := pause.Hook(t.Context(), "Records.Fetch", func() error { return nil }); err != nil {
				t.Error(err) // after Release, a call is not held
			}
		})
	}
}
