package cloudtest_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// Each seed is one schedule of three simulated hours: requests of several owners, tasks
// that are killed, refused capacity, and times of trouble between quiet times. In a time
// of trouble, single calls fail or hang, functions end at any call, events and runs of the
// reaper are lost; or some services are down. The checks in random_check_test.go run all
// the time. At the end everything is closed, and nothing may be left.
//
// Every choice follows from the seed and from what it is about, so that a seed runs the same
// way each time, with one exception: if two timers of a task's lease loop are due at once,
// select takes any of them. BASTION_SEED=7 runs one seed, and BASTION_SEED=0-1999 a range.
func TestRandomSchedules(t *testing.T) {
	first, last := uint64(0), uint64(3)
	if os.Getenv("BASTION_FAULTS") == "all" {
		last = 199
	}
	if text := os.Getenv("BASTION_SEED"); text != "" {
		if n, _ := fmt.Sscanf(text, "%d-%d", &first, &last); n == 1 {
			last = first
		} else if n != 2 {
			t.Fatalf("BASTION_SEED=%s is neither a seed nor a range of seeds", text)
		}
	}
	fmt.Printf("random schedules: seeds %d to %d\n", first, last)
	for seed := first; seed <= last; seed++ {
		bubble(t, fmt.Sprint(seed), func(t *testing.T) { runSchedule(t, newSchedule(seed)) })
	}
}

// The schedule of seed 7 has no outage of the table of leases, in which timers of a task
// can be due at once.
func TestSeedRunsTheSameWayAgain(t *testing.T) {
	var traces []string
	for range 2 {
		synctest.Test(t, func(t *testing.T) { traces = append(traces, runSchedule(t, newSchedule(7))) })
	}
	a, b := strings.Split(traces[0], "\n"), strings.Split(traces[1], "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			t.Fatalf("two runs of a seed differ in write %d of a record:\n%s\n%s", i, a[i], b[i])
		}
	}
	if len(a) != len(b) || len(a) < 100 {
		t.Errorf("two runs of a seed write records %d and %d times, want the same number, at least 100", len(a), len(b))
	}
}

// trouble is a time in which calls fail.
type trouble struct {
	from, until time.Duration
	// single: single calls of all services fail or hang, functions end at any call, and
	// events and runs of the reaper are lost.
	single bool
	down   map[string]cloudtest.Hook // by service: the fault of every call
	name   string
}

// event is one step of a schedule.
type event struct {
	at   time.Duration
	name string
	do   func(*randomRun)
}

type schedule struct {
	seed      uint64
	staleness time.Duration
	troubles  []trouble
	events    []event
	length    time.Duration
}

// cloudServices are the services that can be down, for the control plane and for tasks.
var cloudServices = []string{"Groups", "Tasks", "Leases", "Records"}

// serviceOf returns the service of a call.
func serviceOf(call string) string {
	port, _, _ := strings.Cut(call, ".")
	switch port {
	case "DueList", "Keys", "Marks":
		return "Records"
	case "TaskLease":
		return "Leases"
	}
	return port
}

// refuse refuses the calls that change a group for good; other calls pass.
func refuse(denied bool) cloudtest.Hook {
	return func(_ context.Context, call string, do func() error) error {
		if serviceOf(call) != "Groups" || reads[call] {
			return do()
		}
		return fmt.Errorf("%s: %w", call, &bastion.RefusedError{
			Failure: bastion.Failure{Code: bastion.FailureConfig, Message: "A policy denies the call. Ask your operator to check it."},
			Detail:  "UnauthorizedOperation: explicit deny", Denied: denied,
		})
	}
}

const (
	owners = 3
	hours  = 3 * time.Hour
)

var sources = []netip.Addr{home, travel, netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::4")}

// newSchedule returns the seed's schedule.
func newSchedule(seed uint64) schedule {
	random := rand.New(rand.NewPCG(seed, 7))
	minutes := func(from, to int) time.Duration {
		return time.Duration(from)*time.Minute + time.Duration(random.Int64N(int64(time.Duration(to-from)*time.Minute)))
	}
	s := schedule{seed: seed, staleness: []time.Duration{0, 2 * time.Second, 20 * time.Second, 90 * time.Second}[random.IntN(4)]}
	s.length = hours
	calm := seed%5 == 4 // no trouble at all, but tasks are killed
	for at := minutes(5, 25); !calm && at < hours-time.Minute; at += minutes(25, 40) {
		tr := trouble{from: at, until: at + minutes(3, 35), name: "single faults", single: true}
		if random.IntN(3) > 0 {
			tr.single, tr.down, tr.name = false, map[string]cloudtest.Hook{}, ""
			for range 1 + random.IntN(2) {
				kinds := map[int]cloudtest.Hook{0: cloudtest.FailBefore, 1: cloudtest.HangBefore, 2: cloudtest.FailAfter, 3: refuse(false), 4: refuse(true)}
				names := []string{"fails", "hangs", "loses its answers", "refuses", "denies"}
				service, kind := cloudServices[random.IntN(4)], random.IntN(3)
				if service == "Groups" {
					kind = random.IntN(5)
				}
				tr.down[service] = kinds[kind]
				tr.name += service + " " + names[kind] + " "
			}
		}
		s.troubles = append(s.troubles, tr)
		at = tr.until
	}
	for at := time.Duration(0); at < hours; at += minutes(0, 5) + time.Duration(random.IntN(1000)) {
		s.events = append(s.events, newEvent(random, at))
	}
	if calm {
		for at := minutes(10, 12); at < hours; at += minutes(9, 12) {
			s.events = append(s.events, event{at, "kill the tasks of owner 0", func(r *randomRun) { r.killTasks("local:owner0") }})
		}
		s.events = append(s.events, event{time.Minute, "owner 0: a long bastion", func(r *randomRun) {
			r.create("local:owner0", bastion.CreateRequest{Name: "long", TTL: new(170 * time.Minute), Caller: bastion.Caller{Address: sources[0]}, Key: keyA})
		}})
	}
	return s
}

// prefixes are the sources that owners may name. Some of them contain others.
var prefixes = []netip.Prefix{
	netip.MustParsePrefix("192.0.2.0/28"), netip.MustParsePrefix("192.0.2.3/32"), netip.MustParsePrefix("192.0.2.16/28"), netip.MustParsePrefix("192.0.2.40/31"),
	netip.MustParsePrefix("192.0.2.77/32"), netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("2001:db8:0:1::9/128"), netip.MustParsePrefix("192.0.2.99/32"),
}

// newPost returns a random POST with one of six keys, so that some are one key too many.
// Few of them name sources or remove the other keys.
func newPost(random *rand.Rand, name string, ttl time.Duration) bastion.CreateRequest {
	post := bastion.CreateRequest{
		Name: name, TTL: &ttl, Caller: bastion.Caller{Address: sources[random.IntN(len(sources))]},
		Key: numberedKey(min(random.IntN(6), random.IntN(6))), OnlyKey: random.IntN(8) == 0,
	}
	if random.IntN(4) == 0 {
		for _, i := range random.Perm(len(prefixes))[:1+random.IntN(bastion.MaxSourcesPerKey)] {
			post.Sources = append(post.Sources, prefixes[i])
		}
	}
	return post
}

// numberedKey returns one of several keys.
func numberedKey(n int) bastion.Key {
	blob := "\x00\x00\x00\x0bssh-ed25519\x00\x00\x00 " + strings.Repeat(string(rune('a'+n)), 32)
	return bastion.Key("ssh-ed25519 " + base64.StdEncoding.EncodeToString([]byte(blob)))
}

func describePost(post bastion.CreateRequest) string {
	text := fmt.Sprintf("%s for %s from %s with %s", post.Name, *post.TTL, post.Caller.Address, post.Key.Fingerprint()[:12])
	if len(post.Sources) > 0 {
		text += fmt.Sprint(" for ", post.Sources)
	}
	if post.OnlyKey {
		text += " only"
	}
	return text
}

// newEvent returns a random event.
func newEvent(random *rand.Rand, at time.Duration) event {
	owner := fmt.Sprintf("local:owner%d", random.IntN(owners))
	name := []string{"db", "web"}[random.IntN(2)]
	ttl := time.Duration(5+random.IntN(90)) * time.Minute
	post := newPost(random, name, ttl)
	n := random.IntN(4)
	switch kind := random.IntN(20); {
	case kind < 9:
		return event{at, fmt.Sprintf("%s creates %s", owner, describePost(post)), func(r *randomRun) { r.create(owner, post) }}
	case kind < 11:
		return event{at, fmt.Sprintf("%s extends %s to %s", owner, name, ttl), func(r *randomRun) { r.extend(owner, name, ttl) }}
	case kind < 13:
		return event{at, fmt.Sprintf("%s closes %s", owner, name), func(r *randomRun) { r.close(owner, name) }}
	case kind < 14:
		return event{at, fmt.Sprintf("the console of %s's %s closes", owner, name), func(r *randomRun) { r.console(owner, name, bastion.VerbClose, 0) }}
	case kind < 15:
		return event{at, fmt.Sprintf("the console of %s's %s extends to %s", owner, name, ttl), func(r *randomRun) { r.console(owner, name, bastion.VerbExtend, ttl) }}
	case kind < 18:
		return event{at, fmt.Sprintf("%s's %s has %d connections", owner, name, n), func(r *randomRun) { r.use(owner, name, n) }}
	case kind < 19:
		return event{at, fmt.Sprintf("kill the tasks of %s", owner), func(r *randomRun) { r.killTasks(owner) }}
	}
	return event{at, fmt.Sprintf("refuse %d attempts", n), func(r *randomRun) { r.check.refusing(r.cloud, n) }}
}

func (s schedule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, staleness %s\n", s.seed, s.staleness)
	for _, tr := range s.troubles {
		fmt.Fprintf(&b, "%s to %s: %s\n", tr.from, tr.until, tr.name)
	}
	for _, e := range s.events {
		fmt.Fprintf(&b, "%s: %s\n", e.at, e.name)
	}
	return b.String()
}

// randomRun is one run of a schedule.
type randomRun struct {
	*world
	schedule schedule
	began    time.Time
	check    *checks
	running  sync.WaitGroup
	ending   chan struct{} // closed at the end of the schedule: no more events for the observer
	mu       sync.Mutex
	pending  map[string]bool // events on their way to the observer
}

// runSchedule runs the schedule and returns the trace of all writes of records.
func runSchedule(t *testing.T, s schedule) string {
	r := &randomRun{schedule: s, began: time.Now(), ending: make(chan struct{}), pending: map[string]bool{}}
	r.world = newWorld(t, s.staleness)
	r.world.cloud.Close()
	r.runner.SecondHostKeyAfter = []time.Duration{0, 2 * time.Second, 40 * time.Second}[s.seed%3]
	r.runner.Now = func(taskID string) time.Time { return time.Now().Add(r.skew(taskID)) }
	r.world.cloud = localcloud.New(localcloud.Config{
		LaunchDelay: 4100 * time.Millisecond, Linger: 2 * time.Second, StopTimeout: 10 * time.Second,
		Staleness: s.staleness, Runner: r,
		OnTask:   func(bastionID, taskID string) { r.check.taskChanged(); r.observe(bastionID, taskID) },
		OnReport: r.observe,
	})
	t.Cleanup(r.world.cloud.Close)
	r.check = newChecks(r)
	go r.every(15*time.Second, r.check.tick)
	go r.every(time.Minute, r.reap)
	for _, e := range s.events {
		time.Sleep(time.Until(r.began.Add(e.at)))
		r.running.Go(func() { e.do(r) })
	}
	time.Sleep(time.Until(r.began.Add(s.length)))
	r.finish()
	if t.Failed() {
		t.Logf("run this seed again with BASTION_SEED=%d go test -run TestRandomSchedules ./internal/test/cloudtest\n%s", s.seed, s)
	}
	return r.check.trace.String()
}

// finish ends the trouble, closes everything, and checks that nothing is left.
func (r *randomRun) finish() {
	if n := len(r.schedule.troubles); n > 0 {
		time.Sleep(time.Until(r.began.Add(r.schedule.troubles[n-1].until)))
	}
	time.Sleep(15 * time.Minute)
	for n := range owners {
		owner := fmt.Sprintf("local:owner%d", n)
		r.check.asked(owner, "", request{closes: true})
		ctx, cancel := invocation()
		if _, err := r.function("the last close of "+owner).CloseAll(ctx, bastion.Caller{Owner: owner}, 0); err != nil {
			r.t.Errorf("%s closes all: %v", owner, err)
		}
		cancel()
	}
	time.Sleep(40 * time.Minute)
	for range 2 {
		ctx, cancel := invocation()
		if n, err := r.function("sweep").Sweep(ctx); err != nil || n > 0 {
			r.t.Errorf("the sweep found %d orphans after the schedule, error %v", n, err)
		}
		cancel()
		time.Sleep(11 * time.Minute)
	}
	close(r.ending)
	r.running.Wait()
	for _, wrong := range r.auditAtRest() {
		r.t.Errorf("seed %d, at rest: %v", r.schedule.seed, wrong)
	}
}

func (r *randomRun) auditAtRest() []error {
	r.world.service = r.function("audit")
	wrong := r.audit()
	inv := r.cloud.Inventory()
	if len(inv.Live())+len(inv.Groups) > 0 {
		wrong = append(wrong, fmt.Errorf("%d tasks and %d groups are left", len(inv.Live()), len(inv.Groups)))
	}
	return append(wrong, r.check.receipts(inv)...)
}

// every calls do in each period until the end of the schedule.
func (r *randomRun) every(period time.Duration, do func()) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-r.ending:
			return
		case <-ticker.C:
			do()
		}
	}
}

// draw returns the random numbers for a decision at the present time.
func (r *randomRun) draw(about ...string) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprint(h, r.schedule.seed, time.Now().UnixNano(), about)
	return rand.New(rand.NewPCG(h.Sum64(), r.schedule.seed))
}

// skew returns how much a clock differs from the true time: at most two seconds.
func (r *randomRun) skew(clock string) time.Duration {
	h := fnv.New64a()
	fmt.Fprint(h, r.schedule.seed, clock)
	return time.Duration(rand.New(rand.NewPCG(h.Sum64(), 3)).IntN(4000)-2000) * time.Millisecond
}

// trouble returns the present trouble; its zero value is none.
func (r *randomRun) trouble() trouble {
	at := time.Since(r.began)
	for _, tr := range r.schedule.troubles {
		if tr.from <= at && at < tr.until {
			return tr
		}
	}
	return trouble{}
}

// function returns the service of a new invocation: with a clock of its own, and in
// trouble with an end at any call.
func (r *randomRun) function(name string) *bastion.Service {
	random := r.draw("function", name)
	dies := time.Time{}
	if r.trouble().single && random.IntN(4) == 0 {
		dies = time.Now().Add(time.Duration(random.IntN(1500)) * time.Millisecond)
	}
	dead := func() bool { return !dies.IsZero() && !time.Now().Before(dies) }
	s := r.serviceOn(cloudtest.Wrap(r.ports(), func(ctx context.Context, call string, do func() error) error {
		if dead() {
			return fmt.Errorf("%s: %w: the function has ended", call, cloudtest.ErrInjected)
		}
		err := r.call(ctx, name, call, do)
		if dead() {
			return fmt.Errorf("%s: %w: the function has ended", call, cloudtest.ErrInjected)
		}
		return err
	}))
	skew := r.skew(name + time.Since(r.began).String())
	s.Now = func() time.Time { return time.Now().Add(skew) }
	s.Rand = rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%032x", random.Uint64()))))
	s.Config.Quota = bastion.Quota{PerOwner: 2, Total: 5}
	s.Config.IdleTimeout = 40 * time.Minute
	s.Config.WarnBefore = 7 * time.Minute
	return s
}

// call makes one call, after some milliseconds and with the present fault.
func (r *randomRun) call(ctx context.Context, caller, call string, do func() error) error {
	random := r.draw(caller, call, cloudtest.Subject(ctx))
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", call, ctx.Err())
	case <-time.After(5*time.Millisecond + time.Duration(random.Int64N(int64(60*time.Millisecond)))):
	}
	subject := cloudtest.Subject(ctx)
	effect := func() error {
		r.check.before(call, subject)
		err := do()
		r.check.after(call, subject)
		return err
	}
	tr := r.trouble()
	if down := tr.down[serviceOf(call)]; down != nil {
		return down(ctx, call, effect)
	}
	if !tr.single || random.IntN(12) > 0 {
		return effect()
	}
	switch faults := cloudtest.Faults(); random.IntN(4) {
	case 0:
		if serviceOf(call) == "Groups" || serviceOf(call) == "Tasks" {
			return fmt.Errorf("%s: %w", call, bastion.ErrNoTime)
		}
	case 1:
		if serviceOf(call) == "Groups" {
			return refuse(random.IntN(2) == 0)(ctx, call, effect)
		}
	case 2:
		if call == "Notifier.Notify" {
			return cloudtest.FailAfter(ctx, call, effect)
		}
		fallthrough
	default:
		return faults[random.IntN(len(faults))].Hook(ctx, call, effect)
	}
	return cloudtest.FailBefore(ctx, call, effect)
}

// Run implements [localcloud.Runner]. The task's calls can fail.
func (r *randomRun) Run(ctx context.Context, task localcloud.Process) int {
	task.Lease = &watchedLease{hookedLease{task.Lease, func(ctx context.Context, call string, do func() error) error {
		return r.call(ctx, task.TaskID, call, do)
	}}, r.check, task.TaskID}
	return r.runner.Run(ctx, task)
}

// observe invokes the observer for an event: after a while, sometimes twice; in trouble,
// sometimes late or never.
func (r *randomRun) observe(bastionID, taskID string) {
	now := time.Since(r.began).String()
	r.mu.Lock()
	again := r.pending[bastionID+now]
	r.pending[bastionID+now] = true
	r.mu.Unlock()
	random := r.draw("event", bastionID)
	delay := time.Duration(random.IntN(1500)) * time.Millisecond
	if single := r.trouble().single; again || single && random.IntN(2) == 0 {
		return
	} else if single {
		delay *= 100
	}
	times := 1 + random.IntN(10)/9
	for n := range times {
		select {
		case <-r.ending:
			return
		case <-time.After(delay + time.Duration(n)*731*time.Millisecond):
		}
		ctx, cancel := invocation()
		_ = r.function(fmt.Sprint("observer ", bastionID, n, now)).Observe(ctx, bastionID) // Lambda sends the event again; the reaper does more
		cancel()
	}
}

// reap runs the reaper, and in trouble sometimes not.
func (r *randomRun) reap() {
	random := r.draw("reaper")
	if r.trouble().single && random.IntN(3) == 0 {
		return
	}
	quiet := r.check.quiet(time.Time{}, time.Minute)
	ctx, cancel := invocation()
	defer cancel()
	result, err := r.function("reaper").Reap(ctx)
	if err != nil && quiet && r.check.quiet(time.Time{}, time.Minute) {
		r.t.Errorf("seed %d at %s: the reaper failed without trouble: %v", r.schedule.seed, time.Since(r.began), err)
	}
	r.check.reaped(result, err)
}

func (r *randomRun) create(owner string, post bastion.CreateRequest) {
	ctx, cancel := invocation()
	defer cancel()
	named := post.Sources
	if len(named) == 0 {
		named = []netip.Prefix{netip.PrefixFrom(post.Caller.Address, post.Caller.Address.BitLen())}
	}
	done := r.check.asked(owner, post.Name, request{sources: named, key: post.Key})
	defer done()
	s := r.function(owner + " creates " + post.Name)
	post.Caller.Owner, post.Notify, post.Wait = owner, true, 20*time.Second
	rec, _, err := s.Create(ctx, post)
	r.check.answered("POST", rec, err)
}

// open returns the ID of the owner's open bastion, or an empty string.
func (r *randomRun) open(owner, name string) (id string, rec bastion.Record) {
	for _, rec := range r.cloud.Inventory().Records {
		if rec.Owner == owner && rec.Name == name && rec.Intent.Open {
			return rec.ID, rec
		}
	}
	return "", bastion.Record{}
}

func (r *randomRun) extend(owner, name string, ttl time.Duration) {
	id, _ := r.open(owner, name)
	ctx, cancel := invocation()
	defer cancel()
	done := r.check.asked(owner, name, request{})
	defer done()
	rec, err := r.function(owner+" extends "+name).Extend(ctx, bastion.Caller{Owner: owner}, id, ttl, 10*time.Second)
	r.check.answered("PATCH", rec, err)
}

func (r *randomRun) close(owner, name string) {
	id, _ := r.open(owner, name)
	ctx, cancel := invocation()
	defer cancel()
	done := r.check.asked(owner, name, request{closes: true})
	defer done()
	rec, err := r.function(owner+" closes "+name).Close(ctx, bastion.Caller{Owner: owner}, id, 10*time.Second)
	r.check.answered("DELETE", rec, err)
}

func (r *randomRun) console(owner, name string, verb bastion.Verb, ttl time.Duration) {
	if _, rec := r.open(owner, name); r.runner.Request(rec.Attempt.TaskID, verb, ttl) && verb == bastion.VerbClose {
		r.check.asked(owner, name, request{closes: true})
	}
}

func (r *randomRun) use(owner, name string, n int) {
	if _, rec := r.open(owner, name); rec.Attempt.TaskID != "" {
		ended := make(chan struct{})
		go func() { defer close(ended); r.runner.Use(rec.Attempt.TaskID, n) }()
		<-ended
	}
}

func (r *randomRun) killTasks(owner string) {
	for _, rec := range r.cloud.Inventory().Records {
		for _, task := range r.cloud.Inventory().Live() {
			if rec.Owner == owner && task.BastionID == rec.ID {
				r.check.killing(rec.ID)
				r.cloud.Kill(task.ID)
			}
		}
	}
}

// watchedLease is a task's lease. It tells the checks of each report that was written.
type watchedLease struct {
	hookedLease
	check  *checks
	taskID string
}

func (l *watchedLease) Report(ctx context.Context, report bastion.Report) error {
	return l.hook(ctx, "TaskLease.Report", func() error {
		err := l.TaskLease.Report(ctx, report)
		if err == nil {
			l.check.reported(l.taskID, report)
		}
		return err
	})
}

// isRefusal reports whether the error is an answer to a person.
func isRefusal(err error) bool {
	var refusal *bastion.Error
	return errors.As(err, &refusal)
}
