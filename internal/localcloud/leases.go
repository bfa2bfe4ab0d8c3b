package localcloud

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// leases is the table of leases.
type leases struct {
	now      func() time.Time
	onReport func(bastionID, taskID string)

	mu    sync.Mutex
	items map[string]*leaseItem
}

type leaseItem struct {
	bastion.LeaseItem
	until time.Time // of a tombstone: when the TTL deletes it
}

func newLeases(now func() time.Time, onReport func(bastionID, taskID string)) *leases {
	return &leases{now: now, onReport: onReport, items: map[string]*leaseItem{}}
}

// find returns the task's item, or nil. l.mu is held.
func (l *leases) find(taskID string) *leaseItem {
	item := l.items[taskID]
	if item != nil && item.Ended && item.until.Before(l.now()) {
		delete(l.items, taskID)
		return nil
	}
	return item
}

func (l *leases) Fetch(ctx context.Context, taskID string) (bastion.LeaseItem, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return bastion.LeaseItem{}, fmt.Errorf("fetch the lease of task %s: %w", taskID, err)
	}
	item := l.find(taskID)
	if item == nil {
		return bastion.LeaseItem{}, fmt.Errorf("fetch the lease of task %s: %w", taskID, bastion.ErrNotFound)
	}
	return copyItem(item.LeaseItem), nil
}

func (l *leases) Write(ctx context.Context, taskID string, lease bastion.Lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write the lease of task %s: %w", taskID, err)
	}
	item := l.find(taskID)
	if item == nil {
		item = &leaseItem{LeaseItem: bastion.LeaseItem{TaskID: taskID, BastionID: lease.BastionID}}
	}
	ending := item.Report.Ending.Reason != ""
	if item.Ended || item.Lease.Generation >= lease.Generation || lease.Open && ending {
		return fmt.Errorf("write generation %d of the lease of task %s: %w", lease.Generation, taskID, bastion.ErrConflict)
	}
	item.Lease = copyLease(lease)
	l.items[taskID] = item
	return nil
}

func (l *leases) End(ctx context.Context, taskID, bastionID string, until time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("end the lease of task %s: %w", taskID, err)
	}
	tombstone := bastion.LeaseItem{TaskID: taskID, BastionID: bastionID, Ended: true}
	l.items[taskID] = &leaseItem{LeaseItem: tombstone, until: until}
	return nil
}

func (l *leases) List(ctx context.Context) ([]bastion.LeaseItem, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	return slices.DeleteFunc(l.all(), func(item bastion.LeaseItem) bool { return item.Ended }), nil
}

// all returns every item, also the tombstones, ordered by task.
func (l *leases) all() []bastion.LeaseItem {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []bastion.LeaseItem
	for _, taskID := range slices.Sorted(maps.Keys(l.items)) {
		if item := l.find(taskID); item != nil {
			all = append(all, copyItem(item.LeaseItem))
		}
	}
	return all
}

// taskLease implements bastion.TaskLease for one task. leases.mu guards it.
type taskLease struct {
	table   *leases
	taskID  string
	revoked bool
}

// revoke ends the task's access. After revoke returns, the task can read and write
// nothing any more.
func (t *taskLease) revoke() {
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	t.revoked = true
}

// item returns the task's own item. errKilled: the access was revoked. ErrNotFound:
// there is no item, or it is a tombstone. table.mu is held.
func (t *taskLease) item(ctx context.Context) (*leaseItem, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if t.revoked {
		return nil, errKilled
	}
	if item := t.table.find(t.taskID); item != nil && !item.Ended {
		return item, nil
	}
	return nil, bastion.ErrNotFound
}

func (t *taskLease) Read(ctx context.Context) (bastion.Lease, error) {
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	item, err := t.item(ctx)
	if err != nil {
		return bastion.Lease{}, fmt.Errorf("read the lease of task %s: %w", t.taskID, err)
	}
	return copyLease(item.Lease), nil
}

func (t *taskLease) Report(ctx context.Context, report bastion.Report) error {
	bastionID, err := t.write(ctx, report)
	if err != nil {
		return fmt.Errorf("report from task %s: %w", t.taskID, err)
	}
	t.table.onReport(bastionID, t.taskID)
	return nil
}

// write writes the report and returns the bastion's ID.
func (t *taskLease) write(ctx context.Context, report bastion.Report) (bastionID string, err error) {
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	item, err := t.item(ctx)
	if err != nil {
		return "", err
	}
	newEnding := report.Ending.Reason != "" && report.Ending != item.Report.Ending
	if newEnding && report.Ending.Generation != item.Lease.Generation {
		return "", bastion.ErrConflict
	}
	item.Report = copyReport(report)
	return item.BastionID, nil
}

func copyItem(item bastion.LeaseItem) bastion.LeaseItem {
	item.Lease = copyLease(item.Lease)
	item.Report = copyReport(item.Report)
	return item
}

func copyLease(lease bastion.Lease) bastion.Lease {
	lease.Keys = slices.Clone(lease.Keys)
	lease.KeySources = copyKeySources(lease.KeySources)
	lease.AllowedDestinations = slices.Clone(lease.AllowedDestinations)
	return lease
}

func copyKeySources(all []bastion.KeySources) []bastion.KeySources {
	all = slices.Clone(all)
	for i := range all {
		all[i].Prefixes = slices.Clone(all[i].Prefixes)
	}
	return all
}

func copyReport(report bastion.Report) bastion.Report {
	report.MoreHostKeys = slices.Clone(report.MoreHostKeys)
	report.Receipt.Destinations = slices.Clone(report.Receipt.Destinations)
	return report
}
