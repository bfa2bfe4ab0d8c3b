package bastion

import (
	"errors"
	"net/netip"
	"slices"
	"time"
)

// This file holds the part of a decision that copies what was observed into the record.

// recordGroup copies the group's status. A group that was not found counts as gone
// if this converge deleted it, or if it was first seen so long ago that no read can
// still miss it.
func (d *decision) recordGroup() {
	if d.unknown(GroupPart) {
		return
	}
	status, group := &d.next.Group, d.seen.Group
	if group != nil {
		if status.ID != group.ID {
			*status = GroupStatus{ID: group.ID, FirstSeenAt: d.now}
		}
		status.setSources(group.sources())
		return
	}
	status.setSources(nil)
	if d.seen.GroupGone || d.now.Sub(status.FirstSeenAt) > d.cfg.Timing.ReadLag {
		*status = GroupStatus{}
	}
}

// sources returns the sources that the group admits, sorted. It is nil if the group has an
// egress rule, two rules for one source, or a rule of another kind.
func (g Group) sources() []netip.Prefix {
	if len(g.Egress) > 0 {
		return nil
	}
	var sources []netip.Prefix
	for _, rule := range g.Ingress {
		if !rule.Source.IsValid() || slices.Contains(sources, rule.Source) {
			return nil
		}
		sources = append(sources, rule.Source)
	}
	return sortedSources(sources)
}

// recordAttempt copies the state of the current attempt's task.
func (d *decision) recordAttempt() {
	a := &d.next.Attempt
	if !a.active() {
		return
	}
	if refused := refusalOf(d.seen.Taken[Action{Step: RunTask, Attempt: a.Number}]); refused != nil {
		d.endAttempt(refused.Failure)
		return
	}
	if a.TaskID == "" && d.seen.Group != nil && a.GroupID != d.next.Group.ID {
		// The group that the attempt names is gone, so its task cannot start any more.
		d.endAttempt(failureTaskLost)
		return
	}
	if d.unknown(TasksPart) {
		return
	}
	task := currentTask(d.next, d.seen.Tasks)
	if task == nil {
		d.recordMissingTask()
		return
	}
	if a.TaskID == "" {
		a.TaskID, a.TaskSeenAt = task.ID, d.now
	}
	a.Status = task.Status
	if len(task.Endpoints) > 0 {
		a.Endpoints = task.Endpoints
	}
	if task.Status == TaskStopped {
		d.recordStoppedTask(*task)
	}
}

// currentTask returns the task of the record's current attempt, or nil.
func currentTask(rec Record, tasks []Task) *Task {
	for i := range tasks {
		if tasks[i].Attempt == rec.Attempt.Number && rec.Attempt.Number > 0 {
			return &tasks[i]
		}
	}
	return nil
}

// recordMissingTask ends an active attempt whose task was not found, unless a later
// read can find the task or RunTask can still be sent. The attempt of a task that was
// found before ends only when its last report has been read.
func (d *decision) recordMissingTask() {
	a := d.next.Attempt
	switch {
	case a.TaskID != "" && d.unknown(LeasePart):
	case a.TaskID != "":
		// The task was found before. If that was so long ago that no read can still
		// miss the task, the task is gone.
		if d.now.Sub(a.TaskSeenAt) > d.cfg.Timing.ReadLag {
			d.endAttempt(failureTaskLost)
		}
	case d.next.Intent.Open:
		// RunTask is sent again. As long as ECS remembers the clientToken, RunTask
		// returns the task that an earlier call started.
		if d.now.Sub(a.CreatedAt) > RunTaskReplayWindow {
			d.endAttempt(failureTaskLost)
		}
	case !d.now.Before(d.next.UnsettledUntil):
		// Every function that read the open intent has ended, so no function can
		// still call RunTask. If such a function had started a task, a read would show
		// the task by now.
		d.endAttempt(failureTaskLost)
	}
}

// recordStoppedTask ends the attempt of a task that has stopped. The cause is the
// ending in the task's report, or else the exit code 0, or else the reason that ECS
// gives. While the report is unknown, so is the cause, and the attempt does not end.
func (d *decision) recordStoppedTask(task Task) {
	if d.unknown(LeasePart) {
		return
	}
	ending := d.report().Ending
	exitedOK := task.ExitCode != nil && *task.ExitCode == ExitOK
	switch {
	case ending.Reason != "" && ending.Generation == d.next.Intent.Generation:
		d.endAttempt(Failure{})
		d.next.close(End{Reason: ending.Reason, At: d.now}, d.cfg.Timing)
	case ending.Reason != "": // the intent changed, but the task had already decided to end
		d.endAttempt(d.endedEarly())
	case exitedOK && d.report().Generation == d.next.Intent.Generation:
		d.endAttempt(Failure{})
		d.next.close(End{Reason: EndTask, At: d.now}, d.cfg.Timing)
	case exitedOK: // the task followed an older intent, or had no lease yet
		d.endAttempt(d.endedEarly())
	default:
		d.endAttempt(explain(task))
	}
}

// endedEarly returns the failure for a task that ended on purpose, but did not
// follow the current intent. An open bastion then needs another attempt. If the
// bastion was stable, the end is not a failure, so the next attempt begins at once,
// even if MaxAttempts is 1. Otherwise the end is a failure, because an image that
// always exits at once must not be started again for ever.
func (d *decision) endedEarly() Failure {
	if !d.next.Intent.Open || d.stable() {
		return Failure{}
	}
	return failureEndedEarly
}

// stable reports whether the current attempt became ready at least StableAfter ago.
func (d *decision) stable() bool {
	ready := d.next.Attempt.ReadyAt
	return !ready.IsZero() && d.now.Sub(ready) >= d.cfg.Timing.StableAfter
}

// endAttempt records the end of the attempt and its receipt. If the bastion was
// stable, the count of failures starts again. A failure of an open bastion is
// counted, and at MaxAttempts failures the bastion fails.
func (d *decision) endAttempt(failure Failure) {
	r := &d.next
	r.Attempt.EndedAt = d.now
	r.Attempt.Status = TaskStopped
	r.Attempt.Failure = failure
	r.Receipt = r.Receipt.Merge(d.report().Receipt)
	if !r.Intent.Open {
		return
	}
	if d.stable() {
		r.Failures, r.FailureCodes = 0, nil
	}
	if failure.Code != "" {
		d.countFailure(failure)
	}
}

// countFailure counts a failed attempt, or a refused step of the group, of an open
// bastion. At MaxAttempts failures in a row the bastion fails.
func (d *decision) countFailure(failure Failure) {
	r := &d.next
	r.Failures++
	r.FailureCodes = append(slices.Clip(r.FailureCodes), failure.Code)
	if r.Failures >= d.cfg.MaxAttempts {
		r.close(End{Reason: EndFailed, At: d.now, Failure: failure}, d.cfg.Timing)
		return
	}
	r.NextAttemptAt = d.now.Add(backoff(d.cfg.Timing.Backoff, r.Failures))
}

// giveUp closes a starting bastion whose converges have failed for too long. A bastion
// whose task has been ready keeps its connections.
func (d *decision) giveUp() {
	r := &d.next
	since := r.Failing.Since
	if !r.Intent.Open || r.served() || since.IsZero() || d.now.Sub(since) < d.cfg.Timing.GiveUpAfter {
		return
	}
	failure := r.Failing.Refusal
	if failure.Code == "" {
		failure = failureUnavailable
	}
	r.close(End{Reason: EndFailed, At: d.now, Failure: failure}, d.cfg.Timing)
}

// backoff returns the pause before the next attempt: zero after the first failure,
// base after the second, and twice the previous pause after each further one. After
// the twelfth it does not grow any more.
func backoff(base time.Duration, failures int) time.Duration {
	if failures < 2 {
		return 0
	}
	return base << min(failures-2, 10)
}

// report returns the report of the current attempt's task, or a zero report.
func (d *decision) report() Report {
	if d.seen.Lease == nil || d.seen.Lease.TaskID != d.next.Attempt.TaskID {
		return Report{}
	}
	return d.seen.Lease.Report.Bounded()
}

// recordReport copies what a running task reports.
func (d *decision) recordReport() {
	a := &d.next.Attempt
	if !a.active() || d.unknown(LeasePart) {
		return
	}
	report := d.report()
	a.HostKey, a.MoreHostKeys, a.Generation = report.HostKey, report.MoreHostKeys, report.Generation
	if !d.next.Intent.Open {
		return
	}
	ending := report.Ending
	if ending.Reason != "" && ending.Generation == d.next.Intent.Generation {
		d.next.close(End{Reason: ending.Reason, At: d.now}, d.cfg.Timing)
		return
	}
	expired := !d.now.Before(d.next.Intent.Deadline) // a request after the deadline has no effect
	if report.ConsoleRequest.Number > d.next.Intent.ConsoleReply.Number && !expired {
		d.next.replyToConsole(report.ConsoleRequest, d.now, d.cfg.Timing)
	}
}

// recordSeen stores whether this round saw a bastion that is ready. A bastion that was
// seen ready stays ready while a part is unknown, and while a stale read may miss its
// task.
func (d *decision) recordSeen() {
	r := &d.next
	if !r.matchesIntent() {
		r.SeenAt = time.Time{}
		return
	}
	task := currentTask(*r, d.seen.Tasks)
	if d.seen.Unknown != 0 || task == nil || !task.stoppable() {
		return
	}
	r.SeenAt = d.now
	if r.Attempt.ReadyAt.IsZero() {
		r.Attempt.ReadyAt = d.now
	}
}

// recordFailing stores since when the converges have failed, or that they no longer
// fail. A round that still has actions to take, or leaves actions to another function,
// changes nothing, because their results are not known.
func (d *decision) recordFailing() {
	failed, complete := d.seen.Unknown&^d.seen.NoTime != 0, d.seen.Unknown == 0 && !d.pausing
	var refusal Failure
	if d.refused != nil {
		d.err, refusal = d.refused, d.refused.Failure
	}
	for _, a := range d.actions {
		err, taken := d.seen.Taken[a]
		switch {
		case !taken, errors.Is(err, ErrNoTime):
			complete = false
		case err != nil:
			d.err = errors.Join(d.err, err)
			if refused := refusalOf(err); refused != nil && a.Step&groupSteps != 0 && !d.mayNotBeVisible(refused) {
				refusal = refused.Failure
			}
		}
	}
	failed = failed || d.err != nil
	switch status := &d.next.Failing; {
	case failed && status.Since.IsZero():
		*status = Failing{d.now, refusal}
	case failed:
		status.Refusal = refusal
	case complete:
		*status = Failing{}
	}
}

// refusalOf returns the definite refusal in an error of an action, or nil.
func refusalOf(err error) *RefusedError {
	var refused *RefusedError
	errors.As(err, &refused)
	return refused
}

// mayNotBeVisible reports whether EC2 may have denied a call only because it does not
// see the new group's tags yet, which the permissions depend on.
func (d *decision) mayNotBeVisible(refused *RefusedError) bool {
	status := d.next.Group
	return refused.Denied && status.ID != "" && d.now.Sub(status.FirstSeenAt) <= d.cfg.Timing.ReadLag
}
