package bastion

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Sweep looks for orphans: tasks, groups and leases of this stack that no live
// record accounts for. What it sees for the first time it only marks; what has
// been marked for SweepGrace and is an orphan still, it ends, tasks before
// groups. So nothing that was just made is ended, whatever order the reads come
// in. It answers how many orphans it saw.
func (s *Service) Sweep(ctx context.Context) (int, error) {
	sw := sweep{Service: s, records: map[string]*Record{}, orphans: map[string]bool{}}
	if err := sw.find(ctx); err != nil {
		return 0, err
	}
	if err := sw.forget(ctx); err != nil {
		sw.failed = errors.Join(sw.failed, err)
	}
	return len(sw.orphans), sw.failed
}

// sweep is one pass.
type sweep struct {
	*Service
	records map[string]*Record // by bastion id; nil: there is none
	orphans map[string]bool
	failed  error
}

// find marks and ends the orphans. Listing comes before reading the records, so
// that a record made meanwhile is seen.
func (sw *sweep) find(ctx context.Context) error {
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
		sw.judge(ctx, "task "+task.ID, task.BastionID, func(rec Record) bool {
			return rec.Attempt.Number == task.Attempt
		}, func() error { return sw.Tasks.Stop(ctx, task.ID, "orphan: no bastion accounts for it") })
	}
	for _, item := range leases {
		sw.judge(ctx, "lease "+item.TaskID, item.BastionID, func(rec Record) bool {
			return rec.Attempt.TaskID == item.TaskID || rec.Attempt.TaskID == ""
		}, func() error {
			return sw.Leases.End(ctx, item.TaskID, item.BastionID, sw.now().Add(sw.Config.Timing.TombstoneLife))
		})
	}
	for _, group := range groups {
		sw.judge(ctx, "group "+group.ID, group.BastionID, func(Record) bool { return true },
			func() error { return sw.endGroup(ctx, group) })
	}
	return nil
}

// judge marks a thing that no live record accounts for, and ends it when it has
// been marked for long enough.
func (sw *sweep) judge(ctx context.Context, thing, bastionID string, accounts func(Record) bool, end func() error) {
	if outOfTime(ctx) {
		sw.orphans[thing] = true // not known: its mark, if any, stays, and the next pass goes on
		return
	}
	rec, err := sw.record(ctx, bastionID)
	if err == nil && (rec == nil || !rec.FinishedAt.IsZero() || !accounts(*rec)) {
		sw.orphans[thing] = true
		var since time.Time
		if since, err = sw.Marks.Mark(ctx, thing, sw.now()); err == nil && sw.now().Sub(since) >= sw.Config.Timing.SweepGrace {
			sw.Log.Warn("orphan ended", "orphan", thing, "bastion", bastionID, "marked", since)
			err = end()
		}
	} else if err != nil {
		sw.orphans[thing] = true // not known: its mark, if any, stays
	}
	if err != nil && !errors.Is(err, ErrNoTime) {
		sw.failed = errors.Join(sw.failed, fmt.Errorf("sweep %s: %w", thing, err))
	}
}

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

// endGroup closes the group at once, and deletes it once no interface carries it.
func (sw *sweep) endGroup(ctx context.Context, group Group) error {
	for _, rule := range group.Ingress {
		if err := sw.Groups.Revoke(ctx, group.ID, rule); err != nil {
			return err
		}
	}
	err := sw.Groups.Delete(ctx, group.ID)
	if errors.Is(err, ErrInUse) || errors.Is(err, ErrNotFound) {
		return nil // the next pass looks again
	}
	return err
}

// forget takes away the marks of what is no orphan any more.
func (sw *sweep) forget(ctx context.Context) error {
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
