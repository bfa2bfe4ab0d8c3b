package bastion

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"
)

// maxRounds limits the rounds of one converge, because a record can keep changing.
// The record stays due, so that a later converge continues.
const maxRounds = 24

// Converge makes the cloud agree with the record, and returns the latest record. It
// takes the allowed steps only. It reads the record again after its last action, so
// that it does not miss a change of intent that happened meanwhile. It does not
// retry an action that failed: the record stays due, and the returned error joins
// the errors of all actions.
//
// ErrNoTime: the rate limits left no time for the next call. ErrNotFound: there is no
// record with this ID.
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
			c.done[a] = true // only after the save: if the save had a conflict, the action was not taken
			if err := c.act(ctx, rec, a); err != nil {
				c.failed = errors.Join(c.failed, err)
			}
			if errors.Is(c.failed, ErrNoTime) {
				return rec, c.failed
			}
		}
	}
	return rec, errors.Join(c.failed, fmt.Errorf("converge %s: the record is still changing after %d rounds", id, maxRounds))
}

// postpone moves the DueAt of a due record that could not be observed, so that the
// reaper converges other records before it tries this one again.
func (s *Service) postpone(ctx context.Context, rec Record, began time.Time) error {
	if rec.DueAt.IsZero() || rec.DueAt.After(began) {
		return nil
	}
	next := rec
	next.DueAt = began.Add(s.Config.Timing.WatchInterval)
	_, err := s.save(ctx, rec, next)
	return err
}

// converge is the state of one call of Converge: the actions that it has taken, and
// their results, because a stale read may not show them yet.
type converge struct {
	*Service
	allowed Step
	done    map[Action]bool
	failed  error // the joined errors of the actions

	createdGroup *Group
	deletedGroup string
	startedTask  *Task
	refused      *Refusal

	notifiedVersion int64 // the version of the record for which a notice was sent; 0: none was sent, or a save has confirmed it
	notifyFailed    bool  // a try to send the notice failed; a later converge tries again
}

// selectActions returns the actions to take now. If an action is not allowed, the
// record becomes due at once, and the reaper or the observer takes the action.
func (c *converge) selectActions(plan *Plan, rec Record) []Action {
	var todo []Action
	for _, a := range plan.Actions {
		switch {
		case a.Step&c.allowed == 0:
			plan.Next.DueAt = c.dueNow(rec)
		case a.Step == Notify && c.notifyFailed, c.done[a]: // in one converge, no action is taken twice, and no notice is sent after a failed one
		case a.Step == Notify:
			plan.Next.markNotifying(a.Notice, rec.Version+1, c.now())
			fallthrough
		default:
			todo = append(todo, a)
		}
	}
	return todo
}

// dueNow returns the DueAt that makes the record due now. A record that is due
// already keeps its DueAt, and so its place in the reaper's order.
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

// logChange logs a change of state or the start of an attempt.
func (s *Service) logChange(rec, next Record) {
	if rec.State() != next.State() || rec.Attempt.Number != next.Attempt.Number {
		s.Log.Info("state changed", "bastion", next.ID, "owner", next.Owner, "name", next.Name,
			"state", next.State(), "stage", next.Stage(), "attempt", next.Attempt.Number,
			"generation", next.Intent.Generation, "source", next.Intent.Source.String(), "end", next.End.String())
	}
}

// observe reads the cloud, and adds the results of this converge's own actions that
// the reads do not show yet.
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

// observeTasks returns the bastion's tasks, with the task that this converge started.
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

// tasksOf reads the bastion's tasks. During the first attempt, the bastion has at most
// one task, even if RunTask was sent several times. So if the ID of that task is known,
// tasksOf calls Fetch, which makes fewer calls to ECS than Describe.
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
func (c *converge) act(ctx context.Context, rec Record, a Action) error {
	switch a.Step {
	case CreateGroup:
		return c.createGroup(ctx, rec)
	case RevokeEgress, RevokeIngress:
		if err := c.Groups.Revoke(ctx, a.GroupID, a.Rule); err != nil {
			return fmt.Errorf("revoke rule %s of group %s: %w", a.Rule.ID, a.GroupID, err)
		}
	case AuthorizeIngress:
		err := c.Groups.Authorize(ctx, a.GroupID, a.Source)
		if err != nil && !errors.Is(err, ErrNotFound) { // ErrNotFound: a stale read does not show the new group yet
			return fmt.Errorf("authorize %s in group %s: %w", a.Source, a.GroupID, err)
		}
	case RunTask:
		return c.runTask(ctx, rec, a)
	case WriteLease:
		err := c.Leases.Write(ctx, a.TaskID, c.lease(rec))
		if err != nil && !errors.Is(err, ErrConflict) { // ErrConflict: the next round reads the stored lease
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
		return nil // the group exists, and a later read shows it
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
		return nil // the group is in use, or it is gone, or a stale read does not show it yet; the record stays due
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
		c.Log.Warn("attempt refused", "bastion", rec.ID, "attempt", a.Attempt, "cause", refused.Detail)
	case errors.Is(err, ErrNotFound):
		// ECS does not see the new group yet. A later converge sends RunTask again.
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
