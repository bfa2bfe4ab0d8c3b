//go:build conformance

package system

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	launchDelay    = 2 * time.Second // from RunTask to RUNNING
	interfaceDelay = time.Second     // from STOPPED to the deletion of the interface
)

// task is a task that the test's Fargate runs. Its definition is in moto.
type task struct {
	id, arn, startedBy string
	definition         taskDefinition
	networkInterface   string
	environ            []string   // of RunTask's overrides
	address            netip.Addr // public, associated while the task starts
	created            time.Time

	ctx  context.Context // done when the task must stop
	stop context.CancelFunc

	mu      sync.Mutex
	reason  string      // of the first StopTask
	process *os.Process // nil unless it runs
	history []taskState
}

// taskState is the part of a task that changes.
type taskState struct {
	at               time.Time
	status           string
	attached         bool // the interface is attached
	stopCode, reason string
	exit             *int
}

// currentState returns the task's newest state.
func (t *task) currentState() taskState {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.history[len(t.history)-1]
}

// terminate stops the task. Only the first reason is kept.
func (t *task) terminate(reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() == nil {
		t.reason = reason
		t.stop()
	}
}

// startTask starts a task that moto has created.
func (f *fargate) startTask(arn, startedBy, definition, networkInterface string, environ []string) (*task, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errors.New("the test is over")
	}
	ctx, stop := context.WithCancel(context.Background())
	t := &task{
		id: taskID(arn), arn: arn, startedBy: startedBy, definition: f.definitions[definition], networkInterface: networkInterface, environ: environ,
		address: firstTask, created: time.Now(), ctx: ctx, stop: stop,
	}
	for range f.allTasks {
		t.address = t.address.Next()
	}
	f.allTasks = append(f.allTasks, t)
	f.setState(t, taskState{status: "PROVISIONING"})
	f.background.Go(func() { f.runTask(t) })
	return t, nil
}

// findTask returns the task with an ARN, or nil.
func (f *fargate) findTask(arn string) *task {
	for _, t := range f.tasks() {
		if t.arn == arn {
			return t
		}
	}
	return nil
}

// visibleState returns a task and the state that ECS shows, which is older than
// staleness. It returns false if the task is still hidden or does not exist.
func (f *fargate) visibleState(arn string) (*task, taskState, bool) {
	t := f.findTask(arn)
	if t == nil {
		return nil, taskState{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range slices.Backward(t.history) {
		if time.Since(s.at) >= f.staleness {
			return t, s, true
		}
	}
	return nil, taskState{}, false
}

// tasks returns all tasks that were ever started.
func (f *fargate) tasks() []*task {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.allTasks)
}

// recordedFaults returns the recorded faults.
func (f *fargate) recordedFaults() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.faults)
}

// close stops all tasks and waits for them.
func (f *fargate) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	for _, t := range f.tasks() {
		t.terminate("The test is over.")
	}
	f.background.Wait()
}

// setState adds a task's next state and reports the change.
func (f *fargate) setState(t *task, s taskState) {
	s.at = time.Now()
	t.mu.Lock()
	t.history = append(t.history, s)
	t.mu.Unlock()
	f.background.Go(func() { f.changed(t, s.status) })
}

// runTask takes a task through all its states.
func (f *fargate) runTask(t *task) {
	defer t.stop()
	end, up := f.launch(t)
	if up {
		end = f.runProcess(t)
	}
	if t.ctx.Err() == nil { // the process exited by itself, so ECS sets the desired status
		_, err := f.moto.ecs(context.Background(), "StopTask", map[string]string{"cluster": f.resources.cluster, "task": t.arn, "reason": end.reason})
		f.recordFault(t, err)
	}
	if t.currentState().status != "STOPPING" {
		f.setStopping(t)
	}
	f.setState(t, taskState{status: "DEPROVISIONING", attached: true})
	end.status = "STOPPED"
	f.setState(t, end)
	<-time.After(interfaceDelay)
	f.deleteInterface(t)
}

// recordFault records an error that makes the test fail at its end.
func (f *fargate) recordFault(t *task, err error) {
	if err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.faults = append(f.faults, fmt.Sprintf("task %s: %v", t.id, err))
	}
}

// launch takes a task to RUNNING, or returns the final state if the task is stopped
// before. The interface is attached before it has its address.
func (f *fargate) launch(t *task) (end taskState, up bool) {
	for _, next := range []struct {
		after  time.Duration
		status string
	}{{launchDelay / 2, "PENDING"}, {launchDelay / 4, "ACTIVATING"}, {launchDelay / 4, "RUNNING"}} {
		select {
		case <-t.ctx.Done():
			return t.stoppedState(), false
		case <-time.After(next.after):
		}
		if next.status == "ACTIVATING" {
			f.associateAddress(t)
		}
		f.setState(t, taskState{status: next.status, attached: true})
	}
	return taskState{}, true
}

// stoppedState returns the final state of a task that was stopped.
func (t *task) stoppedState() taskState {
	t.mu.Lock()
	defer t.mu.Unlock()
	return taskState{stopCode: "UserInitiated", reason: t.reason}
}

// setStopping sets the states before the process is stopped, or after it has exited by
// itself.
func (f *fargate) setStopping(t *task) {
	f.setState(t, taskState{status: "DEACTIVATING", attached: true})
	f.setState(t, taskState{status: "STOPPING", attached: true})
}

// associateAddress associates the public address with the task's interface.
func (f *fargate) associateAddress(t *task) {
	ctx := context.Background()
	allocated, err := f.moto.ec2(ctx, "AllocateAddress", "Domain", "vpc", "Address", t.address.String())
	if err == nil {
		_, err = f.moto.ec2(ctx, "AssociateAddress", "AllocationId", allocated.Allocation, "NetworkInterfaceId", t.networkInterface)
	}
	f.recordFault(t, err)
}

// deleteInterface deletes the interface, and releases its address if it has one.
func (f *fargate) deleteInterface(t *task) {
	ctx := context.Background()
	had, err := f.moto.ec2(ctx, "DescribeAddresses", "Filter.1.Name", "network-interface-id", "Filter.1.Value.1", t.networkInterface)
	f.recordFault(t, err)
	for _, allocation := range had.Allocations {
		_, err := f.moto.ec2(ctx, "ReleaseAddress", "AllocationId", allocation)
		f.recordFault(t, err)
	}
	_, err = f.moto.ec2(ctx, "DeleteNetworkInterface", "NetworkInterfaceId", t.networkInterface)
	f.recordFault(t, err)
}
