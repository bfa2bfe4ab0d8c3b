package lambdamode

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

// outcome holds the facts that must not depend on the order of events.
type outcome struct {
	state    bastion.State
	attempt  int
	end      bastion.EndReason
	receipt  bastion.Receipt // without its times
	finished bool
}

// deliveries is the order of the events that are delivered in each phase of a bastion's
// life.
type deliveries struct {
	before, open, closing []int
	stable                []int // ready, and seldom due
	closed                []int // its record is final, and its resources are deleted
}

// delivery delivers events to the observer, as EventBridge and Lambda do.
type delivery struct {
	t        *testing.T
	observer *Observer
	recorded []string
	later    sync.WaitGroup
	repeated atomic.Int64 // events that came before ECS showed their change
}

// inOrder delivers events one after the other. After an error it delivers the event
// again one minute later, and two minutes after that.
func (d *delivery) inOrder(order []int) {
	for _, n := range order {
		if d.once(n) {
			continue
		}
		d.repeated.Add(1)
		d.later.Go(func() {
			for _, pause := range []time.Duration{time.Minute, 2 * time.Minute} {
				time.Sleep(pause)
				if d.once(n) {
					return
				}
			}
			d.t.Errorf("given up: %s", d.recorded[n])
		})
	}
}

// once delivers an event, and reports whether ECS shows its status already.
func (d *delivery) once(n int) bool {
	response, err := d.observer.Handle(d.t.Context(), json.RawMessage(d.recorded[n]))
	ahead := err != nil && strings.Contains(err.Error(), "ECS does not show yet")
	if err != nil && !ahead || response != nil && len(response.BatchItemFailures) > 0 {
		d.t.Errorf("event %d: %v, %v", n, response, err)
	}
	return !ahead
}

// changeOf returns the event of a bastion's task in this status.
func changeOf(id, task string, status bastion.TaskStatus) string {
	return strings.Replace(in(id, status), "task/way-in/task1", "task/way-in/"+task, 1)
}

// eventLog collects the events of a run, each once.
type eventLog struct {
	mu     sync.Mutex
	events []string
}

func (h *eventLog) note(event string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.events, event) {
		h.events = append(h.events, event)
	}
}

// change records the event of a task's current status. For a stopped task it also
// records the events of the short-lived statuses before.
func (h *eventLog) change(cloud *localcloud.Cloud, id, task string) {
	for _, one := range cloud.Inventory().Tasks {
		if one.ID != task {
			continue
		}
		if one.Status == bastion.TaskStopped {
			for _, passed := range []bastion.TaskStatus{bastion.TaskDeactivating, bastion.TaskStopping, bastion.TaskDeprovisioning} {
				h.note(changeOf(id, task, passed))
			}
		}
		h.note(changeOf(id, task, one.Status))
	}
}

// report records the event of a report. Each has a number of its own.
func (h *eventLog) report(id, task string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, `{"Records":[`+streamRecord(fmt.Sprint(len(h.events)), task, id)+`]}`)
}

// runBastion creates a bastion and closes it, while the reaper runs and the chosen events
// are delivered. It returns the outcome, all events that occurred, and how many of the
// delivered events came before ECS showed their change.
func runBastion(t *testing.T, recorded []string, chosen deliveries) (outcome, []string, int) {
	var seen eventLog
	var cloud *localcloud.Cloud
	cloud = localcloud.New(localcloud.Config{
		LaunchDelay: 4 * time.Second, Linger: 2 * time.Second, StopTimeout: 10 * time.Second,
		Runner:   &simtask.Runner{Timing: leaseloop.Timing{Poll: 3 * time.Second, FirstLease: 2 * time.Minute, Report: time.Hour}},
		OnTask:   func(id, task string) { seen.change(cloud, id, task) },
		OnReport: seen.report,
	})
	defer cloud.Close()
	service := &bastion.Service{
		Config: bastion.Config{
			DefaultTTL: 8 * time.Hour, MaxTTL: 12 * time.Hour, IPv4: true, MaxAttempts: 5,
			Quota: bastion.Quota{PerOwner: 2, Total: 10}, Subnets: []string{"a"}, TaskDefinition: "bastion:1",
			Timing: bastion.Timing{
				CallTimeout: 25 * time.Second, StepTimeout: 4 * time.Second, GiveUpAfter: 15 * time.Minute, Settle: 4 * time.Minute, ReadLag: 2 * time.Minute, Backoff: 10 * time.Second,
				StableAfter: time.Minute, PollInterval: time.Second, WatchInterval: 15 * time.Second, CheckInterval: 5 * time.Minute,
				SweepGrace: 10 * time.Minute, TombstoneLife: 24 * time.Hour,
			},
		},
		Records: cloud.Store(), DueList: cloud.Store(), Keys: cloud.Store(), Marks: cloud.Store(), Groups: cloud.Groups(), Tasks: cloud.Tasks(), Leases: cloud.Leases(),
		Now: time.Now, Rand: rand.NewChaCha8([32]byte{}), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	o := &Observer{
		service: service, store: service.Records, cluster: ourCluster, period: time.Minute, log: service.Log,
		taskID: func(key string) string { return strings.TrimPrefix(key, "AROAEXAMPLE:") },
	}
	events := &delivery{t: t, observer: o, recorded: recorded}
	reap := func(minutes int) {
		for range minutes {
			time.Sleep(time.Minute)
			if _, err := service.Reap(t.Context()); err != nil {
				t.Errorf("reap: %v", err)
			}
		}
	}
	events.inOrder(chosen.before)
	caller := bastion.Caller{Owner: "local:alice", Address: netip.MustParseAddr("192.0.2.1")}
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	rec, _, err := service.Create(t.Context(), bastion.CreateRequest{Caller: caller, Key: key, Wait: 25 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	events.inOrder(chosen.open)
	reap(5)
	events.inOrder(chosen.stable)
	reap(1)
	if rec, err = service.Close(t.Context(), caller, rec.ID, 0); err != nil {
		t.Fatal(err)
	}
	events.inOrder(chosen.closing)
	reap(15)
	events.later.Wait()
	final, err := service.Records.Fetch(t.Context(), rec.ID)
	if err != nil || final.FinishedAt.IsZero() {
		t.Fatalf("not closed: %+v, %v", final, err)
	}
	events.inOrder(chosen.closed)
	events.later.Wait()
	rec, err = service.Records.Fetch(t.Context(), rec.ID)
	if err != nil || !reflect.DeepEqual(rec, final) {
		t.Errorf("an event has changed a closed record\nfrom %+v\nto   %+v, %v", final, rec, err)
	}
	// The recorded events must be about this bastion.
	if all := strings.Join(recorded, " "); recorded != nil && (!strings.Contains(all, `"bastion/`+rec.ID+`"`) || !strings.Contains(all, "AROAEXAMPLE:"+rec.Attempt.TaskID+`"`) || !strings.Contains(all, "task/way-in/"+rec.Attempt.TaskID+`"`)) {
		t.Errorf("the events are not of %s and its task %s", rec.ID, rec.Attempt.TaskID)
	}
	inv := cloud.Inventory()
	if len(inv.Live()) > 0 || len(inv.Groups) > 0 {
		t.Errorf("left: %+v, %+v", inv.Live(), inv.Groups)
	}
	receipt := rec.Receipt
	receipt.StartedAt, receipt.EndedAt = time.Time{}, time.Time{}
	if len(receipt.Destinations) > 0 || rec.Receipt.EndedAt.IsZero() {
		t.Errorf("the receipt is %+v", rec.Receipt)
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	return outcome{rec.State(), rec.Attempt.Number, rec.End.Reason, receipt, !rec.FinishedAt.IsZero()}, seen.events, int(events.repeated.Load())
}

// permutations calls f with each order of 0 to n-1.
func permutations(n int, f func([]int)) {
	var extend func(order []int)
	extend = func(order []int) {
		if len(order) == n {
			f(order)
			return
		}
		for i := range n {
			if !slices.Contains(order, i) {
				extend(append(slices.Clone(order), i))
			}
		}
	}
	extend(nil)
}

// twice returns an order in which each event is delivered twice.
func twice(order []int) []int {
	var all []int
	for _, n := range order {
		all = append(all, n, n)
	}
	return all
}

// forPermutation returns the events in which the task is pending, running and stopped,
// and the first two reports. The number of other events varies: it depends on the order
// of goroutines that run at the same simulated time.
func forPermutation(t *testing.T, recorded []string) []string {
	t.Helper()
	var some []string
	for _, status := range []bastion.TaskStatus{bastion.TaskPending, bastion.TaskRunning, bastion.TaskStopped} {
		at := slices.IndexFunc(recorded, func(event string) bool { return strings.Contains(event, `"lastStatus":"`+string(status)+`"`) })
		if at < 0 {
			t.Fatalf("no event of a task that is %s: %s", status, recorded)
		}
		some = append(some, recorded[at])
	}
	reports := slices.DeleteFunc(slices.Clone(recorded), func(event string) bool { return strings.Contains(event, "detail-type") })
	if len(reports) < 2 {
		t.Fatalf("%d reports, want at least 2: %s", len(reports), recorded)
	}
	return append(some, reports[:2]...)
}

// The outcome must be the same with and without events. Five events (pending, running,
// stopped and two reports) are delivered in every order, and all events in seeded random
// orders. Each event is delivered several times, the last time when the record is closed.
// An event that comes before ECS shows its change is repeated.
func TestOrderOfEventsDoesNotMatter(t *testing.T) {
	var want outcome
	var recorded []string
	synctest.Test(t, func(t *testing.T) { want, recorded, _ = runBastion(t, nil, deliveries{}) })
	if want.state != bastion.Closed || want.attempt != 1 || !want.finished {
		t.Fatalf("without events: %+v", want)
	}
	reduced := forPermutation(t, recorded)
	ahead := 0
	check := func(name string, recorded []string, chosen deliveries) {
		synctest.Test(t, func(t *testing.T) {
			got, _, repeated := runBastion(t, recorded, chosen)
			ahead += repeated
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %+v, want %+v", name, got, want)
			}
		})
	}
	permutations(len(reduced), func(order []int) {
		check(fmt.Sprint(order), reduced, deliveries{before: order[:1], open: twice(order), stable: order, closing: order, closed: twice(order)})
	})
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		order := twice(random.Perm(len(recorded)))
		random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		part := len(order) / 4
		closed := append(order[3*part:], twice(random.Perm(len(recorded)))...)
		check(fmt.Sprint("seed ", seed), recorded, deliveries{
			before: order[:1], open: order[1:part], stable: order[part : 2*part], closing: order[2*part : 3*part], closed: closed,
		})
	}
	if ahead == 0 {
		t.Error("no event came before ECS showed its change")
	}
	t.Logf("%d events, %d permuted; %d repeated", len(recorded), len(reduced), ahead)
}
