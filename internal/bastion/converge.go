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
// that it does not miss a change of intent that happened meanwhile. If a part of the cloud
// cannot be read, or an action fails, Converge still takes the steps that do not depend on
// it. Converge does not repeat the read or the action: the record stays due. The returned
// error joins the errors of the reads and of the failed actions that are still needed. The
// record is valid also with an error, unless its ID is empty.
//
// SeenAt of the returned record can be later than the stored one.
//
// ErrNoTime: nothing failed, but the rate limits left no time for a call. ErrNotFound:
// there is no record with this ID.
func (s *Service) Converge(ctx context.Context, id string, allowed Step) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Config.Timing.CallTimeout)
	defer cancel()
	c := converge{Service: s, allowed: allowed, taken: map[Action]error{}}
	var rec Record
	for range maxRounds {
		began := s.now()
		var err error
		if rec, err = s.Records.Fetch(ctx, id); err != nil {
			return rec, errors.Join(c.readErr, fmt.Errorf("read record %s: %w", id, err))
		}
		seen := c.observe(ctx, rec)
		if ctx.Err() != nil {
			return rec, errors.Join(c.readErr, ctx.Err())
		}
		plan := Decide(s.Config, rec, seen, began)
		todo := c.selectActions(&plan, rec)
		saved, err := s.save(ctx, rec, plan.Next)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return rec, errors.Join(c.readErr, plan.Err, err)
		}
		rec, c.notifiedVersion = saved, 0
		if len(todo) == 0 {
			return rec, c.result(plan)
		}
		for _, a := range todo {
			c.taken[a] = c.act(ctx, rec, a)
		}
	}
	return rec, errors.Join(c.readErr, fmt.Errorf("converge %s: the record is still changing after %d rounds", id, maxRounds))
}

// converge is the state of one call of Converge: the parts that it could not read, and
// the actions that it has taken with their results, because a stale read may not show
// them yet.
type converge struct {
	*Service
	allowed Step
	taken   map[Action]error
	unknown Part
	noTime  Part  // the parts of unknown that were not read because the rate limits left no time
	readErr error // the joined errors of the parts in unknown but not in noTime

	createdGroup *Group
	deletedGroup string
	startedTask  *Task

	notifiedVersion int64 // the version of the record for which the latest round sent a notice; 0: it sent none
	notifyFailed    bool  // a try to send the notice failed; a later converge tries again
}

// result returns the error of a converge that ends with this plan.
func (c *converge) result(plan Plan) error {
	if err := errors.Join(c.readErr, plan.Err); err != nil {
		return err
	}
	noTime := c.noTime != 0
	for _, err := range c.taken {
		noTime = noTime || errors.Is(err, ErrNoTime)
	}
	if noTime {
		return ErrNoTime
	}
	return nil
}

// selectActions returns the actions to take now. If an action is not allowed, the
// record becomes due at once, and the reaper or the observer takes the action.
func (c *converge) selectActions(plan *Plan, rec Record) []Action {
	var todo []Action
	for _, a := range plan.Actions {
		_, taken := c.taken[a]
		switch {
		case a.Step&c.allowed == 0:
			plan.Next.DueAt = c.dueNow(rec)
		case a.Step == Notify && c.notifyFailed, taken: // in one converge, no action is taken twice, and no notice is sent after a failed one
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

// save writes next in place of rec, unless they are equal, or differ only in the time at
// which the bastion was last seen ready.
func (s *Service) save(ctx context.Context, rec, next Record) (Record, error) {
	stored := rec
	if !rec.SeenAt.IsZero() && !next.SeenAt.IsZero() {
		stored.SeenAt = next.SeenAt
	}
	if reflect.DeepEqual(stored, next) {
		return next, nil
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
func (c *converge) observe(ctx context.Context, rec Record) Observed {
	seen := Observed{GroupGone: c.deletedGroup != "", Taken: c.taken, NotifiedVersion: c.notifiedVersion}
	c.read(ctx, GroupPart, "describe group of "+rec.ID, func(ctx context.Context) (err error) {
		seen.Group, err = c.observeGroup(ctx, rec)
		return err
	})
	c.read(ctx, TasksPart, "describe tasks of "+rec.ID, func(ctx context.Context) (err error) {
		seen.Tasks, err = c.observeTasks(ctx, rec)
		return err
	})
	taskID, task := rec.Attempt.TaskID, currentTask(rec, seen.Tasks)
	if task != nil {
		taskID = task.ID
	}
	if task != nil && rec.Intent.Open && !rec.hasEndpoints() { // a task keeps its endpoints
		c.read(ctx, EndpointsPart, "read endpoints of task "+taskID, func(context.Context) error { return task.EndpointsErr })
	}
	if taskID != "" {
		c.read(ctx, LeasePart, "read lease of task "+taskID, func(ctx context.Context) (err error) {
			seen.Lease, err = c.observeLease(ctx, taskID)
			return err
		})
	}
	seen.Unknown, seen.NoTime = c.unknown, c.noTime
	return seen
}

// read reads a part with the call, within StepTimeout. If the call fails, the part is
// unknown, also in the later rounds of this converge, which do not read it again: a
// service that does not respond must leave time for the others.
func (c *converge) read(ctx context.Context, part Part, what string, call func(context.Context) error) {
	if c.unknown&part != 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.Config.Timing.StepTimeout)
	defer cancel()
	err := call(ctx)
	switch {
	case err == nil:
		return
	case errors.Is(err, ErrNoTime):
		c.noTime |= part
	default:
		c.readErr = errors.Join(c.readErr, fmt.Errorf("%s: %w", what, err))
	}
	c.unknown |= part
}

// observeGroup returns the bastion's group, or nil if there is none. A group that this
// converge created or deleted is taken into account even if reads do not show it yet.
func (c *converge) observeGroup(ctx context.Context, rec Record) (*Group, error) {
	group, err := c.Groups.Describe(ctx, rec.ID, rec.Group.ID)
	switch {
	case err == nil && group.ID != c.deletedGroup:
		return &group, nil
	case err == nil || errors.Is(err, ErrNotFound):
		return c.createdGroup, nil
	}
	return nil, err
}

// observeLease returns the task's lease, or nil if there is none.
func (c *converge) observeLease(ctx context.Context, taskID string) (*LeaseItem, error) {
	item, err := c.Leases.Fetch(ctx, taskID)
	switch {
	case err == nil:
		return &item, nil
	case errors.Is(err, ErrNotFound):
		return nil, nil
	}
	return nil, err
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
	switch task, err := c.Tasks.Fetch(ctx, a.TaskID); {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	default:
		return []Task{task}, nil
	}
}

// act takes one action, within StepTimeout. rec is the record as it was just saved.
func (c *converge) act(ctx context.Context, rec Record, a Action) error {
	ctx, cancel := context.WithTimeout(ctx, c.Config.Timing.StepTimeout)
	defer cancel()
	switch a.Step {
	case CreateGroup:
		return c.createGroup(ctx, rec)
	case RevokeEgress, RevokeIngress:
		if err := c.Groups.Revoke(ctx, a.GroupID, a.Rule); err != nil {
			return fmt.Errorf("revoke rule %s of group %s: %w", a.Rule.ID, a.GroupID, err)
		}
	case AuthorizeIngress:
		err := c.Groups.Authorize(ctx, a.GroupID, a.Source)
		if err != nil && !c.notVisibleYet(err, rec.Group.FirstSeenAt) {
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
		return c.deleteGroup(ctx, rec, a)
	case Notify:
		c.notify(ctx, rec, a.Notice)
	}
	return nil
}

// notVisibleYet reports whether the error is ErrNotFound for a resource that is so new
// that reads of AWS may not show it yet.
func (c *converge) notVisibleYet(err error, since time.Time) bool {
	return errors.Is(err, ErrNotFound) && c.now().Sub(since) <= c.Config.Timing.ReadLag
}

func (c *converge) createGroup(ctx context.Context, rec Record) error {
	group, err := c.Groups.Create(ctx, GroupSpec{BastionID: rec.ID, Tags: c.Config.Tags})
	if c.notVisibleYet(err, rec.CreatedAt) {
		return nil // the group exists, and a later read shows it
	}
	if err != nil {
		return fmt.Errorf("create group of %s: %w", rec.ID, err)
	}
	c.createdGroup = &group
	return nil
}

// groupInUseFor is how long the network interface of a task can keep the group from being
// deleted after the task has ended. Public reports have one to fifteen minutes.
const groupInUseFor = 30 * time.Minute

func (c *converge) deleteGroup(ctx context.Context, rec Record, a Action) error {
	err := c.Groups.Delete(ctx, a.GroupID)
	ended := rec.End.At
	if rec.Attempt.EndedAt.After(ended) {
		ended = rec.Attempt.EndedAt
	}
	if errors.Is(err, ErrInUse) && c.now().Sub(ended) <= groupInUseFor || errors.Is(err, ErrNotFound) {
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
		Tags:             rec.Attempt.Tags,
		AttemptCreatedAt: rec.Attempt.CreatedAt,
	})
	if c.notVisibleYet(err, rec.Group.FirstSeenAt) {
		return nil // a later converge sends RunTask again
	}
	if refused := refusalOf(err); refused != nil {
		c.Log.Warn("attempt refused", "bastion", rec.ID, "attempt", a.Attempt, "cause", refused.Detail)
	}
	if err != nil {
		return fmt.Errorf("run task of %s, attempt %d: %w", rec.ID, a.Attempt, err)
	}
	c.startedTask = &task
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
		KeySources:          rec.Intent.KeySources,
		Deadline:            rec.Intent.Deadline,
		IdleTimeout:         s.Config.IdleTimeout,
		AllowedDestinations: s.Config.AllowedDestinations,
		ConsoleReply:        rec.Intent.ConsoleReply,
	}
}
