package localcloud

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

const staleness = 5 * time.Second

// nearly is the longest time for which a change stays invisible.
const nearly = staleness - 1

func TestNewGroupIsInvisibleAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Staleness: staleness})
		t.Cleanup(c.Close)
		g, err := c.Groups().Create(t.Context(), bastion.GroupSpec{BastionID: id})
		if err != nil || len(g.Egress) != 1 {
			t.Fatalf("created %+v, %v", g, err)
		}
		source := netip.MustParsePrefix("192.0.2.1/32")
		time.Sleep(nearly)
		_, created := c.Groups().Create(t.Context(), bastion.GroupSpec{BastionID: id})
		_, described := c.Groups().Describe(t.Context(), id, g.ID)
		_, named := c.Groups().Describe(t.Context(), id, "")
		_, run := c.Tasks().Run(t.Context(), bastion.TaskSpec{BastionID: id, Attempt: 1, GroupID: g.ID})
		for call, err := range map[string]error{
			"create again": created, "describe": described, "describe by name": named, "run": run,
			"authorize": c.Groups().Authorize(t.Context(), g.ID, source),
			"delete":    c.Groups().Delete(t.Context(), g.ID),
		} {
			if !errors.Is(err, bastion.ErrNotFound) {
				t.Errorf("%s: %v", call, err)
			}
		}
		if err := c.Groups().Revoke(t.Context(), g.ID, g.Egress[0]); err != nil {
			t.Errorf("revoke: %v", err)
		}
		if all, err := c.Groups().List(t.Context()); err != nil || len(all) > 0 {
			t.Errorf("listed %+v, %v", all, err)
		}
		time.Sleep(time.Nanosecond)
		again, err := c.Groups().Create(t.Context(), bastion.GroupSpec{BastionID: id})
		if err != nil || again.ID != g.ID || len(again.Egress) != 1 || len(again.Ingress) != 0 {
			t.Errorf("after the staleness: %+v, %v", again, err)
		}
	})
}

func TestChangedGroupShowsItsOldStateAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Config{Staleness: staleness})
		show := func(ingress int, err error) {
			t.Helper()
			g, got := f.Groups().Describe(t.Context(), id, f.group.ID)
			if !errors.Is(got, err) || len(g.Ingress) != ingress {
				t.Errorf("Describe returns %+v, %v", g, got)
			}
		}
		source := netip.MustParsePrefix("192.0.2.1/32")
		if err := f.Groups().Authorize(t.Context(), f.group.ID, source); err != nil {
			t.Fatal(err)
		}
		if got := f.Inventory().Groups[0].Ingress; len(got) != 1 || got[0].Source != source {
			t.Errorf("the current ingress is %+v", got)
		}
		time.Sleep(nearly)
		show(0, nil)
		time.Sleep(time.Nanosecond)
		show(1, nil)
		if err := f.Groups().Delete(t.Context(), f.group.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(nearly)
		show(1, nil)
		time.Sleep(time.Nanosecond)
		show(0, bastion.ErrNotFound)
	})
}

func TestNewTaskIsInvisibleAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Config{Staleness: staleness, LaunchDelay: 20 * time.Second})
		task := f.run(t, 1)
		show := func(want ...bastion.TaskStatus) {
			t.Helper()
			synctest.Wait()
			tasks, err := f.Tasks().Describe(t.Context(), id, task.ID)
			if err != nil || len(tasks) != len(want) || len(want) > 0 && tasks[0].Status != want[0] {
				t.Errorf("Describe returns %+v, %v; want %v", tasks, err, want)
			}
		}
		time.Sleep(nearly)
		show()
		f.stop(t, task.ID) // the task is not visible yet, so nothing happens
		time.Sleep(time.Nanosecond)
		show(bastion.TaskProvisioning)
		time.Sleep(10*time.Second - 1)
		show(bastion.TaskProvisioning)
		time.Sleep(time.Nanosecond)
		show(bastion.TaskPending)
		time.Sleep(10 * time.Second)
		f.stop(t, task.ID)
		time.Sleep(nearly)
		show(bastion.TaskRunning)
		time.Sleep(time.Nanosecond)
		show(bastion.TaskStopped)
	})
}

func TestTaskListIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Config{Staleness: staleness})
		list := func(want int) {
			t.Helper()
			synctest.Wait()
			if tasks, err := f.Tasks().List(t.Context()); err != nil || len(tasks) != want {
				t.Errorf("listed %+v, %v", tasks, err)
			}
		}
		task := f.run(t, 1)
		time.Sleep(nearly)
		list(0)
		time.Sleep(time.Nanosecond)
		list(1)
		f.stop(t, task.ID)
		time.Sleep(nearly)
		list(1)
		time.Sleep(time.Nanosecond)
		list(0)
	})
}

func TestHistoryDropsOldStates(t *testing.T) {
	var h history[int]
	at := time.Unix(0, 0)
	for n := range 100 {
		h.set(at.Add(time.Duration(n)*time.Second), 10*time.Second, n, true)
	}
	if len(h.states) != 11 {
		t.Errorf("the history has %d states", len(h.states))
	}
	if n, ok := h.at(at.Add(89*time.Second + 1)); !ok || n != 89 {
		t.Errorf("at: %d, %t", n, ok)
	}
}
