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
	launchDelay = 2 * time.Second // from RunTask to RUNNING
	linger      = time.Second     // for which a stopped task's interface stays
)

// task is a task of Fargate's. What it was made of is in moto.
type task struct {
	id, arn, startedBy string
	networkInterface   string
	environ            []string   // of RunTask's overrides
	address            netip.Addr // public, once the interface has it
	created            time.Time

	ctx  context.Context // done when the task is to end
	stop context.CancelFunc

	mu      sync.Mutex
	reason  string      // of the StopTask that came first
	process *os.Process // while it runs
	past    []state
}

// state is what changes during a task's life.
type state struct {
	at               time.Time
	status           string
	attached         bool // the interface
	stopCode, reason string
	exit             *int
}

// now is the task's state.
func (t *task) now() state {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.past[len(t.past)-1]
}

// terminate asks the task to end. The first reason is the task's.
func (t *task) terminate(reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() == nil {
		t.reason = reason
		t.stop()
	}
}

// start starts the life of a task that moto has made.
func (f *fargate) start(arn, startedBy, networkInterface string, environ []string) (*task, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errors.New("the test is over")
	}
	ctx, stop := context.WithCancel(context.Background())
	t := &task{
		id: taskID(arn), arn: arn, startedBy: startedBy, networkInterface: networkInterface, environ: environ,
		address: firstTask, created: time.Now(), ctx: ctx, stop: stop,
	}
	for range f.all {
		t.address = t.address.Next()
	}
	f.all = append(f.all, t)
	f.become(t, state{status: "PROVISIONING"})
	f.background.Go(func() { f.live(t) })
	return t, nil
}

// find finds a task by its ARN; nil if there is none.
func (f *fargate) find(arn string) *task {
	for _, t := range f.tasks() {
		if t.arn == arn {
			return t
		}
	}
	return nil
}

// shown is a task as ECS shows it, which is as it was a moment ago; false if it
// does not show yet, or was never made.
func (f *fargate) shown(arn string) (*task, state, bool) {
	t := f.find(arn)
	if t == nil {
		return nil, state{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range slices.Backward(t.past) {
		if time.Since(s.at) >= f.staleness {
			return t, s, true
		}
	}
	return nil, state{}, false
}

// tasks are all tasks there ever were.
func (f *fargate) tasks() []*task {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all)
}

// complained answers the complaints.
func (f *fargate) complained() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.complaints)
}

// close ends all tasks, and waits for them.
func (f *fargate) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	for _, t := range f.tasks() {
		t.terminate("The test is over.")
	}
	f.background.Wait()
}

// become notes a task's next state, and tells of it.
func (f *fargate) become(t *task, s state) {
	s.at = time.Now()
	t.mu.Lock()
	t.past = append(t.past, s)
	t.mu.Unlock()
	f.background.Go(func() { f.changed(t, s.status) })
}

// live is a task's whole life.
func (f *fargate) live(t *task) {
	defer t.stop()
	end, up := f.launch(t)
	if up {
		end = f.run(t)
	}
	if t.ctx.Err() == nil { // it ended by itself, and ECS wants it to be stopped
		_, err := f.moto.ecs(context.Background(), "StopTask", map[string]string{"cluster": f.place.cluster, "task": t.arn, "reason": end.reason})
		f.complain(t, err)
	}
	if t.now().status != "STOPPING" {
		f.stopping(t)
	}
	f.become(t, state{status: "DEPROVISIONING", attached: true})
	end.status = "STOPPED"
	f.become(t, end)
	<-time.After(linger)
	f.release(t)
}

// complain notes what should not be.
func (f *fargate) complain(t *task, err error) {
	if err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.complaints = append(f.complaints, fmt.Sprintf("task %s: %v", t.id, err))
	}
}

// launch takes a task to RUNNING, or says how it ended before. The interface shows
// before it has its address.
func (f *fargate) launch(t *task) (end state, up bool) {
	for _, next := range []struct {
		after  time.Duration
		status string
	}{{launchDelay / 2, "PENDING"}, {launchDelay / 4, "ACTIVATING"}, {launchDelay / 4, "RUNNING"}} {
		select {
		case <-t.ctx.Done():
			return t.stopped(), false
		case <-time.After(next.after):
		}
		if next.status == "ACTIVATING" {
			f.associate(t)
		}
		f.become(t, state{status: next.status, attached: true})
	}
	return state{}, true
}

// stopped is the end of a task that was stopped.
func (t *task) stopped() state {
	t.mu.Lock()
	defer t.mu.Unlock()
	return state{stopCode: "UserInitiated", reason: t.reason}
}

// stopping is what happens to a task before its process is to end, or after it
// ended by itself.
func (f *fargate) stopping(t *task) {
	f.become(t, state{status: "DEACTIVATING", attached: true})
	f.become(t, state{status: "STOPPING", attached: true})
}

// associate gives the task's interface its public address.
func (f *fargate) associate(t *task) {
	ctx := context.Background()
	made, err := f.moto.ec2(ctx, "AllocateAddress", "Domain", "vpc", "Address", t.address.String())
	if err == nil {
		_, err = f.moto.ec2(ctx, "AssociateAddress", "AllocationId", made.Allocation, "NetworkInterfaceId", t.networkInterface)
	}
	f.complain(t, err)
}

// release takes the interface away, and its address if it had one.
func (f *fargate) release(t *task) {
	ctx := context.Background()
	had, err := f.moto.ec2(ctx, "DescribeAddresses", "Filter.1.Name", "network-interface-id", "Filter.1.Value.1", t.networkInterface)
	f.complain(t, err)
	for _, allocation := range had.Allocations {
		_, err := f.moto.ec2(ctx, "ReleaseAddress", "AllocationId", allocation)
		f.complain(t, err)
	}
	_, err = f.moto.ec2(ctx, "DeleteNetworkInterface", "NetworkInterfaceId", t.networkInterface)
	f.complain(t, err)
}
