package bastion

import (
	"context"
	"errors"
	"fmt"
)

// Sweep looks for orphans: tasks, groups and leases of this stack that belong to no
// live record. An orphan that Sweep sees for the first time is only marked. Sweep ends
// the orphans that were marked at least SweepGrace ago, tasks before groups. A task, group or
// lease that was just created is therefore never ended, even if the record does not
// name it yet. Sweep returns the number of orphans that it found.
func (s *Service) Sweep(ctx context.Context) (int, error) {
	sw := sweep{Service: s, records: map[string]*Record{}, keepMarks: map[string]bool{}}
	if err := sw.run(ctx); err != nil {
		return 0, err
	}
	if err := sw.unmark(ctx); err != nil {
		sw.failed = errors.Join(sw.failed, err)
	}
	return sw.orphans, sw.failed
}

// sweep is the state of one call of Sweep.
type sweep struct {
	*Service
	records   map[string]*Record // by the bastion's ID; nil: no record
	orphans   int                // how many were found
	keepMarks map[string]bool    // the orphans, and the things that could not be checked
	failed    error              // the joined errors of the checks
}

// run marks and ends the orphans. It first lists tasks, groups and leases, and then
// reads their records. A record is always written before its tasks, groups and leases
// are created, so the record of every listed thing is found.
func (sw *sweep) run(ctx context.Context) error {
	tasks, err := sw.Tasks.List(ctx)
	if err != nil {
		return fmt.Errorf("list tasks: %w", err)
	}
	groups, err := sw.Groups.List(ctx)
	if err != nil {
		return fmt.Errorf("list groups: %w", err)
	}
	leases, err := sw.Leases.List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, task := range tasks {
		sw.check(ctx, "task "+task.ID, task.BastionID, func(rec Record) bool {
			return rec.Attempt.Number == task.Attempt
		}, func() error { return sw.Tasks.Stop(ctx, task.ID, "orphan: the task belongs to no bastion") })
	}
	for _, item := range leases {
		sw.check(ctx, "lease "+item.TaskID, item.BastionID, func(rec Record) bool {
			return rec.Attempt.TaskID == item.TaskID || rec.Attempt.TaskID == "" // not recorded yet
		}, func() error {
			return sw.Leases.End(ctx, item.TaskID, item.BastionID, sw.now().Add(sw.Config.Timing.TombstoneLife))
		})
	}
	for _, group := range groups {
		sw.check(ctx, "group "+group.ID, group.BastionID, func(Record) bool { return true },
			func() error { return sw.endGroup(ctx, group) })
	}
	return nil
}

// check marks a task, group or lease that belongs to no live record. If it was marked
// at least SweepGrace ago, check calls end. belongs reports whether the thing
// belongs to the live record that it is called with.
func (sw *sweep) check(ctx context.Context, thing, bastionID string, belongs func(Record) bool, end func() error) {
	if outOfTime(ctx) {
		sw.keepMarks[thing] = true // not checked
		return
	}
	if err := sw.checkRecord(ctx, thing, bastionID, belongs, end); err != nil && !errors.Is(err, ErrNoTime) {
		sw.failed = errors.Join(sw.failed, fmt.Errorf("sweep %s: %w", thing, err))
	}
}

func (sw *sweep) checkRecord(ctx context.Context, thing, bastionID string, belongs func(Record) bool, end func() error) error {
	rec, err := sw.record(ctx, bastionID)
	if err != nil {
		sw.keepMarks[thing] = true // not checked
		return err
	}
	if rec != nil && rec.FinishedAt.IsZero() && belongs(*rec) {
		return nil
	}
	sw.keepMarks[thing] = true
	sw.orphans++
	since, err := sw.Marks.Mark(ctx, thing, sw.now())
	if err != nil || sw.now().Sub(since) < sw.Config.Timing.SweepGrace {
		return err
	}
	sw.Log.Warn("ending orphan", "orphan", thing, "bastion", bastionID, "marked", since)
	return end()
}

// record returns the bastion's record, or nil if there is none.
func (sw *sweep) record(ctx context.Context, id string) (*Record, error) {
	if rec, known := sw.records[id]; known {
		return rec, nil
	}
	rec, err := sw.Records.Fetch(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	var found *Record
	if err == nil {
		found = &rec
	}
	sw.records[id] = found
	return found, nil
}

// endGroup revokes the group's ingress, and deletes the group once no network
// interface has it.
func (sw *sweep) endGroup(ctx context.Context, group Group) error {
	for _, rule := range group.Ingress {
		if err := sw.Groups.Revoke(ctx, group.ID, rule); err != nil {
			return err
		}
	}
	err := sw.Groups.Delete(ctx, group.ID)
	if errors.Is(err, ErrInUse) || errors.Is(err, ErrNotFound) {
		return nil // the next sweep tries again
	}
	return err
}

// unmark removes the marks of things that are gone or belong to a live record.
func (sw *sweep) unmark(ctx context.Context) error {
	marked, err := sw.Marks.Marks(ctx)
	if err != nil {
		return fmt.Errorf("list marks: %w", err)
	}
	for _, thing := range marked {
		if sw.keepMarks[thing] {
			continue
		}
		if err := sw.Marks.Unmark(ctx, thing); err != nil {
			return fmt.Errorf("unmark %s: %w", thing, err)
		}
	}
	return nil
}
