package bastion

import (
	"slices"
	"time"
)

// Observed is what one round of a converge saw.
type Observed struct {
	Group           *Group     // nil: none showed
	GroupGone       bool       // this converge deleted it: its absence is no stale read
	Tasks           []Task     // the bastion's tasks, of whatever attempt
	Lease           *LeaseItem // of the current attempt's task; nil: none
	Refused         *Refusal   // RunTask refused an attempt in this converge
	NotifiedVersion int64      // the version in which this converge told the owner; 0: in none
}

// Refusal is RunTask's definite no to one attempt.
type Refusal struct {
	Attempt int
	Failure Failure
}

// Plan is what Decide wants: the record saved as Next, and only then the
// actions, in their order.
type Plan struct {
	Next    Record
	Actions []Action
}

// Decide compares what the record says should be with what was seen, and says
// what comes next. It is a pure function. now is when the round began, before
// anything was read.
func Decide(cfg Config, rec Record, seen Observed, now time.Time) Plan {
	d := decision{cfg: cfg, seen: seen, now: now, next: rec}
	d.absorbGroup()
	d.absorbAttempt()
	d.absorbReport()
	d.absorbNotified()
	if d.next.Intent.Open && !now.Before(d.next.Intent.Deadline) {
		d.next.close(End{Reason: EndDeadline, At: now}, cfg.Timing)
	}
	d.stopStrays()
	if d.next.Intent.Open {
		d.open()
	} else {
		d.close()
	}
	d.settle()
	d.schedule()
	d.notify()
	return Plan{Next: d.next, Actions: d.actions}
}

type decision struct {
	cfg     Config
	seen    Observed
	now     time.Time
	next    Record
	actions []Action
}

func (d *decision) do(a Action) { d.actions = append(d.actions, a) }

// stopStrays stops every task but the one of an attempt that has not ended: one
// that a late RunTask started, or one that had been taken for gone.
func (d *decision) stopStrays() {
	for _, task := range d.seen.Tasks {
		current := d.next.Attempt.running() && task.Attempt == d.next.Attempt.Number
		if !current && task.stoppable() {
			d.do(Action{Step: StopTask, TaskID: task.ID})
		}
	}
}

// stoppable reports whether a StopTask would still change anything.
func (t Task) stoppable() bool {
	switch t.Status {
	case TaskDeactivating, TaskStopping, TaskDeprovisioning, TaskStopped:
		return false
	}
	return true
}

// open takes the next steps towards a bastion that is ready.
func (d *decision) open() {
	d.openGroup()
	a := &d.next.Attempt
	if !a.running() {
		if d.endLease() || d.next.Group.Ingress != d.next.Intent.Source || d.now.Before(d.next.NextAttemptAt) {
			return
		}
		d.next.announce(d.cfg, d.now)
	}
	switch {
	case a.TaskID == "":
		d.do(Action{Step: RunTask, Attempt: a.Number})
	case d.report().Ending.Reason == "":
		d.writeLease()
	}
}

// openGroup brings the group to admit the source and nothing else. What should
// not be there goes first.
func (d *decision) openGroup() {
	group, source := d.seen.Group, d.next.Intent.Source
	if group == nil {
		if d.next.Group.ID == "" {
			d.do(Action{Step: CreateGroup})
		}
		return
	}
	for _, rule := range group.Egress {
		d.do(Action{Step: RevokeEgress, GroupID: group.ID, Rule: rule})
	}
	admitted := false
	for _, rule := range group.Ingress {
		if rule.Source == source && !admitted {
			admitted = true
			continue
		}
		d.do(Action{Step: RevokeIngress, GroupID: group.ID, Rule: rule})
	}
	if !admitted {
		d.do(Action{Step: AuthorizeIngress, GroupID: group.ID, Source: source})
	}
}

// announce begins the next attempt. A console's requests are counted for each
// task, so the last answer goes.
func (r *Record) announce(cfg Config, now time.Time) {
	n := r.Attempt.Number + 1
	r.Attempt = Attempt{
		Number:         n,
		GroupID:        r.Group.ID,
		Subnet:         cfg.Subnets[(n-1)%len(cfg.Subnets)],
		TaskDefinition: cfg.TaskDefinition,
		CreatedAt:      now,
	}
	r.Intent.ConsoleReply = ConsoleReply{}
}

// writeLease tells the task the intent, unless it has been told.
func (d *decision) writeLease() {
	item, want := d.seen.Lease, d.next.Intent.Generation
	if item != nil && (item.Ended || item.Lease.Generation >= want) {
		return
	}
	d.do(Action{Step: WriteLease, TaskID: d.next.Attempt.TaskID, Generation: want})
}

// endLease ends the lease of an attempt that has ended, and reports whether
// that was still to be done.
func (d *decision) endLease() bool {
	a := d.next.Attempt
	if a.TaskID == "" || d.seen.Lease != nil && d.seen.Lease.Ended {
		return false
	}
	d.do(Action{Step: EndLease, TaskID: a.TaskID})
	return true
}

// close takes the next steps towards nothing: ingress, lease, task, then the
// tombstone and the group.
func (d *decision) close() {
	group, a := d.seen.Group, d.next.Attempt
	if group != nil {
		for _, rule := range group.Ingress {
			d.do(Action{Step: RevokeIngress, GroupID: group.ID, Rule: rule})
		}
	}
	if a.running() && a.TaskID != "" {
		d.writeLease()
		if task := currentTask(d.next, d.seen.Tasks); task != nil && task.stoppable() {
			d.do(Action{Step: StopTask, TaskID: a.TaskID})
		}
	}
	if a.running() || slices.ContainsFunc(d.seen.Tasks, func(t Task) bool { return t.Status != TaskStopped }) {
		return
	}
	leased := d.next.FinishedAt.IsZero() && d.endLease() // it had to end before anything was finished
	if group != nil {
		d.do(Action{Step: DeleteGroup, GroupID: group.ID})
	}
	if !leased && d.next.Group.ID == "" && d.next.FinishedAt.IsZero() {
		d.next.FinishedAt = d.now
	}
}

// settle clears UnsettledUntil once a round that began after it saw agreement.
func (d *decision) settle() {
	agreed := d.next.agrees() || !d.next.FinishedAt.IsZero()
	if agreed && len(d.actions) == 0 && !d.now.Before(d.next.UnsettledUntil) {
		d.next.UnsettledUntil = time.Time{}
	}
}

// schedule says when to look again if nothing calls before. An earlier time
// that is still to come stays, which saves a write; never is zero, before all.
func (d *decision) schedule() {
	r, due := &d.next, d.due()
	written := d.seen.NotifiedVersion > 0 // the record is written anyway
	if !r.DueAt.After(d.now) || due.Before(r.DueAt) || written {
		r.DueAt = due
	}
}

func (d *decision) due() time.Time {
	r, timing := d.next, d.cfg.Timing
	soon := d.now.Add(timing.WatchInterval)
	var due time.Time
	switch {
	case !r.FinishedAt.IsZero() && len(d.actions) == 0 && r.UnsettledUntil.IsZero():
		return time.Time{}
	case !r.FinishedAt.IsZero() && len(d.actions) == 0:
		due = r.UnsettledUntil
	case r.agrees() && len(d.actions) == 0:
		due = earlier(d.now.Add(timing.CheckInterval), r.Intent.Deadline)
	case r.Intent.Open && r.NextAttemptAt.After(d.now):
		due = earlier(earlier(soon, r.NextAttemptAt), r.Intent.Deadline)
	case r.Intent.Open:
		due = earlier(soon, r.Intent.Deadline)
	default:
		due = soon
	}
	if r.UnsettledUntil.After(d.now) {
		due = earlier(due, r.UnsettledUntil)
	}
	if at := r.warnAt(d.cfg.WarnBefore); at.After(d.now) {
		due = earlier(due, at)
	}
	return due
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
