package cloudtest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// calls returns the calls that an operation makes when nothing fails. All fault cases
// are generated from them.
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

// rest runs the reaper for a while, and then checks that the cloud matches the intent
// of all records.
func (w *world) rest(what string) {
	w.t.Helper()
	w.reap(20 * time.Minute)
	for _, wrong := range w.audit() {
		w.t.Errorf("%s: %v", what, wrong)
	}
}

// reads are calls without an effect. They cannot fail after their effect, and holding
// one before it reads is the same as calling it later.
var reads = map[string]bool{
	"Records.Fetch": true, "Records.FetchByName": true, "Records.ListByOwner": true, "Keys.RememberedKey": true,
	"DueList.Due": true, "Marks.Marks": true, "Groups.Describe": true, "Groups.List": true,
	"Tasks.Describe": true, "Tasks.Fetch": true, "Tasks.List": true, "Leases.Fetch": true, "Leases.List": true,
}

// polled reports whether the last of these calls is a read that was made more than six
// times, as by a request that waits.
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

// faultCase is one generated case: an operation, and one of its calls, which fails or
// is held.
type faultCase struct {
	name      string
	operation string
	call      string
	run       func(*testing.T)
}

// faultSeed seeds the choice of the cases that run without BASTION_FAULTS=all.
const faultSeed = 1

// choose returns the cases to run: all of them if all is set, else a tenth that depends
// only on the seed. For each operation and each call that the tenth does not include,
// it adds the first case.
func choose(cases []faultCase, all bool) (chosen []faultCase) {
	if all {
		return cases
	}
	random := rand.New(rand.NewPCG(faultSeed, 0))
	operations, calls := map[string]bool{}, map[string]bool{}
	picked := make([]bool, len(cases))
	for i, c := range cases {
		if picked[i] = random.IntN(10) == 0; picked[i] {
			operations[c.operation], calls[c.call] = true, true
		}
	}
	for i, c := range cases {
		if picked[i] || !operations[c.operation] || !calls[c.call] {
			operations[c.operation], calls[c.call] = true, true
			chosen = append(chosen, c)
		}
	}
	return chosen
}

// runCases runs the chosen cases in parallel, and prints how many ran.
func runCases(t *testing.T, kind string, cases []faultCase) (ran int) {
	chosen := choose(cases, os.Getenv("BASTION_FAULTS") == "all")
	fmt.Printf("%s: running %d of %d cases\n", kind, len(chosen), len(cases))
	t.Cleanup(func() { fmt.Printf("%s: %d of %d cases ran (seed %d)\n", kind, len(chosen), len(cases), faultSeed) })
	for _, c := range chosen {
		bubble(t, c.name, c.run)
	}
	return len(chosen)
}

func TestChosenFaultCasesCoverEveryOperationAndCall(t *testing.T) {
	for kind, cases := range map[string][]faultCase{"faults": failCases(t), "overtaken": overtakeCases(t, new(atomic.Int64))} {
		operations, calls := map[string]bool{}, map[string]bool{}
		chosen := choose(cases, false)
		for _, c := range chosen {
			operations[c.operation], calls[c.call] = true, true
		}
		for _, c := range cases {
			if !operations[c.operation] || !calls[c.call] {
				t.Errorf("%s: no case of operation %q or call %q is chosen", kind, c.operation, c.call)
			}
		}
		if len(chosen) > len(cases)/8 {
			t.Errorf("%s: %d of %d cases are chosen, want about a tenth", kind, len(chosen), len(cases))
		}
		again := choose(cases, false)
		if !slices.EqualFunc(chosen, again, func(a, b faultCase) bool { return a.name == b.name }) {
			t.Errorf("%s: a second choice differs", kind)
		}
		if len(choose(cases, true)) != len(cases) {
			t.Errorf("%s: with all set, choose leaves out cases", kind)
		}
	}
}

// Each call fails or hangs, before or after its effect. The reaper must then bring the
// cloud to what the record intends, and a repeated create must succeed.
func TestEveryCallFailsOnce(t *testing.T) { runCases(t, "faults", failCases(t)) }

func failCases(t *testing.T) (cases []faultCase) {
	for _, staleness := range stalenesses {
		for _, op := range operations {
			for k, call := range calls(t, op, staleness) {
				for _, fault := range cloudtest.Faults() {
					if reads[call] && fault.After {
						continue
					}
					what := fmt.Sprintf("%s, staleness %s: call %d, %s, %s", op.name, staleness, k, call, fault.Name)
					cases = append(cases, faultCase{what, op.name, call, func(t *testing.T) { failOnce(t, what, op, staleness, k, fault) }})
				}
			}
		}
	}
	return cases
}

func failOnce(t *testing.T, what string, op operation, staleness time.Duration, k int, f cloudtest.Fault) {
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
}

// holds lists the ways to hold an invocation while another operation runs. A call is
// held before or after its effect, and the invocation continues later. Or the call is
// held before its effect, has its effect later, and the invocation ends there, as when
// a slow request takes effect after its sender has died.
var holds = []struct {
	name   string
	pause  func() *cloudtest.Pause
	before bool
	dies   bool
}{
	{"held before its effect", cloudtest.PauseBefore, true, false},
	{"held before its effect, after which its caller dies", cloudtest.PauseBefore, true, true},
	{"held after its effect", cloudtest.PauseAfter, false, false},
}

// One invocation is held at one of its calls while another operation runs to its end.
func TestEveryCallIsOvertaken(t *testing.T) {
	unheld, ran := new(atomic.Int64), 0
	t.Cleanup(func() {
		fmt.Printf("overtaken: %d cases did not reach the call to hold\n", unheld.Load())
		if unheld.Load() > int64(ran/100) {
			t.Error("more than 1% of the cases did not reach the call to hold")
		}
	})
	ran = runCases(t, "overtaken", overtakeCases(t, unheld))
}

func overtakeCases(t *testing.T, unheld *atomic.Int64) (cases []faultCase) {
	for _, staleness := range stalenesses {
		for _, op := range operations {
			made := calls(t, op, staleness)
			for k, call := range made {
				for _, other := range overtakers {
					if staleness > 0 && other.name == "extend" || polled(made[:k+1]) {
						continue // an extension does not depend on the group; one poll stands for all
					}
					for h, hold := range holds {
						if reads[call] && hold.before {
							continue
						}
						what := fmt.Sprintf("%s, staleness %s: call %d, %s, %s, while %s", op.name, staleness, k, call, hold.name, other.name)
						cases = append(cases, faultCase{what, op.name, call, func(t *testing.T) { overtake(t, what, op, staleness, k, other, h, unheld) }})
					}
				}
			}
		}
	}
	return cases
}

func overtake(t *testing.T, what string, op operation, staleness time.Duration, k int, other operation, h int, unheld *atomic.Int64) {
	hold := holds[h]
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
		unheld.Add(1) // two concurrent steps ran in another order than in the recording
	}
	w.runOther(what, other)
	pause.Release()
	<-ended
	w.rest(what)
	if other.name == "close" && !op.opens && w.only().ID != "" {
		t.Errorf("%s: open after the close: %+v", what, w.only().Intent)
	}
}

// runOther runs another operation, and the reaper several times, while the invocation
// is held.
func (w *world) runOther(what string, other operation) {
	w.t.Helper()
	ctx, cancel := invocation()
	defer cancel()
	var refusal *bastion.Error // for example because the bastion has expired meanwhile
	if err := other.run(ctx, w.service, w); err != nil && !errors.As(err, &refusal) {
		w.t.Errorf("%s: the other operation: %v", what, err)
	}
	for range 5 {
		w.service.Reap(ctx)
		time.Sleep(1700 * time.Millisecond)
	}
}

// diesAt sends the kth call through the hook, and fails it and all later ones.
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
