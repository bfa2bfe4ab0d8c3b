package simtask_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

const id = "aaaaaaaaaaaaaaaa"

// unreadable runs tasks whose reads of their leases return err.
type unreadable struct {
	*simtask.Runner
	err error
}

func (u unreadable) Run(ctx context.Context, task localcloud.Process) int {
	task.Lease = &simtask.Table{ReadErr: u.err}
	return u.Runner.Run(ctx, task)
}

// launch returns a cloud in which the runner has just started one task with the lease.
func launch(t *testing.T, runner localcloud.Runner, lease bastion.Lease) (cloud *localcloud.Cloud, taskID string) {
	t.Helper()
	cloud = localcloud.New(localcloud.Config{Runner: runner, LaunchDelay: time.Millisecond, StopTimeout: 10 * time.Second})
	t.Cleanup(cloud.Close)
	group, err := cloud.Groups().Create(t.Context(), bastion.GroupSpec{BastionID: id})
	if err != nil {
		t.Fatal(err)
	}
	task, err := cloud.Tasks().Run(t.Context(), bastion.TaskSpec{BastionID: id, Attempt: 1, GroupID: group.ID})
	if err != nil {
		t.Fatal(err)
	}
	if lease.Generation > 0 {
		lease.BastionID = id
		if err := cloud.Leases().Write(t.Context(), task.ID, lease); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Millisecond)
	synctest.Wait()
	return cloud, task.ID
}

func TestTasksEndWithTheExitCodeOfTheirCause(t *testing.T) {
	open := bastion.Lease{Generation: 1, Open: true, Deadline: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}
	for _, c := range []struct {
		name   string
		runner localcloud.Runner
		lease  bastion.Lease
		do     func(cloud *localcloud.Cloud, taskID string)
		want   int
	}{
		{"no lease", &simtask.Runner{Timing: leaseloop.Timing{FirstLease: 5 * time.Second}}, bastion.Lease{}, nil, bastion.ExitNoLease},
		{"unreachable table", unreadable{&simtask.Runner{Timing: leaseloop.Timing{FirstLease: 5 * time.Second}}, simtask.ErrTable}, bastion.Lease{}, nil, bastion.ExitUnreachable},
		{"denied read", unreadable{&simtask.Runner{Timing: leaseloop.Timing{Refusal: 5 * time.Second}}, simtask.ErrDenied}, bastion.Lease{}, nil, bastion.ExitDenied},
		{"no table", unreadable{&simtask.Runner{Timing: leaseloop.Timing{Refusal: 5 * time.Second}}, simtask.ErrNoTable}, bastion.Lease{}, nil, bastion.ExitNoTable},
		{"closed lease", &simtask.Runner{}, bastion.Lease{Generation: 1, EndReason: bastion.EndClosed}, nil, bastion.ExitOK},
		{"tombstone", &simtask.Runner{}, open, func(cloud *localcloud.Cloud, taskID string) {
			_ = cloud.Leases().End(t.Context(), taskID, id, time.Now().Add(time.Hour))
		}, bastion.ExitOK},
		{"crash", &simtask.Runner{CrashAfter: 3 * time.Second}, open, nil, 2},
		{"stop", &simtask.Runner{}, open, func(cloud *localcloud.Cloud, taskID string) { _ = cloud.Tasks().Stop(t.Context(), taskID, "x") }, bastion.ExitTerminated},
		{"kill", &simtask.Runner{}, open, func(cloud *localcloud.Cloud, taskID string) { cloud.Kill(taskID) }, 137},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cloud, taskID := launch(t, c.runner, c.lease)
				if c.do != nil {
					c.do(cloud, taskID)
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				task := cloud.Inventory().Tasks[0]
				if task.Status != bastion.TaskStopped || task.ExitCode == nil || *task.ExitCode != c.want {
					t.Errorf("the task is %s, exit %v; want it stopped with %d", task.Status, task.ExitCode, c.want)
				}
			})
		})
	}
}

func TestUseAndRequestAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runner := &simtask.Runner{}
		lease := bastion.Lease{Generation: 1, Open: true, Deadline: time.Now().Add(time.Hour), Keys: []bastion.Key{simtask.HostKey("alice")}}
		cloud, taskID := launch(t, runner, lease)
		for _, n := range []int{2, 5, 1} {
			if !runner.Use(taskID, n) {
				t.Fatal("connections refused")
			}
			time.Sleep(time.Second)
			synctest.Wait()
			item, err := cloud.Leases().Fetch(t.Context(), taskID)
			if err != nil || item.Report.Connections != n {
				t.Errorf("%d connections reported, want %d; error %v", item.Report.Connections, n, err)
			}
		}
		if !runner.Request(taskID, bastion.VerbExtend, time.Minute) {
			t.Fatal("request refused")
		}
		synctest.Wait()
		want := bastion.ConsoleRequest{Number: 1, Verb: bastion.VerbExtend, TTL: time.Minute}
		if item, _ := cloud.Leases().Fetch(t.Context(), taskID); item.Report.ConsoleRequest != want {
			t.Errorf("request %+v, want %+v", item.Report.ConsoleRequest, want)
		}
		time.Sleep(time.Until(lease.Deadline))
		synctest.Wait()
		if item, _ := cloud.Leases().Fetch(t.Context(), taskID); item.Report.Receipt.Connections != 5 {
			t.Errorf("the receipt counts %d connections, want 5", item.Report.Receipt.Connections)
		}
		if runner.Use(taskID, 1) || runner.Request(taskID, bastion.VerbClose, 0) {
			t.Error("a task that has ended accepts a connection or a request")
		}
	})
}

func TestBrokenTimerIgnoresTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lease := bastion.Lease{Generation: 1, Open: true, Deadline: time.Now().Add(time.Second), IdleTimeout: time.Second}
		cloud, taskID := launch(t, &simtask.Runner{BrokenTimer: true}, lease)
		time.Sleep(time.Hour)
		synctest.Wait()
		if status := cloud.Inventory().Tasks[0].Status; status != bastion.TaskRunning {
			t.Fatalf("the task is %s", status)
		}
		if err := cloud.Leases().Write(t.Context(), taskID, bastion.Lease{Generation: 2}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if status := cloud.Inventory().Tasks[0].Status; status != bastion.TaskStopped {
			t.Errorf("after the close of the lease the task is %s", status)
		}
	})
}
