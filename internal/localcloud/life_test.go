package localcloud

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

const id = "aaaaaaaaaaaaaaaa"

// only returns the only task of the cloud.
func (c *Cloud) only(t *testing.T) bastion.Task {
	t.Helper()
	tasks := c.Inventory().Tasks
	if len(tasks) != 1 {
		t.Fatalf("there are %d tasks", len(tasks))
	}
	return tasks[0]
}

// item returns a task's item in the table of leases.
func item(t *testing.T, c *Cloud, taskID string) bastion.LeaseItem {
	t.Helper()
	item, err := c.Leases().Fetch(t.Context(), taskID)
	if err != nil {
		t.Fatal(err)
	}
	return item
}

// fixture is a cloud with one bastion's group.
type fixture struct {
	*Cloud
	group bastion.Group
}

func newFixture(t *testing.T, cfg Config) fixture {
	t.Helper()
	c := New(cfg)
	t.Cleanup(c.Close)
	group, err := c.Groups().Create(t.Context(), bastion.GroupSpec{BastionID: id})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(cfg.Staleness)
	return fixture{c, group}
}

func (f fixture) spec(attempt int) bastion.TaskSpec {
	return bastion.TaskSpec{BastionID: id, Attempt: attempt, GroupID: f.group.ID, Subnet: "subnet-1", TaskDefinition: "bastion:1"}
}

func (f fixture) run(t *testing.T, attempt int) bastion.Task {
	t.Helper()
	task, err := f.Tasks().Run(t.Context(), f.spec(attempt))
	if err != nil {
		t.Fatal(err)
	}
	return task
}

func (f fixture) stop(t *testing.T, taskID string) {
	t.Helper()
	if err := f.Tasks().Stop(t.Context(), taskID, "test"); err != nil {
		t.Fatal(err)
	}
}

// described returns the bastion's only task, as Describe returns it.
func (f fixture) described(t *testing.T) bastion.Task {
	t.Helper()
	tasks, err := f.Tasks().Describe(t.Context(), id)
	if err != nil || len(tasks) != 1 {
		t.Fatalf("tasks %+v, %v", tasks, err)
	}
	return tasks[0]
}

var wholeLife = []bastion.TaskStatus{
	bastion.TaskProvisioning, bastion.TaskPending, bastion.TaskActivating, bastion.TaskRunning,
	bastion.TaskDeactivating, bastion.TaskStopping, bastion.TaskDeprovisioning, bastion.TaskStopped,
}

func TestLaunchTakesLaunchDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Config{LaunchDelay: 20 * time.Second})
		if task := f.run(t, 1); task.Status != bastion.TaskProvisioning || len(task.Endpoints) > 0 {
			t.Errorf("RunTask returns %+v", task)
		}
		for _, step := range []struct {
			lasts     time.Duration
			status    bastion.TaskStatus
			endpoints int
		}{
			{10 * time.Second, bastion.TaskProvisioning, 0},
			{5 * time.Second, bastion.TaskPending, 2},
			{5 * time.Second, bastion.TaskActivating, 2},
			{time.Hour, bastion.TaskRunning, 2},
		} {
			for _, sleep := range []time.Duration{0, step.lasts - 1} { // at the start and at the end of the status
				time.Sleep(sleep)
				synctest.Wait()
				if task := f.described(t); task.Status != step.status || len(task.Endpoints) != step.endpoints {
					t.Errorf("got %+v, want %s", task, step.status)
				}
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
		}
	})
}

func TestOnTaskIsCalledForEachStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		events := 0
		f := newFixture(t, Config{OnTask: func(bastionID, taskID string) {
			mu.Lock()
			defer mu.Unlock()
			if bastionID == id && taskID != "" {
				events++
			}
		}})
		task := f.run(t, 1)
		synctest.Wait()
		f.stop(t, task.ID)
		synctest.Wait()
		if mu.Lock(); events != len(wholeLife) {
			t.Errorf("%d events, not %d", events, len(wholeLife))
		}
		mu.Unlock()
	})
}

// With a long staleness, the history of a task keeps every status.
func TestStatusesComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Config{Staleness: time.Hour, LaunchDelay: 4 * time.Second, Runner: exits{time.Second, 0}})
		task := f.run(t, 1)
		time.Sleep(time.Minute)
		f.mu.Lock()
		defer f.mu.Unlock()
		var seen []bastion.TaskStatus
		for _, state := range f.tasks[task.ID].history.states {
			seen = append(seen, state.value.Status)
		}
		if !slices.Equal(seen, wholeLife) {
			t.Errorf("statuses %v", seen)
		}
	})
}

// ignoresSIGTERM is a Runner whose process ends only when it is killed.
type ignoresSIGTERM struct{}

func (ignoresSIGTERM) Run(ctx context.Context, p Process) int {
	<-ctx.Done()
	for {
		if _, err := p.Lease.Read(context.Background()); errors.Is(err, errKilled) {
			return 1
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// exits is a Runner whose process exits after some time.
type exits struct {
	after time.Duration
	code  int
}

func (e exits) Run(context.Context, Process) int {
	time.Sleep(e.after)
	return e.code
}

func TestStopCodesAndReasons(t *testing.T) {
	const delay = 8 * time.Second
	tests := []struct {
		name   string
		runner Runner
		at     time.Duration // after RunTask
		do     func(fixture, *testing.T, string)
		code   string
		reason string
		exit   int // -1: the process never ran
	}{
		{"stopped while provisioning", nil, time.Second, fixture.stop, "UserInitiated", "test", -1},
		{"stopped while pending", nil, 5 * time.Second, fixture.stop, "UserInitiated", "test", -1},
		{"stopped while activating", nil, 7 * time.Second, fixture.stop, "UserInitiated", "test", -1},
		{"stopped", nil, 9 * time.Second, fixture.stop, "UserInitiated", "test", 143},
		{"ignores SIGTERM", ignoresSIGTERM{}, 9 * time.Second, fixture.stop, "UserInitiated", "test", 137},
		{"killed while pending", nil, 5 * time.Second, fixture.kill, "TaskFailedToStart", "Task failed to start", -1},
		{"killed", nil, 9 * time.Second, fixture.kill, "EssentialContainerExited", "Essential container in task exited", 137},
		{"exits with 0", exits{time.Second, 0}, 9 * time.Second, nil, "EssentialContainerExited", "Essential container in task exited", 0},
		{"exits with an error", exits{0, 2}, 9 * time.Second, nil, "EssentialContainerExited", "Essential container in task exited", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, Config{LaunchDelay: delay, StopTimeout: 5 * time.Second, Runner: tt.runner})
				task := f.run(t, 1)
				time.Sleep(tt.at)
				synctest.Wait()
				if tt.do != nil {
					tt.do(f, t, task.ID)
				}
				time.Sleep(5 * time.Second)
				synctest.Wait()
				task = f.described(t)
				exit := -1
				if task.ExitCode != nil {
					exit = *task.ExitCode
				}
				if task.Status != bastion.TaskStopped || task.StopCode != tt.code || task.StopReason != tt.reason || exit != tt.exit {
					t.Errorf("%s %q: %s, exit %d", task.Status, task.StopReason, task.StopCode, exit)
				}
				if len(task.Endpoints) > 0 {
					t.Errorf("a stopped task has the endpoints %v", task.Endpoints)
				}
				f.stop(t, task.ID) // changes nothing
				f.Kill(task.ID)
				synctest.Wait()
				if again := f.described(t); again.StopReason != task.StopReason {
					t.Errorf("after another stop the reason is %q", again.StopReason)
				}
			})
		})
	}
}

func (f fixture) kill(_ *testing.T, taskID string) { f.Kill(taskID) }

func TestStopWaitsForTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Config{StopTimeout: 30 * time.Second, Runner: ignoresSIGTERM{}})
		task := f.run(t, 1)
		synctest.Wait()
		f.stop(t, task.ID)
		time.Sleep(30*time.Second - 1)
		synctest.Wait()
		if status := f.described(t).Status; status != bastion.TaskStopping {
			t.Errorf("before the timeout the task is %s", status)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if status := f.described(t).Status; status != bastion.TaskStopped {
			t.Errorf("after the timeout the task is %s", status)
		}
	})
}

func TestKilledProcessHasNoAccessToItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := make(processes, 1)
		f := newFixture(t, Config{Runner: out})
		task := f.run(t, 1)
		process := <-out
		if err := f.Leases().Write(t.Context(), task.ID, bastion.Lease{BastionID: id, Generation: 1, Open: true}); err != nil {
			t.Fatal(err)
		}
		if err := process.Lease.Report(t.Context(), bastion.Report{Generation: 1}); err != nil {
			t.Fatal(err)
		}
		f.Kill(task.ID)
		if err := process.Lease.Report(t.Context(), bastion.Report{Generation: 2}); err == nil {
			t.Error("a killed process wrote its report")
		}
		if _, err := process.Lease.Read(t.Context()); err == nil || errors.Is(err, bastion.ErrNotFound) {
			t.Errorf("a killed process reads its lease with %v, want another error than ErrNotFound", err)
		}
		if got := item(t, f.Cloud, task.ID).Report.Generation; got != 1 {
			t.Errorf("the report has generation %d", got)
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events, mu := 0, sync.Mutex{}
		count := func(string, string) { mu.Lock(); events++; mu.Unlock() }
		f := newFixture(t, Config{LaunchDelay: time.Minute, Linger: time.Hour, StopTimeout: time.Second, OnTask: count, Runner: ignoresSIGTERM{}})
		f.run(t, 1)
		time.Sleep(2 * time.Minute)
		f.run(t, 2)
		synctest.Wait()
		before, began := events, time.Now()
		f.Close()
		f.Close()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("Close took %s", took)
		}
		if inv := f.Inventory(); len(inv.Live()) > 0 || len(inv.Tasks) != 2 || inv.Groups[0].InUse {
			t.Errorf("still in use after Close: %+v", inv)
		}
		if events != before {
			t.Errorf("%d events after Close began", events-before)
		}
		if _, err := f.Tasks().Run(t.Context(), f.spec(3)); err == nil {
			t.Error("a closed cloud started a task")
		}
	})
}
