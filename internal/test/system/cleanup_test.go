//go:build conformance

package system

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// checkOnlyRule checks that the interface of alice's task has the bastion's own group
// and the member group, and that the bastion's group has one rule: the source address may
// connect to the SSH port. It returns the source.
func (s *systemTest) checkOnlyRule(t *testing.T, source string) string {
	t.Helper()
	m, resources := s.fargate.moto, s.fargate.resources
	carried, err := m.groupsOf(t.Context(), s.task(t, s.bastionID).networkInterface)
	if err != nil || len(carried) != 2 || carried[1] != resources.memberGroup || carried[0] == resources.memberGroup {
		t.Fatalf("the interface has the groups %v, %v", carried, err)
	}
	rules, err := m.rulesOf(t.Context(), carried[0])
	want := ec2Rule{Protocol: "tcp", From: int(s.fargate.port), To: int(s.fargate.port), IPv4: source}
	if err != nil || !slices.Equal(rules, []ec2Rule{want}) {
		t.Fatalf("the group has the rules %+v, %v; want %+v", rules, err, want)
	}
	return source
}

// checkTags checks that the bastion's task and group have the operator's tag.
func (s *systemTest) checkTags(t *testing.T) {
	t.Helper()
	m, key, value := s.fargate.moto, "CostCenter", strings.TrimPrefix(operatorTag, "CostCenter=")
	task := s.task(t, s.bastionID)
	out, err := m.ecs(t.Context(), "DescribeTasks", map[string]any{"cluster": s.fargate.resources.cluster, "tasks": []string{task.arn}, "include": []string{"TAGS"}})
	if found := fmt.Sprint(out); err != nil || !strings.Contains(found, fmt.Sprintf("map[key:%s value:%s]", key, value)) {
		t.Fatalf("the task has no tag %s: %s, %v", operatorTag, found, err)
	}
	carried, err := m.groupsOf(t.Context(), task.networkInterface)
	if err != nil {
		t.Fatal(err)
	}
	tagged, err := m.ec2(t.Context(), "DescribeSecurityGroups", "Filter.1.Name", "tag:"+key, "Filter.1.Value.1", value)
	if err != nil || len(tagged.Groups) != 1 || tagged.Groups[0].ID != carried[0] {
		t.Fatalf("the groups with the tag %s are %+v, want %s; %v", operatorTag, tagged.Groups, carried[0], err)
	}
}

// waitClosed waits until a bastion is closed and checks the reason of its end.
func (s *systemTest) waitClosed(t *testing.T, p *apiUser, id, reason string) {
	t.Helper()
	gone := s.waitUntil(t, "the bastion is closed", p, id, func(a apiResponse) bool { return a.State == "closed" })
	if gone.Ended.Reason != reason {
		t.Fatalf("%s ended because of %q, want %q: %s", id, gone.Ended.Reason, reason, gone.Body)
	}
	p.expect(t, 200, "closed", "--request", "DELETE", "/bastions/"+id)
	s.logf(t, "  %s is closed", id)
}

// waitUntil describes a bastion until the response is as wanted.
func (s *systemTest) waitUntil(t *testing.T, what string, p *apiUser, id string, wanted func(apiResponse) bool) apiResponse {
	t.Helper()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(waitLimit); ; <-tick.C {
		a := p.expect(t, 200, "", "/bastions/"+id)
		if wanted(a) {
			return a
		}
		if time.Now().After(giveUp) {
			t.Fatalf("not within %s: %s. It is %s", waitLimit, what, a.Body)
		}
	}
}

// everythingIsCleanedUp checks that all bastions are finished, that no AWS resource is
// left, and that no event failed.
func (s *systemTest) everythingIsCleanedUp(t *testing.T) {
	s.checkNothingDue(t)
	for _, kind := range []string{"task", "stream", "reap", "sweep"} {
		if s.events.delivered(kind) == 0 {
			t.Errorf("no %s event was delivered", kind)
		}
		s.logf(t, "  %d events: %s", s.events.delivered(kind), kind)
	}
	if failed := s.events.deadLetters(); len(failed) != 0 {
		t.Errorf("dead letters: %s", strings.Join(failed, "\n"))
	}
	if faults := s.fargate.recordedFaults(); len(faults) != 0 {
		t.Errorf("faults of the test's Fargate: %s", strings.Join(faults, "\n"))
	}
	s.checkMotoIsClean(t)
	if running, ended := s.fargate.countProcesses(); running != 0 || ended != len(s.fargate.tasks()) || ended != 5 {
		t.Errorf("%d tasks: %d processes run, %d have ended; want 5 that have ended", len(s.fargate.tasks()), running, ended)
	}
	leases, err := s.ports.Leases.List(t.Context())
	if err != nil || len(leases) != 0 {
		t.Errorf("leases are left: %+v, %v", leases, err)
	}
	records, err := s.ports.Store.List(t.Context())
	if err != nil || len(records) != 0 {
		t.Errorf("records are not finished: %+v, %v", records, err)
	}
	marks, err := s.ports.Store.Marks(t.Context())
	if err != nil || len(marks) != 0 {
		t.Errorf("the sweep has marked orphans: %v, %v", marks, err)
	}
}

// checkNothingDue waits until no record is due. The reaper reads a record that was
// finished before its due time once more.
func (s *systemTest) checkNothingDue(t *testing.T) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(waitLimit); ; <-tick.C {
		due, err := s.ports.Store.Due(t.Context(), time.Now(), 100)
		if err == nil && len(due) == 0 {
			return
		}
		if time.Now().After(giveUp) {
			t.Errorf("records are still due: %v, %v", due, err)
			return
		}
	}
}

// checkMotoIsClean checks that EC2 and ECS hold nothing but the stack's own resources
// and stopped tasks, and that every kind of call was made.
func (s *systemTest) checkMotoIsClean(t *testing.T) {
	t.Helper()
	m, resources := s.fargate.moto, s.fargate.resources
	groups, err := m.ec2(t.Context(), "DescribeSecurityGroups", "Filter.1.Name", "vpc-id", "Filter.1.Value.1", resources.vpc)
	for _, group := range groups.Groups {
		if group.ID != resources.memberGroup && group.Name != "default" {
			t.Errorf("a group is left: %+v", group)
		}
	}
	if err != nil || len(groups.Groups) != 2 {
		t.Errorf("the groups are %+v, %v; want 2", groups.Groups, err)
	}
	if left, err := m.ec2(t.Context(), "DescribeNetworkInterfaces"); err != nil || len(left.Interfaces) != 0 {
		t.Errorf("network interfaces are left: %+v, %v", left.Interfaces, err)
	}
	for desired, want := range map[string]int{"RUNNING": 0, "STOPPED": len(s.fargate.tasks())} {
		listed, err := m.ecs(t.Context(), "ListTasks", map[string]string{"cluster": resources.cluster, "desiredStatus": desired})
		if arns, _ := listed["taskArns"].([]any); err != nil || len(arns) != want {
			t.Errorf("tasks with the desired status %s: %v, %v; want %d", desired, arns, err, want)
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
			t.Errorf("moto received no %s", action)
		}
	}
	s.logf(t, "  calls answered by moto: %s", fmt.Sprint(s.proxy.forwardedCalls))
	s.logf(t, "  calls answered by the proxy: %s", fmt.Sprint(s.proxy.ownResponses))
}
