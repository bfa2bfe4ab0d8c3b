// Package localcloud implements the ports of package bastion in memory, with the
// behaviour of DynamoDB, EC2 and ECS that the control plane must handle. Reads of
// groups and tasks can be stale. A task takes time to start, and its address is
// known before it runs. A repeated RunTask returns the first task. A group cannot
// be deleted while a network interface has it. Revoking a rule does not close open
// connections. Capacity can run out.
//
// The tasks of local mode are real SSH servers with sockets, which a [Runner] runs.
// Tests use a Runner without sockets, so that they can run in a testing/synctest
// bubble. All waiting uses timers of package time, and [Cloud.Close] ends every
// goroutine.
package localcloud

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Config configures a cloud. In a cloud with a zero Config, everything happens at
// once, and a task does nothing until it is stopped.
type Config struct {
	// LaunchDelay is the time from RunTask to RUNNING. PROVISIONING takes half of
	// it, PENDING and ACTIVATING a quarter each. After PROVISIONING the network is
	// attached and the address is known.
	LaunchDelay time.Duration
	// Linger is how long the network interface of a stopped task still has its
	// group.
	Linger time.Duration
	// StopTimeout is the time from SIGTERM to SIGKILL.
	StopTimeout time.Duration
	// Staleness is the age of the state that reads of groups and tasks return; 0 for
	// the current state. Reads miss a group or task that is younger than that, and
	// so do calls that change it by its ID: Authorize, Run and Delete return
	// ErrNotFound; Revoke and Stop do nothing.
	Staleness time.Duration

	// Host is the address on which tasks listen. The kernel chooses the ports. If
	// Host is zero, tasks have no sockets, and each task has invented addresses of
	// both families.
	Host netip.Addr
	// Runner runs the process of each task. If it is nil, processes wait for SIGTERM.
	Runner Runner

	// OnTask is called after each change of a task's status, as EventBridge invokes
	// the observer. OnReport is called after each report that a task writes, as the
	// stream of the lease table invokes the observer. Each call runs in its own
	// goroutine, so calls can run in another order than the events. Close waits for the
	// calls that have begun, and no call begins after Close.
	OnTask   func(bastionID, taskID string)
	OnReport func(bastionID, taskID string)

	Now func() time.Time // nil for time.Now
}

// Cloud is a cloud in memory. It and its ports are safe for concurrent use.
type Cloud struct {
	cfg    Config
	store  *store
	leases *leases

	background sync.WaitGroup
	closing    chan struct{} // closed when Close begins

	mu        sync.Mutex // guards the fields below
	closed    bool
	serial    int // the number in the latest ID
	addresses int // how many addresses were invented
	groups    map[string]*group
	named     map[string][]*group // by lower-case name; a deleted group can still be visible
	tasks     map[string]*task
	tasksOf   map[string][]*task // by the bastion's ID
	pruned    time.Time          // when prune last removed old state
	launched  map[string]*token  // by clientToken
	refusals  int                // attempts still to be refused
	refuse    int                // changes of groups still to be refused
	throttle  int                // calls still to be throttled
}

// New returns an empty cloud. The caller must close it.
func New(cfg Config) *Cloud {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Runner == nil {
		cfg.Runner = idleRunner{}
	}
	c := &Cloud{
		cfg:      cfg,
		store:    newStore(),
		closing:  make(chan struct{}),
		groups:   map[string]*group{},
		named:    map[string][]*group{},
		tasks:    map[string]*task{},
		tasksOf:  map[string][]*task{},
		launched: map[string]*token{},
	}
	c.leases = newLeases(cfg.Now, func(bastionID, taskID string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.notify(cfg.OnReport, bastionID, taskID)
	})
	return c
}

// Store returns the table of records.
func (c *Cloud) Store() bastion.Store { return c.store }

// Groups returns the port to the security groups, which are EC2's in AWS.
func (c *Cloud) Groups() bastion.Groups { return groupsPort{c} }

// Tasks returns the port to the tasks, which are ECS's in AWS.
func (c *Cloud) Tasks() bastion.Tasks { return tasksPort{c} }

// Leases returns the control plane's side of the table of leases.
func (c *Cloud) Leases() bastion.Leases { return c.leases }

// Close stops every task as StopTask does, and waits until all processes have ended
// and all callbacks have returned. A callback must not call Close.
func (c *Cloud) Close() {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.closing)
		for _, t := range c.tasks {
			t.terminate("The local cloud is closing.")
		}
	}
	c.mu.Unlock()
	c.background.Wait()
}

// notify calls the receiver of an event in a new goroutine. c.mu is held.
func (c *Cloud) notify(receiver func(bastionID, taskID string), bastionID, taskID string) {
	if receiver == nil || c.closed {
		return
	}
	c.background.Go(func() { receiver(bastionID, taskID) })
}

// newID returns a new ID: the prefix and a number with at least digits digits. c.mu
// is held.
func (c *Cloud) newID(prefix string, digits int) string {
	c.serial++
	return fmt.Sprintf("%s%0*x", prefix, digits, c.serial)
}

// begin begins a call to EC2 or ECS. It returns an error if the call is cancelled or
// throttled. c.mu is held.
func (c *Cloud) begin(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if c.throttle > 0 {
		c.throttle--
		return fmt.Errorf("%s: %w", name, errThrottled)
	}
	return nil
}

var errThrottled = errors.New("ThrottlingException: rate exceeded")

// RefuseCapacity makes RunTask refuse the next n attempts for lack of capacity. A
// RunTask for an attempt that was refused before returns the same refusal and does
// not count.
func (c *Cloud) RefuseCapacity(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusals = n
}

// RefuseGroups makes the next n calls that change a group return a refusal, as if the
// account had reached its quota of security groups. They have no effect.
func (c *Cloud) RefuseGroups(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = n
}

// Throttle makes the next n calls to Groups and Tasks fail without an effect.
func (c *Cloud) Throttle(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.throttle = n
}

// Kill ends a task like a crash of the machine. When Kill returns, the task's process
// has no sockets and no access to its lease any more. A task that was still starting
// never runs. If the task has stopped, Kill does nothing.
func (c *Cloud) Kill(taskID string) {
	c.mu.Lock()
	t := c.tasks[taskID]
	if t == nil || t.exited() {
		c.mu.Unlock()
		return
	}
	t.killOnce.Do(func() { close(t.kill) })
	process := t.process
	c.mu.Unlock()
	if process != nil {
		process.kill()
	}
}

// Inventory is the current state of everything in the cloud. It is never stale.
type Inventory struct {
	Records []bastion.Record    // finished ones too, oldest first
	Groups  []GroupState        // in order of creation
	Tasks   []bastion.Task      // in order of creation; stopped tasks are included for an hour
	Leases  []bastion.LeaseItem // ordered by task; tombstones are included until they expire
}

// GroupState is a group that exists.
type GroupState struct {
	bastion.Group
	InUse bool // a network interface has it
}

// Inventory returns the current state of everything.
func (c *Cloud) Inventory() Inventory {
	inv := Inventory{Leases: c.leases.all(), Records: c.store.all(), Groups: c.GroupStates()}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(c.tasks)) {
		t := c.tasks[id]
		if !t.forgotten(c.cfg.Now(), c.cfg.Staleness) {
			inv.Tasks = append(inv.Tasks, copyTask(t.state))
		}
	}
	return inv
}

// GroupStates returns the current state of the groups.
func (c *Cloud) GroupStates() []GroupState {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []GroupState
	for _, id := range slices.Sorted(maps.Keys(c.groups)) {
		if g := c.groups[id]; !g.deleted {
			all = append(all, GroupState{g.current(), g.interfaces > 0})
		}
	}
	return all
}

// Live returns the tasks that have not stopped.
func (i Inventory) Live() []bastion.Task {
	return slices.DeleteFunc(slices.Clone(i.Tasks), func(t bastion.Task) bool {
		return t.Status == bastion.TaskStopped
	})
}

// history holds the states of a group or task, so that a read can return an older
// state.
type history[T any] struct {
	states []state[T] // oldest first
}

type state[T any] struct {
	since  time.Time
	value  T
	exists bool
}

// set adds the current state. It drops the states that no read can return any more:
// all but the latest of those that are older than staleness.
func (h *history[T]) set(now time.Time, staleness time.Duration, value T, exists bool) {
	h.states = append(h.states, state[T]{now, value, exists})
	first := 0
	for i, s := range h.states {
		if !s.since.After(now.Add(-staleness)) {
			first = i
		}
	}
	h.states = append(h.states[:0], h.states[first:]...)
}

// at returns the state at the time then. exists is false if the group or task did
// not exist.
func (h *history[T]) at(then time.Time) (value T, exists bool) {
	for i := len(h.states) - 1; i >= 0; i-- {
		if s := h.states[i]; !s.since.After(then) {
			return s.value, s.exists
		}
	}
	return value, false
}

// visible returns the state that a read returns now.
func visible[T any](c *Cloud, h *history[T]) (value T, exists bool) {
	if c.cfg.Staleness <= 0 {
		latest := h.states[len(h.states)-1]
		return latest.value, latest.exists
	}
	return h.at(c.cfg.Now().Add(-c.cfg.Staleness))
}
