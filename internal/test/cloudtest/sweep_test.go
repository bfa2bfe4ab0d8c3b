package cloudtest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// The first sweep marks an orphan. It is ended only after the grace period.
func TestSweepWaitsForTheGracePeriod(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.orphans()
		sweep := func() {
			if _, err := w.service.Sweep(context.Background()); err != nil {
				t.Error(err)
			}
			time.Sleep(15 * time.Second) // until a task has stopped
		}
		sweep()
		time.Sleep(timing.SweepGrace - 16*time.Second)
		sweep()
		if inv := w.cloud.Inventory(); len(inv.Live()) != 1 || len(inv.Groups) != 1 || len(inv.Groups[0].Ingress) != 1 || inv.Leases[0].Ended {
			t.Errorf("within the grace period: %+v", inv)
		}
		sweep()
		if inv := w.cloud.Inventory(); len(inv.Live()) != 0 || !inv.Leases[0].Ended {
			t.Errorf("after the grace period: %+v", inv)
		}
	})
}

// A record accounts for the task and the lease of its current attempt only. Another
// task with the same bastion ID is an orphan.
func TestSweepEndsTaskOfAnotherAttempt(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		rec := w.ready()
		orphan, err := w.cloud.Tasks().Run(ctx, bastion.TaskSpec{BastionID: rec.ID, Attempt: 7, GroupID: rec.Group.ID, Subnet: "a", TaskDefinition: "bastion:1", AttemptCreatedAt: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.cloud.Leases().Write(ctx, orphan.ID, bastion.Lease{BastionID: rec.ID, Generation: 1, Open: true, Deadline: rec.Intent.Deadline}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(11 * time.Minute)
			if _, err := w.service.Sweep(ctx); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Minute)
		inv := w.cloud.Inventory()
		if live := inv.Live(); len(live) != 1 || live[0].ID != rec.Attempt.TaskID {
			t.Errorf("live tasks: %+v", live)
		}
		for _, item := range inv.Leases {
			if item.Ended != (item.TaskID == orphan.ID) {
				t.Errorf("lease of task %s: ended %t", item.TaskID, item.Ended)
			}
		}
	})
}

// If records cannot be read, a sweep ends nothing and removes no mark.
func TestSweepEndsNothingWhenReadsFail(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		rec := w.ready()
		w.orphans()
		time.Sleep(5 * time.Second) // until reads show all of them
		if _, err := w.service.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		marked, err := w.service.Marks.Marks(ctx)
		if err != nil || len(marked) != 3 {
			t.Fatalf("marked: %v, %v", marked, err)
		}
		blind := w.serviceOn(cloudtest.Wrap(w.ports(), func(ctx context.Context, call string, do func() error) error {
			if call == "Records.Fetch" {
				return cloudtest.FailBefore(ctx, call, do)
			}
			return do()
		}))
		for range 3 {
			time.Sleep(11 * time.Minute)
			if n, err := blind.Sweep(ctx); n != 0 || err == nil {
				t.Errorf("a sweep that cannot read records returns %d orphans, error %v", n, err)
			}
		}
		if marks, err := w.service.Marks.Marks(ctx); err != nil || len(marks) != 3 {
			t.Errorf("marked: %v, %v", marks, err)
		}
		if inv := w.cloud.Inventory(); len(inv.Live()) != 2 || w.only().ID != rec.ID {
			t.Errorf("live tasks: %+v", inv.Live())
		}
	})
}

// A sweep that cannot list tasks, groups, leases or marks returns the error.
func TestSweepReturnsTheErrorOfAList(t *testing.T) {
	for _, call := range []string{"Tasks.List", "Groups.List", "Leases.List", "Marks.Marks"} {
		simulate(t, func(t *testing.T, w *world) {
			service := w.serviceOn(cloudtest.Wrap(w.ports(), cloudtest.At(call, 1, cloudtest.FailBefore)))
			if _, err := service.Sweep(context.Background()); !errors.Is(err, cloudtest.ErrInjected) {
				t.Errorf("%s failed: %v", call, err)
			}
		})
	}
}
