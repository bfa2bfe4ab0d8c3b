package bastion

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Sweep looks for orphans: tasks, groups and leases of this stack that belong to
// no live record. It marks an orphan when it first sees it. It ends an orphan that
// has been marked for SweepGrace, tasks before groups. A thing that was just
// created is therefore never ended, in whatever order the reads happen. Sweep
// returns how many orphans it saw.
func (s *Service) Sweep(ctx context.Context) (int, error) {
	sw := sweep{Service: s, records: map[string]*Record{}, orphans: map[string]bool{}}
	if err := sw.run(ctx); err != nil {
		return 0, err
	}
	if err := sw.unmark(ctx); err != nil {
		sw.failed = errors.Join(sw.failed, err)
	}
	return len(sw.orphans), sw.failed
}

// sweep is the state of one call of Sweep.
type sweep struct {
	*Service
	records map[string]*Record // by the bastion's ID; nil: no record
	orphans map[string]bool    // orphans, and things that could not be checked
	failed  error
}

// run marks and ends the orphans. It lists the things before it reads the records,
// so that it sees the record of a thing that was created in between.
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
			return rec.Attempt.TaskID == item.TaskID || rec.Attempt.TaskID == ""
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

// check marks a thing that belongs to no live record, and ends it if it has been
// marked for long enough. belongs reports whether it is part of its live record.
func (sw *sweep) check(ctx context.Context, thing, bastionID string, belongs func(Record) bool, end func() error) {
	if outOfTime(ctx) {
		sw.orphans[thing] = true // not checked: its mark, if there is one, stays
		return
	}
	rec, err := sw.record(ctx, bastionID)
	if err == nil && (rec == nil || !rec.FinishedAt.IsZero() || !belongs(*rec)) {
		sw.orphans[thing] = true
		var since time.Time
		if since, err = sw.Marks.Mark(ctx, thing, sw.now()); err == nil && sw.now().Sub(since) >= sw.Config.Timing.SweepGrace {
			sw.Log.Warn("orphan ended", "orphan", thing, "bastion", bastionID, "marked", since)
			err = end()
		}
	} else if err != nil {
		sw.orphans[thing] = true // not checked: its mark, if there is one, stays
	}
	if err != nil && !errors.Is(err, ErrNoTime) {
		sw.failed = errors.Join(sw.failed, fmt.Errorf("sweep %s: %w", thing, err))
	}
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

// unmark deletes the marks of things that are not orphans any more.
func (sw *sweep) unmark(ctx context.Context) error {
	marked, err := sw.Marks.Marks(ctx)
	if err != nil {
		return fmt.Errorf("list marks: %w", err)
	}
	for _, thing := range marked {
		if sw.orphans[thing] {
			continue
		}
		if err := sw.Marks.Unmark(ctx, thing); err != nil {
			return fmt.Errorf("unmark %s: %w", thing, err)
		}
	}
	return nil
}
