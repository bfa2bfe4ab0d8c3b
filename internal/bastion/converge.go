package bastion

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"
)

// maxRounds limits one converge of a record that keeps changing. The record stays
// due, so that a later converge continues.
const maxRounds = 24

// Converge brings the cloud to what the record says, with the allowed steps only,
// and returns the record as it last was. It reads the record again after its last
// action, so that it does not end with an intent that has changed meanwhile. It
// does not retry an action that failed; it joins the errors into the one that it
// returns, and the record stays due.
//
// ErrNoTime: there was no time left for the next call. ErrNotFound: there is no
// such record.
func (s *Service) Converge(ctx context.Context, id string, allowed Step) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Config.Timing.CallTimeout)
	defer cancel()
	c := converge{Service: s, allowed: allowed, done: map[Action]bool{}}
	var rec Record
	for range maxRounds {
		began := s.now()
		var err error
		if rec, err = s.Records.Fetch(ctx, id); err != nil {
			return rec, errors.Join(c.failed, fmt.Errorf("read record %s: %w", id, err))
		}
		seen, err := c.observe(ctx, rec)
		if errors.Is(err, ErrNoTime) {
			return rec, errors.Join(c.failed, err) // the record stays due
		}
		if err != nil {
			return rec, errors.Join(c.failed, err, c.postpone(ctx, rec, began))
		}
		plan := Decide(s.Config, rec, seen, began)
		todo := c.selectActions(&plan, rec)
		saved, err := s.save(ctx, rec, plan.Next)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return rec, errors.Join(c.failed, err)
		}
		rec, c.notifiedVersion = saved, 0
		if len(todo) == 0 {
			return rec, c.failed
		}
		for _, a := range todo {
			c.done[a] = true // not before the save: after a conflict no action was taken
			if c.act(ctx, rec, a); errors.Is(c.failed, ErrNoTime) {
				return rec, c.failed
			}
		}
	}
	return rec, errors.Join(c.failed, fmt.Errorf("converge %s: the record is still changing after %d rounds", id, maxRounds))
}

// postpone moves the DueAt of a due record that could not be observed, so that
// other records have their turn before it is tried again.
func (s *Service) postpone(ctx context.Context, rec Record, began time.Time) error {
	if rec.DueAt.IsZero() || rec.DueAt.After(began) {
		return nil
	}
	next := rec
	next.DueAt = began.Add(s.Config.Timing.WatchInterval)
	_, err := s.save(ctx, rec, next)
	return err
}

// converge is the state of one call of Converge: the actions it has taken, and
// their results, which a stale read may not show yet.
type converge struct {
	*Service
	allowed Step
	done    map[Action]bool
	failed  error

	createdGroup *Group
	deletedGroup string
	startedTask  *Task
	refused      *Refusal

	notifiedVersion int64 // the version that a notice was sent for; 0 once the record says so
	notifyFailed    bool  // a later call sends the notice
}

// selectActions returns the actions to take now. If it leaves an action to the
// reaper or the observer, the record becomes due at once.
func (c *converge) selectActions(plan *Plan, rec Record) []Action {
	var todo []Action
	for _, a := range plan.Actions {
		switch {
		case a.Step&c.allowed == 0:
			plan.Next.DueAt = c.dueNow(rec)
		case a.Step == Notify && c.notifyFailed, c.done[a]: // not twice in one call
		case a.Step == Notify:
			plan.Next.markNotifying(a.Notice, rec.Version+1, c.now())
			fallthrough
		default:
			todo = append(todo, a)
		}
	}
	return todo
}

// dueNow returns the DueAt of a record that must be due now. A record that is due
// already keeps its DueAt.
func (s *Service) dueNow(rec Record) time.Time {
	now := s.now()
	if !rec.DueAt.IsZero() && !rec.DueAt.After(now) {
		return rec.DueAt
	}
	return now
}

// save writes next in place of rec, unless they are equal.
func (s *Service) save(ctx context.Context, rec, next Record) (Record, error) {
	if reflect.DeepEqual(rec, next) {
		return rec, nil
	}
	next.Version = rec.Version + 1
	if err := s.Records.Replace(ctx, rec, next); err != nil {
		return rec, fmt.Errorf("write record %s: %w", rec.ID, err)
	}
	s.logChange(rec, next)
	return next, nil
}

// logChange logs a change of state and the begin of an attempt.
func (s *Service) logChange(rec, next Record) {
	if rec.State() != next.State() || rec.Attempt.Number != next.Attempt.Number {
		s.Log.Info("state changed", "bastion", next.ID, "owner", next.Owner, "name", next.Name,
			"state", next.State(), "stage", next.Stage(), "attempt", next.Attempt.Number,
			"generation", next.Intent.Generation, "source", next.Intent.Source.String(), "end", next.End.String())
	}
}

// observe reads the cloud, and adds the results of this converge's own actions.
func (c *converge) observe(ctx context.Context, rec Record) (Observed, error) {
	seen := Observed{Refused: c.refused, GroupGone: c.deletedGroup != "", NotifiedVersion: c.notifiedVersion}
	group, err := c.Groups.Describe(ctx, rec.ID, rec.Group.ID)
	switch {
	case err == nil && group.ID != c.deletedGroup:
		seen.Group = &group
	case err == nil || errors.Is(err, ErrNotFound):
		seen.Group = c.createdGroup
	default:
		return seen, fmt.Errorf("describe group of %s: %w", rec.ID, err)
	}
	if seen.Tasks, err = c.observeTasks(ctx, rec); err != nil {
		return seen, fmt.Errorf("describe tasks of %s: %w", rec.ID, err)
	}
	taskID := rec.Attempt.TaskID
	if task := currentTask(rec, seen.Tasks); taskID == "" && task != nil {
		taskID = task.ID
	}
	if taskID == "" {
		return seen, nil
	}
	item, err := c.Leases.Fetch(ctx, taskID)
	switch {
	case err == nil:
		seen.Lease = &item
	case !errors.Is(err, ErrNotFound):
		return seen, fmt.Errorf("read lease of task %s: %w", taskID, err)
	}
	return seen, nil
}

func (c *converge) observeTasks(ctx context.Context, rec Record) ([]Task, error) {
	tasks, err := c.tasksOf(ctx, rec)
	if err != nil || c.startedTask == nil {
		return tasks, err
	}
	for _, t := range tasks {
		if t.ID == c.startedTask.ID {
			return tasks, nil
		}
	}
	return append(tasks, *c.startedTask), nil
}

// tasksOf reads the bastion's tasks. A first attempt has at most one task, however
// often RunTask was sent, and there is no earlier attempt. So once the task's ID is
// known, one Fetch replaces the search.
func (c *converge) tasksOf(ctx context.Context, rec Record) ([]Task, error) {
	a := rec.Attempt
	switch {
	case a.TaskID == "":
		return c.Tasks.Describe(ctx, rec.ID)
	case a.Number > 1:
		return c.Tasks.Describe(ctx, rec.ID, a.TaskID)
	}
	task, err := c.Tasks.Fetch(ctx, a.TaskID)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return []Task{task}, err
}

// act takes one action. rec is the record as it was just saved.
func (c *converge) act(ctx context.Context, rec Record, a Action) {
	if err := c.try(ctx, rec, a); err != nil {
		c.failed = errors.Join(c.failed, err)
	}
}

func (c *converge) try(ctx context.Context, rec Record, a Action) error {
	switch a.Step {
	case CreateGroup:
		return c.createGroup(ctx, rec)
	case RevokeEgress, RevokeIngress:
		if err := c.Groups.Revoke(ctx, a.GroupID, a.Rule); err != nil {
			return fmt.Errorf("revoke rule %s of group %s: %w", a.Rule.ID, a.GroupID, err)
		}
	case AuthorizeIngress:
		err := c.Groups.Authorize(ctx, a.GroupID, a.Source)
		if err != nil && !errors.Is(err, ErrNotFound) { // a stale read does not show a new group
			return fmt.Errorf("authorize %s in group %s: %w", a.Source, a.GroupID, err)
		}
	case RunTask:
		return c.runTask(ctx, rec, a)
	case WriteLease:
		err := c.Leases.Write(ctx, a.TaskID, c.lease(rec))
		if err != nil && !errors.Is(err, ErrConflict) { // the next round reads what is stored
			return fmt.Errorf("write lease %d of task %s: %w", a.Generation, a.TaskID, err)
		}
	case StopTask:
		if err := c.Tasks.Stop(ctx, a.TaskID, "bastion "+rec.ID+" "+string(rec.State())); err != nil {
			return fmt.Errorf("stop task %s: %w", a.TaskID, err)
		}
	case EndLease:
		if err := c.Leases.End(ctx, a.TaskID, rec.ID, c.now().Add(c.Config.Timing.TombstoneLife)); err != nil {
			return fmt.Errorf("end lease of task %s: %w", a.TaskID, err)
		}
	case DeleteGroup:
		return c.deleteGroup(ctx, a)
	case Notify:
		c.notify(ctx, rec, a.Notice)
	}
	return nil
}

func (c *converge) createGroup(ctx context.Context, rec Record) error {
	group, err := c.Groups.Create(ctx, GroupSpec{BastionID: rec.ID})
	if errors.Is(err, ErrNotFound) {
		return nil // it exists; a later read shows it
	}
	if err != nil {
		return fmt.Errorf("create group of %s: %w", rec.ID, err)
	}
	c.createdGroup = &group
	return nil
}

func (c *converge) deleteGroup(ctx context.Context, a Action) error {
	err := c.Groups.Delete(ctx, a.GroupID)
	if errors.Is(err, ErrInUse) || errors.Is(err, ErrNotFound) {
		return nil // a network interface still has it, or a read was stale; the record stays due
	}
	if err != nil {
		return fmt.Errorf("delete group %s: %w", a.GroupID, err)
	}
	c.deletedGroup, c.createdGroup = a.GroupID, nil
	return nil
}

func (c *converge) runTask(ctx context.Context, rec Record, a Action) error {
	task, err := c.Tasks.Run(ctx, TaskSpec{
		BastionID:        rec.ID,
		Attempt:          rec.Attempt.Number,
		GroupID:          rec.Attempt.GroupID,
		Subnet:           rec.Attempt.Subnet,
		TaskDefinition:   rec.Attempt.TaskDefinition,
		AttemptCreatedAt: rec.Attempt.CreatedAt,
	})
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		c.refused = &Refusal{Attempt: a.Attempt, Failure: refused.Failure}
		c.Log.Warn("task refused", "bastion", rec.ID, "attempt", a.Attempt, "cause", refused.Detail)
	case errors.Is(err, ErrNotFound):
		// A stale read does not show the group to ECS yet.
	case err != nil:
		return fmt.Errorf("run task of %s, attempt %d: %w", rec.ID, a.Attempt, err)
	default:
		c.startedTask = &task
	}
	return nil
}

// lease returns the lease that follows from the record's intent.
func (s *Service) lease(rec Record) Lease {
	return Lease{
		BastionID:           rec.ID,
		Owner:               rec.Owner,
		Name:                rec.Name,
		Generation:          rec.Intent.Generation,
		Open:                rec.Intent.Open,
		EndReason:           rec.End.Reason,
		Source:              rec.Intent.Source,
		Keys:                rec.Intent.Keys,
		Deadline:            rec.Intent.Deadline,
		IdleTimeout:         s.Config.IdleTimeout,
		AllowedDestinations: s.Config.AllowedDestinations,
		ConsoleReply:        rec.Intent.ConsoleReply,
	}
}
