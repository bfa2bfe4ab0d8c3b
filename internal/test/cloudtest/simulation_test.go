package cloudtest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// For a simulated day, ten owners send random requests, tasks die, capacity runs out and
// one call in twenty fails. In every minute, no task may run much longer than its
// deadline. When all bastions are closed, nothing may be left in the cloud.
//
// A day takes seconds, with the race detector many. So one day runs by default, and
// four with BASTION_FAULTS=all.
func TestFaultsOverADayLeaveNothingBehind(t *testing.T) {
	days := uint64(1)
	if os.Getenv("BASTION_FAULTS") == "all" {
		days = 4
	}
	t.Logf("days of faults: %d of 4", days)
	for seed := range days {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { dayOfFaults(t, seed) })
		})
	}
}

func dayOfFaults(t *testing.T, seed uint64) {
	w := newWorld(t, 2*time.Second)
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 1))
	chance := func(n int) bool { mu.Lock(); defer mu.Unlock(); return random.IntN(n) == 0 }
	pick := func(n int) int { mu.Lock(); defer mu.Unlock(); return random.IntN(n) }

	faults := cloudtest.Faults()
	unreliable := w.serviceOn(cloudtest.Wrap(w.ports(), func(ctx context.Context, call string, do func() error) error {
		if chance(20) {
			return faults[pick(len(faults))].Hook(ctx, call, do)
		}
		return do()
	}))
	w.tasks = func(ctx context.Context, call string, do func() error) error {
		if chance(20) {
			return faults[pick(2)].Hook(ctx, call, do) // fails before or after its effect
		}
		return do()
	}
	unreliable.Config.Quota = bastion.Quota{PerOwner: 3, Total: 40}
	unreliable.Config.IdleTimeout = time.Hour
	unreliable.Config.WarnBefore, w.service.Config.WarnBefore = 20*time.Minute, 20*time.Minute

	day, end := context.WithTimeout(context.Background(), 24*time.Hour)
	defer end()
	var people sync.WaitGroup
	for n := range 10 {
		people.Go(func() { w.person(day, unreliable, n, chance, pick) })
	}
	for day.Err() == nil {
		time.Sleep(time.Minute)
		ctx, cancel := invocation()
		unreliable.Reap(ctx)
		if chance(10) {
			unreliable.Sweep(ctx)
		}
		cancel()
		if live := w.cloud.Inventory().Live(); len(live) > 0 && chance(60) {
			w.cloud.Kill(live[pick(len(live))].ID)
		}
		if chance(120) {
			w.cloud.RefuseCapacity(pick(8))
		}
		w.wantNoOverdue(seed)
	}
	people.Wait()
	w.cloud.RefuseCapacity(0)
	for n := range 10 { // so that no deadline falls into the last minute
		if _, err := w.service.CloseAll(context.Background(), bastion.Caller{Owner: fmt.Sprintf("local:person%d", n)}, 0); err != nil {
			t.Error(err)
		}
	}
	w.reap(time.Hour)
	for range 3 { // a repeated sweep ends the orphans
		w.service.Sweep(context.Background())
		w.reap(15 * time.Minute)
	}
	for _, wrong := range w.audit() {
		t.Errorf("seed %d: %v", seed, wrong)
	}
	if all := len(w.cloud.Inventory().Records); all < 20 {
		t.Errorf("seed %d: %d bastions in a day, want at least 20", seed, all)
	}
}

// person sends random requests of one owner: create from changing addresses and with
// changing keys, extend, close. It also opens connections.
func (w *world) person(day context.Context, s *bastion.Service, n int, chance func(int) bool, pick func(int) int) {
	caller := bastion.Caller{Owner: fmt.Sprintf("local:person%d", n)}
	for day.Err() == nil {
		time.Sleep(time.Duration(1+pick(7200)) * time.Second)
		caller.Address = netip.AddrFrom4([4]byte{192, 0, 2, byte(pick(5))})
		ctx, cancel := invocation()
		ttl := time.Duration(1+pick(180)) * time.Minute
		switch pick(6) {
		case 0, 1, 2:
			key := keyA
			if chance(3) {
				key = keyB
			}
			name := []string{"", "db", "web"}[pick(3)]
			s.Create(ctx, bastion.CreateRequest{Caller: caller, Name: name, Key: key, TTL: &ttl, Notify: n%2 == 0, Wait: 20 * time.Second})
		case 3:
			if recs, err := s.List(ctx, caller, 0); err == nil && len(recs) > 0 {
				s.Extend(ctx, caller, recs[0].ID, ttl, 10*time.Second)
			}
		case 4:
			if recs, err := s.List(ctx, caller, 0); err == nil && len(recs) > 0 {
				w.runner.Use(recs[0].Attempt.TaskID, pick(3))
			}
		case 5:
			s.CloseAll(ctx, caller, 10*time.Second)
		}
		cancel()
	}
}

// overdueFor is how long a task may outlive its record's deadline: some runs of the
// reaper fail.
const overdueFor = 10 * time.Minute

// taskOverdueFor is how long a task that has a lease may outlive its lease's deadline:
// it calls the table at most twice.
const taskOverdueFor = 11 * time.Second

func (w *world) wantNoOverdue(seed uint64) {
	w.t.Helper()
	inv := w.cloud.Inventory()
	records := map[string]bastion.Record{}
	names := map[string]string{}
	for _, rec := range inv.Records {
		records[rec.ID] = rec
		if other, double := names[rec.Owner+"/"+rec.Name]; double && rec.Intent.Open {
			w.t.Errorf("seed %d: %s and %s both have owner %s and name %q", seed, other, rec.ID, rec.Owner, rec.Name)
		}
		if rec.Intent.Open {
			names[rec.Owner+"/"+rec.Name] = rec.ID
		}
	}
	leases := map[string]bastion.LeaseItem{}
	for _, item := range inv.Leases {
		leases[item.TaskID] = item
	}
	for _, task := range inv.Live() {
		lease, report := leases[task.ID].Lease, leases[task.ID].Report
		if task.Status == bastion.TaskRunning && report.Generation > 0 && time.Since(lease.Deadline) > taskOverdueFor {
			w.t.Errorf("seed %d: the task of %s runs %s after its lease's deadline", seed, task.BastionID, time.Since(lease.Deadline))
		}
		rec, known := records[task.BastionID]
		if !known || time.Since(rec.Intent.Deadline) > overdueFor {
			w.t.Errorf("seed %d: task of %s runs, deadline %s", seed, task.BastionID, rec.Intent.Deadline)
		}
	}
}
