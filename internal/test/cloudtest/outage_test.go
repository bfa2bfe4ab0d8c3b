package cloudtest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// breakdown makes calls fail or hang for as long as it is on. It also removes the
// endpoints of the tasks that a call returns, as if EC2 did not return them, if it
// breaks the call callEndpoints.
type breakdown struct {
	err  error // of a broken call; nil: the call hangs until its context ends
	hits func(call string) bool

	mu          sync.Mutex
	on          bool
	first, last time.Time // when the first and the latest call was broken
}

// callEndpoints is the read of a task's endpoints, which is not a method of a port.
const callEndpoints = "Task.Endpoints"

func (b *breakdown) turn(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.on = on
}

// breaks reports whether the call is broken now, and remembers when.
func (b *breakdown) breaks(call string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.on || !b.hits(call) {
		return false
	}
	if b.last = time.Now(); b.first.IsZero() {
		b.first = b.last
	}
	return true
}

// broken returns when the first and the latest call was broken.
func (b *breakdown) broken() (first, last time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.first, b.last
}

// Hook is a hook for the ports of the service and of the tasks.
func (b *breakdown) Hook(ctx context.Context, call string, do func() error) error {
	switch {
	case !b.breaks(call):
		return do()
	case b.err == nil:
		return cloudtest.HangBefore(ctx, call, do)
	}
	return fmt.Errorf("%s: %w", call, b.err)
}

// service returns the service of the world with the breakdown.
func (b *breakdown) service(w *world) *bastion.Service {
	ports := w.ports()
	ports.Tasks = withoutEndpoints{ports.Tasks, b}
	return w.serviceOn(cloudtest.Wrap(ports, b.Hook))
}

type withoutEndpoints struct {
	bastion.Tasks
	b *breakdown
}

func (t withoutEndpoints) hide(task *bastion.Task) {
	if len(task.Endpoints) > 0 && t.b.breaks(callEndpoints) {
		task.Endpoints, task.EndpointsErr = nil, errors.Join(t.b.err, cloudtest.ErrInjected)
	}
}

func (t withoutEndpoints) Describe(ctx context.Context, bastionID string, known ...string) ([]bastion.Task, error) {
	tasks, err := t.Tasks.Describe(ctx, bastionID, known...)
	for i := range tasks {
		t.hide(&tasks[i])
	}
	return tasks, err
}

func (t withoutEndpoints) Fetch(ctx context.Context, taskID string) (bastion.Task, error) {
	task, err := t.Tasks.Fetch(ctx, taskID)
	t.hide(&task)
	return task, err
}

// monitor runs the reaper every minute, and looks for the conditions of the alarms in
// template.yaml: in three of five runs a converge failed, in three of five runs the run
// failed as a whole, a record is overdue, or three starts failed within fifteen minutes.
type monitor struct {
	w        *world
	service  *bastion.Service
	failed   []bool // of each run: whether a converge failed
	broken   []bool // of each run: whether it failed as a whole
	failures []time.Time
	counts   map[string]int // the failures of each record
	alarm    time.Time      // when the first condition was met
	why      string

	firstFailed, lastFailed time.Time // the first and the latest run in which a converge failed
}

// overdueAfter is the limit of the alarm with a period of one minute.
const overdueAfter = 5 * time.Minute

func (m *monitor) minute() {
	time.Sleep(time.Minute)
	ctx, cancel := invocation()
	result, err := m.service.Reap(ctx)
	cancel()
	now := time.Now()
	m.failed = append(m.failed, result.Failed > 0)
	m.broken = append(m.broken, err != nil && result.Started == 0)
	if result.Failed > 0 {
		if m.lastFailed = now; m.firstFailed.IsZero() {
			m.firstFailed = now
		}
	}
	late := time.Duration(0)
	if !result.FailingSince.IsZero() {
		late = now.Sub(result.FailingSince)
	}
	if m.counts == nil {
		m.counts = map[string]int{}
	}
	for _, rec := range m.w.cloud.Inventory().Records {
		if !rec.DueAt.IsZero() {
			late = max(late, now.Sub(rec.DueAt))
		}
		for range rec.Failures - m.counts[rec.ID] {
			m.failures = append(m.failures, now)
		}
		m.counts[rec.ID] = rec.Failures
	}
	m.failures = slices.DeleteFunc(m.failures, func(at time.Time) bool { return now.Sub(at) > 15*time.Minute })
	switch {
	case !m.alarm.IsZero():
	case threeOfFive(m.broken):
		m.alarm, m.why = now, "runs fail"
	case threeOfFive(m.failed):
		m.alarm, m.why = now, "converges fail"
	case late > overdueAfter:
		m.alarm, m.why = now, "overdue"
	case len(m.failures) > 2:
		m.alarm, m.why = now, "starts fail"
	}
}

// threeOfFive reports whether at least three of the latest five values are true.
func threeOfFive(all []bool) bool {
	n := 0
	for _, one := range all[max(0, len(all)-5):] {
		if one {
			n++
		}
	}
	return n >= 3
}

// wantEffect checks what must be so although one service is down, but not the table of
// records: a bastion that was closed a few minutes ago has no task, and if EC2 responds,
// the group of an open bastion admits no other source than the requested one.
func (w *world) wantEffect(what string, closedAt map[string]time.Time, since time.Time, ec2Down bool) {
	w.t.Helper()
	const within = 3 * time.Minute
	inv := w.cloud.Inventory()
	for _, rec := range inv.Records {
		for _, task := range inv.Live() {
			if at := closedAt[rec.ID]; task.BastionID == rec.ID && !at.IsZero() && time.Since(at) > within {
				w.t.Errorf("%s: %s after the close, the task of %s runs", what, time.Since(at), rec.ID)
			}
		}
		for _, group := range inv.Groups {
			if group.BastionID != rec.ID || ec2Down || !rec.Intent.Open || time.Since(since) <= within {
				continue
			}
			for _, rule := range group.Ingress {
				if !slices.Contains(rec.Intent.Sources(), rule.Source) {
					w.t.Errorf("%s: the group of %s admits %s, and its intent is %s", what, rec.ID, rule.Source, rec.Intent.Sources())
				}
			}
		}
	}
}

// accessOpen reports whether a client can still open a connection to the bastion: its
// group has an ingress rule, and its task runs with a lease that is open.
func (w *world) accessOpen(id string) bool {
	inv := w.cloud.Inventory()
	ingress, open := false, false
	for _, group := range inv.Groups {
		ingress = ingress || group.BastionID == id && len(group.Ingress) > 0
	}
	live := map[string]bool{}
	for _, task := range inv.Live() {
		live[task.ID] = true
	}
	for _, item := range inv.Leases {
		open = open || item.BastionID == id && live[item.TaskID] && !item.Ended && item.Lease.Open
	}
	return ingress && open
}

// keeps reports whether the bastion still has the attempt that it had before, and its task
// runs.
func (w *world) keeps(before bastion.Record) bool {
	now := w.record(before.ID).Attempt
	return now.TaskID == before.Attempt.TaskID && now.EndedAt.IsZero() && len(w.cloud.Inventory().Live()) == 1
}

func (w *world) record(id string) bastion.Record {
	for _, rec := range w.cloud.Inventory().Records {
		if rec.ID == id {
			return rec
		}
	}
	return bastion.Record{}
}

// wantOneOfEach checks that no bastion has two live tasks or two groups, that no group
// admits an address that nobody requested, and that the second key does not get in from
// the address of the first one, although the group can admit this address.
func (w *world) wantOneOfEach(what string) {
	w.t.Helper()
	inv := w.cloud.Inventory()
	tasks, groups := map[string]int{}, map[string]int{}
	for _, task := range inv.Live() {
		if tasks[task.BastionID]++; tasks[task.BastionID] > 1 && task.BastionID != "norecord" {
			w.t.Errorf("%s: two live tasks of %s", what, task.BastionID)
		}
	}
	for _, group := range inv.Groups {
		if groups[group.BastionID]++; groups[group.BastionID] > 1 {
			w.t.Errorf("%s: two groups of %s", what, group.BastionID)
		}
		if w.getsIn(group.BastionID, keyB, home) {
			w.t.Errorf("%s: %s lets the second key in from home, although no request has named that", what, group.BastionID)
		}
		for _, rule := range group.Ingress {
			if !slices.Contains(operationSources, rule.Source) {
				w.t.Errorf("%s: the group of %s admits %s", what, group.BastionID, rule.Source)
			}
		}
	}
}

// services are the services of AWS, with the calls that each of them serves.
var services = []struct {
	name string
	hits func(call string) bool
}{
	{"EC2", func(call string) bool { return strings.HasPrefix(call, "Groups.") || call == callEndpoints }},
	{"ECS", func(call string) bool { return strings.HasPrefix(call, "Tasks.") }},
	{"the table of leases", onLeases},
	{"the table of records", onRecords},
	{"DynamoDB", func(call string) bool { return onLeases(call) || onRecords(call) }},
}

func onLeases(call string) bool {
	return strings.HasPrefix(call, "Leases.") || strings.HasPrefix(call, "TaskLease.")
}

func onRecords(call string) bool {
	for _, port := range []string{"Records.", "DueList.", "Keys.", "Marks."} {
		if strings.HasPrefix(call, port) {
			return true
		}
	}
	return false
}

// outageFor is how long a service is down.
const outageFor = time.Hour

// Each service is down for an hour, from each call of each operation on, and refuses its
// calls or does not respond. The steps that need the other services must be taken, no
// part that is unknown may be taken for absent, and afterwards the cloud must match the
// records.
func TestServiceIsDownForAnHour(t *testing.T) {
	var cases []faultCase
	for _, op := range operations {
		made := calls(t, op, 0)
		for _, service := range services {
			for k, call := range made {
				if k > 0 && !service.hits(call) || polled(made[:k+1]) {
					continue // the same as being down from the next call of this service on
				}
				for mode, err := range map[string]error{"refuses": cloudtest.ErrInjected, "hangs": nil} {
					what := fmt.Sprintf("%s, %s %s from call %d (%s) on", op.name, service.name, mode, k, call)
					cases = append(cases, faultCase{what, op.name, service.name + mode, func(t *testing.T) {
						serviceDown(t, what, op, service.name, service.hits, err, k)
					}})
				}
			}
		}
	}
	slices.SortFunc(cases, func(a, b faultCase) int { return strings.Compare(a.name, b.name) })
	runCases(t, "outages", cases)
}

func serviceDown(t *testing.T, what string, op operation, service string, hits func(string) bool, err error, k int) {
	w := newWorld(t, 0)
	down := &breakdown{err: err, hits: hits}
	w.tasks = down.Hook
	op.setup(w)
	before := w.only()
	served := before.ID != "" && before.State() == bastion.Ready && len(w.cloud.Inventory().Live()) == 1

	made := 0
	var mu sync.Mutex
	from := func(ctx context.Context, call string, do func() error) error {
		mu.Lock()
		if made++; made > k {
			down.turn(true)
		}
		mu.Unlock()
		return down.Hook(ctx, call, do)
	}
	ports := w.ports()
	ports.Tasks = withoutEndpoints{ports.Tasks, down}
	faulty := w.serviceOn(cloudtest.Wrap(ports, from))
	ctx, cancel := invocation()
	began := time.Now()
	op.run(ctx, faulty, w)
	cancel()
	down.turn(true)
	if took := time.Since(began); took > functionTimeout && !strings.HasPrefix(op.name, "reap") && !strings.HasPrefix(op.name, "sweep") {
		t.Errorf("%s: the operation took %s", what, took)
	}
	m := &monitor{w: w, service: faulty}
	closedAt := map[string]time.Time{}
	downFrom := time.Now()
	for time.Since(began) < outageFor {
		minute := time.Now()
		m.minute()
		if took := time.Since(minute) - time.Minute; took > functionTimeout {
			t.Errorf("%s: a run of the reaper took %s", what, took)
		}
		w.wantOneOfEach(what)
		for _, rec := range w.cloud.Inventory().Records {
			if !rec.Intent.Open && closedAt[rec.ID].IsZero() {
				closedAt[rec.ID] = time.Now()
			}
			// One of EC2 and the table of leases responds, and the records can be read.
			if !hits("Records.Fetch") && !rec.Intent.Open && w.accessOpen(rec.ID) {
				t.Errorf("%s: a minute after its close, clients can open connections to %s", what, rec.ID)
			}
		}
		if !hits("Records.Fetch") {
			w.wantEffect(what, closedAt, began, hits("Groups.Revoke"))
		}
	}
	unfinished := slices.ContainsFunc(w.cloud.Inventory().Records, func(rec bastion.Record) bool { return rec.FinishedAt.IsZero() })
	if (hits("Records.Fetch") || unfinished) && (m.alarm.IsZero() || m.alarm.Sub(downFrom) > alarmAfterRefusal) {
		t.Errorf("%s: the condition of an alarm (%s) was met after %s", what, m.why, m.alarm.Sub(downFrom))
	}
	if after := w.only(); served && after.ID == before.ID && !strings.HasPrefix(op.name, "reap") && !w.keeps(before) {
		t.Errorf("%s: the outage has ended the task of attempt %d", what, before.Attempt.Number)
	}
	down.turn(false)
	if op.name == "sweep orphans" || op.name == "sweep once the orphans are gone" {
		w.sweepAgain()
		time.Sleep(11 * time.Minute)
		w.sweepAgain()
	}
	w.rest(what)
	if rec := w.only(); rec.ID != "" && rec.Failing != (bastion.Failing{}) {
		t.Errorf("%s: after the outage, failing %+v", what, rec.Failing)
	}
}

// refusal is a way in which AWS refuses a call for good.
type refusal struct {
	name     string
	err      error
	definite bool
}

var refusals = []refusal{
	{"with an error", cloudtest.ErrInjected, false},
	{"definitely", &bastion.RefusedError{Failure: bastion.Failure{Code: bastion.FailureCapacity, Message: "A limit is reached."}}, true},
	{"as denied", &bastion.RefusedError{Failure: bastion.Failure{Code: bastion.FailureConfig, Message: "A policy denies it."}, Denied: true}, true},
}

// happening is what happens to a bastion while a call is refused.
type happening struct {
	name  string
	start bool // the call is refused before the bastion is created
	run   func(context.Context, *bastion.Service, *world)
}

var happenings = []happening{
	{"start", true, func(context.Context, *bastion.Service, *world) {}},
	{"start, then close", true, func(ctx context.Context, s *bastion.Service, w *world) {
		time.Sleep(3 * time.Minute)
		s.CloseAll(ctx, alice(home), 0)
	}},
	{"nothing", false, func(context.Context, *bastion.Service, *world) {}},
	{"move", false, func(ctx context.Context, s *bastion.Service, _ *world) {
		s.Create(ctx, bastion.CreateRequest{Caller: alice(travel), Wait: 10 * time.Second})
	}},
	{"new key", false, func(ctx context.Context, s *bastion.Service, _ *world) {
		s.Create(ctx, bastion.CreateRequest{Caller: alice(travel), Key: keyB, Wait: 10 * time.Second})
	}},
	{"extend", false, func(ctx context.Context, s *bastion.Service, w *world) {
		s.Extend(ctx, alice(home), w.only().ID, 10*time.Hour, 10*time.Second)
	}},
	{"close", false, func(ctx context.Context, s *bastion.Service, w *world) {
		s.CloseAll(ctx, alice(home), 10*time.Second)
	}},
	{"deadline", false, func(_ context.Context, _ *bastion.Service, w *world) {
		w.runner.BrokenTimer = true // or the task ends itself
		time.Sleep(time.Until(w.only().Intent.Deadline))
	}},
	{"task killed", false, func(_ context.Context, _ *bastion.Service, w *world) { w.kill() }},
}

// convergeCalls returns the calls that converges make, and the read of endpoints.
func convergeCalls(t *testing.T) []string {
	found := map[string]bool{callEndpoints: true}
	for _, op := range operations {
		if strings.HasPrefix(op.name, "sweep") {
			continue
		}
		for _, call := range calls(t, op, 0) {
			port, _, _ := strings.Cut(call, ".")
			if slices.Contains([]string{"Groups", "Tasks", "Leases"}, port) || call == "Records.Fetch" || call == "Records.Replace" {
				found[call] = true
			}
		}
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// The limits of a refusal: a condition of an alarm is met at most alarmAfter after the
// first failed converge, and alarmAfterRefusal after the first refused call. A start that a
// refusal stops fails within startFailsAfter, or within definiteFailsAfter if the refusal
// is definite.
const (
	alarmAfter         = 5 * time.Minute
	alarmAfterRefusal  = 10 * time.Minute
	definiteFailsAfter = 8 * time.Minute  // a denied call for a group younger than ReadLag is not definite
	startFailsAfter    = 18 * time.Minute // timing.GiveUpAfter and two runs of the reaper
)

// Each call that converges make is refused for good, from the start on or when the bastion
// is ready, whatever happens then. A start ends as failed, a bastion closes as far as it
// can, and a condition of an alarm is met. When the refusal ends, nothing is left.
func TestRefusalForGoodIsNotSilent(t *testing.T) {
	var cases []faultCase
	for _, call := range convergeCalls(t) {
		for _, refused := range refusals {
			for _, event := range happenings {
				what := fmt.Sprintf("%s is refused %s: %s", call, refused.name, event.name)
				cases = append(cases, faultCase{what, event.name, call, func(t *testing.T) { refusedForGood(t, what, call, refused, event) }})
			}
		}
	}
	runCases(t, "refusals", cases)
}

func refusedForGood(t *testing.T, what, call string, refused refusal, event happening) {
	w := newWorld(t, 0)
	down := &breakdown{err: refused.err, hits: func(c string) bool { return c == call }}
	service := down.service(w)
	m := &monitor{w: w, service: service}
	var rec bastion.Record
	if event.start {
		down.turn(true)
		ctx, cancel := invocation()
		rec, _, _ = service.Create(ctx, bastion.CreateRequest{Caller: alice(home), Key: keyA, Wait: 10 * time.Second})
		cancel()
	} else {
		rec = w.ready()
		down.turn(true)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Hour)
	defer cancel()
	event.run(ctx, service, w)
	happened := time.Now()
	var failed, opened time.Time
	for range 45 {
		m.minute()
		w.wantOneOfEach(what)
		now := w.record(rec.ID)
		if now.State() == bastion.Failed && failed.IsZero() {
			failed = time.Now()
		}
		if !now.Intent.Open && w.accessOpen(rec.ID) && opened.IsZero() {
			opened = time.Now()
		}
	}
	first, last := down.broken()
	if m.lastFailed.Sub(m.firstFailed) >= alarmAfter && (m.alarm.IsZero() || m.alarm.Sub(m.firstFailed) > alarmAfter) {
		t.Errorf("%s: a converge failed %s, the condition of an alarm (%s) was met %s later", what, m.firstFailed, m.why, m.alarm.Sub(m.firstFailed))
	}
	needed := call != callEndpoints || event.start // a bastion that is ready has its endpoints
	if needed && last.Sub(first) >= alarmAfterRefusal && (m.alarm.IsZero() || m.alarm.Sub(first) > alarmAfterRefusal) {
		t.Errorf("%s: first refused %s, the condition of an alarm (%s) was met %s later", what, first, m.why, m.alarm.Sub(first))
	}
	now := w.record(rec.ID)
	onRecord := strings.HasPrefix(call, "Records.")
	switch {
	case onRecord:
	case event.name == "start":
		if failed.IsZero() && now.State() != bastion.Ready {
			t.Errorf("%s: the start is %s/%s after %s", what, now.State(), now.Stage(), time.Since(happened))
		}
		if !failed.IsZero() && (failed.Sub(first) > startFailsAfter || now.End.Failure.Code == "" || now.End.Failure.Message == "") {
			t.Errorf("%s: failed %s after the first refusal, with %+v", what, failed.Sub(first), now.End.Failure)
		}
		if refused.definite && call != "Groups.Revoke" && !reads[call] && strings.HasPrefix(call, "Groups.") && !failed.IsZero() && failed.Sub(first) > definiteFailsAfter {
			t.Errorf("%s: failed %s after the first refusal", what, failed.Sub(first))
		}
		if refused.definite && !failed.IsZero() && now.End.Failure.Code == bastion.FailureUnavailable && strings.HasPrefix(call, "Groups.") && !reads[call] {
			t.Errorf("%s: failed with %+v, want the refusal", what, now.End.Failure)
		}
	case event.name == "move" && call == "Groups.Authorize":
		if now.State() != bastion.Starting || refused.definite && (now.Stage() != "address" || now.Failing.Refusal.Code == "") || len(w.cloud.Inventory().Live()) != 1 {
			t.Errorf("%s: %s/%s, failing %+v, %d tasks", what, now.State(), now.Stage(), now.Failing, len(w.cloud.Inventory().Live()))
		}
	case !event.start && now.Intent.Open && event.name != "task killed" && !w.keeps(rec):
		t.Errorf("%s: the refusal has ended the task of attempt %d", what, rec.Attempt.Number)
	case !now.Intent.Open && !opened.IsZero():
		t.Errorf("%s: closed %s, but clients can open connections", what, now.End.At)
	}
	if !onRecord && !now.Intent.Open && len(w.cloud.Inventory().Live()) > 0 {
		t.Errorf("%s: closed %s, but its task runs", what, now.End.At)
	}
	down.turn(false)
	w.rest(what)
	if rec := w.only(); rec.Failing != (bastion.Failing{}) {
		t.Errorf("%s: after the refusal, failing %+v", what, rec.Failing)
	}
}

// A converge that cannot read one part takes the steps that need the others, in the
// request itself: a close by somebody whose key was stolen takes effect at once.
func TestCloseDuringAnOutageTakesEffectAtOnce(t *testing.T) {
	for _, service := range services[:3] {
		for mode, err := range map[string]error{"refuses": cloudtest.ErrInjected, "hangs": nil} {
			t.Run(service.name+" "+mode, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, 0)
					rec := w.ready()
					down := &breakdown{err: err, hits: service.hits}
					down.turn(true)
					ctx, cancel := invocation()
					defer cancel()
					closed, err := down.service(w).Close(ctx, alice(home), rec.ID, 0)
					if err != nil || closed.State() != bastion.Closing || closed.Stage() != "delayed" || w.accessOpen(rec.ID) {
						t.Errorf("%s/%s, %v; clients can open connections: %t", closed.State(), closed.Stage(), err, w.accessOpen(rec.ID))
					}
					down.turn(false)
					w.rest("closed")
				})
			})
		}
	}
}
