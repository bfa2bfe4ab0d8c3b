package cloudtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// TasksHarness is one cloud for the suite of bastion.Tasks. Its tasks run until they
// are stopped.
type TasksHarness struct {
	Tasks bastion.Tasks
	// Patience is how long a task can take to start or stop, with stale reads
	// included.
	Patience time.Duration
	// Spec returns a valid spec of the bastion's attempt: the same one each time,
	// with a group that is visible.
	Spec func(t *testing.T, bastionID string, attempt int) bastion.TaskSpec
	// Unsupported names the cases that an emulator cannot pass.
	Unsupported Unsupported
}

// Tasks is the conformance suite of bastion.Tasks.
func Tasks(t *testing.T, open func(t *testing.T) TasksHarness) {
	names := map[string]bool{}
	for _, c := range slices.Concat(taskCases, taskTokenCases, taskAddressCases) {
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			if h := open(t); h.Unsupported.supports(t, c.name) {
				c.run(t, h)
			}
		})
	}
	open(t).Unsupported.check(t, names)
}

type taskCase struct {
	name string
	run  func(t *testing.T, h TasksHarness)
}

// unknownTask is a well-formed ID that no task has.
const unknownTask = "ffffffffffffffffffffffffffffffff"

func (h TasksHarness) start(t *testing.T, spec bastion.TaskSpec) bastion.Task {
	t.Helper()
	task, err := h.Tasks.Run(t.Context(), spec)
	noError(t, err)
	return task
}

// until reads the task until the condition holds, and returns it.
func (h TasksHarness) until(t *testing.T, task bastion.Task, is func(bastion.Task) bool) bastion.Task {
	t.Helper()
	var found bastion.Task
	eventually(t, h.Patience, func() error {
		tasks, err := h.Tasks.Describe(t.Context(), task.BastionID, task.ID)
		i := slices.IndexFunc(tasks, func(other bastion.Task) bool { return other.ID == task.ID })
		switch {
		case err != nil:
			return err
		case i < 0:
			return fmt.Errorf("task %s is not among %+v", task.ID, tasks)
		case !is(tasks[i]):
			return fmt.Errorf("the task is %+v", tasks[i])
		}
		found = tasks[i]
		return nil
	})
	return found
}

func in(status bastion.TaskStatus) func(bastion.Task) bool {
	return func(t bastion.Task) bool { return t.Status == status }
}

// only checks that the task is the bastion's only one.
func (h TasksHarness) only(t *testing.T, task bastion.Task) {
	t.Helper()
	h.until(t, task, func(bastion.Task) bool { return true })
	tasks, err := h.Tasks.Describe(t.Context(), task.BastionID, task.ID)
	if noError(t, err); len(tasks) != 1 {
		t.Errorf("the tasks are %+v", tasks)
	}
}

// listed reads the list until it contains the task, or does not any more.
func (h TasksHarness) listed(t *testing.T, task bastion.Task, want bool) {
	t.Helper()
	eventually(t, h.Patience, func() error {
		tasks, err := h.Tasks.List(t.Context())
		listed := slices.ContainsFunc(tasks, func(other bastion.Task) bool {
			return other.ID == task.ID && other.BastionID == task.BastionID && other.Attempt == task.Attempt
		})
		if err == nil && listed != want {
			err = fmt.Errorf("task %s in the list: %t", task.ID, listed)
		}
		return err
	})
}

var taskCases = []taskCase{
	{"a task runs until it is stopped", func(t *testing.T, h TasksHarness) {
		spec := h.Spec(t, newID(), 3)
		task := h.start(t, spec)
		if task.ID == "" || task.BastionID != spec.BastionID || task.Attempt != 3 || task.Status == "" {
			t.Errorf("started %+v", task)
		}
		running := h.until(t, task, in(bastion.TaskRunning))
		if running.BastionID != spec.BastionID || running.Attempt != 3 {
			t.Errorf("running %+v", running)
		}
		h.listed(t, task, true)
		for range 2 {
			noError(t, h.Tasks.Stop(t.Context(), task.ID, "conformance suite"))
			h.until(t, task, in(bastion.TaskStopped))
		}
		h.listed(t, task, false)
	}},
	{"a task has its creation time and its first stop reason", func(t *testing.T, h TasksHarness) {
		task := h.start(t, h.Spec(t, newID(), 1))
		if running := h.until(t, task, in(bastion.TaskRunning)); running.CreatedAt.IsZero() {
			t.Errorf("running %+v", running)
		}
		for _, reason := range []string{"conformance suite", "another reason"} {
			noError(t, h.Tasks.Stop(t.Context(), task.ID, reason))
			stopped := h.until(t, task, in(bastion.TaskStopped))
			if stopped.StopCode != "UserInitiated" || !strings.Contains(stopped.StopReason, "conformance suite") {
				t.Errorf("stopped %+v", stopped)
			}
		}
	}},
	{"an unknown task is not found", func(t *testing.T, h TasksHarness) {
		noError(t, h.Tasks.Stop(t.Context(), unknownTask, "conformance suite"))
		tasks, err := h.Tasks.Describe(t.Context(), newID(), unknownTask)
		if noError(t, err); len(tasks) > 0 {
			t.Errorf("found %+v", tasks)
		}
		_, err = h.Tasks.Fetch(t.Context(), unknownTask)
		wantError(t, "fetch", err, bastion.ErrNotFound)
	}},
	{"a task is found by its ID alone", func(t *testing.T, h TasksHarness) {
		spec := h.Spec(t, newID(), 3)
		task := h.start(t, spec)
		h.start(t, h.Spec(t, spec.BastionID, 4))
		fetched := func(status bastion.TaskStatus) bastion.Task {
			var found bastion.Task
			eventually(t, h.Patience, func() (err error) {
				if found, err = h.Tasks.Fetch(t.Context(), task.ID); err == nil && found.Status != status {
					err = fmt.Errorf("the task is %+v", found)
				}
				return err
			})
			return found
		}
		if found := fetched(bastion.TaskRunning); found.ID != task.ID || found.BastionID != spec.BastionID || found.Attempt != 3 {
			t.Errorf("the running task is %+v", found)
		}
		noError(t, h.Tasks.Stop(t.Context(), task.ID, "conformance suite"))
		if found := fetched(bastion.TaskStopped); found.ID != task.ID || found.Attempt != 3 {
			t.Errorf("the stopped task is %+v", found)
		}
	}},
	{"each attempt is a task of its own", func(t *testing.T, h TasksHarness) {
		id := newID()
		first, second := h.start(t, h.Spec(t, id, 1)), h.start(t, h.Spec(t, id, 2))
		if first.ID == second.ID {
			t.Errorf("both attempts are %s", first.ID)
		}
		other := h.start(t, h.Spec(t, newID(), 1))
		h.until(t, first, func(bastion.Task) bool { return true })
		h.until(t, second, func(task bastion.Task) bool { return task.Attempt == 2 })
		tasks, err := h.Tasks.Describe(t.Context(), id)
		noError(t, err)
		if slices.ContainsFunc(tasks, func(task bastion.Task) bool { return task.ID == other.ID }) {
			t.Error("another bastion's task is among the bastion's")
		}
	}},
	{"an unknown group is not found", func(t *testing.T, h TasksHarness) {
		spec := h.Spec(t, newID(), 1)
		spec.GroupID = unknownGroup
		_, err := h.Tasks.Run(t.Context(), spec)
		wantError(t, "run", err, bastion.ErrNotFound)
	}},
}

var taskTokenCases = []taskCase{
	{"16 concurrent runs of an attempt start one task", func(t *testing.T, h TasksHarness) {
		spec := h.Spec(t, newID(), 1)
		tasks := make([]string, 16)
		together(len(tasks), func(i int) {
			task, err := h.Tasks.Run(t.Context(), spec)
			if err != nil {
				t.Error(err)
			}
			tasks[i] = task.ID
		})
		if tasks = slices.Compact(tasks); len(tasks) != 1 {
			t.Fatalf("started %q", tasks)
		}
		h.only(t, bastion.Task{ID: tasks[0], BastionID: spec.BastionID})
	}},
	{"a repeated run of a stopped attempt returns the stopped task", func(t *testing.T, h TasksHarness) {
		spec := h.Spec(t, newID(), 1)
		task := h.start(t, spec)
		h.until(t, task, in(bastion.TaskRunning))
		noError(t, h.Tasks.Stop(t.Context(), task.ID, "conformance suite"))
		h.until(t, task, in(bastion.TaskStopped))
		if again := h.start(t, spec); again.ID != task.ID || again.BastionID != task.BastionID || again.Attempt != 1 {
			t.Errorf("the repeated run returns %+v", again)
		}
		h.only(t, task)
	}},
	{"a repeated run with other parameters fails", func(t *testing.T, h TasksHarness) {
		spec := h.Spec(t, newID(), 1)
		task := h.start(t, spec)
		spec.Subnet = "subnet-0fffffffffffffff0"
		_, err := h.Tasks.Run(t.Context(), spec)
		var refused *bastion.RefusedError
		if err == nil || errors.Is(err, bastion.ErrNotFound) || errors.As(err, &refused) {
			t.Errorf("run with another subnet: %v", err)
		}
		h.only(t, task)
	}},
}

var taskAddressCases = []taskCase{
	{"a running task has an address", func(t *testing.T, h TasksHarness) {
		task := h.start(t, h.Spec(t, newID(), 1))
		task = h.until(t, task, func(task bastion.Task) bool { return len(task.Endpoints) > 0 })
		v4 := 0
		for _, e := range task.Endpoints {
			if !e.IsValid() || e.Port() == 0 || e.Addr().Is4In6() {
				t.Errorf("endpoint %s", e)
			}
			if e.Addr().Is4() {
				v4++
			}
		}
		if v4 > 1 || len(task.Endpoints)-v4 > 1 {
			t.Errorf("more than one endpoint in a family: %v", task.Endpoints)
		}
	}},
}
