package localcloud

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

const id = "aaaaaaaaaaaaaaaa"

// launched is a cloud with one task of an agent's, which has just begun to run
// and finds its lease written.
func launched(t *testing.T, cfg Config, agent *Agent, lease bastion.Lease) (*Cloud, string) {
	t.Helper()
	cfg.Runner, cfg.LaunchDelay = agent, time.Millisecond
	c := New(cfg)
	t.Cleanup(c.Close)
	group, err := c.Groups().Create(t.Context(), bastion.GroupSpec{BastionID: id})
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Tasks().Run(t.Context(), bastion.TaskSpec{BastionID: id, Attempt: 1, GroupID: group.ID})
	if err != nil {
		t.Fatal(err)
	}
	if lease.Generation > 0 {
		lease.BastionID = id
		if err := c.Leases().Write(t.Context(), task.ID, lease); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(cfg.LaunchDelay)
	synctest.Wait()
	return c, task.ID
}

func (c *Cloud) only(t *testing.T) TaskState {
	t.Helper()
	tasks := c.Inventory().Tasks
	if len(tasks) != 1 {
		t.Fatalf("there are %d tasks", len(tasks))
	}
	return tasks[0]
}

func item(t *testing.T, c *Cloud, taskID string) bastion.LeaseItem {
	t.Helper()
	item, err := c.Leases().Fetch(t.Context(), taskID)
	if err != nil {
		t.Fatal(err)
	}
	return item
}

func wantExit(t *testing.T, task TaskState, code int) {
	t.Helper()
	if task.Status != bastion.TaskStopped || task.ExitCode == nil || *task.ExitCode != code {
		t.Errorf("the task is %s, exit %v; want it stopped with %d", task.Status, task.ExitCode, code)
	}
}

func TestAgentReportsItsKeyAndGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lease := bastion.Lease{Generation: 3, Open: true, Deadline: time.Now().Add(time.Hour)}
		c, taskID := launched(t, Config{}, &Agent{}, lease)
		report := item(t, c, taskID).Report
		if report.Generation != 3 || report.HostKey.Fingerprint() == "" {
			t.Errorf("report %+v", report)
		}
		lease.Generation, lease.Deadline = 4, time.Now().Add(2*time.Hour)
		if err := c.Leases().Write(t.Context(), taskID, lease); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := item(t, c, taskID).Report.Generation; got != 4 {
			t.Errorf("a poll later, generation %d is in force", got)
		}
	})
}

func TestAgentEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lease := bastion.Lease{Generation: 1, Open: true, Deadline: time.Now().Add(90500 * time.Millisecond)}
		c, taskID := launched(t, Config{}, &Agent{}, lease)
		time.Sleep(time.Until(lease.Deadline) - time.Millisecond)
		synctest.Wait()
		if status := c.only(t).Status; status != bastion.TaskRunning {
			t.Fatalf("it is %s before its deadline", status)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		wantExit(t, c.only(t), 0)
		want := bastion.Ending{Reason: bastion.EndDeadline, Generation: 1}
		report := item(t, c, taskID).Report
		if report.Ending != want || report.Receipt.EndedAt.IsZero() {
			t.Errorf("report %+v", report)
		}
	})
}

func TestAgentEndsWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lease := bastion.Lease{Generation: 1, Open: true, Deadline: time.Now().Add(time.Hour), IdleTimeout: time.Minute}
		agent := &Agent{}
		c, taskID := launched(t, Config{}, agent, lease)
		time.Sleep(59 * time.Second)
		if !agent.Use(taskID, 2) {
			t.Fatal("the connections were not taken")
		}
		time.Sleep(30 * time.Minute)
		if !agent.Use(taskID, 0) {
			t.Fatal("it did not live while it was in use")
		}
		time.Sleep(time.Minute - time.Millisecond)
		synctest.Wait()
		if status := c.only(t).Status; status != bastion.TaskRunning {
			t.Fatalf("it is %s before it was idle for long enough", status)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		wantExit(t, c.only(t), 0)
		report := item(t, c, taskID).Report
		if report.Ending.Reason != bastion.EndIdle || report.Receipt.Connections != 2 {
			t.Errorf("report %+v", report)
		}
		if agent.Use(taskID, 1) {
			t.Error("an ended task took a connection")
		}
	})
}

// A lease that was renewed at the very moment of ending goes on.
func TestAgentGoesOnWithANewerLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lease := bastion.Lease{Generation: 1, Open: true, Deadline: time.Now().Add(10 * time.Second)}
		c, taskID := launched(t, Config{}, &Agent{Poll: time.Minute}, lease)
		time.Sleep(time.Until(lease.Deadline) - time.Nanosecond)
		synctest.Wait()
		lease.Generation, lease.Deadline = 2, time.Now().Add(time.Hour)
		if err := c.Leases().Write(t.Context(), taskID, lease); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if status := c.only(t).Status; status != bastion.TaskRunning {
			t.Fatalf("it is %s", status)
		}
		if got := item(t, c, taskID).Report; got.Generation != 2 || got.Ending.Reason != "" {
			t.Errorf("report %+v", got)
		}
	})
}

func TestAgentExitCodes(t *testing.T) {
	open := bastion.Lease{Generation: 1, Open: true, Deadline: time.Now().AddDate(100, 0, 0)}
	shut := bastion.Lease{Generation: 1, EndReason: bastion.EndClosed}
	tests := []struct {
		name  string
		agent *Agent
		lease bastion.Lease
		do    func(c *Cloud, taskID string)
		exit  int
	}{
		{"no lease", &Agent{LeaseTimeout: 5 * time.Second}, bastion.Lease{}, nil, 10},
		{"closed", &Agent{}, shut, nil, 0},
		{"tombstone", &Agent{}, open, func(c *Cloud, taskID string) {
			_ = c.Leases().End(t.Context(), taskID, id, time.Now().Add(time.Hour))
		}, 0},
		{"crash", &Agent{CrashAfter: 3 * time.Second}, open, nil, 2},
		{"stop", &Agent{}, open, func(c *Cloud, taskID string) { _ = c.Tasks().Stop(t.Context(), taskID, "x") }, 143},
		{"kill", &Agent{}, open, func(c *Cloud, taskID string) { c.Kill(taskID) }, 137},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, taskID := launched(t, Config{StopTimeout: time.Second}, tt.agent, tt.lease)
				if tt.do != nil {
					tt.do(c, taskID)
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				wantExit(t, c.only(t), tt.exit)
			})
		})
	}
}

func TestAgentWithABrokenTimerObeysOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lease := bastion.Lease{Generation: 1, Open: true, Deadline: time.Now().Add(time.Second), IdleTimeout: time.Second}
		c, taskID := launched(t, Config{}, &Agent{BrokenTimer: true}, lease)
		time.Sleep(time.Hour)
		synctest.Wait()
		if status := c.only(t).Status; status != bastion.TaskRunning {
			t.Fatalf("it is %s", status)
		}
		if err := c.Leases().Write(t.Context(), taskID, bastion.Lease{Generation: 2}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		wantExit(t, c.only(t), 0)
	})
}

func TestAgentAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent := &Agent{}
		lease := bastion.Lease{Generation: 1, Open: true, Deadline: time.Now().Add(time.Hour)}
		c, taskID := launched(t, Config{}, agent, lease)
		for n, verb := range []bastion.Verb{bastion.VerbExtend, bastion.VerbClose} {
			if !agent.Ask(taskID, bastion.ConsoleRequest{Verb: verb, TTL: time.Minute}) {
				t.Fatal("the task took no request")
			}
			synctest.Wait()
			want := bastion.ConsoleRequest{Number: n + 1, Verb: verb, TTL: time.Minute}
			if got := item(t, c, taskID).Report.ConsoleRequest; got != want {
				t.Errorf("request %+v, want %+v", got, want)
			}
		}
		lease.Generation, lease.ConsoleReply = 2, bastion.ConsoleReply{Number: 2, Message: "Yes."}
		if err := c.Leases().Write(t.Context(), taskID, lease); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got, ok := agent.Lease(taskID); !ok || got.ConsoleReply != lease.ConsoleReply {
			t.Errorf("the console shows %+v", got.ConsoleReply)
		}
	})
}

// brokenTable is a lease that can be read while reports fail.
type brokenTable struct {
	lease bastion.Lease
	tries int
}

func (b *brokenTable) Read(context.Context) (bastion.Lease, error) { return b.lease, nil }

func (b *brokenTable) Report(context.Context, bastion.Report) error {
	b.tries++
	return errors.New("the table does not answer")
}

// Nobody hears that it ends: it tries for a while, and ends all the same.
func TestAgentEndsAtItsDeadlineWithoutTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		table := &brokenTable{lease: bastion.Lease{Generation: 1, Open: true, Deadline: began.Add(time.Minute), IdleTimeout: time.Second}}
		agent := &Agent{LeaseTimeout: 10 * time.Second}
		exit := agent.Run(t.Context(), Process{TaskID: "task", BastionID: id, Lease: table})
		took := time.Since(began)
		if exit != 0 || took < 70*time.Second || took > 72*time.Second {
			t.Errorf("exit %d after %s", exit, took)
		}
		if table.tries < 70 {
			t.Errorf("it tried to report %d times", table.tries)
		}
	})
}
