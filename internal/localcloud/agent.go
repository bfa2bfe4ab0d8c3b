package localcloud

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// exitCrash is the exit code of a process that panics.
const exitCrash = 2

// Agent is a [Runner] that follows lease and report as the SSH server does, with
// no sockets: thousands of them fit into a simulation. One Agent runs any number
// of tasks. Its zero value works.
type Agent struct {
	// Poll is how often a task reads its lease; 0 for a second.
	Poll time.Duration
	// LeaseTimeout is how long a task waits for its first lease, and, at its
	// deadline, for the table to take the word of its end; 0 for a minute.
	LeaseTimeout time.Duration
	// Now is the clock; nil for time.Now.
	Now func() time.Time

	// BrokenTimer makes tasks never end by themselves for time or idleness.
	BrokenTimer bool
	// CrashAfter makes a task crash so long after it took its lease; 0 for never.
	CrashAfter time.Duration

	mu    sync.Mutex
	tasks map[string]*agentTask // those that run
}

// Run is one task's process.
func (a *Agent) Run(ctx context.Context, task Process) int {
	t := &agentTask{agent: a, lease: task.Lease, wake: make(chan struct{}, 1)}
	t.report.HostKey = madeUpKey(task.TaskID)
	a.mu.Lock()
	if a.tasks == nil {
		a.tasks = map[string]*agentTask{}
	}
	a.tasks[task.TaskID] = t
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.tasks, task.TaskID)
		a.mu.Unlock()
	}()
	return t.run(ctx)
}

// Use makes a task have n authenticated connections open, from now on. It
// reports whether they were taken: not by a task that has no lease yet, or has
// decided to end.
func (a *Agent) Use(taskID string, n int) bool {
	return a.with(taskID, func(t *agentTask) {
		if t.report.Connections > 0 || n > 0 {
			t.report.LastUsedAt = a.now()
		}
		t.receipt.Connections += max(0, n-t.report.Connections)
		t.report.Connections = n
	})
}

// Ask posts a console's request. It reports whether the task took it; the number
// is counted by the task.
func (a *Agent) Ask(taskID string, request bastion.ConsoleRequest) bool {
	return a.with(taskID, func(t *agentTask) {
		request.Number = t.report.ConsoleRequest.Number + 1
		t.report.ConsoleRequest = request
	})
}

// Lease is the lease that a task has in force; its Answer is what the console
// shows. False if it has none, or does not run.
func (a *Agent) Lease(taskID string) (bastion.Lease, bool) {
	t := a.serving(taskID)
	if t == nil {
		return bastion.Lease{}, false
	}
	defer t.mu.Unlock()
	return copyLease(t.inForce), true
}

// with changes the report of a task that serves, and has it told at once.
func (a *Agent) with(taskID string, change func(*agentTask)) bool {
	t := a.serving(taskID)
	if t == nil {
		return false
	}
	defer t.mu.Unlock()
	change(t)
	t.untold = true
	t.nudge()
	return true
}

// serving finds a task that has a lease and has not decided to end, and locks it;
// or nil.
func (a *Agent) serving(taskID string) *agentTask {
	a.mu.Lock()
	t := a.tasks[taskID]
	a.mu.Unlock()
	if t == nil {
		return nil
	}
	t.mu.Lock()
	if t.inForce.Generation == 0 || t.over {
		t.mu.Unlock()
		return nil
	}
	return t
}

func (a *Agent) now() time.Time {
	if a.Now == nil {
		return time.Now().UTC().Round(0)
	}
	return a.Now().UTC().Round(0)
}

func (a *Agent) poll() time.Duration {
	if a.Poll > 0 {
		return a.Poll
	}
	return time.Second
}

func (a *Agent) leaseTimeout() time.Duration {
	if a.LeaseTimeout > 0 {
		return a.LeaseTimeout
	}
	return time.Minute
}

// agentTask is one task of an agent's.
type agentTask struct {
	agent *Agent
	lease bastion.TaskLease
	wake  chan struct{} // there is something to report at once

	mu      sync.Mutex
	inForce bastion.Lease
	report  bastion.Report // as it should be in the table
	untold  bool           // as it is not yet
	receipt bastion.Receipt
	readyAt time.Time
	askedAt time.Time // when the latest lease was taken: its owner asked for something
	over    bool      // takes nothing any more
}

// run waits for a lease and then obeys it.
func (t *agentTask) run(ctx context.Context) int {
	if !t.awaitLease(ctx) {
		if ctx.Err() != nil {
			return bastion.ExitTerminated
		}
		return bastion.ExitNoLease
	}
	for {
		t.tell(ctx)
		if code, ended := t.step(ctx); ended {
			return code
		}
		switch t.sleep(ctx); {
		case ctx.Err() != nil:
			t.finish()
			return bastion.ExitTerminated
		case t.crashes():
			return exitCrash
		}
		if !t.read(ctx) {
			return bastion.ExitOK
		}
	}
}

// awaitLease waits for the first lease.
func (t *agentTask) awaitLease(ctx context.Context) bool {
	timeout := t.agent.now().Add(t.agent.leaseTimeout())
	for t.agent.now().Before(timeout) && ctx.Err() == nil {
		t.read(ctx)
		if t.inForce.Generation > 0 {
			now := t.agent.now()
			t.mu.Lock()
			t.readyAt, t.receipt.StartedAt = now, now
			t.mu.Unlock()
			return true
		}
		t.sleep(ctx)
	}
	return false
}

// read takes a newer lease into force. It answers false if the lease has ended.
// What cannot be read changes nothing: the lease in force goes on.
func (t *agentTask) read(ctx context.Context) bool {
	lease, err := t.lease.Read(ctx)
	if errors.Is(err, bastion.ErrNotFound) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && lease.Generation > t.inForce.Generation {
		t.inForce, t.askedAt = lease, t.agent.now()
		t.report.Generation = lease.Generation
		t.untold = true
	}
	return true
}

// sleep waits for the next poll, or for what comes before: a wake-up, a time
// that the lease sets, SIGTERM.
func (t *agentTask) sleep(ctx context.Context) {
	timer := time.NewTimer(t.pause())
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-t.wake:
	case <-timer.C:
	}
}

// nudge ends the sleep, or the next one.
func (t *agentTask) nudge() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *agentTask) pause() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, pause := t.agent.now(), t.agent.poll()
	if t.inForce.Generation == 0 {
		return pause
	}
	times := []time.Time{t.inForce.Deadline, t.idleAt()}
	if t.agent.CrashAfter > 0 {
		times = append(times, t.readyAt.Add(t.agent.CrashAfter))
	}
	for _, at := range times {
		if left := at.Sub(now); !at.IsZero() && left > 0 {
			pause = min(pause, left)
		}
	}
	return pause
}

// idleAt is when the task will have been idle for long enough; zero for never.
// t.mu is held.
func (t *agentTask) idleAt() time.Time {
	if t.inForce.IdleTimeout <= 0 || t.report.Connections > 0 {
		return time.Time{}
	}
	since := t.readyAt
	if t.askedAt.After(since) {
		since = t.askedAt
	}
	if t.report.LastUsedAt.After(since) {
		since = t.report.LastUsedAt
	}
	return since.Add(t.inForce.IdleTimeout)
}

func (t *agentTask) crashes() bool {
	after := t.agent.CrashAfter
	return after > 0 && !t.agent.now().Before(t.readyAt.Add(after))
}
