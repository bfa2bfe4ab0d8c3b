package cloudtest_test

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// operation is one request, event or scheduled run.
type operation struct {
	name  string
	opens bool         // creates a bastion if none is open
	setup func(*world) // runs first, without faults
	run   func(context.Context, *bastion.Service, *world) error
}

func noSetup(*world)        {}
func readyBastion(w *world) { w.ready() }

// operationSources are the sources of all operations.
var operationSources = []netip.Prefix{
	netip.PrefixFrom(home, 32), netip.PrefixFrom(travel, 32), netip.PrefixFrom(office, 32),
	netip.MustParsePrefix("192.0.2.64/28"), netip.MustParsePrefix("2001:db8::/64"),
}

var office = netip.MustParseAddr("192.0.2.3")

var operations = []operation{
	{"create", true, noSetup, createFrom(home, keyA)},
	{"create again", true, readyBastion, createFrom(home, keyA)},
	{"rebind", true, readyBastion, createFrom(travel, "")},
	{"add a key", true, readyBastion, createFrom(travel, keyB)},
	{"only key", true, readyBastion, createWith(bastion.CreateRequest{Caller: alice(travel), Key: keyB, OnlyKey: true})},
	{"a list of sources", true, readyBastion, createWith(bastion.CreateRequest{Caller: alice(home), Key: keyA, Sources: operationSources[1:]})},
	{"move one of two keys", true, func(w *world) {
		w.ready()
		if _, err := w.create(w.service, travel, keyB); err != nil {
			w.t.Fatal(err)
		}
		w.reap(10 * time.Minute)
	}, createFrom(office, keyB)},
	{"create with the remembered key", true, func(w *world) {
		w.ready()
		w.service.CloseAll(context.Background(), alice(home), time.Minute)
	}, createFrom(home, "")},
	{"create over an expired one", true, func(w *world) {
		w.runner.BrokenTimer = true
		w.readyFor(new(45 * time.Minute))
		time.Sleep(time.Hour)
	}, createFrom(travel, keyB)},
	{"observe a console's request", false, func(w *world) {
		w.runner.Request(w.ready().Attempt.TaskID, bastion.VerbExtend, 10*time.Hour)
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
		w.kill() // otherwise the task would end itself
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
	{"reap when the warning is due", false, func(w *world) {
		time.Sleep(time.Until(w.ready().Intent.Deadline) - warn + time.Second)
	}, reapTwice},
	{"reap a closed one", false, func(w *world) {
		w.ready()
		w.service.CloseAll(context.Background(), alice(home), 0)
		time.Sleep(30 * time.Second)
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
		w.service.Marks.Mark(context.Background(), "group that is gone", time.Now())
	}, func(ctx context.Context, s *bastion.Service, w *world) error {
		_, err := s.Sweep(ctx)
		w.sweepAgain()
		return err
	}},
}

func createFrom(from netip.Addr, key bastion.Key) func(context.Context, *bastion.Service, *world) error {
	return func(ctx context.Context, s *bastion.Service, _ *world) error {
		_, _, err := s.Create(ctx, bastion.CreateRequest{Caller: alice(from), Key: key, Notify: true, Wait: 10 * time.Second})
		return err
	}
}

func createWith(req bastion.CreateRequest) func(context.Context, *bastion.Service, *world) error {
	req.Notify, req.Wait = true, 10*time.Second
	return func(ctx context.Context, s *bastion.Service, _ *world) error {
		_, _, err := s.Create(ctx, req)
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

// only returns the record of the open bastion; the zero record if none is open.
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

// sweepAgain runs three more sweeps, which complete a sweep that failed.
func (w *world) sweepAgain() {
	for range 3 {
		time.Sleep(time.Minute)
		if _, err := w.service.Sweep(context.Background()); err != nil {
			w.t.Errorf("sweep: %v", err)
		}
	}
}

// orphans creates a task, a group and a lease that belong to no record.
func (w *world) orphans() {
	ctx := context.Background()
	group, err := w.cloud.Groups().Create(ctx, bastion.GroupSpec{BastionID: "norecord"})
	if err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(time.Minute) // until reads show the group
	if err := w.cloud.Groups().Authorize(ctx, group.ID, netip.PrefixFrom(home, 32)); err != nil {
		w.t.Fatal(err)
	}
	task, err := w.cloud.Tasks().Run(ctx, bastion.TaskSpec{BastionID: "norecord", Attempt: 1, GroupID: group.ID, Subnet: "a", TaskDefinition: "bastion:1", AttemptCreatedAt: time.Now()})
	if err != nil {
		w.t.Fatal(err)
	}
	lease := bastion.Lease{BastionID: "norecord", Generation: 1, Open: true, Keys: []bastion.Key{keyA}, Deadline: time.Now().Add(1000 * time.Hour)}
	if err := w.cloud.Leases().Write(ctx, task.ID, lease); err != nil {
		w.t.Fatal(err)
	}
}

// overtakers lists the operations that run while another one is held.
var overtakers = []operation{
	{"create", true, noSetup, createFrom(home, keyA)},
	{"rebind", true, noSetup, createFrom(travel, keyB)},
	{"extend", false, noSetup, func(ctx context.Context, s *bastion.Service, w *world) error {
		if rec := w.only(); rec.ID != "" {
			_, err := s.Extend(ctx, alice(home), rec.ID, 11*time.Hour, 5*time.Second)
			return err
		}
		return nil
	}},
	{"close", false, noSetup, func(ctx context.Context, s *bastion.Service, _ *world) error {
		_, err := s.CloseAll(ctx, alice(home), 10*time.Second)
		return err
	}},
	{"close and create", true, noSetup, func(ctx context.Context, s *bastion.Service, _ *world) error {
		if _, err := s.CloseAll(ctx, alice(home), 2*time.Second); err != nil {
			return err
		}
		_, _, err := s.Create(ctx, bastion.CreateRequest{Caller: alice(travel), Key: keyB, Wait: 8 * time.Second})
		return err
	}},
}
