package cloudtest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// calls lists the calls that an operation makes when nothing fails, which is
// what all the cases are generated from.
func calls(t *testing.T, op operation, staleness time.Duration) (made []string) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, staleness)
		op.setup(w)
		var recorder cloudtest.Recorder
		service := w.serviceOn(cloudtest.Wrap(w.ports(), recorder.Hook))
		ctx, cancel := invocation()
		defer cancel()
		if err := op.run(ctx, service, w); err != nil {
			t.Errorf("%s without a fault: %v", op.name, err)
		}
		made = recorder.Calls()
		w.rest("")
	})
	return made
}

// bubble runs one case as a test of its own, in simulated time.
func bubble(t *testing.T, name string, run func(*testing.T)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, run)
	})
}

// rest lets the schedules run and then wants everything to be as intended.
func (w *world) rest(what string) {
	w.t.Helper()
	w.reap(20 * time.Minute)
	for _, wrong := range w.audit() {
		w.t.Errorf("%s: %v", what, wrong)
	}
}

// reads are calls without an effect: they fail in one way less, and holding one
// before it reads is as if it had come later.
var reads = map[string]bool{
	"Records.Fetch": true, "Records.FetchByName": true, "Records.ListByOwner": true, "Keys.RememberedKey": true,
	"DueList.Due": true, "Marks.Marks": true, "Groups.Describe": true, "Groups.List": true,
	"Tasks.Describe": true, "Tasks.Fetch": true, "Tasks.List": true, "Leases.Fetch": true, "Leases.List": true,
}

// polled reports whether the last of these calls is a read that was made often
// before: one of those by which a request waits.
func polled(made []string) bool {
	last, n := made[len(made)-1], 0
	for _, call := range made {
		if call == last {
			n++
		}
	}
	return reads[last] && n > 6
}

var stalenesses = []time.Duration{0, 5 * time.Second}

// Whatever call fails, before or after its effect or by hanging until the
// invocation's end: the reaper finishes what intent says, and a repeat works.
func TestEveryCallFailsOnce(t *testing.T) {
	cases := 0
	t.Cleanup(func() { fmt.Printf("faults: %d cases ran\n", cases) })
	for _, staleness := range stalenesses {
		for _, op := range operations {
			made := calls(t, op, staleness)
			for k := range made {
				for _, fault := range cloudtest.Faults() {
					if reads[made[k]] && fault.After {
						continue
					}
					cases++
					failOnce(t, op, staleness, k, made[k], fault)
				}
			}
		}
	}
}

func failOnce(t *testing.T, op operation, staleness time.Duration, k int, call string, f cloudtest.Fault) {
	what := fmt.Sprintf("%s, staleness %s: call %d, %s, %s", op.name, staleness, k, call, f.Name)
	bubble(t, what, func(t *testing.T) {
		w := newWorld(t, staleness)
		op.setup(w)
		service := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.At("", k+1, f.Hook)))
		ctx, cancel := invocation()
		defer cancel()
		failed := op.run(ctx, service, w)
		w.rest(what)
		if failed != nil && op.name == "create" {
			if _, err := w.create(w.service, home, keyA); err != nil {
				t.Errorf("%s: the repeat: %v", what, err)
			}
			w.rest(what + ", repeated")
		}
	})
}

// holds are the ways to be overtaken: held before the effect or after it, and
// then going on; or held before it, and dead as soon as the call has had it, as
// when a request that was long under way outlives who sent it.
var holds = []struct {
	name   string
	pause  func() *cloudtest.Pause
	before bool
	dies   bool
}{
	{"held before its effect", cloudtest.PauseBefore, true, false},
	{"held before its effect, with which its caller dies", cloudtest.PauseBefore, true, true},
	{"held after its effect", cloudtest.PauseAfter, false, false},
}

// One invocation is held at one of its calls while another intent runs to its
// end.
func TestEveryCallIsOvertaken(t *testing.T) {
	cases, unheld := 0, &atomic.Int64{}
	t.Cleanup(func() {
		fmt.Printf("overtaken: %d cases ran, %d of them ended without the call to hold\n", cases, unheld.Load())
		if unheld.Load() > int64(cases/100) {
			t.Error("too many cases never made the call that was to be held")
		}
	})
	for _, staleness := range stalenesses {
		for _, op := range operations {
			made := calls(t, op, staleness)
			for k := range made {
				for _, other := range overtakers {
					if staleness > 0 && other.name == "extend" || polled(made[:k+1]) {
						continue // the group does not matter to it; or it is a look of many
					}
					for h, hold := range holds {
						if reads[made[k]] && hold.before {
							continue
						}
						cases++
						overtake(t, op, staleness, k, made[k], other, h, unheld)
					}
				}
			}
		}
	}
}

func overtake(t *testing.T, op operation, staleness time.Duration, k int, call string, other operation, h int, unheld *atomic.Int64) {
	hold := holds[h]
	what := fmt.Sprintf("%s, staleness %s: call %d, %s, %s, while %s", op.name, staleness, k, call, hold.name, other.name)
	bubble(t, what, func(t *testing.T) {
		w := newWorld(t, staleness)
		op.setup(w)
		pause := hold.pause()
		hook := cloudtest.At("", k+1, pause.Hook)
		if hold.dies {
			hook = diesAt(k+1, pause.Hook)
		}
		service := w.serviceOn(cloudtest.Wrap(w.ports(), hook))
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			ctx, cancel := invocation()
			defer cancel()
			op.run(ctx, service, w)
		}()
		select {
		case <-pause.Reached():
		case <-ended:
			unheld.Add(1) // two things happened at the same moment in another order
		}
		w.runToItsEnd(what, other)
		pause.Release()
		<-ended
		w.rest(what)
		if other.name == "close" && !op.opens && w.only().ID != "" {
			t.Errorf("%s: open after the close: %+v", what, w.only().Intent)
		}
	})
}

// runToItsEnd runs an intent, and the reaper often, for a good part of the held
// invocation's life.
func (w *world) runToItsEnd(what string, other operation) {
	w.t.Helper()
	ctx, cancel := invocation()
	defer cancel()
	var refusal *bastion.Error // such as: it has expired meanwhile
	if err := other.run(ctx, w.service, w); err != nil && !errors.As(err, &refusal) {
		w.t.Errorf("%s: the other: %v", what, err)
	}
	for range 5 {
		w.service.Reap(ctx)
		time.Sleep(1700 * time.Millisecond)
	}
}

// diesAt has the hook deal with the kth call, and fails that and all later ones.
func diesAt(k int, hook cloudtest.Hook) cloudtest.Hook {
	var mu sync.Mutex
	made := 0
	return func(ctx context.Context, call string, do func() error) error {
		mu.Lock()
		made++
		n := made
		mu.Unlock()
		switch {
		case n < k:
			return do()
		case n == k:
			hook(ctx, call, do)
		}
		return fmt.Errorf("%s: %w", call, cloudtest.ErrInjected)
	}
}
