package localcloud

import (
	"context"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// end is why and how a task stopped, in ECS's words.
type end struct {
	code   string // stopCode
	reason string
	exit   *int
}

// exitKilled is the exit code of a process that SIGKILL ended.
const exitKilled = 137

// live is a task's whole life.
func (c *Cloud) live(t *task) {
	var how end
	if c.launch(t) && c.running(t) {
		how = c.run(t)
	} else {
		how = c.neverRan(t)
	}
	if t.process != nil {
		t.process.die()
	}
	c.stopped(t, how)
	c.release(t)
}

// launch takes the task to the brink of RUNNING; false if it is not to run.
func (c *Cloud) launch(t *task) bool {
	provisioning, pending := c.cfg.LaunchDelay/2, c.cfg.LaunchDelay/4
	if !t.pass(provisioning) || !c.attach(t) {
		return false
	}
	if !t.pass(pending) {
		return false
	}
	c.enter(t, bastion.TaskActivating)
	return t.pass(c.cfg.LaunchDelay - provisioning - pending)
}

// pass lets time pass; false if the task is stopped or killed meanwhile.
func (t *task) pass(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-t.stop:
		return false
	case <-t.kill:
		return false
	case <-timer.C:
		return !t.ending()
	}
}

// ending reports whether the task was stopped or killed.
func (t *task) ending() bool {
	select {
	case <-t.stop:
		return true
	default:
		return t.killed()
	}
}

// attach gives the task its network, which ends PROVISIONING.
func (c *Cloud) attach(t *task) bool {
	socket, err := c.reserve()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		t.attachErr = err
		return false
	}
	t.state.Endpoints = c.endpoints(socket)
	t.process = c.newProcess(t, socket)
	c.become(t, bastion.TaskPending)
	return true
}

// running makes the task RUNNING; false if it was stopped or killed before.
func (c *Cloud) running(t *task) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.ending() {
		return false
	}
	c.become(t, bastion.TaskRunning)
	return true
}

func (c *Cloud) enter(t *task, status bastion.TaskStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.become(t, status)
}

// neverRan says why a task stopped that had not begun to run.
func (c *Cloud) neverRan(t *task) end {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case t.attachErr != nil:
		return end{code: "TaskFailedToStart", reason: "ResourceInitializationError: " + t.attachErr.Error()}
	case t.killed():
		return end{code: "TaskFailedToStart", reason: "Task failed to start"}
	}
	return end{code: "UserInitiated", reason: t.stopReason}
}

// run starts the process and waits for its end.
func (c *Cloud) run(t *task) end {
	ctx, terminate := context.WithCancel(context.Background())
	defer terminate()
	exited := make(chan int, 1)
	c.background.Go(func() { exited <- c.cfg.Runner.Run(ctx, t.process.view) })

	how := end{code: "EssentialContainerExited", reason: "Essential container in task exited"}
	var exit int
	select {
	case exit = <-exited:
	case <-t.kill:
	case <-t.stop:
		how = end{code: "UserInitiated", reason: t.stopReason}
		c.enter(t, bastion.TaskDeactivating)
		c.enter(t, bastion.TaskStopping)
		terminate()
		exit = c.awaitExit(t, exited)
	}
	if t.killed() {
		exit = exitKilled
	}
	how.exit = &exit
	return how
}

// awaitExit waits for a process that got its SIGTERM.
func (c *Cloud) awaitExit(t *task, exited <-chan int) int {
	timer := time.NewTimer(c.cfg.StopTimeout)
	defer timer.Stop()
	select {
	case exit := <-exited:
		return exit
	case <-t.kill:
	case <-timer.C:
	}
	return exitKilled
}

// killed reports whether Kill was called.
func (t *task) killed() bool {
	select {
	case <-t.kill:
		return true
	default:
		return false
	}
}

// stopped takes the task from wherever it is to STOPPED.
func (c *Cloud) stopped(t *task, how end) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.state.Status != bastion.TaskStopping {
		c.become(t, bastion.TaskDeactivating)
		c.become(t, bastion.TaskStopping)
	}
	c.become(t, bastion.TaskDeprovisioning)
	t.stoppedAt = c.cfg.Now()
	t.state.Endpoints = nil
	t.state.StopCode, t.state.StopReason, t.state.ExitCode = how.code, how.reason, how.exit
	c.become(t, bastion.TaskStopped)
}

// release takes the interface away once it has lingered.
func (c *Cloud) release(t *task) {
	timer := time.NewTimer(c.cfg.Linger)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.closing:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t.released = true
	t.group.interfaces--
}
