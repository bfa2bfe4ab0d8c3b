package deploy

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// deployedWorld has both stacks, and bastions of two owners.
func deployedWorld() *world {
	w := newWorld()
	w.add("bastion-registry", types.StackStatusCreateComplete)
	w.add("bastion", types.StackStatusCreateComplete)
	w.bastions = []listed{{"aaaa", "iam:1:AIDA", "ready"}, {"bbbb", "iam:1:AROB", "starting"}}
	return w
}

// changes are the calls of Undeploy that do something.
var changes = []string{"UpdateStack", "Invoke destroy", "Delete"}

var wholeRemoval = []string{
	"UpdateStack", "Invoke destroy-1 DELETE /bastions/aaaa", "Invoke destroy-1 DELETE /bastions/bbbb", "DeleteStack bastion", "DeleteStack bastion-registry",
}

func TestUndeployTakesAllAwayButWhatIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := deployedWorld()
		if err := w.deployment().Undeploy(t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, w.out.String())
		}
		if got := w.takeCalls(changes...); !slices.Equal(got, wholeRemoval) {
			t.Errorf("it does %q", got)
		}
		said := w.out.String()
		for _, want := range []string{"close all bastions: 1s, 2 left, such as aaaa of iam:1:AIDA, ready\n", "2 closed, none left", "kept: the table records-1\n", "kept: the table leases-1\n", "kept: the repository registry-abc", "PURGE=1", "--log-group-name logs-1"} {
			if !strings.Contains(said, want) {
				t.Errorf("it does not say %q:\n%s", want, said)
			}
		}
		w.settings.Purge = true
		for _, want := range [][]string{{"DeleteTable records-1", "DeleteTable leases-1", "DeleteRepository registry-abc"}, nil} {
			if err := w.deployment().Undeploy(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := w.takeCalls(changes...); !slices.Equal(got, want) {
				t.Errorf("purging does %q, want %q", got, want)
			}
		}
		w.settings.Purge = false
		if err := w.deployment().Undeploy(t.Context()); err != nil || !strings.Contains(w.out.String(), "no table and no repository is left") {
			t.Errorf("%v\n%s", err, w.out.String())
		}
	})
}

// Draining changes two parameters, and the reaper is there until all is closed.
func TestDrainingLeavesAllElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := deployedWorld()
		w.fail["DeleteStack"] = errTest
		if err := w.deployment().Undeploy(t.Context()); err == nil || len(w.bastions) > 0 {
			t.Errorf("%v; there are %v", err, w.bastions)
		}
		got := w.named("bastion").params
		if got["Draining"] != "true" || got["Admins"] != "iam:111122223333:AIDAOTHER,iam:111122223333:AROAEXAMPLEEXAMPLE12" || got["VpcId"] != testVPC || len(got) != 4 {
			t.Errorf("the parameters are %q", got)
		}
		w.takeCalls()
		clear(w.fail)
		if err := w.deployment().Undeploy(t.Context()); err != nil || len(w.takeCalls("UpdateStack")) > 0 {
			t.Errorf("again: %v; calls %q", err, w.calls)
		}
	})
}

func TestUndeployGoesOnAfterAnyFailure(t *testing.T) {
	for _, broken := range append(wholeRemoval, "Invoke describe-1", "DescribeSecurityGroups", "DescribeNetworkInterfaces", "ListStacks", "DeleteTable", "DeleteRepository", "GetCallerIdentity") {
		bubble(t, func(t *testing.T) {
			w := deployedWorld()
			w.settings.Purge = true
			w.fail[broken] = errTest
			err := w.deployment().Undeploy(t.Context())
			if err == nil || !strings.Contains(err.Error(), errTest.Error()) || !strings.Contains(err.Error(), "make undeploy again") {
				t.Errorf("%s fails: %v", broken, err)
			}
			clear(w.fail)
			if err := w.deployment().Undeploy(t.Context()); err != nil {
				t.Errorf("%s failed once; again: %v", broken, err)
			}
			if w.named("bastion") != nil || w.named("bastion-registry") != nil || len(w.tables) > 0 || w.repo || len(w.bastions) > 0 {
				t.Errorf("%s failed once; left: %v %v %v", broken, w.tables, w.repo, w.bastions)
			}
		})
	}
}

func TestForeignRulesStopIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := deployedWorld()
		member := &ec2types.ReferencedSecurityGroup{GroupId: aws.String("sg-member")}
		w.groups = []ec2types.SecurityGroup{{GroupId: aws.String("sg-db")}, {GroupId: aws.String("sg-member")}, {GroupId: aws.String("sg-web")}}
		w.rules = []ec2types.SecurityGroupRule{
			{GroupId: aws.String("sg-db"), SecurityGroupRuleId: aws.String("sgr-1"), ReferencedGroupInfo: member, IsEgress: aws.Bool(false)},
			{GroupId: aws.String("sg-db"), SecurityGroupRuleId: aws.String("sgr-2"), CidrIpv4: aws.String("10.0.0.0/8")},
			{GroupId: aws.String("sg-web"), SecurityGroupRuleId: aws.String("sgr-3"), ReferencedGroupInfo: member, IsEgress: aws.Bool(true)},
			{GroupId: aws.String("sg-member"), SecurityGroupRuleId: aws.String("sgr-4"), ReferencedGroupInfo: member},
		}
		w.interfaces = []string{"eni-1"}
		err := w.deployment().Undeploy(t.Context())
		for _, want := range []string{
			"\n  aws ec2 revoke-security-group-ingress --region eu-west-1 --group-id sg-db --security-group-rule-ids sgr-1\n",
			"\n  aws ec2 revoke-security-group-egress --region eu-west-1 --group-id sg-web --security-group-rule-ids sgr-3\n",
			"eni-1",
		} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("no %q in %v", want, err)
			}
		}
		if err != nil && (strings.Contains(err.Error(), "sgr-2") || strings.Contains(err.Error(), "sgr-4")) || len(w.takeCalls("DeleteStack")) > 0 {
			t.Errorf("%v", err)
		}
	})
}

func TestWhereCallersHaveTokensItClosesAllTheSame(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := deployedWorld()
		w.named("bastion").params["JwtIssuer"] = "https://issuer.example"
		if err := w.deployment().Undeploy(t.Context()); err != nil || len(w.bastions) > 0 {
			t.Errorf("%v; there are %v", err, w.bastions)
		}
		if admins := w.stacks[1].params["Admins"]; !strings.HasSuffix(admins, ",jwt:https://issuer.example#undeploy:uuid-1") {
			t.Errorf("the admins are %q", admins)
		}
	})
}

func TestAStackThatCannotServeIsDeletedOnly(t *testing.T) {
	for _, status := range []types.StackStatus{types.StackStatusRollbackComplete, types.StackStatusDeleteFailed, types.StackStatusCreateFailed} {
		bubble(t, func(t *testing.T) {
			w := deployedWorld()
			w.named("bastion").status = status
			if err := w.deployment().Undeploy(t.Context()); err != nil {
				t.Errorf("%s: %v", status, err)
			}
			if got := w.takeCalls(changes...); !slices.Equal(got, []string{"DeleteStack bastion", "DeleteStack bastion-registry"}) {
				t.Errorf("%s: it does %q", status, got)
			}
		})
	}
}

func TestWhyDeletingFailed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := deployedWorld()
		w.fail["delete"] = errTest // a stack that ends in DELETE_FAILED
		err := w.deployment().Undeploy(t.Context())
		if err == nil || !strings.Contains(err.Error(), "MemberGroup: DependencyViolation") || w.named("bastion-registry") == nil {
			t.Errorf("%v", err)
		}
	})
}
