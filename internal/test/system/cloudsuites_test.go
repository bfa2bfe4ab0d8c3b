//go:build conformance

package system

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
)

// Through motoProxy, moto passes all cases of the suites. Alone, it fails some.
func TestMotoProxyPassesCloudSuites(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := newFargate(t, program, func(*task, string) {})
	t.Cleanup(f.close)
	s := cloudSuites{f, connectThroughProxy(t, f), map[string]string{}}
	t.Run("Groups", func(t *testing.T) { cloudtest.Groups(t, s.groups) })
	t.Run("Tasks", func(t *testing.T) { cloudtest.Tasks(t, s.tasks) })
	t.Run("NewResourcesAreHidden", s.newResourcesAreHidden)
}

// connectThroughProxy connects ports through a new motoProxy.
func connectThroughProxy(t *testing.T, f *fargate) awscloud.Ports {
	t.Helper()
	proxy := newMotoProxy(f)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_EC2": serve(t, http.HandlerFunc(proxy.serveEC2)), "AWS_ENDPOINT_URL_ECS": serve(t, http.HandlerFunc(proxy.serveECS)),
		"AWS_REGION": region, "AWS_ACCESS_KEY_ID": accessKey, "AWS_SECRET_ACCESS_KEY": accessKey,
	} {
		t.Setenv(name, value)
	}
	stack := f.stackConfig()
	stack.WidestIPv4, stack.WidestIPv6 = 28, 64
	ports, err := awscloud.Connect(t.Context(), stack, awscloud.Tables{}, awscloud.Transport{Pacer: awscloud.NewPacer()})
	if err != nil {
		t.Fatal(err)
	}
	return ports
}

// cloudSuites has the harnesses of package cloudtest's suites.
type cloudSuites struct {
	fargate  *fargate
	ports    awscloud.Ports
	groupIDs map[string]string // by bastion
}

const patience = waitLimit

func (s cloudSuites) groups(*testing.T) cloudtest.GroupsHarness {
	return cloudtest.GroupsHarness{Groups: s.ports.Groups, Patience: patience,
		Unsupported: cloudtest.Unsupported{Emulator: "moto", Cases: map[string]string{
			"a refused call has no effect and can be repeated": "it has no quota that a test can change",
		}},
		Occupy: func(t *testing.T, bastionID, groupID string) func() {
			s.groupIDs[bastionID] = groupID
			task, err := s.ports.Tasks.Run(t.Context(), s.launch(t, bastionID, 1))
			if err != nil {
				t.Fatal(err)
			}
			return func() {
				s.fargate.findTask(taskARN(s.fargate.resources.cluster, task.ID)).terminate("the suite says so")
			}
		}}
}

func (s cloudSuites) tasks(*testing.T) cloudtest.TasksHarness {
	return cloudtest.TasksHarness{Tasks: s.ports.Tasks, Patience: patience, Spec: s.launch}
}

func (s cloudSuites) launch(t *testing.T, bastionID string, attempt int) bastion.TaskSpec {
	t.Helper()
	if s.groupIDs[bastionID] == "" {
		group, err := s.ports.Groups.Create(t.Context(), bastion.GroupSpec{BastionID: bastionID})
		if err != nil {
			t.Fatal(err)
		}
		s.groupIDs[bastionID] = group.ID
		<-time.After(s.fargate.staleness) // until RunTask finds the group
	}
	return bastion.TaskSpec{BastionID: bastionID, Attempt: attempt, GroupID: s.groupIDs[bastionID],
		Subnet: s.fargate.resources.subnets[0], TaskDefinition: s.fargate.resources.definition, AttemptCreatedAt: time.Now()}
}

// newResourcesAreHidden uses a proxy that hides new groups and tasks for an hour.
func (s cloudSuites) newResourcesAreHidden(t *testing.T) {
	f := s.fargate
	late := &fargate{definitions: f.definitions, port: f.port, resources: f.resources, moto: f.moto, changed: f.changed, log: f.log, staleness: time.Hour}
	late.allTasks = f.tasks() // their addresses are in use
	t.Cleanup(late.close)
	ports, shows := connectThroughProxy(t, late), s.launch(t, "bbbbbbbbbbbbbbbb", 1)
	task, err := ports.Tasks.Run(t.Context(), shows)
	if err != nil {
		t.Fatal(err)
	}
	if seen, err := ports.Tasks.Describe(t.Context(), shows.BastionID, task.ID); err != nil || len(seen) != 0 {
		t.Errorf("describe a new task: %+v, %v; want none", seen, err)
	}
	group, err := ports.Groups.Create(t.Context(), bastion.GroupSpec{BastionID: "cccccccccccccccc"})
	if err != nil {
		t.Fatal(err)
	}
	young := shows
	young.Attempt, young.GroupID = 2, group.ID
	_, ran := ports.Tasks.Run(t.Context(), young)
	_, described := ports.Groups.Describe(t.Context(), "cccccccccccccccc", "")
	_, again := ports.Groups.Create(t.Context(), bastion.GroupSpec{BastionID: "cccccccccccccccc"})
	for what, err := range map[string]error{"RunTask": ran, "describe": described, "create again": again, "delete": ports.Groups.Delete(t.Context(), group.ID)} {
		if !errors.Is(err, bastion.ErrNotFound) {
			t.Errorf("%s with a new group: %v, want ErrNotFound", what, err)
		}
	}
}
