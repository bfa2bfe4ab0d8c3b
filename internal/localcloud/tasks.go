package localcloud

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// These times are from the developer guide and the API reference of ECS.
const (
	stoppedVisible = time.Hour      // how long a stopped task is visible
	tokenAfterStop = time.Hour      // how long a clientToken is remembered after its task has stopped
	tokenLongest   = 24 * time.Hour // how long a clientToken is remembered at most
)

// pruneEvery is the shortest time between two searches of prune for old state.
const pruneEvery = time.Minute

// task is a task. Cloud.mu guards it.
type task struct {
	spec    bastion.TaskSpec
	group   *group
	state   bastion.Task
	history history[bastion.Task]

	process   *process // nil until the network is attached
	attachErr error    // why the network could not be attached
	stoppedAt time.Time
	released  bool // its network interface is gone

	stopReason string // of the first StopTask; empty: there was none
	stop       chan struct{}
	kill       chan struct{}
	killOnce   sync.Once
}

// exited reports whether the task's process has ended or can never start.
func (t *task) exited() bool {
	switch t.state.Status {
	case bastion.TaskDeprovisioning, bastion.TaskStopped:
		return true
	}
	return false
}

// terminate makes the task end, as StopTask does. A second call does nothing.
// Cloud.mu is held.
func (t *task) terminate(reason string) {
	if t.stopReason != "" {
		return
	}
	t.stopReason = cmp.Or(reason, "Task stopped by user")
	close(t.stop)
}

// setStatus sets the task's status and adds its state to its history. c.mu is held.
func (c *Cloud) setStatus(t *task, status bastion.TaskStatus) {
	t.state.Status = status
	t.history.set(c.cfg.Now(), c.cfg.Staleness, t.state, true)
	c.notify(c.cfg.OnTask, t.state.BastionID, t.state.ID)
}

// tasksPort implements bastion.Tasks.
type tasksPort struct{ c *Cloud }

func (p tasksPort) Run(ctx context.Context, spec bastion.TaskSpec) (bastion.Task, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.begin(ctx, "RunTask"); err != nil {
		return bastion.Task{}, err
	}
	if c.closed {
		return bastion.Task{}, errors.New("RunTask: the local cloud is closed")
	}
	c.prune()
	key := clientToken(spec)
	if earlier := c.launched[key]; earlier != nil && !earlier.expired(c.cfg.Now()) {
		return earlier.replay(spec)
	}
	g := c.usable(spec.GroupID)
	if g == nil {
		return bastion.Task{}, fmt.Errorf("run a task of %s in the security group %s: %w", spec.BastionID, spec.GroupID, bastion.ErrNotFound)
	}
	if c.refusals > 0 {
		c.refusals--
		refused := &bastion.RefusedError{Failure: bastion.CapacityFailure, Detail: "RESOURCE: Capacity is unavailable at this time."}
		c.launched[key] = &token{spec: spec, refused: refused, at: c.cfg.Now()}
		return bastion.Task{}, refused
	}
	t := c.start(spec, g)
	c.launched[key] = &token{spec: spec, task: t, at: c.cfg.Now()}
	return runTaskResult(t.state), nil
}

// start creates and launches the task. c.mu is held.
func (c *Cloud) start(spec bastion.TaskSpec, g *group) *task {
	t := &task{
		spec:  spec,
		group: g,
		stop:  make(chan struct{}),
		kill:  make(chan struct{}),
		state: bastion.Task{
			ID:        c.newID("", 32),
			BastionID: spec.BastionID,
			Attempt:   spec.Attempt,
			CreatedAt: c.cfg.Now().UTC().Round(0),
		},
	}
	g.interfaces++
	c.tasks[t.state.ID] = t
	c.tasksOf[spec.BastionID] = append(c.tasksOf[spec.BastionID], t)
	c.setStatus(t, bastion.TaskProvisioning)
	c.background.Go(func() { c.runTask(t) })
	return t
}

// token holds what ECS remembers of the first RunTask with a clientToken.
type token struct {
	spec    bastion.TaskSpec
	at      time.Time
	task    *task
	refused *bastion.RefusedError
}

// clientToken returns the attempt's clientToken.
func clientToken(spec bastion.TaskSpec) string {
	return spec.BastionID + "-" + strconv.Itoa(spec.Attempt)
}

// replay returns the result of the first RunTask with the token, or a conflict if the
// parameters differ.
func (k *token) replay(spec bastion.TaskSpec) (bastion.Task, error) {
	spec.AttemptCreatedAt = k.spec.AttemptCreatedAt // not a parameter of RunTask
	if !reflect.DeepEqual(spec, k.spec) {
		return bastion.Task{}, fmt.Errorf("run attempt %d of %s: ConflictException: the clientToken was used with other parameters", spec.Attempt, spec.BastionID)
	}
	if k.refused != nil {
		return bastion.Task{}, k.refused
	}
	return runTaskResult(k.task.state), nil
}

// expired reports whether ECS has forgotten the token.
func (k *token) expired(now time.Time) bool {
	if now.Sub(k.at) > tokenLongest {
		return true
	}
	return k.task != nil && !k.task.stoppedAt.IsZero() && now.Sub(k.task.stoppedAt) > tokenAfterStop
}

// runTaskResult returns the fields of a task that RunTask returns. The address and
// the reason of a stop are not among them.
func runTaskResult(t bastion.Task) bastion.Task {
	return bastion.Task{ID: t.ID, BastionID: t.BastionID, Attempt: t.Attempt, Status: t.Status, CreatedAt: t.CreatedAt}
}

func (p tasksPort) Describe(ctx context.Context, bastionID string, known ...string) ([]bastion.Task, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.begin(ctx, "DescribeTasks"); err != nil {
		return nil, err
	}
	found := slices.Clone(c.tasksOf[bastionID])
	for _, id := range known {
		if t := c.tasks[id]; t != nil && !slices.Contains(found, t) {
			found = append(found, t)
		}
	}
	return c.visibleTasks(found), nil
}

func (p tasksPort) Fetch(ctx context.Context, taskID string) (bastion.Task, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.begin(ctx, "DescribeTasks"); err != nil {
		return bastion.Task{}, err
	}
	if t := c.tasks[taskID]; t != nil {
		if seen := c.visibleTasks([]*task{t}); len(seen) > 0 {
			return seen[0], nil
		}
	}
	return bastion.Task{}, fmt.Errorf("describe the task %s: %w", taskID, bastion.ErrNotFound)
}

func (p tasksPort) List(ctx context.Context) ([]bastion.Task, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.begin(ctx, "ListTasks"); err != nil {
		return nil, err
	}
	all := c.visibleTasks(slices.Collect(maps.Values(c.tasks)))
	return slices.DeleteFunc(all, func(t bastion.Task) bool { return t.Status == bastion.TaskStopped }), nil
}

// visibleTasks returns the states of the tasks that a read returns now, in order of
// creation. c.mu is held.
func (c *Cloud) visibleTasks(tasks []*task) []bastion.Task {
	var seen []bastion.Task
	for _, t := range tasks {
		if state, ok := visible(c, &t.history); ok && !t.forgotten(c.cfg.Now(), c.cfg.Staleness) {
			seen = append(seen, copyTask(state))
		}
	}
	slices.SortFunc(seen, func(a, b bastion.Task) int { return cmp.Compare(a.ID, b.ID) })
	return seen
}

// forgotten reports whether the task stopped so long ago that it is not visible any
// more.
func (t *task) forgotten(now time.Time, staleness time.Duration) bool {
	return !t.stoppedAt.IsZero() && now.Sub(t.stoppedAt) > stoppedVisible+staleness
}

func (p tasksPort) Stop(ctx context.Context, taskID, reason string) error {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.begin(ctx, "StopTask"); err != nil {
		return err
	}
	t := c.tasks[taskID]
	if t == nil {
		return nil
	}
	if _, ok := visible(c, &t.history); ok {
		t.terminate(reason)
	}
	return nil
}

// prune removes old state that no call can return any more. c.mu is held.
func (c *Cloud) prune() {
	now := c.cfg.Now()
	if now.Sub(c.pruned) < pruneEvery {
		return
	}
	c.pruned = now
	maps.DeleteFunc(c.launched, func(_ string, k *token) bool { return k.expired(now) })
	unused := func(t *task) bool { return t.released && t.forgotten(now, c.cfg.Staleness) }
	maps.DeleteFunc(c.tasks, func(_ string, t *task) bool { return unused(t) })
	for id, tasks := range c.tasksOf {
		if c.tasksOf[id] = slices.DeleteFunc(tasks, unused); len(c.tasksOf[id]) == 0 {
			delete(c.tasksOf, id)
		}
	}
	gone := func(g *group) bool {
		_, seen := visible(c, &g.history)
		return g.deleted && !seen
	}
	maps.DeleteFunc(c.groups, func(_ string, g *group) bool { return gone(g) })
	for name, groups := range c.named {
		if c.named[name] = slices.DeleteFunc(groups, gone); len(c.named[name]) == 0 {
			delete(c.named, name)
		}
	}
}

func copyTask(t bastion.Task) bastion.Task {
	t.Endpoints = slices.Clone(t.Endpoints)
	if t.ExitCode != nil {
		code := *t.ExitCode
		t.ExitCode = &code
	}
	return t
}
