package localcloud

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

func TestStoppedTaskIsVisibleForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Config{})
		task := f.run(t, 1)
		synctest.Wait()
		f.stop(t, task.ID)
		synctest.Wait()
		time.Sleep(time.Hour)
		f.described(t)
		if again := f.run(t, 1); again.ID != task.ID || again.Status != bastion.TaskStopped || again.StopCode != "" {
			t.Errorf("RunTask again within the hour: %+v", again)
		}
		time.Sleep(time.Second)
		tasks, err := f.Tasks().Describe(t.Context(), id, task.ID)
		if err != nil || len(tasks) > 0 {
			t.Errorf("after an hour: %+v, %v", tasks, err)
		}
		if again := f.run(t, 1); again.ID == task.ID {
			t.Error("RunTask after an hour returned the first task")
		}
	})
}

func TestRefuseCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Config{})
		f.RefuseCapacity(2)
		for _, attempt := range []int{1, 1, 2, 1, 2} {
			_, err := f.Tasks().Run(t.Context(), f.spec(attempt))
			var refused *bastion.RefusedError
			if !errors.As(err, &refused) || refused.Failure.Code != bastion.FailureCapacity || refused.Failure.Message == "" {
				t.Errorf("attempt %d: %v", attempt, err)
			}
		}
		f.run(t, 3)
		if tasks := f.Inventory().Tasks; len(tasks) != 1 || tasks[0].Attempt != 3 {
			t.Errorf("tasks %+v", tasks)
		}
	})
}

func TestThrottledCallsHaveNoEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Config{})
		f.Throttle(2)
		if _, err := f.Tasks().Run(t.Context(), f.spec(1)); !errors.Is(err, errThrottled) {
			t.Errorf("run: %v", err)
		}
		if err := f.Groups().Delete(t.Context(), f.group.ID); !errors.Is(err, errThrottled) {
			t.Errorf("delete: %v", err)
		}
		if inv := f.Inventory(); len(inv.Tasks) > 0 || len(inv.Groups) != 1 {
			t.Errorf("throttled calls had an effect: %+v", inv)
		}
		f.run(t, 1)
	})
}

func TestCancelledCallsHaveNoEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		before := f.Inventory()
		rec := bastion.Record{ID: id, Version: 1, Intent: bastion.Intent{Open: true}}
		for call, err := range map[string]error{
			"create a record": f.Store().Create(ctx, rec, bastion.Quota{PerOwner: 1, Total: 1}),
			"delete a group":  f.Groups().Delete(ctx, f.group.ID),
			"write a lease":   f.Leases().Write(ctx, "task", bastion.Lease{Generation: 1}),
			"end a lease":     f.Leases().End(ctx, "task", id, time.Now().Add(time.Hour)),
		} {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", call, err)
			}
		}
		if _, err := f.Tasks().Run(ctx, f.spec(1)); !errors.Is(err, context.Canceled) {
			t.Errorf("run a task: %v", err)
		}
		if after := f.Inventory(); !reflect.DeepEqual(after, before) {
			t.Errorf("cancelled calls had an effect: %+v", after)
		}
	})
}

func TestGroupIsInUseUntilTheInterfaceIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Config{Linger: 15 * time.Minute})
		task := f.run(t, 1)
		synctest.Wait()
		f.stop(t, task.ID)
		time.Sleep(15*time.Minute - 1)
		synctest.Wait()
		if err := f.Groups().Delete(t.Context(), f.group.ID); !errors.Is(err, bastion.ErrInUse) {
			t.Errorf("delete: %v", err)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if err := f.Groups().Delete(t.Context(), f.group.ID); err != nil {
			t.Error(err)
		}
	})
}

func TestTombstonesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Config{})
		if err := f.Leases().End(t.Context(), "task", id, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if !item(t, f.Cloud, "task").Ended {
			t.Error("the item is not a tombstone")
		}
		time.Sleep(time.Second)
		if _, err := f.Leases().Fetch(t.Context(), "task"); !errors.Is(err, bastion.ErrNotFound) {
			t.Errorf("after it expired: %v", err)
		}
	})
}

func TestOnReportIsCalledForReportsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports atomic.Int64
		out := make(processes, 1)
		f := newFixture(t, Config{Runner: out, OnReport: func(bastionID, taskID string) {
			if bastionID == id && taskID != "" {
				reports.Add(1)
			}
		}})
		task := f.run(t, 1)
		process := <-out
		write := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		write(f.Leases().Write(t.Context(), task.ID, bastion.Lease{BastionID: id, Generation: 1, Open: true}))
		write(process.Lease.Report(t.Context(), bastion.Report{Generation: 1}))
		write(process.Lease.Report(t.Context(), bastion.Report{Generation: 1, Connections: 1}))
		write(f.Leases().End(t.Context(), task.ID, id, time.Now().Add(time.Hour)))
		if err := process.Lease.Report(t.Context(), bastion.Report{}); !errors.Is(err, bastion.ErrNotFound) {
			t.Errorf("report to a tombstone: %v", err)
		}
		synctest.Wait()
		if got := reports.Load(); got != 2 {
			t.Errorf("%d calls, want 2", got)
		}
	})
}

// TestCopiesShareNoMemory checks every slice, map and pointer of the stored types. It
// fails for a new field until the test sets it.
func TestCopiesShareNoMemory(t *testing.T) {
	exit := 1
	keys, destinations := []bastion.Key{"k"}, []bastion.Destination{{}}
	allowed, endpoints := []bastion.DestinationRule{{}}, []netip.AddrPort{{}}
	rules := []bastion.Rule{{}}
	sources := []bastion.KeySources{{Prefixes: []netip.Prefix{{}}}}
	rec := bastion.Record{
		Intent:  bastion.Intent{Keys: keys, KeySources: sources},
		Group:   bastion.GroupStatus{MoreIngress: []netip.Prefix{{}}},
		Attempt: bastion.Attempt{Endpoints: endpoints, MoreHostKeys: keys, Tags: []bastion.Tag{{}}},
		Receipt: bastion.Receipt{Destinations: destinations},

		FailureCodes: []bastion.FailureCode{"c"},
	}
	item := bastion.LeaseItem{
		Lease:  bastion.Lease{Keys: keys, KeySources: sources, AllowedDestinations: allowed},
		Report: bastion.Report{MoreHostKeys: keys, Receipt: bastion.Receipt{Destinations: destinations}},
	}
	task := bastion.Task{Endpoints: endpoints, ExitCode: &exit}
	group := bastion.Group{Ingress: rules, Egress: rules}
	for _, pair := range [][2]any{
		{rec, copyRecord(rec)}, {item, copyItem(item)}, {task, copyTask(task)}, {group, copyGroup(group)},
	} {
		name := reflect.TypeOf(pair[0]).Name()
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("the copy of a %s differs", name)
		}
		sharesNoMemory(t, name, reflect.ValueOf(pair[0]), reflect.ValueOf(pair[1]))
	}
}

func sharesNoMemory(t *testing.T, path string, a, b reflect.Value) {
	switch a.Interface().(type) {
	case time.Time, netip.Prefix, netip.AddrPort:
		return // immutable
	}
	if a.Type() == reflect.TypeFor[error]() {
		return // immutable
	}
	switch a.Kind() {
	case reflect.Struct:
		for i := range a.NumField() {
			sharesNoMemory(t, path+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i))
		}
	case reflect.Slice, reflect.Map, reflect.Pointer:
		if a.IsNil() {
			t.Errorf("the test leaves %s nil", path)
		} else if a.UnsafePointer() == b.UnsafePointer() {
			t.Errorf("%s is shared", path)
		}
	case reflect.Interface, reflect.Chan, reflect.Func:
		t.Errorf("%s cannot be copied", path)
	}
}
