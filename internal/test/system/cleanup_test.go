//go:build conformance

package system

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// onlyAdmits wants the interface of alice's task to carry the bastion's own group
// and the member group, and moto to hold one rule of both: for the source, to the
// SSH port.
func (s *systemTest) checkOnlyRule(t *testing.T, source string) string {
	t.Helper()
	m, place := s.fargate.moto, s.fargate.resources
	carried, err := m.groupsOf(t.Context(), s.task(t, s.bastionID).networkInterface)
	if err != nil || len(carried) != 2 || carried[1] != place.memberGroup || carried[0] == place.memberGroup {
		t.Fatalf("the interface carries %v, %v", carried, err)
	}
	rules, err := m.rulesOf(t.Context(), carried[0])
	want := ec2Rule{Protocol: "tcp", From: int(s.fargate.port), To: int(s.fargate.port), IPv4: source}
	if err != nil || !slices.Equal(rules, []ec2Rule{want}) {
		t.Fatalf("the group has the rules %+v, %v; want %+v", rules, err, want)
	}
	return source
}

// closed waits until nothing of a bastion is left, and wants it to have ended for
// the reason.
func (s *systemTest) waitClosed(t *testing.T, p *apiUser, id, reason string) {
	t.Helper()
	gone := s.waitUntil(t, "it is closed", p, id, func(a apiResponse) bool { return a.State == "closed" })
	if gone.Ended.Reason != reason {
		t.Fatalf("%s ended because of %q, want %q: %s", id, gone.Ended.Reason, reason, gone.Body)
	}
	p.expect(t, 200, "closed", "--request", "DELETE", "/bastions/"+id)
	s.logf(t, "  nothing of %s is left", id)
}

// until looks at a bastion until it is as wanted.
func (s *systemTest) waitUntil(t *testing.T, what string, p *apiUser, id string, wanted func(apiResponse) bool) apiResponse {
	t.Helper()
	look := time.NewTicker(500 * time.Millisecond)
	defer look.Stop()
	for giveUp := time.Now().Add(time.Minute); ; <-look.C {
		a := p.expect(t, 200, "", "/bastions/"+id)
		if wanted(a) {
			return a
		}
		if time.Now().After(giveUp) {
			t.Fatalf("not in a minute: %s. It is %s", what, a.Body)
		}
	}
}

func (s *systemTest) everythingIsCleanedUp(t *testing.T) {
	s.checkNothingDue(t)
	for _, kind := range []string{"task", "stream", "reap", "sweep"} {
		if s.events.delivered(kind) == 0 {
			t.Errorf("no event of the kind %q was delivered", kind)
		}
		s.logf(t, "  %d events: %s", s.events.delivered(kind), kind)
	}
	if failed := s.events.deadLetters(); len(failed) != 0 {
		t.Errorf("dead letters: %s", strings.Join(failed, "\n"))
	}
	if complaints := s.fargate.recordedFaults(); len(complaints) != 0 {
		t.Errorf("Fargate could not: %s", strings.Join(complaints, "\n"))
	}
	s.checkMotoIsClean(t)
	if running, ended := s.fargate.countProcesses(); running != 0 || ended != len(s.fargate.tasks()) || ended != 5 {
		t.Errorf("%d processes run and %d have ended, of %d tasks; want 5", running, ended, len(s.fargate.tasks()))
	}
	leases, err := s.ports.Leases.List(t.Context())
	if err != nil || len(leases) != 0 {
		t.Errorf("left are the leases %+v, %v", leases, err)
	}
	records, err := s.ports.Store.List(t.Context())
	if err != nil || len(records) != 0 {
		t.Errorf("not finished are %+v, %v", records, err)
	}
	marks, err := s.ports.Store.Marks(t.Context())
	if err != nil || len(marks) != 0 {
		t.Errorf("the sweep took for orphans %v, %v", marks, err)
	}
}

// nothingDue wants the reaper to get to the end. A record that was finished before
// it was due is looked at once more.
func (s *systemTest) checkNothingDue(t *testing.T) {
	t.Helper()
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	for giveUp := time.Now().Add(10 * time.Second); ; <-look.C {
		due, err := s.ports.Store.Due(t.Context(), time.Now(), 100)
		if err == nil && len(due) == 0 {
			return
		}
		if time.Now().After(giveUp) {
			t.Errorf("due are still %v, %v", due, err)
			return
		}
	}
}

// nothingInMoto wants EC2 and ECS to be as they were in the beginning, and moto to
// have answered every kind of call.
func (s *systemTest) checkMotoIsClean(t *testing.T) {
	t.Helper()
	m, place := s.fargate.moto, s.fargate.resources
	groups, err := m.ec2(t.Context(), "DescribeSecurityGroups", "Filter.1.Name", "vpc-id", "Filter.1.Value.1", place.vpc)
	for _, group := range groups.Groups {
		if group.ID != place.memberGroup && group.Name != "default" {
			t.Errorf("left is the group %+v", group)
		}
	}
	if err != nil || len(groups.Groups) != 2 {
		t.Errorf("there are the groups %+v, %v", groups.Groups, err)
	}
	if left, err := m.ec2(t.Context(), "DescribeNetworkInterfaces"); err != nil || len(left.Interfaces) != 0 {
		t.Errorf("left are the interfaces %+v, %v", left.Interfaces, err)
	}
	for desired, want := range map[string]int{"RUNNING": 0, "STOPPED": len(s.fargate.tasks())} {
		listed, err := m.ecs(t.Context(), "ListTasks", map[string]string{"cluster": place.cluster, "desiredStatus": desired})
		if arns, _ := listed["taskArns"].([]any); err != nil || len(arns) != want {
			t.Errorf("to be %s are %v, %v; want %d", desired, arns, err, want)
		}
	}
	s.proxy.mu.Lock()
	defer s.proxy.mu.Unlock()
	for _, action := range []string{
		"CreateSecurityGroup", "DescribeSecurityGroups", "DescribeSecurityGroupRules", "AuthorizeSecurityGroupIngress",
		"RevokeSecurityGroupIngress", "RevokeSecurityGroupEgress", "DeleteSecurityGroup", "DescribeNetworkInterfaces",
		"RunTask", "ListTasks", "DescribeTasks", "StopTask",
	} {
		if s.proxy.forwardedCalls[action] == 0 {
			t.Errorf("moto answered no %s", action)
		}
	}
	s.logf(t, "  moto answered %s", fmt.Sprint(s.proxy.forwardedCalls))
	s.logf(t, "  the front in its place: %s", fmt.Sprint(s.proxy.ownResponses))
}
