package localcloud

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// What ECS remembers, from its developer guide and API reference.
const (
	stoppedVisible = time.Hour      // stopped tasks stay visible
	tokenAfterStop = time.Hour      // a clientToken is remembered after its task's end
	tokenLongest   = 24 * time.Hour // and never longer than this
)

// pruneEvery keeps the cost of forgetting small.
const pruneEvery = time.Minute

// task is the truth about one task. Cloud.mu guards it.
type task struct {
	launch bastion.TaskSpec
	group  *group
	state  bastion.Task
	past   history[bastion.Task]

	process   *process // nil until the network is attached
	attachErr error    // why the network could not be attached
	stoppedAt time.Time
	released  bool // the interface is gone

	stopReason string // of the StopTask that came first; empty: none did
	stop       chan struct{}
	kill       chan struct{}
	killOnce   sync.Once
}

// over reports whether the process has ended, or is not to begin.
func (t *task) over() bool {
	switch t.state.Status {
	case bastion.TaskDeprovisioning, bastion.TaskStopped:
		return true
	}
	return false
}

// terminate asks the task to end. Repeats change nothing, nor does a task that
// has ended. Cloud.mu is held.
func (t *task) terminate(reason string) {
	if t.stopReason != "" {
		return
	}
	t.stopReason = cmp.Or(reason, "Task stopped by user")
	close(t.stop)
}

// become notes the task's next state. c.mu is held.
func (c *Cloud) become(t *task, status bastion.TaskStatus) {
	t.state.Status = status
	t.past.set(c.cfg.Now(), c.cfg.Staleness, t.state, true)
	c.notify(c.cfg.OnTask, t.state.BastionID, t.state.ID)
}

// tasksPort is bastion.Tasks.
type tasksPort struct{ c *Cloud }

func (p tasksPort) Run(ctx context.Context, launch bastion.TaskSpec) (bastion.Task, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.call(ctx, "RunTask"); err != nil {
		return bastion.Task{}, err
	}
	if c.closed {
		return bastion.Task{}, errors.New("RunTask: the local cloud is closed")
	}
	c.prune()
	key := clientToken(launch)
	if earlier := c.launched[key]; earlier != nil && !earlier.expired(c.cfg.Now()) {
		return earlier.replay(launch)
	}
	g := c.usable(launch.GroupID)
	if g == nil {
		return bastion.Task{}, fmt.Errorf("run a task of %s in the security group %s: %w", launch.BastionID, launch.GroupID, bastion.ErrNotFound)
	}
	if c.refusals > 0 {
		c.refusals--
		refused := &bastion.RefusedError{Failure: bastion.CapacityFailure, Detail: "RESOURCE: Capacity is unavailable at this time."}
		c.launched[key] = &token{launch: launch, refused: refused, at: c.cfg.Now()}
		return bastion.Task{}, refused
	}
	t := c.start(launch, g)
	c.launched[key] = &token{launch: launch, task: t, at: c.cfg.Now()}
	return answered(t.state), nil
}

// start makes the task and sets it going. c.mu is held.
func (c *Cloud) start(launch bastion.TaskSpec, g *group) *task {
	t := &task{
		launch: launch,
		group:  g,
		stop:   make(chan struct{}),
		kill:   make(chan struct{}),
		state: bastion.Task{
			ID:        c.id("", 32),
			BastionID: launch.BastionID,
			Attempt:   launch.Attempt,
			CreatedAt: c.now(),
		},
	}
	g.interfaces++
	c.tasks[t.state.ID] = t
	c.tasksOf[launch.BastionID] = append(c.tasksOf[launch.BastionID], t)
	c.become(t, bastion.TaskProvisioning)
	c.background.Go(func() { c.live(t) })
	return t
}

// token is what ECS remembers of a RunTask.
type token struct {
	launch  bastion.TaskSpec
	at      time.Time
	task    *task
	refused *bastion.RefusedError
}

// clientToken names an attempt.
func clientToken(launch bastion.TaskSpec) string {
	return launch.BastionID + "-" + strconv.Itoa(launch.Attempt)
}

// replay answers a repeated RunTask as the first time.
func (k *token) replay(launch bastion.TaskSpec) (bastion.Task, error) {
	launch.AttemptCreatedAt = k.launch.AttemptCreatedAt // not a parameter of RunTask
	if launch != k.launch {
		return bastion.Task{}, fmt.Errorf("run attempt %d of %s: ConflictException: the clientToken was used with other parameters", launch.Attempt, launch.BastionID)
	}
	if k.refused != nil {
		return bastion.Task{}, k.refused
	}
	return answered(k.task.state), nil
}

// expired reports whether ECS has forgotten the token.
func (k *token) expired(now time.Time) bool {
	if now.Sub(k.at) > tokenLongest {
		return true
	}
	return k.task != nil && !k.task.stoppedAt.IsZero() && now.Sub(k.task.stoppedAt) > tokenAfterStop
}

// answered is what RunTask's answer carries: the address has to be looked up,
// and of a stopped task not even the reason is there.
func answered(t bastion.Task) bastion.Task {
	return bastion.Task{ID: t.ID, BastionID: t.BastionID, Attempt: t.Attempt, Status: t.Status, CreatedAt: t.CreatedAt}
}

func (p tasksPort) Describe(ctx context.Context, bastionID string, known ...string) ([]bastion.Task, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.call(ctx, "DescribeTasks"); err != nil {
		return nil, err
	}
	found := slices.Clone(c.tasksOf[bastionID])
	for _, id := range known {
		if t := c.tasks[id]; t != nil && !slices.Contains(found, t) {
			found = append(found, t)
		}
	}
	return c.shownTasks(found), nil
}

func (p tasksPort) Fetch(ctx context.Context, taskID string) (bastion.Task, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.call(ctx, "DescribeTasks"); err != nil {
		return bastion.Task{}, err
	}
	if t := c.tasks[taskID]; t != nil {
		if seen := c.shownTasks([]*task{t}); len(seen) > 0 {
			return seen[0], nil
		}
	}
	return bastion.Task{}, fmt.Errorf("describe the task %s: %w", taskID, bastion.ErrNotFound)
}

func (p tasksPort) List(ctx context.Context) ([]bastion.Task, error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.call(ctx, "ListTasks"); err != nil {
		return nil, err
	}
	all := c.shownTasks(slices.Collect(maps.Values(c.tasks)))
	return slices.DeleteFunc(all, func(t bastion.Task) bool { return t.Status == bastion.TaskStopped }), nil
}

// shownTasks is what a read sees of the tasks, in order of creation. c.mu is held.
func (c *Cloud) shownTasks(tasks []*task) []bastion.Task {
	var seen []bastion.Task
	for _, t := range tasks {
		if state, ok := shown(c, &t.past); ok && !t.forgotten(c.cfg.Now(), c.cfg.Staleness) {
			seen = append(seen, copyTask(state))
		}
	}
	slices.SortFunc(seen, func(a, b bastion.Task) int { return cmp.Compare(a.ID, b.ID) })
	return seen
}

// forgotten reports whether the task stopped so long ago that it does not show.
func (t *task) forgotten(now time.Time, staleness time.Duration) bool {
	return !t.stoppedAt.IsZero() && now.Sub(t.stoppedAt) > stoppedVisible+staleness
}

func (p tasksPort) Stop(ctx context.Context, taskID, reason string) error {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.call(ctx, "StopTask"); err != nil {
		return err
	}
	t := c.tasks[taskID]
	if t == nil {
		return nil
	}
	if _, ok := shown(c, &t.past); ok {
		t.terminate(reason)
	}
	return nil
}

// prune forgets what the cloud does not show any more, now and then: reads do
// not depend on it. c.mu is held.
func (c *Cloud) prune() {
	now := c.cfg.Now()
	if now.Sub(c.pruned) < pruneEvery {
		return
	}
	c.pruned = now
	maps.DeleteFunc(c.launched, func(_ string, k *token) bool { return k.expired(now) })
	dead := func(t *task) bool { return t.released && t.forgotten(now, c.cfg.Staleness) }
	maps.DeleteFunc(c.tasks, func(_ string, t *task) bool { return dead(t) })
	for id, tasks := range c.tasksOf {
		if c.tasksOf[id] = slices.DeleteFunc(tasks, dead); len(c.tasksOf[id]) == 0 {
			delete(c.tasksOf, id)
		}
	}
	gone := func(g *group) bool {
		_, visible := shown(c, &g.past)
		return g.gone && !visible
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
