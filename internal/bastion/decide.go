package bastion

import (
	"hash/fnv"
	"slices"
	"time"
)

// Observed holds what one round of a converge read from the cloud, and what the converge
// has done so far. A part that is unknown is not absent: what the record knows of it
// stays as it is.
type Observed struct {
	Unknown Part // the parts that could not be read
	NoTime  Part // the parts of Unknown that were not read because the rate limits left no time, which is not a failure

	Group     *Group     // nil: none was found
	GroupGone bool       // this converge deleted the group, so that its absence is certain
	Tasks     []Task     // the bastion's tasks, of all attempts
	Lease     *LeaseItem // of the current attempt's task; nil: none was found

	Taken           map[Action]error // the actions that this converge has taken, and their errors
	NotifiedVersion int64            // the version of the record for which this converge sent a notice; 0: it sent none
}

// Part is a part of the cloud that a converge reads. Each part is one bit, so that a Part
// can also hold a set of parts.
type Part uint

// The parts.
const (
	GroupPart     Part = 1 << iota // the group and its rules
	TasksPart                      // the tasks
	EndpointsPart                  // the endpoints of the current attempt's task
	LeasePart                      // the lease and the report of the current attempt's task
)

// Plan is the result of Decide. The caller first saves Next in place of the record,
// and then takes the actions in their order, except those that it has taken already.
type Plan struct {
	Next    Record
	Actions []Action
	Err     error // the errors of the actions in Observed.Taken that are still needed, or the refusal that this round has counted
}

// Decide compares the record with the observation, and returns the next record and
// the actions to take. It is a pure function. now is the time at which the round
// began, before it read the record.
func Decide(cfg Config, rec Record, seen Observed, now time.Time) Plan {
	d := decision{cfg: cfg, seen: seen, now: now, next: rec}
	d.recordGroup()
	d.recordAttempt()
	d.recordReport()
	d.recordNotified()
	if d.next.Intent.Open && !now.Before(d.next.Intent.Deadline) {
		d.next.close(End{Reason: EndDeadline, At: now}, cfg.Timing)
	}
	d.giveUp()
	d.stopOtherTasks()
	if d.next.Intent.Open {
		d.open()
	}
	if !d.next.Intent.Open { // also if a refusal has just closed it
		d.close()
	}
	d.recordSeen()
	d.recordFailing()
	d.settle()
	d.schedule()
	d.notify()
	return Plan{Next: d.next, Actions: d.actions, Err: d.err}
}

// decision is the state of one call of Decide.
type decision struct {
	cfg     Config
	seen    Observed
	now     time.Time
	next    Record
	actions []Action
	err     error         // see Plan.Err
	refused *RefusedError // a refusal that this round has counted as a failure of the start
	pausing bool          // a step of the group is needed, but only after NextAttemptAt
}

func (d *decision) add(a Action) { d.actions = append(d.actions, a) }

// unknown reports whether one of the parts could not be read.
func (d *decision) unknown(parts Part) bool { return d.seen.Unknown&parts != 0 }

// stopOtherTasks adds the actions that stop every task that does not belong to the
// active attempt. A late RunTask may have started such a task, or an earlier decision
// may have recorded the task as gone.
func (d *decision) stopOtherTasks() {
	for _, task := range d.seen.Tasks {
		current := d.next.Attempt.active() && task.Attempt == d.next.Attempt.Number
		if !current && task.stoppable() {
			d.add(Action{Step: StopTask, TaskID: task.ID})
		}
	}
}

// stoppable reports whether the task has not begun to stop.
func (t Task) stoppable() bool {
	switch t.Status {
	case TaskDeactivating, TaskStopping, TaskDeprovisioning, TaskStopped:
		return false
	}
	return true
}

// open adds the next actions towards a bastion that is ready. If AWS has refused a step of
// the group before the task was ready, open counts the refusal and adds no action.
func (d *decision) open() {
	others := len(d.actions)
	if refused := d.openGroup(); refused != nil && !d.next.served() {
		d.refused, d.pausing, d.actions = refused, true, d.actions[:others]
		d.countFailure(refused.Failure)
		return
	}
	a := &d.next.Attempt
	if !a.active() {
		if d.endLease() || !d.next.admitsSources() || d.now.Before(d.next.NextAttemptAt) || d.unknown(TasksPart) {
			return
		}
		d.next.beginAttempt(d.cfg, d.now)
	}
	switch {
	case a.TaskID == "":
		if d.now.Sub(a.CreatedAt) <= RunTaskReplayWindow { // later, RunTask could start a second task
			d.add(Action{Step: RunTask, Attempt: a.Number})
		}
	case d.report().Ending.Reason == "":
		d.writeLease()
	}
}

// openGroup adds the actions after which the group admits the sources and nothing
// else. It removes wrong rules before it adds the missing ones. Before the task is ready,
// it creates the group and admits sources only after NextAttemptAt, which is the end of
// the pause after a refusal.
//
// openGroup returns AWS's definite refusal of one of these actions, or nil. A denied call
// for a new group is not a definite refusal.
func (d *decision) openGroup() (refused *RefusedError) {
	if d.unknown(GroupPart) {
		return nil
	}
	group := d.seen.Group
	pause := !d.next.served() && d.now.Before(d.next.NextAttemptAt)
	add := func(a Action) {
		if pause && a.Step&(CreateGroup|AuthorizeIngress) != 0 {
			d.pausing = true
			return
		}
		a.Try = d.next.Failures
		d.add(a)
		if r := refusalOf(d.seen.Taken[a]); r != nil && !d.mayNotBeVisible(r) {
			refused = r
		}
	}
	if group == nil {
		if d.next.Group.ID == "" {
			add(Action{Step: CreateGroup})
		}
		return refused
	}
	for _, rule := range group.Egress {
		add(Action{Step: RevokeEgress, GroupID: group.ID, Rule: rule})
	}
	missing := d.next.Intent.Sources()
	for _, rule := range group.Ingress {
		if i := slices.Index(missing, rule.Source); i >= 0 {
			missing = slices.Delete(missing, i, i+1)
			continue
		}
		add(Action{Step: RevokeIngress, GroupID: group.ID, Rule: rule})
	}
	for _, source := range missing {
		add(Action{Step: AuthorizeIngress, GroupID: group.ID, Source: source})
	}
	return refused
}

// beginAttempt puts the next attempt into the record. It removes the latest reply
// to a console, because the console of the next task numbers its requests from 1.
func (r *Record) beginAttempt(cfg Config, now time.Time) {
	n := r.Attempt.Number + 1
	r.Attempt = Attempt{
		Number:         n,
		GroupID:        r.Group.ID,
		Subnet:         r.subnet(cfg.Subnets, n),
		TaskDefinition: cfg.TaskDefinition,
		Tags:           cfg.Tags,
		CreatedAt:      now,
	}
	r.Intent.ConsoleReply = ConsoleReply{}
}

// subnet returns the subnet of the nth attempt. Each attempt uses the subnet after that
// of the attempt before. The subnet of the first attempt depends on the bastion's ID, so
// the first attempts of many bastions are spread over all subnets. If one zone has no
// capacity, only some of the first attempts fail.
func (r *Record) subnet(subnets []string, n int) string {
	h := fnv.New32a()
	h.Write([]byte(r.ID))
	return subnets[(int(h.Sum32()%uint32(len(subnets)))+n-1)%len(subnets)]
}

// writeLease adds the action that writes the intent into the task's lease, unless the
// lease has this generation already or is a tombstone. If the lease is unknown, writeLease
// compares the generation in the latest report instead. If the action is then not needed,
// it does no harm: Leases.Write refuses a generation that is not newer.
func (d *decision) writeLease() {
	item, want := d.seen.Lease, d.next.Intent.Generation
	if item != nil && (item.Ended || item.Lease.Generation >= want) {
		return
	}
	if d.unknown(LeasePart) && d.next.Attempt.Generation >= want {
		return
	}
	d.add(Action{Step: WriteLease, TaskID: d.next.Attempt.TaskID, Generation: want})
}

// endLease adds the action that replaces the lease of an ended attempt with a
// tombstone, and reports whether it added the action. If the attempt has no task, or
// if its lease is a tombstone already, endLease adds nothing.
func (d *decision) endLease() bool {
	a := d.next.Attempt
	if a.TaskID == "" || d.seen.Lease != nil && d.seen.Lease.Ended {
		return false
	}
	d.add(Action{Step: EndLease, TaskID: a.TaskID})
	return true
}

// close adds the next actions towards a bastion that is finished: revoke ingress,
// close the lease and stop the task; and, when the task has stopped, write the
// tombstone and delete the group.
//
// A task whose state is unknown is stopped by its ID: for a task that has stopped,
// StopTask does nothing.
func (d *decision) close() {
	group, a := d.seen.Group, d.next.Attempt
	if group != nil {
		for _, rule := range group.Ingress {
			d.add(Action{Step: RevokeIngress, GroupID: group.ID, Rule: rule, Try: d.next.Failures})
		}
	}
	if a.active() && a.TaskID != "" {
		d.writeLease()
		if task := currentTask(d.next, d.seen.Tasks); d.unknown(TasksPart) || task != nil && task.stoppable() {
			d.add(Action{Step: StopTask, TaskID: a.TaskID})
		}
	}
	if a.active() || d.unknown(TasksPart) || slices.ContainsFunc(d.seen.Tasks, func(t Task) bool { return t.Status != TaskStopped }) {
		return
	}
	endsLease := d.next.FinishedAt.IsZero() && d.endLease() // the lease of a finished bastion has ended already
	if group != nil {
		d.add(Action{Step: DeleteGroup, GroupID: group.ID})
	}
	if !endsLease && d.seen.Unknown == 0 && d.next.Group.ID == "" && d.next.FinishedAt.IsZero() {
		d.next.FinishedAt = d.now
	}
}

// settle clears UnsettledUntil if a round that began after that time saw every part and
// found nothing to do.
func (d *decision) settle() {
	seenReady := d.next.State() == Ready && d.next.SeenAt.Equal(d.now)
	done := seenReady || !d.next.FinishedAt.IsZero()
	if done && d.seen.Unknown == 0 && len(d.actions) == 0 && !d.now.Before(d.next.UnsettledUntil) {
		d.next.UnsettledUntil = time.Time{}
	}
}

// schedule sets DueAt. If the present DueAt is in the future and earlier than the new
// one, it stays, so that the record is not written only to move DueAt. If the record is
// written anyway, to confirm a notice, DueAt moves. A record that was due, but for which
// there was no time, stays due, and keeps its place in the reaper's order.
//
// A record whose converges fail stays due, too. So the next run of the reaper converges and
// reports it, even if the observer converges it before. Its DueAt moves to the present
// time, so that it takes its turn after the records that have waited for longer.
func (d *decision) schedule() {
	r, timing := &d.next, d.cfg.Timing
	wasDue := !r.DueAt.IsZero() && !r.DueAt.After(d.now)
	switch due := d.nextDue(); {
	case wasDue && d.seen.NoTime != 0:
	case !r.Failing.Since.IsZero():
		if !wasDue || d.now.Sub(r.DueAt) >= timing.WatchInterval { // otherwise each round would write it
			r.DueAt = d.now
		}
	case !r.DueAt.After(d.now), due.Before(r.DueAt), d.seen.NotifiedVersion > 0:
		r.DueAt = due
	}
}

// nextDue returns when the record must be converged again, or zero for never.
func (d *decision) nextDue() time.Time {
	r, timing := d.next, d.cfg.Timing
	soon := d.now.Add(timing.WatchInterval)
	idle := len(d.actions) == 0 && d.seen.Unknown == 0
	var due time.Time
	switch {
	case !r.FinishedAt.IsZero() && idle && r.UnsettledUntil.IsZero():
		return time.Time{}
	case !r.FinishedAt.IsZero() && idle:
		due = r.UnsettledUntil
	case r.State() == Ready && idle:
		due = Earlier(d.now.Add(timing.CheckInterval), r.Intent.Deadline)
	case r.Intent.Open && r.NextAttemptAt.After(d.now):
		due = Earlier(Earlier(soon, r.NextAttemptAt), r.Intent.Deadline)
	case r.Intent.Open:
		due = Earlier(soon, r.Intent.Deadline)
	default:
		due = soon
	}
	if r.UnsettledUntil.After(d.now) {
		due = Earlier(due, r.UnsettledUntil)
	}
	if at := r.warnAt(d.cfg.WarnBefore); at.After(d.now) {
		due = Earlier(due, at)
	}
	return due
}
