package cloudtest_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
)

// The bounds that the checks hold, counted from the change or from the end of the
// trouble, whichever is later. Each adds the staleness of reads.
const (
	settling      = 45 * time.Second // after a trouble: the invocations that began in it have ended
	goneWithin    = 4 * time.Minute  // a closed bastion has no live task and no ingress
	accessWithin  = 3 * time.Minute  // a closed bastion cannot be used, if EC2 or the table of leases responds
	movedWithin   = 4 * time.Minute  // an earlier source is not admitted
	rekeyedWithin = 4 * time.Minute  // an earlier key is not accepted
	readyWithin   = 9 * time.Minute  // an open bastion is ready
	checkedWithin = 8 * time.Minute  // a bastion that is ready has a running task
	doubleWithin  = 5 * time.Minute  // a bastion has one live task
	seenWithin    = 35 * time.Second // a converge sees what was so when it began
	alarmWithin   = 6 * time.Minute  // a failing bastion raises an alarm condition
	endedWithin   = 8 * time.Minute  // a converge has seen that a task ended in a trouble
	failingWithin = 12 * time.Minute // a bastion's Failing is cleared
)

// request is what an owner asked for.
type request struct {
	sources []netip.Prefix
	key     bastion.Key
	closes  bool
}

// admission is one key from one source.
type admission struct {
	key    bastion.Key
	source netip.Prefix
}

func admissions(all []bastion.Admission) (each []admission) {
	for _, a := range all {
		for _, source := range a.Sources {
			each = append(each, admission{a.Key, source})
		}
	}
	return each
}

// checks compares the cloud with what owners asked for.
type checks struct {
	r     *randomRun
	trace strings.Builder // of the writes of records

	mu         sync.Mutex
	wrong      map[string]bool        // reported once
	requests   map[string][]request   // by owner and name
	inFlight   map[string]int         // requests that have not returned, by owner and name
	bastions   map[string]*watched    // by ID
	stopped    map[string]time.Time   // when a task was first seen to have stopped
	receipt    map[string]int         // connections in the receipts that tasks have written
	refused    time.Time              // when capacity was last refused
	alarmed    time.Time              // when a run of the reaper last reported a failure
	doubleFrom map[string]time.Time   // since when a bastion has two live tasks
	kills      map[string][]time.Time // by bastion
}

// watched is what the checks know of one bastion.
type watched struct {
	rec       bastion.Record
	closedAt  time.Time
	moved     map[netip.Prefix]time.Time // when a source was removed from the intent
	replaced  map[admission]time.Time    // when an admission was removed from the intent
	admitted  map[string]time.Time       // when the group last admitted these sources and nothing else
	followed  map[int64]time.Time        // when a running task last reported that it follows this generation
	notReady  time.Time                  // since when it is open and not ready
	readyFrom time.Time                  // since when it is ready
	failing   time.Time                  // since when Failing is set
	tasks     map[string]bool            // the tasks that the record has named
}

func newChecks(r *randomRun) *checks {
	return &checks{
		r: r, wrong: map[string]bool{}, requests: map[string][]request{}, inFlight: map[string]int{}, bastions: map[string]*watched{},
		stopped: map[string]time.Time{}, receipt: map[string]int{}, doubleFrom: map[string]time.Time{}, kills: map[string][]time.Time{},
	}
}

// errorf reports a violation, each text once. c.mu is held.
func (c *checks) errorf(what, format string, args ...any) {
	if !c.wrong[what] {
		c.wrong[what] = true
		c.r.t.Errorf("seed %d at %s: %s: %s", c.r.schedule.seed, time.Since(c.r.began), what, fmt.Sprintf(format, args...))
	}
}

// lastTrouble returns when the services were last in trouble, which is now in a trouble;
// of any service if none is named. Single faults are a trouble of all services.
func (c *checks) lastTrouble(services ...string) (last time.Time) {
	for _, tr := range c.r.schedule.troubles {
		concerns := tr.single || len(services) == 0 || slices.ContainsFunc(services, func(s string) bool { return tr.down[s] != nil })
		if from := c.r.began.Add(tr.from); !concerns || time.Now().Before(from) {
			continue
		}
		last = bastion.Later(last, c.r.began.Add(tr.until).Add(settling))
	}
	return last
}

// quiet reports whether no trouble of the services, and nothing since the time, was
// within the bound.
func (c *checks) quiet(since time.Time, bound time.Duration, services ...string) bool {
	return time.Since(bastion.Later(since, c.lastTrouble(services...))) > bound+c.r.schedule.staleness
}

// asked stores a request and returns the function that marks it as returned.
func (c *checks) asked(owner, name string, req request) (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := owner + "/" + name
	c.requests[key] = append(c.requests[key], req)
	c.inFlight[key]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.inFlight[key]--
	}
}

// requested reports whether the bastion's owner made a request that matches.
func (c *checks) requested(rec bastion.Record, match func(request) bool) bool {
	return slices.ContainsFunc(append(c.requests[rec.Owner+"/"], c.requests[rec.Owner+"/"+rec.Name]...), match)
}

// refusing makes the cloud refuse attempts, until its next call.
func (c *checks) refusing(cloud *localcloud.Cloud, n int) {
	cloud.RefuseCapacity(n)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = time.Now()
}

func (c *checks) killing(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kills[id] = append(c.kills[id], time.Now())
}

// reported takes note of a report that a task has written.
func (c *checks) reported(taskID string, report bastion.Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !report.Receipt.EndedAt.IsZero() {
		c.receipt[taskID] = report.Receipt.Connections
	}
}

// reaped takes note of a run of the reaper.
func (c *checks) reaped(result bastion.ReapResult, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if result.Failed > 0 || err != nil || !result.FailingSince.IsZero() {
		c.alarmed = time.Now()
	}
}

// before checks a call before its effect.
func (c *checks) before(call, subject string) {
	if call != "Tasks.Stop" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.bastions {
		if a := w.rec.Attempt; w.rec.Intent.Open && a.TaskID == subject && a.EndedAt.IsZero() {
			c.errorf("stopped "+subject, "the task of the open bastion %s is stopped", w.rec.ID)
		}
	}
}

// after checks the record after a write.
func (c *checks) after(call, subject string) {
	if call != "Records.Create" && call != "Records.Replace" {
		return
	}
	inv := c.r.cloud.Inventory()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rec := range inv.Records {
		if rec.ID == subject {
			c.written(inv, rec)
		}
	}
}

// written checks a record that has just been written. c.mu is held.
func (c *checks) written(inv localcloud.Inventory, rec bastion.Record) {
	w := c.bastions[rec.ID]
	if w == nil {
		w = &watched{moved: map[netip.Prefix]time.Time{}, replaced: map[admission]time.Time{}, admitted: map[string]time.Time{}, followed: map[int64]time.Time{}, notReady: time.Now(), tasks: map[string]bool{}}
		c.bastions[rec.ID] = w
	}
	old, now := w.rec, time.Now()
	if rec.Version <= old.Version {
		return
	}
	w.rec = rec
	fmt.Fprintf(&c.trace, "%s %s v%d %s/%s g%d a%d %s\n", now.Sub(c.r.began), rec.ID, rec.Version, rec.State(), rec.Stage(), rec.Intent.Generation, rec.Attempt.Number, rec.Attempt.TaskID)
	c.intentWritten(w, old, rec)
	if rec.Attempt.TaskID != "" {
		w.tasks[rec.Attempt.TaskID] = true
	}
	if a := rec.Attempt; a.TaskID != "" && !a.EndedAt.IsZero() && old.Attempt.EndedAt.IsZero() {
		for _, task := range inv.Live() {
			if task.ID == a.TaskID {
				c.errorf("ended "+a.TaskID, "attempt %d of %s has ended, but its task is %s", a.Number, rec.ID, task.Status)
			}
		}
	}
	c.note(inv, w)
	if !rec.SeenAt.IsZero() && !rec.SeenAt.Equal(old.SeenAt) && !c.matched(w, rec.Intent) {
		c.errorf("seen "+rec.ID, "%s was seen ready at %s, but group and task did not match", rec.ID, rec.SeenAt)
	}
	if state := rec.State(); state == bastion.Ready {
		w.notReady = time.Time{}
		if w.readyFrom.IsZero() {
			w.readyFrom = now
		}
	} else {
		w.readyFrom = time.Time{}
		if w.notReady.IsZero() {
			w.notReady = now
		}
	}
	if rec.Failing.Since.IsZero() {
		w.failing = time.Time{}
	} else if w.failing.IsZero() {
		w.failing = now
	}
	if !rec.FinishedAt.IsZero() && old.FinishedAt.IsZero() {
		c.finished(inv, rec)
	}
}

// intentWritten checks a new intent against the requests. c.mu is held.
func (c *checks) intentWritten(w *watched, old, rec bastion.Record) {
	now, is, was := time.Now(), rec.Intent, old.Intent
	before, after := admissions(was.Admissions()), admissions(is.Admissions())
	for _, source := range was.Sources() {
		w.moved[source] = now
	}
	for _, source := range is.Sources() {
		delete(w.moved, source)
	}
	for _, a := range before {
		w.replaced[a] = now
	}
	for _, a := range after {
		delete(w.replaced, a)
		if !c.requested(rec, func(q request) bool { return q.key == a.key && slices.Contains(q.sources, a.source) }) {
			c.errorf("source of "+rec.ID, "key %s from %s was never asked for", a.key.Fingerprint(), a.source)
		}
	}
	if !slices.Contains(is.Sources(), is.Source) {
		c.errorf("first source of "+rec.ID, "%s is none of %s", is.Source, is.Sources())
	}
	if len(is.Keys) > bastion.MaxKeys || len(is.Sources()) > bastion.MaxSources {
		c.errorf("limits of "+rec.ID, "it has %d keys and %d sources", len(is.Keys), len(is.Sources()))
	}
	moved := was.Source != is.Source || !slices.Equal(before, after)
	changed := was.Open != is.Open || moved || was.ConsoleReply.Number != is.ConsoleReply.Number || !was.Deadline.Equal(is.Deadline)
	if is.Generation != was.Generation && !changed && c.inFlight[rec.Owner+"/"+rec.Name] == 0 {
		c.errorf("intent of "+rec.ID, "generation %d changes nothing, and no request was made", is.Generation)
	}
	if is.Generation < was.Generation || is.Generation == was.Generation && (was.Open != is.Open || moved) {
		c.errorf("generation of "+rec.ID, "%d after %d", is.Generation, was.Generation)
	}
	if !is.Open && (was.Open || old.ID == "") {
		w.closedAt = now
		c.closed(rec)
	}
}

// closed checks why a bastion was closed. c.mu is held.
func (c *checks) closed(rec bastion.Record) {
	now := time.Now()
	switch rec.End.Reason {
	case bastion.EndDeadline:
		if now.Add(5 * time.Second).Before(rec.Intent.Deadline) {
			c.errorf("deadline of "+rec.ID, "closed %s before its deadline", rec.Intent.Deadline.Sub(now))
		}
	case bastion.EndClosed, bastion.EndConsole:
		if !c.requested(rec, func(q request) bool { return q.closes }) {
			c.errorf("close of "+rec.ID, "closed (%s) without a request", rec.End)
		}
	case bastion.EndFailed:
		explained := now.Sub(c.refused) < 20*time.Minute || !c.quiet(time.Time{}, 30*time.Minute)
		recent := 0
		for _, at := range c.kills[rec.ID] {
			if now.Sub(at) < 9*time.Minute {
				recent++
			}
		}
		if !explained && recent < 3 {
			c.errorf("failure of "+rec.ID, "failed (%s) after %d kills in nine minutes and no trouble", rec.End, recent)
		}
	case bastion.EndTask: // the task could not report why it ended
		if c.quiet(time.Time{}, endedWithin) {
			c.errorf("end of "+rec.ID, "its task ended without a reason")
		}
	}
}

// finished checks that nothing of a finished bastion exists. c.mu is held.
func (c *checks) finished(inv localcloud.Inventory, rec bastion.Record) {
	for _, task := range inv.Live() {
		if task.BastionID == rec.ID {
			c.errorf("finish of "+rec.ID, "its task %s is %s", task.ID, task.Status)
		}
	}
	for _, group := range inv.Groups {
		if group.BastionID == rec.ID {
			c.errorf("finish of "+rec.ID, "its group %s exists", group.ID)
		}
	}
}

// note takes note of the sources that the group admits and the generation that the task
// follows. c.mu is held.
func (c *checks) note(inv localcloud.Inventory, w *watched) {
	for _, g := range inv.Groups {
		if g.BastionID == w.rec.ID && len(g.Egress) == 0 {
			w.admitted[fmt.Sprint(ingressOf(g))] = time.Now()
		}
	}
	for _, task := range inv.Live() {
		for _, item := range inv.Leases {
			if task.BastionID == w.rec.ID && item.TaskID == task.ID && task.Status == bastion.TaskRunning {
				w.followed[item.Report.Generation] = time.Now()
			}
		}
	}
}

// matched reports whether the group and the task matched the intent, each at a time that
// a read of now can show. c.mu is held.
func (c *checks) matched(w *watched, intent bastion.Intent) bool {
	since := func(at time.Time) bool { return time.Since(at) <= seenWithin+c.r.schedule.staleness }
	return since(w.admitted[fmt.Sprint(intent.Sources())]) && since(w.followed[intent.Generation])
}

// answered checks an answer to a person.
func (c *checks) answered(method string, rec bastion.Record, err error) {
	inv := c.r.cloud.Inventory()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		if !isRefusal(err) && c.quiet(time.Time{}, time.Minute) {
			c.errorf(method, "failed without trouble: %v", err)
		}
		return
	}
	w := c.bastions[rec.ID]
	switch {
	case w == nil:
		c.errorf(method+" of "+rec.ID, "there is no record")
	case method == "DELETE" && w.rec.Intent.Open:
		c.errorf(method+" of "+rec.ID, "the bastion is open")
	case method != "DELETE" && rec.State() == bastion.Ready:
		c.note(inv, w)
		if w.rec.Intent.Generation == rec.Intent.Generation && !c.matched(w, rec.Intent) {
			c.errorf(method+" of "+rec.ID, "ready was returned, but group and task do not match")
		}
	}
}

// taskChanged takes note of the tasks that have stopped.
func (c *checks) taskChanged() {
	inv := c.r.cloud.Inventory()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noteStopped(inv)
}

func (c *checks) noteStopped(inv localcloud.Inventory) {
	for _, task := range inv.Tasks {
		if _, known := c.stopped[task.ID]; !known && task.Status == bastion.TaskStopped {
			c.stopped[task.ID] = time.Now()
		}
	}
}

// tick checks everything.
func (c *checks) tick() {
	inv := c.r.cloud.Inventory()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noteStopped(inv)
	names, open := map[string]int{}, map[string]int{}
	for _, rec := range inv.Records {
		w := c.bastions[rec.ID]
		if w == nil {
			continue
		}
		if rec.Intent.Open {
			names[rec.Owner+"/"+rec.Name]++
			open[rec.Owner]++
			open[""]++
		}
		c.note(inv, w)
		if rec.FinishedAt.IsZero() {
			c.checkBastion(inv, w, rec)
		}
	}
	for name, n := range names {
		if n > 1 {
			c.errorf("names", "%d open bastions are %s", n, name)
		}
	}
	for owner, n := range open {
		if owner != "" && n > 2 || n > 5 {
			c.errorf("quota", "%q has %d open bastions", owner, n)
		}
	}
	c.checkTasks(inv)
}

// checkBastion checks one bastion that is not finished. c.mu is held.
func (c *checks) checkBastion(inv localcloud.Inventory, w *watched, rec bastion.Record) {
	now := time.Now()
	over := w.closedAt
	if rec.Intent.Open && now.After(rec.Intent.Deadline) {
		over = rec.Intent.Deadline
	}
	tasks := slices.DeleteFunc(inv.Live(), func(t bastion.Task) bool { return t.BastionID != rec.ID })
	var ingress []bastion.Rule
	for _, g := range inv.Groups {
		if g.BastionID == rec.ID {
			ingress = g.Ingress
		}
	}
	accepting := false
	for _, task := range tasks {
		if server := c.r.runner.Server(task.ID); server != nil {
			accepting = true
			for _, a := range admissions(server.Lease().Admissions()) {
				if at, replaced := w.replaced[a]; replaced && c.quiet(at, rekeyedWithin, "Records", "Leases") && rec.Attempt.TaskID == task.ID {
					c.errorf("key of "+rec.ID, "task %s accepts a key from %s, which was replaced %s ago", task.ID, a.source, now.Sub(at))
				}
			}
		}
	}
	for _, rule := range ingress {
		at, moved := w.moved[rule.Source]
		if moved && c.quiet(at, movedWithin, "Records", "Groups") {
			c.errorf("ingress of "+rec.ID, "it admits %s, which was replaced %s ago", rule.Source, now.Sub(at))
		}
		if !c.requested(rec, func(q request) bool { return slices.Contains(q.sources, rule.Source) }) {
			c.errorf("ingress of "+rec.ID, "it admits %s, which was never asked for", rule.Source)
		}
	}
	if !over.IsZero() {
		if c.quiet(over, goneWithin) && (len(tasks) > 0 || len(ingress) > 0) {
			c.errorf("close of "+rec.ID, "closed %s ago (%s), but it has %d tasks and %d rules", now.Sub(over), rec.End, len(tasks), len(ingress))
		}
		responds := c.quiet(over, accessWithin, "Records", "Groups") || c.quiet(over, accessWithin, "Records", "Leases")
		if responds && accepting && len(ingress) > 0 {
			c.errorf("access to "+rec.ID, "closed %s ago (%s), and it can still be used", now.Sub(over), rec.End)
		}
		if c.quiet(over, accessWithin, "Records", "Groups") && len(ingress) > 0 {
			c.errorf("access to "+rec.ID, "closed %s ago (%s), EC2 responds, and ingress is not revoked", now.Sub(over), rec.End)
		}
		if c.quiet(over, accessWithin, "Records", "Leases") && accepting && rec.Attempt.TaskID != "" {
			c.errorf("access to "+rec.ID, "closed %s ago (%s), the table responds, and the task accepts connections", now.Sub(over), rec.End)
		}
		if c.quiet(over, accessWithin, "Records", "Tasks") && len(tasks) > 0 && rec.Attempt.TaskID != "" {
			c.errorf("task of "+rec.ID, "closed %s ago (%s), ECS responds, and %d tasks live", now.Sub(over), rec.End, len(tasks))
		}
		return
	}
	disturbed := bastion.Later(c.refused.Add(5*time.Minute), w.notReady)
	if kills := c.kills[rec.ID]; len(kills) > 0 {
		disturbed = bastion.Later(disturbed, kills[len(kills)-1])
	}
	if !w.notReady.IsZero() && c.quiet(disturbed, readyWithin) {
		c.errorf("start of "+rec.ID, "not ready for %s: %s, stage %q, failing %+v", now.Sub(w.notReady), rec.State(), rec.Stage(), rec.Failing)
	}
	if stopped, known := c.stopped[rec.Attempt.TaskID]; known && rec.State() == bastion.Ready && c.quiet(bastion.Later(stopped, w.readyFrom), checkedWithin, "Records", "Tasks", "Leases", "Groups") {
		c.errorf("ready "+rec.ID, "its task stopped %s ago", now.Sub(stopped))
	}
	if rec.State() == bastion.Ready && len(rec.Attempt.HostKeys()) != 2 && c.quiet(rec.Attempt.ReadyAt.Add(c.r.runner.SecondHostKeyAfter), checkedWithin) {
		c.errorf("host keys of "+rec.ID, "ready for %s, but the record has the host keys %q only", now.Sub(rec.Attempt.ReadyAt), rec.Attempt.HostKeys())
	}
	if !w.failing.IsZero() && c.quiet(w.failing, failingWithin) {
		c.errorf("failing "+rec.ID, "its converges fail for %s", now.Sub(w.failing))
	}
	if tr := c.r.trouble(); tr.down["Groups"] != nil && len(tr.down) == 1 && w.rec.State() == bastion.Starting {
		since := bastion.Later(bastion.Later(w.notReady, c.r.began.Add(tr.from)), c.alarmed)
		if now.Sub(since) > alarmWithin {
			c.errorf("alarm of "+rec.ID, "starting for %s without EC2, and no alarm condition", now.Sub(w.notReady))
		}
	}
}

// checkTasks checks that a bastion has one task, and an attempt never two. c.mu is held.
func (c *checks) checkTasks(inv localcloud.Inventory) {
	attempts, live := map[string]bool{}, map[string]int{}
	for _, task := range inv.Tasks {
		attempt := fmt.Sprint(task.BastionID, " ", task.Attempt)
		if attempts[attempt] {
			c.errorf("attempt "+attempt, "it has two tasks")
		}
		attempts[attempt] = true
		if task.Status != bastion.TaskStopped {
			live[task.BastionID]++
		}
	}
	for id := range c.bastions {
		switch {
		case live[id] < 2:
			delete(c.doubleFrom, id)
		case c.doubleFrom[id].IsZero():
			c.doubleFrom[id] = time.Now()
		case c.quiet(c.doubleFrom[id], doubleWithin):
			c.errorf("tasks of "+id, "it has %d live tasks", live[id])
		}
	}
}

// receipts compares the receipts in the records with those that the tasks wrote.
func (c *checks) receipts(inv localcloud.Inventory) (wrong []error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rec := range inv.Records {
		want := 0
		for task := range c.bastions[rec.ID].tasks {
			want += c.receipt[task]
		}
		if rec.Receipt.Connections != want {
			wrong = append(wrong, fmt.Errorf("the receipt of %s has %d connections, its tasks reported %d", rec.ID, rec.Receipt.Connections, want))
		}
	}
	return wrong
}
