package localcloud

import (
	"context"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// end holds why a task stopped, as ECS describes it.
type end struct {
	code   string // stopCode
	reason string // stoppedReason
	exit   *int   // exit code; nil if the process never ran
}

// exitKilled is the exit code of a process after SIGKILL.
const exitKilled = 137

// runTask runs a task from PROVISIONING to STOPPED, and then releases its network
// interface.
func (c *Cloud) runTask(t *task) {
	var how end
	if c.launch(t) && c.setRunning(t) {
		how = c.runProcess(t)
	} else {
		how = c.failedToStart(t)
	}
	if t.process != nil {
		t.process.kill()
	}
	c.stopped(t, how)
	c.release(t)
}

// launch moves the task through the statuses before RUNNING. It returns false if the
// task cannot run or is stopped or killed meanwhile.
func (c *Cloud) launch(t *task) bool {
	provisioning, pending := c.cfg.LaunchDelay/2, c.cfg.LaunchDelay/4
	if !t.wait(provisioning) || !c.attach(t) {
		return false
	}
	if !t.wait(pending) {
		return false
	}
	c.lockAndSetStatus(t, bastion.TaskActivating)
	return t.wait(c.cfg.LaunchDelay - provisioning - pending)
}

// wait waits for d. It returns false if the task is stopped or killed meanwhile.
func (t *task) wait(d time.Duration) bool {
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

// ending reports whether StopTask or Kill was called.
func (t *task) ending() bool {
	select {
	case <-t.stop:
		return true
	default:
		return t.killed()
	}
}

// attach attaches the task's network and moves the task to PENDING. It returns false
// if no address can be reserved.
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
	c.setStatus(t, bastion.TaskPending)
	return true
}

// setRunning makes the task RUNNING. It returns false if the task was stopped or
// killed before.
func (c *Cloud) setRunning(t *task) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.ending() {
		return false
	}
	c.setStatus(t, bastion.TaskRunning)
	return true
}

func (c *Cloud) lockAndSetStatus(t *task, status bastion.TaskStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setStatus(t, status)
}

// failedToStart returns why a task stopped before it was RUNNING.
func (c *Cloud) failedToStart(t *task) end {
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

// runProcess runs the task's process until it exits or is stopped or killed.
func (c *Cloud) runProcess(t *task) end {
	ctx, terminate := context.WithCancel(context.Background())
	defer terminate()
	exited := make(chan int, 1)
	c.background.Go(func() { exited <- c.cfg.Runner.Run(ctx, t.process.public) })

	how := end{code: "EssentialContainerExited", reason: "Essential container in task exited"}
	var exit int
	select {
	case exit = <-exited:
	case <-t.kill:
	case <-t.stop:
		how = end{code: "UserInitiated", reason: t.stopReason}
		c.lockAndSetStatus(t, bastion.TaskDeactivating)
		c.lockAndSetStatus(t, bastion.TaskStopping)
		terminate()
		exit = c.awaitExit(t, exited)
	}
	if t.killed() {
		exit = exitKilled
	}
	how.exit = &exit
	return how
}

// awaitExit waits for the exit of a process after SIGTERM, at most for StopTimeout,
// and returns the exit code.
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

// stopped moves the task from its current status to STOPPED.
func (c *Cloud) stopped(t *task, how end) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.state.Status != bastion.TaskStopping {
		c.setStatus(t, bastion.TaskDeactivating)
		c.setStatus(t, bastion.TaskStopping)
	}
	c.setStatus(t, bastion.TaskDeprovisioning)
	t.stoppedAt = c.cfg.Now()
	t.state.Endpoints = nil
	t.state.StopCode, t.state.StopReason, t.state.ExitCode = how.code, how.reason, how.exit
	c.setStatus(t, bastion.TaskStopped)
}

// release releases the network interface after Linger, or when the cloud closes.
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
