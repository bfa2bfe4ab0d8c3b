package cloudtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// What is seen for the first time is marked, and ended no sooner than its grace.
func TestSweepWaitsForTheGracePeriod(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.orphans()
		sweep := func() {
			if _, err := w.service.Sweep(context.Background()); err != nil {
				t.Error(err)
			}
			time.Sleep(15 * time.Second) // in which a task stops
		}
		sweep()
		time.Sleep(timing.SweepGrace - 16*time.Second)
		sweep()
		if inv := w.cloud.Inventory(); len(inv.Live()) != 1 || len(inv.Groups) != 1 || len(inv.Groups[0].Ingress) != 1 || inv.Leases[0].Ended {
			t.Errorf("within its grace: %+v", inv)
		}
		sweep()
		if inv := w.cloud.Inventory(); len(inv.Live()) != 0 || !inv.Leases[0].Ended {
			t.Errorf("after its grace: %+v", inv)
		}
	})
}

// A record accounts for the task of its present attempt and that one's lease, and
// for no other that carries its id.
func TestSweepEndsTaskOfAnotherAttempt(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		rec := w.ready()
		stray, err := w.cloud.Tasks().Run(ctx, bastion.TaskSpec{BastionID: rec.ID, Attempt: 7, GroupID: rec.Group.ID, Subnet: "a", TaskDefinition: "bastion:1", AttemptCreatedAt: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.cloud.Leases().Write(ctx, stray.ID, bastion.Lease{BastionID: rec.ID, Generation: 1, Open: true, Deadline: rec.Intent.Deadline}); err != nil {
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
			t.Errorf("live: %+v", live)
		}
		for _, item := range inv.Leases {
			if item.Ended != (item.TaskID == stray.ID) {
				t.Errorf("the lease of %s: ended %t", item.TaskID, item.Ended)
			}
		}
	})
}

// What cannot be found out is neither an orphan nor none: nothing is ended, and no
// mark goes.
func TestSweepEndsNothingWhenReadsFail(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		rec := w.ready()
		w.orphans()
		time.Sleep(5 * time.Second) // so that all of them show
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
				t.Errorf("a sweep that can read no record found %d orphans: %v", n, err)
			}
		}
		if marks, err := w.service.Marks.Marks(ctx); err != nil || len(marks) != 3 {
			t.Errorf("marked: %v, %v", marks, err)
		}
		if inv := w.cloud.Inventory(); len(inv.Live()) != 2 || w.only().ID != rec.ID {
			t.Errorf("live: %+v", inv.Live())
		}
	})
}
