package cloudtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/cloudtest"
)

// operation is something that a person or a schedule does, and that makes calls.
type operation struct {
	name  string
	opens bool         // where there is none, it makes a bastion
	setup func(*world) // before it, without faults
	run   func(context.Context, *bastion.Service, *world) error
}

func nothing(*world)        {}
func readyBastion(w *world) { w.ready() }

var operations = []operation{
	{"create", true, nothing, createFrom(home, keyA)},
	{"create again", true, readyBastion, createFrom(home, keyA)},
	{"rebind", true, readyBastion, createFrom(travel, "")},
	{"new key", true, readyBastion, createFrom(home, keyB)},
	{"create with the remembered key", true, func(w *world) {
		w.ready()
		w.service.CloseAll(context.Background(), alice(home), time.Minute)
	}, createFrom(home, "")},
	{"create over an expired one", true, func(w *world) {
		w.agent.BrokenTimer = true
		w.ready()
		time.Sleep(9 * time.Hour)
	}, createFrom(travel, keyB)},
	{"observe a console's request", false, func(w *world) {
		w.agent.Ask(w.ready().Attempt.TaskID, bastion.Request{Verb: bastion.VerbExtend, TTL: 10 * time.Hour})
		time.Sleep(10 * time.Second)
	}, func(ctx context.Context, s *bastion.Service, w *world) error {
		return s.Observe(ctx, w.only().ID)
	}},
	{"extend", false, readyBastion, func(ctx context.Context, s *bastion.Service, w *world) error {
		_, err := s.Extend(ctx, alice(home), w.only().ID, 10*time.Hour, 10*time.Second)
		return err
	}},
	{"close", false, readyBastion, func(ctx context.Context, s *bastion.Service, w *world) error {
		_, err := s.Close(ctx, alice(home), w.only().ID, 10*time.Second)
		return err
	}},
	{"close while starting", false, func(w *world) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		w.service.Create(ctx, bastion.CreateRequest{Caller: alice(home), Key: keyA})
	}, func(ctx context.Context, s *bastion.Service, w *world) error {
		_, err := s.CloseAll(ctx, alice(home), 10*time.Second)
		return err
	}},
	{"reap an expired one", false, func(w *world) {
		w.ready()
		w.kill() // its own timer would end it
		time.Sleep(9 * time.Hour)
	}, reapTwice},
	{"reap a dead task", false, func(w *world) {
		w.ready()
		w.kill()
		time.Sleep(6 * time.Minute)
	}, reapTwice},
	{"reap a refused attempt", false, func(w *world) {
		w.cloud.RefuseCapacity(2)
		ctx, cancel := invocation()
		defer cancel()
		w.service.Create(ctx, bastion.CreateRequest{Caller: alice(home), Key: keyA})
		time.Sleep(time.Minute)
	}, reapTwice},
	{"sweep orphans", false, func(w *world) {
		w.orphans()
		w.service.Sweep(context.Background())
		time.Sleep(11 * time.Minute)
	}, func(ctx context.Context, s *bastion.Service, w *world) error {
		_, err := s.Sweep(ctx)
		w.sweepAgain()
		return err
	}},
	{"sweep once the orphans are gone", false, func(w *world) {
		w.orphans()
		w.service.Sweep(context.Background())
		time.Sleep(11 * time.Minute)
		w.service.Sweep(context.Background())
		w.sweepAgain()
		w.service.Store.Mark(context.Background(), "group that is gone", time.Now())
	}, func(ctx context.Context, s *bastion.Service, w *world) error {
		_, err := s.Sweep(ctx)
		w.sweepAgain()
		return err
	}},
}

func createFrom(from netip.Addr, key bastion.Key) func(context.Context, *bastion.Service, *world) error {
	return func(ctx context.Context, s *bastion.Service, _ *world) error {
		_, _, err := s.Create(ctx, bastion.CreateRequest{Caller: alice(from), Key: key, Wait: 10 * time.Second})
		return err
	}
}

func reapTwice(ctx context.Context, s *bastion.Service, _ *world) error {
	_, first := s.Reap(ctx)
	time.Sleep(time.Minute)
	ctx, cancel := invocation()
	defer cancel()
	_, second := s.Reap(ctx)
	return errors.Join(first, second)
}

// only is the one bastion that is open.
func (w *world) only() bastion.Record {
	for _, rec := range w.cloud.Inventory().Records {
		if rec.Intent.Open {
			return rec
		}
	}
	return bastion.Record{}
}

func (w *world) kill() {
	for _, task := range w.cloud.Inventory().Live() {
		w.cloud.Kill(task.ID)
	}
}

// sweepAgain runs the passes that follow one in which something went wrong.
func (w *world) sweepAgain() {
	for range 3 {
		time.Sleep(time.Minute)
		if _, err := w.service.Sweep(context.Background()); err != nil {
			w.t.Errorf("sweep: %v", err)
		}
	}
}

// orphans makes a task, a group and a lease that no record knows.
func (w *world) orphans() {
	ctx := context.Background()
	group, err := w.cloud.Groups().Create(ctx, "nobody")
	if err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(time.Minute) // so that it shows
	if err := w.cloud.Groups().Authorize(ctx, group.ID, netip.PrefixFrom(home, 32)); err != nil {
		w.t.Fatal(err)
	}
	task, err := w.cloud.Tasks().Run(ctx, bastion.Launch{BastionID: "nobody", Attempt: 1, GroupID: group.ID, Subnet: "a", TaskDefinition: "bastion:1", AnnouncedAt: time.Now()})
	if err != nil {
		w.t.Fatal(err)
	}
	lease := bastion.Lease{BastionID: "nobody", Generation: 1, Open: true, Keys: []bastion.Key{keyA}, Deadline: time.Now().Add(1000 * time.Hour)}
	if err := w.cloud.Leases().Write(ctx, task.ID, lease); err != nil {
		w.t.Fatal(err)
	}
}

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
	"Store.Fetch": true, "Store.FetchByName": true, "Store.ListByOwner": true, "Store.RememberedKey": true,
	"Store.Due": true, "Store.Marks": true, "Groups.Describe": true, "Groups.List": true,
	"Tasks.Describe": true, "Tasks.List": true, "Leases.Fetch": true, "Leases.List": true,
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

// overtakers are intents that can follow any operation.
var overtakers = []operation{
	{"create", true, nothing, createFrom(home, keyA)},
	{"rebind", true, nothing, createFrom(travel, keyB)},
	{"extend", false, nothing, func(ctx context.Context, s *bastion.Service, w *world) error {
		if rec := w.only(); rec.ID != "" {
			_, err := s.Extend(ctx, alice(home), rec.ID, 11*time.Hour, 5*time.Second)
			return err
		}
		return nil
	}},
	{"close", false, nothing, func(ctx context.Context, s *bastion.Service, _ *world) error {
		_, err := s.CloseAll(ctx, alice(home), 10*time.Second)
		return err
	}},
	{"close and create", true, nothing, func(ctx context.Context, s *bastion.Service, _ *world) error {
		if _, err := s.CloseAll(ctx, alice(home), 2*time.Second); err != nil {
			return err
		}
		_, _, err := s.Create(ctx, bastion.CreateRequest{Caller: alice(travel), Key: keyB, Wait: 8 * time.Second})
		return err
	}},
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
