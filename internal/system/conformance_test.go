//go:build conformance

package system

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/cloudtest"
)

// With the front, moto shows all cases of the suites; without, it cannot show some.
func TestTheFront(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := newFargate(t, program, "", func(*task, string) {})
	t.Cleanup(f.close)
	front := newFront(f)
	t.Setenv("AWS_ENDPOINT_URL_EC2", serve(t, http.HandlerFunc(front.serveEC2)))
	t.Setenv("AWS_ENDPOINT_URL_ECS", serve(t, http.HandlerFunc(front.serveECS)))
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(name, accessKey)
	}
	t.Setenv("AWS_REGION", region)
	ports, err := awscloud.Connect(t.Context(), f.stack(), awscloud.Tables{})
	if err != nil {
		t.Fatal(err)
	}
	const patience = 20 * time.Second // a loaded machine
	launch := func(groupID, bastionID string, attempt int) bastion.Launch {
		return bastion.Launch{BastionID: bastionID, Attempt: attempt, GroupID: groupID,
			Subnet: f.place.subnets[0], TaskDefinition: f.place.definition, AnnouncedAt: time.Now()}
	}
	t.Run("Groups", func(t *testing.T) {
		cloudtest.Groups(t, func(*testing.T) cloudtest.GroupsHarness {
			return cloudtest.GroupsHarness{Groups: ports.Groups, Patience: patience,
				Occupy: func(t *testing.T, bastionID, groupID string) func() {
					task, err := ports.Tasks.Run(t.Context(), launch(groupID, bastionID, 1))
					if err != nil {
						t.Fatal(err)
					}
					return func() { f.find(taskARN(f.place.cluster, task.ID)).terminate("the suite says so") }
				}}
		})
	})
	t.Run("Tasks", func(t *testing.T) {
		groups := map[string]string{}
		cloudtest.Tasks(t, func(*testing.T) cloudtest.TasksHarness {
			return cloudtest.TasksHarness{Tasks: ports.Tasks, Patience: patience,
				Launch: func(t *testing.T, bastionID string, attempt int) bastion.Launch {
					if groups[bastionID] == "" {
						made, err := ports.Groups.Create(t.Context(), bastionID)
						if err != nil {
							t.Fatal(err)
						}
						groups[bastionID] = made.ID
						<-time.After(staleness) // until RunTask finds it
					}
					return launch(groups[bastionID], bastionID, attempt)
				}}
		})
	})
}
