package localcloud

import (
	"context"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// slow configures a cloud with delays and stale reads.
var slow = Config{LaunchDelay: 20 * time.Millisecond, Linger: 20 * time.Millisecond, Staleness: 20 * time.Millisecond}

// patience is how long the suites wait for an effect.
const patience = 2 * time.Minute

// newPorts returns the ports of a new cloud. They are wrapped, so that the suites also
// test cloudtest.Wrap.
func newPorts(t *testing.T, cfg Config) cloudtest.Ports {
	_, ports := newCloud(t, cfg)
	return ports
}

// newCloud returns a new cloud with the ports of [newPorts].
func newCloud(t *testing.T, cfg Config) (*Cloud, cloudtest.Ports) {
	c := New(cfg)
	t.Cleanup(c.Close)
	store := c.Store()
	ports := cloudtest.Ports{Records: store, DueList: store, Keys: store, Marks: store, Groups: c.Groups(), Tasks: c.Tasks(), Leases: c.Leases()}
	return c, cloudtest.Wrap(ports, cloudtest.Pass)
}

// waitUntilVisible waits until read returns no error.
func waitUntilVisible(t *testing.T, read func() error) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for read() != nil {
		select {
		case <-ticker.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

func TestStoreConforms(t *testing.T) {
	cloudtest.Store(t, func(t *testing.T) bastion.Store {
		ports := newPorts(t, slow)
		return struct {
			bastion.Records
			bastion.DueList
			bastion.RememberedKeys
			bastion.OrphanMarks
		}{ports.Records, ports.DueList, ports.Keys, ports.Marks}
	})
}

func TestGroupsConform(t *testing.T) {
	cloudtest.Groups(t, func(t *testing.T) cloudtest.GroupsHarness {
		cloud, ports := newCloud(t, slow)
		return cloudtest.GroupsHarness{
			Groups:   ports.Groups,
			Patience: patience,
			Refuse:   func() { cloud.RefuseGroups(1) },
			Occupy: func(t *testing.T, bastionID, groupID string) func() {
				task, err := ports.Tasks.Run(t.Context(), bastion.TaskSpec{BastionID: bastionID, Attempt: 1, GroupID: groupID})
				if err != nil {
					t.Fatal(err)
				}
				waitUntilVisible(t, func() error { _, err := ports.Tasks.Fetch(t.Context(), task.ID); return err })
				return func() {
					if err := ports.Tasks.Stop(t.Context(), task.ID, "released"); err != nil {
						t.Error(err)
					}
				}
			},
		}
	})
}

func TestTasksConform(t *testing.T) {
	cloudtest.Tasks(t, func(t *testing.T) cloudtest.TasksHarness {
		ports := newPorts(t, slow)
		groups := map[string]string{}
		return cloudtest.TasksHarness{
			Tasks:    ports.Tasks,
			Patience: patience,
			Spec: func(t *testing.T, bastionID string, attempt int) bastion.TaskSpec {
				if groups[bastionID] == "" {
					g, err := ports.Groups.Create(t.Context(), bastion.GroupSpec{BastionID: bastionID})
					if err != nil {
						t.Fatal(err)
					}
					groups[bastionID] = g.ID
					waitUntilVisible(t, func() error { _, err := ports.Groups.Describe(t.Context(), bastionID, g.ID); return err })
				}
				return bastion.TaskSpec{BastionID: bastionID, Attempt: attempt, GroupID: groups[bastionID], Subnet: "subnet-1"}
			},
		}
	})
}

// processes is a Runner that sends each process to the channel and waits for
// SIGTERM.
type processes chan Process

func (h processes) Run(ctx context.Context, p Process) int {
	h <- p
	<-ctx.Done()
	return bastion.ExitTerminated
}

func TestLeasesConform(t *testing.T) {
	cloudtest.Leases(t, func(t *testing.T) cloudtest.LeasesHarness {
		out := make(processes, 1)
		ports := newPorts(t, Config{Runner: out})
		attempt := 0
		return cloudtest.LeasesHarness{
			Leases: ports.Leases,
			Start: func(t *testing.T) (string, bastion.TaskLease) {
				g, err := ports.Groups.Create(t.Context(), bastion.GroupSpec{BastionID: id})
				if err != nil {
					t.Fatal(err)
				}
				attempt++
				task, err := ports.Tasks.Run(t.Context(), bastion.TaskSpec{BastionID: id, Attempt: attempt, GroupID: g.ID})
				if err != nil {
					t.Fatal(err)
				}
				return task.ID, (<-out).Lease
			},
		}
	})
}

func TestItemsConform(t *testing.T) {
	cloudtest.Items(t, func(_ *testing.T, now func() time.Time) cloudtest.Table { return NewItems(now) })
}
