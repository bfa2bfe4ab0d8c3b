package cloudtest_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

// refuseReads makes the tasks' reads of their leases return err.
func (w *world) refuseReads(err error) {
	w.tasks = func(_ context.Context, call string, do func() error) error {
		if call == "TaskLease.Read" {
			return err
		}
		return do()
	}
}

// If no task can read its lease, the bastion fails after MaxAttempts, and the message
// names the cause. A refusal ends each task soon, so the start does not take as long as
// with a table that does not respond.
func TestUnreadableLeaseEndsTheStart(t *testing.T) {
	for name, c := range map[string]struct {
		err     error
		message string
		within  time.Duration
	}{
		"denied":      {simtask.ErrDenied, "denied it the read of its lease", 10 * time.Minute},
		"no table":    {simtask.ErrNoTable, "the table of leases does not exist", 10 * time.Minute},
		"unreachable": {simtask.ErrTable, "could not reach DynamoDB", 20 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 0)
				w.refuseReads(c.err)
				rec, err := w.create(w.service, home, keyA)
				if err != nil {
					t.Fatal(err)
				}
				w.reap(c.within)
				rec, err = w.service.Records.Fetch(t.Context(), rec.ID)
				if err != nil {
					t.Fatal(err)
				}
				end := rec.End
				if rec.State() != bastion.Failed || end.Failure.Code != bastion.FailureLease || !strings.Contains(end.Failure.Message, c.message) {
					t.Errorf("%s after %d attempts: %+v", rec.State(), rec.Attempt.Number, end)
				}
				t.Logf("failed after %s and %d attempts", end.At.Sub(rec.CreatedAt).Round(time.Second), rec.Attempt.Number)
			})
		})
	}
}

// A table that cannot be read any more does not end a ready bastion's task.
func TestUnreadableLeaseDoesNotEndAReadyBastion(t *testing.T) {
	for name, err := range map[string]error{"denied": simtask.ErrDenied, "no table": simtask.ErrNoTable, "unreachable": simtask.ErrTable} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 0)
				var refused atomic.Bool // the tasks read it in their own goroutines
				w.tasks = func(_ context.Context, call string, do func() error) error {
					if refused.Load() && call == "TaskLease.Read" {
						return err
					}
					return do()
				}
				before := w.ready()
				refused.Store(true)
				w.reap(30 * time.Minute)
				after, err := w.service.Records.Fetch(t.Context(), before.ID)
				if err != nil || after.State() != bastion.Ready || after.Attempt.TaskID != before.Attempt.TaskID {
					t.Errorf("%s, task %s, before %s, %v", after.State(), after.Attempt.TaskID, before.Attempt.TaskID, err)
				}
			})
		})
	}
}
