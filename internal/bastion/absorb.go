package bastion

import (
	"net/netip"
	"time"
)

// The first half of a decision: what was seen is written down, and judged.

// absorbGroup writes down what was seen of the group. A group that does not
// show is believed to be gone only when it is too old for a stale read.
func (d *decision) absorbGroup() {
	facts, group := &d.next.Group, d.seen.Group
	if group != nil {
		if facts.ID != group.ID {
			*facts = GroupStatus{ID: group.ID, FirstSeenAt: d.now}
		}
		facts.Ingress = group.admits()
		return
	}
	facts.Ingress = netip.Prefix{}
	if d.seen.GroupGone || d.now.Sub(facts.FirstSeenAt) > d.cfg.Timing.ReadLag {
		*facts = GroupStatus{}
	}
}

// admits is the one source that the group admits, if that is all it does.
func (g Group) admits() (source netip.Prefix) {
	if len(g.Ingress) == 1 && len(g.Egress) == 0 {
		return g.Ingress[0].Source
	}
	return source
}

// absorbAttempt writes down what was seen of the current attempt's task.
func (d *decision) absorbAttempt() {
	a := &d.next.Attempt
	if !a.running() {
		return
	}
	if r := d.seen.Refused; r != nil && r.Attempt == a.Number {
		d.endAttempt(r.Failure)
		return
	}
	if a.TaskID == "" && d.seen.Group != nil && a.GroupID != d.next.Group.ID {
		// It was announced for a group that is gone, so it cannot start any more.
		d.endAttempt(failureTaskLost)
		return
	}
	task := currentTask(d.next, d.seen.Tasks)
	if task == nil {
		d.absorbAbsence()
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
		d.absorbStopped(*task)
	}
}

// currentTask finds the task of the record's current attempt, or nil.
func currentTask(rec Record, tasks []Task) *Task {
	for i := range tasks {
		if tasks[i].Attempt == rec.Attempt.Number && rec.Attempt.Number > 0 {
			return &tasks[i]
		}
	}
	return nil
}

// absorbAbsence judges an announced attempt of which no task shows.
func (d *decision) absorbAbsence() {
	a := d.next.Attempt
	switch {
	case a.TaskID != "":
		// It was there once, so once it is old enough to be sure to show, it is gone.
		if d.now.Sub(a.TaskSeenAt) > d.cfg.Timing.ReadLag {
			d.endAttempt(failureTaskLost)
		}
	case d.next.Intent.Open:
		// RunTask is sent again, which finds the task, while ECS remembers the token.
		if d.now.Sub(a.CreatedAt) > RunTaskReplayWindow {
			d.endAttempt(failureTaskLost)
		}
	case !d.now.Before(d.next.UnsettledUntil):
		// Nobody who read the open intent can still send RunTask, and what they
		// sent would show by now.
		d.endAttempt(failureTaskLost)
	}
}

// absorbStopped judges a task that has stopped: its own word first, then its
// exit code, then what ECS says.
func (d *decision) absorbStopped(task Task) {
	ending := d.report().Ending
	switch {
	case ending.Reason != "" && ending.Generation == d.next.Intent.Generation:
		d.endAttempt(Failure{})
		d.next.close(End{Reason: ending.Reason, At: d.now}, d.cfg.Timing)
	case ending.Reason != "": // the owner asked for more after it had decided to end
		d.endAttempt(d.startAnother())
	case task.ExitCode != nil && *task.ExitCode == ExitOK && d.report().Generation == d.next.Intent.Generation:
		d.endAttempt(Failure{})
		d.next.close(End{Reason: EndTask, At: d.now}, d.cfg.Timing)
	case task.ExitCode != nil && *task.ExitCode == ExitOK: // under an older intent, or none
		d.endAttempt(d.startAnother())
	default:
		d.endAttempt(explain(task))
	}
}

// startAnother is how an end on purpose counts that was not the present intent's.
// After a bastion that was ready for a while, another comes at once; what ends again
// and again before that, such as an image that is not bastiond's, must not be started
// for ever.
func (d *decision) startAnother() Failure {
	if !d.next.Intent.Open {
		return Failure{}
	}
	return failureEndedEarly
}

// endAttempt writes down the attempt's end and its receipt. A failure counts
// towards the limit, unless the bastion had been ready for a while.
func (d *decision) endAttempt(failure Failure) {
	r := &d.next
	r.Attempt.EndedAt = d.now
	r.Attempt.Status = TaskStopped
	r.Attempt.Failure = failure
	r.Receipt = r.Receipt.Merge(d.report().Receipt)
	if !r.Intent.Open || failure.Code == "" {
		return
	}
	ready := r.Attempt.ReadyAt
	if !ready.IsZero() && d.now.Sub(ready) >= d.cfg.Timing.StableAfter {
		r.Failures = 0
	}
	r.Failures++
	if r.Failures >= d.cfg.MaxAttempts {
		r.close(End{Reason: EndFailed, At: d.now, Failure: failure}, d.cfg.Timing)
		return
	}
	r.NextAttemptAt = d.now.Add(backoff(d.cfg.Timing.Backoff, r.Failures))
}

// backoff is nothing after the first failure, then base, doubling.
func backoff(base time.Duration, failures int) time.Duration {
	if failures < 2 {
		return 0
	}
	return base << min(failures-2, 10)
}

// report is what the current attempt's task reports; zero if there is nothing.
// What another task wrote does not count.
func (d *decision) report() Report {
	if d.seen.Lease == nil || d.seen.Lease.TaskID != d.next.Attempt.TaskID {
		return Report{}
	}
	return d.seen.Lease.Report.bounded()
}

// absorbReport writes down what a running task says.
func (d *decision) absorbReport() {
	a := &d.next.Attempt
	if !a.running() {
		return
	}
	report := d.report()
	a.HostKey, a.Generation = report.HostKey, report.Generation
	if d.next.agrees() && a.ReadyAt.IsZero() {
		a.ReadyAt = d.now
	}
	if !d.next.Intent.Open {
		return
	}
	ending := report.Ending
	if ending.Reason != "" && ending.Generation == d.next.Intent.Generation {
		d.next.close(End{Reason: ending.Reason, At: d.now}, d.cfg.Timing)
		return
	}
	expired := !d.now.Before(d.next.Intent.Deadline) // nothing more to ask for
	if report.ConsoleRequest.Number > d.next.Intent.ConsoleReply.Number && !expired {
		d.next.replyToConsole(report.ConsoleRequest, d.now, d.cfg.Timing)
	}
}
