package simtask

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The errors of a table that cannot be used.
var (
	ErrTable   = fmt.Errorf("the table cannot be reached: %w", bastion.ErrUnreachable)
	ErrDenied  = fmt.Errorf("the table denies the call: %w", bastion.ErrDenied)
	ErrNoTable = fmt.Errorf("the table does not exist: %w", bastion.ErrNoTable)
)

// Table is one task's item in the table of leases. It implements [bastion.TaskLease]. A
// test can change it and make it fail or hang. It fails calls whose context is done.
type Table struct {
	// A test sets these fields before the task runs, or in Change.
	Lease   bastion.Lease // generation 0: no lease
	Removed bool          // a tombstone has replaced the item
	ReadErr error         // the error of Read
	// Around, if set, is called by Report, and may call apply to store the report.
	Around func(report bastion.Report, apply func() error) error

	mu      sync.Mutex
	report  bastion.Report
	reports int
	changed chan struct{}
}

// Change changes the table.
func (tb *Table) Change(change func(*Table)) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	change(tb)
}

// Write changes the lease as the control plane does: it writes a newer generation,
// and returns ErrConflict for an open lease of a task that is ending.
func (tb *Table) Write(change func(*bastion.Lease)) error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	next := tb.Lease
	next.Generation++
	change(&next)
	if next.Open && tb.report.Ending != (bastion.Ending{}) {
		return bastion.ErrConflict
	}
	tb.Lease = next
	return nil
}

// LastReport returns the last report that was written.
func (tb *Table) LastReport() bastion.Report {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.report
}

// Reports returns how many reports were written.
func (tb *Table) Reports() int {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.reports
}

// Await waits until the last report matches, and returns it and true. If ctx is done
// before, it returns the last report and false.
func (tb *Table) Await(ctx context.Context, match func(bastion.Report) bool) (bastion.Report, bool) {
	for {
		tb.mu.Lock()
		if tb.changed == nil {
			tb.changed = make(chan struct{})
		}
		report, reports, changed := tb.report, tb.reports, tb.changed
		tb.mu.Unlock()
		if reports > 0 && match(report) {
			return report, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return report, false
		}
	}
}

// Read implements [bastion.TaskLease].
func (tb *Table) Read(ctx context.Context) (bastion.Lease, error) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return bastion.Lease{}, err
	}
	if tb.ReadErr != nil {
		return bastion.Lease{}, tb.ReadErr
	}
	if tb.Removed || tb.Lease.Generation == 0 {
		return bastion.Lease{}, fmt.Errorf("read lease: %w", bastion.ErrNotFound)
	}
	return tb.Lease, nil
}

// Report implements [bastion.TaskLease].
func (tb *Table) Report(ctx context.Context, report bastion.Report) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tb.mu.Lock()
	around := tb.Around
	tb.mu.Unlock()
	apply := func() error { return tb.apply(report) }
	if around != nil {
		return around(report, apply)
	}
	return apply()
}

func (tb *Table) apply(report bastion.Report) error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if tb.Removed {
		return bastion.ErrNotFound
	}
	if e := report.Ending; e != (bastion.Ending{}) && e != tb.report.Ending && e.Generation != tb.Lease.Generation {
		return bastion.ErrConflict
	}
	tb.report = report
	tb.reports++
	if tb.changed != nil {
		close(tb.changed)
		tb.changed = nil
	}
	return nil
}

// HangingTable is a table whose calls hang from the given time on, until their context is
// done.
type HangingTable struct {
	*Table
	From time.Time
}

func (h HangingTable) Read(ctx context.Context) (bastion.Lease, error) {
	if time.Now().Before(h.From) {
		return h.Table.Read(ctx)
	}
	<-ctx.Done()
	return bastion.Lease{}, ctx.Err()
}

func (h HangingTable) Report(ctx context.Context, report bastion.Report) error {
	if time.Now().Before(h.From) {
		return h.Table.Report(ctx, report)
	}
	<-ctx.Done()
	return ctx.Err()
}
