package sshd

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// table is the control plane as one task sees it: a TaskLease that keeps the
// contract, and that a test can move, break and hold up. As a table that is called
// over a network, it serves nobody whose context has ended.
type table struct {
	mu      sync.Mutex
	lease   bastion.Lease // Generation 0: none
	report  bastion.Report
	reports int
	ended   bool
	readErr error
	changed chan struct{}
	// around, if set, is what Report does; apply does what it should.
	around func(report bastion.Report, apply func() error) error
}

func newTable() *table { return &table{changed: make(chan struct{})} }

func (tb *table) Read(ctx context.Context) (bastion.Lease, error) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return bastion.Lease{}, err
	}
	if tb.readErr != nil {
		return bastion.Lease{}, tb.readErr
	}
	if tb.ended || tb.lease.Generation == 0 {
		return bastion.Lease{}, fmt.Errorf("read lease: %w", bastion.ErrNotFound)
	}
	return tb.lease, nil
}

func (tb *table) Report(ctx context.Context, report bastion.Report) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tb.mu.Lock()
	around := tb.around
	tb.mu.Unlock()
	apply := func() error { return tb.apply(report) }
	if around != nil {
		return around(report, apply)
	}
	return apply()
}

func (tb *table) apply(report bastion.Report) error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if tb.ended {
		return bastion.ErrNotFound
	}
	if e := report.Ending; e != (bastion.Ending{}) && e != tb.report.Ending && e.Generation != tb.lease.Generation {
		return bastion.ErrConflict
	}
	tb.report = report
	tb.reports++
	close(tb.changed)
	tb.changed = make(chan struct{})
	return nil
}

// write changes the lease, as the control plane does: a newer generation, and
// not for a task that is ending.
func (tb *table) write(change func(*bastion.Lease)) error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	next := tb.lease
	next.Generation++
	change(&next)
	if next.Open && tb.report.Ending != (bastion.Ending{}) {
		return bastion.ErrConflict
	}
	tb.lease = next
	return nil
}

func (tb *table) set(f func(*table)) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	f(tb)
}

func (tb *table) last() bastion.Report {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.report
}

// await waits for a report.
func (tb *table) await(t testing.TB, what string, match func(bastion.Report) bool) bastion.Report {
	t.Helper()
	late := time.After(patience)
	for {
		tb.mu.Lock()
		report, changed := tb.report, tb.changed
		reported := tb.reports > 0
		tb.mu.Unlock()
		if reported && match(report) {
			return report
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("no report came that %s; the last was %+v", what, report)
		}
	}
}
