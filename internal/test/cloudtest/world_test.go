package cloudtest_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

// functionTimeout is the time limit of an invocation. timing resembles a deployment's;
// its odd values keep any two timers from being due at the same moment, so that a case
// runs the same way every time.
const functionTimeout = 30 * time.Second

var timing = bastion.Timing{
	CallTimeout: 25 * time.Second, StepTimeout: 4070 * time.Millisecond, GiveUpAfter: 15*time.Minute + 130*time.Millisecond, Settle: 4 * time.Minute, ReadLag: 2 * time.Minute,
	Backoff: 10 * time.Second, StableAfter: time.Minute,
	PollInterval: 1300 * time.Millisecond, WatchInterval: 15 * time.Second, CheckInterval: 5 * time.Minute,
	SweepGrace: 10 * time.Minute, TombstoneLife: 24 * time.Hour,
}

// warn is slightly less than the default lifetime: the warning comes half an hour after
// the start, so the simulation is short, and the bastion still runs after it.
const warn = 7*time.Hour + 30*time.Minute

const (
	keyA = bastion.Key("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	keyB = bastion.Key("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB")
)

// world is a control plane over a local cloud, in a bubble of simulated time.
type world struct {
	t       *testing.T
	cloud   *localcloud.Cloud
	runner  *simtask.Runner  // runs the tasks
	mail    mailbox          // receives the notices
	tasks   cloudtest.Hook   // for the calls that tasks make; may be nil
	service *bastion.Service // without faults
}

func newWorld(t *testing.T, staleness time.Duration) *world {
	runner := &simtask.Runner{Timing: leaseloop.Timing{
		Poll: 3070 * time.Millisecond, FirstLease: 2 * time.Minute, Report: 61300 * time.Millisecond, ReportPause: 1130 * time.Millisecond,
	}}
	w := &world{t: t, runner: runner}
	w.cloud = localcloud.New(localcloud.Config{
		LaunchDelay: 4100 * time.Millisecond, Linger: 2 * time.Second, StopTimeout: 10 * time.Second,
		Staleness: staleness,
		Runner:    w,
	})
	t.Cleanup(w.cloud.Close)
	w.service = w.serviceOn(w.ports())
	return w
}

// Run runs a task. The task's calls go through w.tasks.
func (w *world) Run(ctx context.Context, task localcloud.Process) int {
	if w.tasks != nil {
		task.Lease = hookedLease{task.Lease, w.tasks}
	}
	return w.runner.Run(ctx, task)
}

type hookedLease struct {
	bastion.TaskLease
	hook cloudtest.Hook
}

func (h hookedLease) Read(ctx context.Context) (lease bastion.Lease, err error) {
	err = h.hook(ctx, "TaskLease.Read", func() (err error) {
		lease, err = h.TaskLease.Read(ctx)
		return err
	})
	return lease, err
}

func (h hookedLease) Report(ctx context.Context, report bastion.Report) error {
	return h.hook(ctx, "TaskLease.Report", func() error { return h.TaskLease.Report(ctx, report) })
}

func (w *world) ports() cloudtest.Ports {
	store := w.cloud.Store()
	return cloudtest.Ports{
		Records: store, DueList: store, Keys: store, Marks: store,
		Groups: w.cloud.Groups(), Tasks: w.cloud.Tasks(), Leases: w.cloud.Leases(), Notifier: &w.mail,
	}
}

func (w *world) serviceOn(p cloudtest.Ports) *bastion.Service {
	return &bastion.Service{
		Config: bastion.Config{
			DefaultTTL: 8 * time.Hour, MaxTTL: 12 * time.Hour, IPv4: true, IPv6: true,
			WarnBefore: warn, WidestIPv4: 28, WidestIPv6: 64, SourceOverride: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")},
			Quota: bastion.Quota{PerOwner: 2, Total: 10}, Subnets: []string{"a", "b"}, TaskDefinition: "bastion:1",
			MaxAttempts: 5, Timing: timing,
		},
		Records: p.Records, DueList: p.DueList, Keys: p.Keys, Marks: p.Marks, Groups: p.Groups, Tasks: p.Tasks, Leases: p.Leases, Notifier: p.Notifier,
		Now: time.Now, Rand: rand.Reader, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// invocation returns the context of one invocation of a function.
func invocation() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), functionTimeout)
}

var (
	home   = netip.MustParseAddr("192.0.2.1")
	travel = netip.MustParseAddr("192.0.2.2")
)

func alice(from netip.Addr) bastion.Caller {
	return bastion.Caller{Owner: "local:alice", Address: from}
}

// create creates alice's bastion, with Notify, and waits until it is ready.
func (w *world) create(s *bastion.Service, from netip.Addr, key bastion.Key) (bastion.Record, error) {
	return w.createFor(nil, s, from, key)
}

// createFor creates a bastion with a time to live; nil is the default.
func (w *world) createFor(ttl *time.Duration, s *bastion.Service, from netip.Addr, key bastion.Key) (bastion.Record, error) {
	ctx, cancel := invocation()
	defer cancel()
	rec, _, err := s.Create(ctx, bastion.CreateRequest{Caller: alice(from), Key: key, TTL: ttl, Notify: true, Wait: 25 * time.Second})
	return rec, err
}

// ready creates alice's bastion and waits until it is ready and settled.
func (w *world) ready() bastion.Record {
	w.t.Helper()
	return w.readyFor(nil)
}

// readyFor does the same for a bastion with a time to live; nil is the default. A task reads its
// lease every three seconds, so a test that waits for a deadline is faster with a near one.
func (w *world) readyFor(ttl *time.Duration) bastion.Record {
	w.t.Helper()
	rec, err := w.createFor(ttl, w.service, home, keyA)
	if err != nil {
		w.t.Fatal(err)
	}
	w.reap(10 * time.Minute)
	if rec, err = w.service.Records.Fetch(context.Background(), rec.ID); err != nil || rec.State() != bastion.Ready {
		w.t.Fatalf("set up: %s, %v", rec.State(), err)
	}
	return rec
}

// reap runs the reaper every minute for the given time. It runs no sweep, because the
// reaper must leave no orphans.
func (w *world) reap(d time.Duration) {
	w.t.Helper()
	for range int(d / time.Minute) {
		time.Sleep(time.Minute)
		ctx, cancel := invocation()
		if _, err := w.service.Reap(ctx); err != nil {
			w.t.Errorf("reap: %v", err)
		}
		cancel()
	}
}

// ingressOf returns the sources of the group's rules, sorted. A source that has two rules
// is in the result twice.
func ingressOf(group localcloud.GroupState) (sources []netip.Prefix) {
	for _, rule := range group.Ingress {
		sources = append(sources, rule.Source)
	}
	slices.SortFunc(sources, netip.Prefix.Compare)
	return sources
}

// getsIn reports whether a client with this key can log in to the bastion from this
// address: the group admits the address, and a task the key from there.
func (w *world) getsIn(id string, key bastion.Key, from netip.Addr) bool {
	inv := w.cloud.Inventory()
	reachable := slices.ContainsFunc(inv.Groups, func(g localcloud.GroupState) bool {
		return g.BastionID == id && slices.ContainsFunc(g.Ingress, func(r bastion.Rule) bool { return r.Source.Contains(from) })
	})
	return reachable && slices.ContainsFunc(inv.Live(), func(task bastion.Task) bool {
		server := w.runner.Server(task.ID)
		return task.BastionID == id && server != nil && server.Admits(key, from)
	})
}

// auditAccess compares the clients that get in with those that the intent names.
func (w *world) auditAccess(rec bastion.Record) (wrong []error) {
	all := rec.Intent.Admissions()
	for _, key := range append([]bastion.Key{keyA, keyB}, rec.Intent.Keys...) {
		for _, source := range append(rec.Intent.Sources(), operationSources...) {
			named := slices.ContainsFunc(all, func(a bastion.Admission) bool {
				return a.Key == key && slices.ContainsFunc(a.Sources, func(p netip.Prefix) bool { return p.Contains(source.Addr()) })
			})
			if got := w.getsIn(rec.ID, key, source.Addr()); got != named {
				wrong = append(wrong, fmt.Errorf("open %s lets key %s in from %s: %t, but the intent is %+v", rec.ID, key.Fingerprint(), source.Addr(), got, all))
			}
		}
	}
	return wrong
}

// audit compares tasks, groups and leases with the records, and returns each
// difference. Every record must be settled.
func (w *world) audit() []error {
	inv := w.cloud.Inventory()
	var wrong []error
	report := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	names := map[string]bool{}
	tasks, groups, leases := map[string]bastion.Task{}, map[string]localcloud.GroupState{}, map[string]bastion.LeaseItem{}
	for _, task := range inv.Live() {
		if _, double := tasks[task.BastionID]; double {
			report("two live tasks of %s", task.BastionID)
		}
		tasks[task.BastionID] = task
	}
	for _, group := range inv.Groups {
		groups[group.BastionID] = group
	}
	for _, item := range inv.Leases {
		if !item.Ended {
			leases[item.TaskID] = item
		}
	}
	for _, rec := range inv.Records {
		task, running := tasks[rec.ID]
		group, grouped := groups[rec.ID]
		delete(tasks, rec.ID)
		delete(groups, rec.ID)
		if err := w.mail.audit(rec, w.service.Config.WarnBefore); err != nil {
			report("%w", err)
		}
		if !rec.Intent.Open {
			if running || grouped || rec.FinishedAt.IsZero() || !rec.DueAt.IsZero() {
				report("closed %s is not finished: task %t, group %t, finished %s, due %s", rec.ID, running, grouped, rec.FinishedAt, rec.DueAt)
			}
			continue
		}
		if names[rec.Owner+rec.Name] {
			report("two open bastions named %s", rec.Name)
		}
		names[rec.Owner+rec.Name] = true
		item := leases[task.ID]
		delete(leases, task.ID)
		switch {
		case rec.State() != bastion.Ready || !rec.UnsettledUntil.IsZero() || !rec.DueAt.After(time.Now()):
			report("open %s is %s/%s, unsettled until %s, due %s", rec.ID, rec.State(), rec.Stage(), rec.UnsettledUntil, rec.DueAt)
		case !running || task.Attempt != rec.Attempt.Number || task.Status != bastion.TaskRunning:
			report("open %s has attempt %d, its task is %+v", rec.ID, rec.Attempt.Number, task)
		case !grouped || len(group.Egress) > 0 || !slices.Equal(ingressOf(group), rec.Intent.Sources()):
			report("open %s admits %s, its group is %+v", rec.ID, rec.Intent.Sources(), group)
		case item.Lease.Generation != rec.Intent.Generation || item.Report.Generation != rec.Intent.Generation || !item.Lease.Open ||
			!reflect.DeepEqual(item.Lease.Admissions(), rec.Intent.Admissions()) || !item.Lease.Deadline.Equal(rec.Intent.Deadline):
			report("open %s has the intent %+v, and its lease is %+v", rec.ID, rec.Intent, item)
		}
		wrong = append(wrong, w.auditAccess(rec)...)
	}
	for id := range tasks {
		report("orphan task of %s", id)
	}
	for id := range groups {
		report("orphan group of %s", id)
	}
	for id, item := range leases {
		report("orphan lease of task %s, bastion %s", id, item.BastionID)
	}
	return wrong
}
