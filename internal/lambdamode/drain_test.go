package lambdamode

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

// If all bastions are due at once, the scheduled functions close them within the
// rates that AWS publishes, and requests succeed meanwhile.
func TestManyDueBastionsCloseWithinTheRates(t *testing.T) { drains(t, 60) }

// drains simulates both ways in which many bastions can be due at once.
func drains(t *testing.T, n int) {
	for name, tasks := range map[string]*simtask.Runner{
		"all end themselves at their deadline": {},
		"the reaper ends all":                  {BrokenTimer: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { drain(t, newRegion(t, tasks), n, name) })
		})
	}
}

// Background functions leave half of each rate to others. When AWS throttles a call,
// the observer gives up; the others retry.
func TestBackgroundFunctionsUseHalfTheRates(t *testing.T) {
	for name, test := range map[string]struct {
		become func(*App)
		want   time.Duration
		yields bool
	}{
		"reaper":   {func(a *App) { a.Reaper() }, (51 - 25) * 400 * time.Millisecond, false},
		"observer": {func(a *App) { a.Observer() }, (51 - 25) * 400 * time.Millisecond, true},
		"create":   {func(*App) {}, 200 * time.Millisecond, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRegion(t, &simtask.Runner{})
			p := r.start(name)
			test.become(p.App)
			began := time.Now()
			for range 51 {
				if err := p.Service.Groups.Delete(t.Context(), "sg-1"); !errors.Is(err, bastion.ErrNotFound) {
					t.Fatal(err)
				}
			}
			if took := time.Since(began).Round(time.Millisecond); took != test.want {
				t.Errorf("%s: 51 calls took %s, not %s", name, took, test.want)
			}
			r.wire.Fail("DeleteSecurityGroup", "RequestLimitExceeded", "Request limit exceeded.")
			if err := p.Service.Groups.Delete(t.Context(), "sg-1"); errors.Is(err, bastion.ErrNoTime) != test.yields {
				t.Errorf("%s, refused: %v", name, err)
			}
		})
	}
}

const key = bastion.Key("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")

// fill creates n ready bastions with the same deadline.
func (r *region) fill(n int) []string {
	r.t.Helper()
	maker := r.start("maker")
	maker.pace.SetShare(10_000)
	deadline := time.Now().UTC().Truncate(time.Second).Add(time.Hour)
	var ids []string
	for i := range n {
		id := fmt.Sprintf("drain%011d", i)
		if err := maker.make(id, deadline, 2*staleness); err != nil {
			r.t.Fatal(err)
		}
		ids = append(ids, id)
	}
	time.Sleep(time.Until(deadline))
	return ids
}

// make creates a ready bastion. Its group is visible after the given time.
func (a *App) make(id string, deadline time.Time, shows time.Duration) error {
	ctx, now := context.Background(), time.Now().UTC()
	source := netip.MustParsePrefix("192.0.2.1/32")
	group, err := a.makeGroup(id, source, shows)
	if err != nil {
		return err
	}
	launch := bastion.TaskSpec{
		BastionID: id, Attempt: 1, GroupID: group.ID, Subnet: a.Config.Bastion.Subnets[0],
		TaskDefinition: a.Config.Bastion.TaskDefinition, AttemptCreatedAt: now,
	}
	task, err := a.Service.Tasks.Run(ctx, launch)
	if err != nil {
		return err
	}
	rec := bastion.Record{
		ID: id, Owner: "iam:111122223333:" + id, Name: "default", CreatedAt: now, LatestDeadline: deadline, Version: 1, DueAt: deadline,
		Intent: bastion.Intent{Generation: 1, Open: true, Source: source, Keys: []bastion.Key{key}, Deadline: deadline},
		Group:  bastion.GroupStatus{ID: group.ID, FirstSeenAt: now, Ingress: source},
		Attempt: bastion.Attempt{
			Number: 1, GroupID: group.ID, Subnet: launch.Subnet, TaskDefinition: launch.TaskDefinition, CreatedAt: now,
			TaskID: task.ID, TaskSeenAt: now, Status: bastion.TaskRunning, HostKey: key, Generation: 1, ReadyAt: now,
		},
	}
	lease := bastion.Lease{BastionID: id, Owner: rec.Owner, Name: rec.Name, Generation: 1, Open: true, Source: source, Keys: rec.Intent.Keys, Deadline: deadline}
	if err := a.Service.Leases.Write(ctx, task.ID, lease); err != nil {
		return err
	}
	return a.Service.Records.Create(ctx, rec, bastion.Quota{PerOwner: 1, Total: 10_000})
}

// makeGroup creates a group that admits only the source.
func (a *App) makeGroup(id string, source netip.Prefix, shows time.Duration) (bastion.Group, error) {
	ctx := context.Background()
	group, err := a.Service.Groups.Create(ctx, bastion.GroupSpec{BastionID: id})
	if err != nil {
		return group, err
	}
	time.Sleep(shows)
	if group, err = a.Service.Groups.Describe(ctx, id, group.ID); err != nil {
		return group, err
	}
	for _, rule := range group.Egress {
		if err := a.Service.Groups.Revoke(ctx, group.ID, rule); err != nil {
			return group, err
		}
	}
	return group, a.Service.Groups.Authorize(ctx, group.ID, source)
}

// checkInterval is the interval at which the test counts the remaining bastions.
const checkInterval = 6 * time.Second

// The limits of a drain in simulated time: until no bastion is reachable, and until all
// resources are deleted. At 2.5 a second, a thousand bastions close in 6.7 minutes. If
// the reaper stops their tasks, deleting their groups takes as long again. The order of
// events differs between runs, and with it the result: 9.5 to 10.1 minutes were seen for
// the first limit.
const (
	longestOpen = 12 * time.Minute
	longest     = 20 * time.Minute
)

func drain(t *testing.T, r *region, n int, name string) {
	ids := r.fill(n)
	r.busy.Store(true)
	began := time.Now()
	reaper, sweeper := r.start("reaper"), r.start("sweep")
	var running sync.WaitGroup
	running.Go(r.pump)
	var closed, ended time.Duration // when the last was closed, and when nothing was left
	minute := 0
	for ; ended == 0 && time.Since(began) < longest; minute++ {
		running.Go(func() { r.schedule(reaper, "reap") })
		if minute%10 == 0 {
			running.Go(func() { r.schedule(sweeper, "sweep") })
		}
		running.Go(func() { r.person(minute) })
		for range time.Minute / checkInterval {
			time.Sleep(checkInterval)
			open, left := r.left(ids)
			if open == 0 && closed == 0 {
				closed = time.Since(began)
			}
			if left == 0 && ended == 0 {
				ended = time.Since(began)
			}
		}
	}
	time.Sleep(5 * time.Minute)
	close(r.over)
	running.Wait()
	r.report(t, fmt.Sprintf("%d due at once, %s", n, name), n, closed, ended)
	r.wantNoErrors(t, reaper, sweeper)
}

// schedule runs a scheduled function once.
func (r *region) schedule(p *process, action string) {
	ctx, cancel := invocation(backgroundTimeout)
	defer cancel()
	began := time.Now()
	err := p.Reaper().Handle(ctx, Schedule{Action: action})
	if err != nil || time.Since(began) > backgroundTimeout-endTime {
		r.t.Errorf("%s: after %s: %v", action, time.Since(began), err)
	}
}

// left counts the bastions that are still reachable, and those that are not
// finished.
func (r *region) left(ids []string) (open, unfinished int) {
	for _, id := range ids {
		rec, err := r.cloud.Store().Fetch(context.Background(), id)
		if err != nil {
			r.t.Error(err)
		}
		if rec.Attempt.EndedAt.IsZero() || rec.Group.Ingress.IsValid() {
			open++
		}
		if rec.FinishedAt.IsZero() {
			unfinished++
		}
	}
	return open, unfinished
}

// person creates, reads and closes a bastion by calls of three functions.
func (r *region) person(n int) {
	create, describe, destroy := r.start("create"), r.start("describe"), r.start("destroy")
	caller := bastion.Caller{Owner: fmt.Sprint("iam:111122223333:person", n), Address: netip.MustParseAddr("198.51.100.7")}
	ctx, cancel := invocation(peopleTimeout)
	rec, _, err := create.Service.Create(ctx, bastion.CreateRequest{Caller: caller, Key: key, Wait: 20 * time.Second})
	cancel()
	if err != nil {
		r.t.Errorf("person %d: create: %v", n, err)
		return
	}
	for range 6 { // waits until the bastion is ready: without other work, a few seconds
		ctx, cancel := invocation(peopleTimeout)
		rec, err = describe.Service.Get(ctx, caller, rec.ID, 20*time.Second)
		cancel()
	}
	r.mu.Lock()
	r.slowest = max(r.slowest, rec.Attempt.ReadyAt.Sub(rec.CreatedAt))
	r.mu.Unlock()
	if err != nil || rec.State() != bastion.Ready {
		r.t.Errorf("person %d: after two minutes the bastion is %s (%s): %v", n, rec.State(), rec.Stage(), err)
	}
	ctx, cancel = invocation(peopleTimeout)
	defer cancel()
	if rec, err = destroy.Service.Close(ctx, caller, rec.ID, 20*time.Second); err != nil || rec.Intent.Open {
		r.t.Errorf("person %d: close: %v", n, err)
	}
	for _, p := range []*process{create, describe, destroy} {
		if logged := p.output.String(); strings.Contains(logged, `"level"`) {
			r.t.Errorf("person %d: log of %s: %s", n, p.name, logged)
		}
	}
}

// report prints the durations and the number of calls.
func (r *region) report(t *testing.T, what string, n int, closed, ended time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var calls []string
	for _, action := range slices.Sorted(maps.Keys(r.calls)) {
		if each := float64(r.calls[action]) / float64(n); each >= 0.05 {
			calls = append(calls, fmt.Sprintf("%s %.1f", action, each))
		}
	}
	fmt.Printf("drain: %s: all closed after %.1f min, nothing left after %.1f min\n", what, closed.Minutes(), ended.Minutes())
	fmt.Printf("drain: the slowest of the starts meanwhile was ready after %s\n", r.slowest.Round(100*time.Millisecond))
	fmt.Printf("drain: calls for each: %s\n", strings.Join(calls, ", "))
	fmt.Printf("drain: throttled and repeated or left to the reaper: %v\n", r.refused)
	if closed == 0 || closed > longestOpen {
		t.Errorf("all were closed after %s, not within %s", closed, longestOpen)
	}
	if ended == 0 || ended > longest {
		t.Errorf("nothing was left after %s, not within %s", ended, longest)
	}
}

// wantNoErrors fails the test if an event was given up, or if a log has a line other
// than "overdue".
func (r *region) wantNoErrors(t *testing.T, processes ...*process) {
	if r.dead > 0 {
		t.Errorf("%d events were given up", r.dead)
	}
	for range len(r.events) {
		processes = append(processes, <-r.events)
	}
	for _, p := range processes {
		for line := range strings.Lines(p.output.String()) {
			if strings.Contains(line, `"level"`) && !strings.Contains(line, `"msg":"overdue"`) {
				t.Errorf("log of %s: %s", p.name, line)
			}
		}
	}
}
