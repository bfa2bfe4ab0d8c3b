package deploy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

// deployedWorld returns a world with both stacks and bastions of two owners.
func deployedWorld() *world {
	w := newWorld()
	w.add("bastion-registry", types.StackStatusCreateComplete)
	w.add("bastion", types.StackStatusCreateComplete)
	for i := range versionsPage {
		w.versions = append(w.versions, version{key: "functions/1.zip", id: fmt.Sprint(i)})
	}
	w.versions = append(w.versions, version{key: "functions/1.zip", id: "m", marker: true})
	w.bastions = []api.Bastion{{ID: "aaaa", Owner: "iam:1:AIDA", State: bastion.Ready}, {ID: "bbbb", Owner: "iam:1:AROB", State: bastion.Starting}}
	return w
}

// changes are the calls of Undeploy that have effects.
var changes = []string{"UpdateStack", "Invoke destroy", "Delete"}

var wholeRemoval = []string{
	"UpdateStack", "Invoke destroy-1 DELETE /bastions/aaaa", "Invoke destroy-1 DELETE /bastions/bbbb", "DeleteStack bastion", "DeleteStack bastion-registry",
}

func TestUndeployRemovesEverythingNotRetained(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := deployedWorld()
		if err := w.deployment().Undeploy(t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, w.out.String())
		}
		if got := w.takeCalls(changes...); !slices.Equal(got, wholeRemoval) {
			t.Errorf("the calls are %q", got)
		}
		out := w.out.String()
		for _, want := range []string{"close all bastions: 1s, 2 left, for example aaaa of iam:1:AIDA, ready\n", "2 closed, none left", "kept: the table records-1\n", "kept: the table leases-1\n", "kept: the repository registry-abc", "kept: the bucket " + testBucket, "PURGE=1", "--log-group-name logs-1"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in\n%s", want, out)
			}
		}
		w.settings.Purge = true
		for _, want := range [][]string{{"DeleteTable records-1", "DeleteTable leases-1", "DeleteRepository registry-abc", "DeleteObjects", "DeleteObjects", "DeleteBucket " + testBucket}, nil} {
			if err := w.deployment().Undeploy(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := w.takeCalls(changes...); !slices.Equal(got, want) {
				t.Errorf("the calls of a purge are %q, want %q", got, want)
			}
		}
		w.settings.Purge = false
		if err := w.deployment().Undeploy(t.Context()); err != nil || !strings.Contains(w.out.String(), "no table, no repository and no bucket is kept") {
			t.Errorf("%v\n%s", err, w.out.String())
		}
	})
}

// A run after the last one has nothing to do, and says so.
func TestUndeployTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := deployedWorld()
		for _, want := range [][]string{wholeRemoval, nil} {
			if err := w.deployment().Undeploy(t.Context()); err != nil {
				t.Fatalf("%v\n%s", err, w.out.String())
			}
			if got := w.takeCalls(changes...); !slices.Equal(got, want) {
				t.Errorf("the calls are %q, want %q", got, want)
			}
		}
		out := w.out.String()
		for _, want := range []string{
			"the stack bastion does not exist: nothing to do\n", "] delete the stack bastion\nthe stack bastion does not exist\n",
			"] delete the stack bastion-registry\nthe stack bastion-registry does not exist\n", "kept: the table records-1\n", "kept: the bucket " + testBucket,
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in\n%s", want, out)
			}
		}
	})
}

func TestUndeployOfNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		if err := w.deployment().Undeploy(t.Context()); err != nil || len(w.takeCalls(changes...)) > 0 || !strings.Contains(w.out.String(), "the stack bastion does not exist: nothing to do") {
			t.Errorf("%v\n%s", err, w.out.String())
		}
	})
}

// Removal that is cancelled after draining is reverted by a deployment. The operator stays
// an admin until the next PARAMETERS with Admins.
func TestDeployRevertsDraining(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.settings.Parameters["Admins"] = "iam:111122223333:AIDAOTHEROTHER12"
		if err := w.deployment().Deploy(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.fail["DeleteStack"] = errTest
		if err := w.deployment().Undeploy(t.Context()); err == nil || w.named("bastion").params["Draining"] != "true" {
			t.Fatalf("%v; the parameters are %q", err, w.named("bastion").params)
		}
		clear(w.fail)
		delete(w.settings.Parameters, "Admins")
		if err := w.deployment().Deploy(t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, w.out.String())
		}
		if p := w.named("bastion").params; p["Draining"] != "false" || p["Admins"] != "iam:111122223333:AIDAOTHEROTHER12,iam:111122223333:AROAEXAMPLEEXAMPLE12" {
			t.Errorf("the parameters are %q", p)
		}
	})
}

// A deployment that starts while the bastions are closed reverts draining. The stack may then
// have new bastions, so it is not deleted.
func TestDeployDuringUndeployKeepsTheStack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := deployedWorld()
		w.on = map[string]func(){"DescribeSecurityGroups": func() { w.named("bastion").params["Draining"] = "false" }}
		err := w.deployment().Undeploy(t.Context())
		if err == nil || !strings.Contains(err.Error(), "the stack bastion accepts POST requests again") || len(w.takeCalls("DeleteStack")) > 0 {
			t.Errorf("%v\n%s", err, w.out.String())
		}
		if err := w.deployment().Undeploy(t.Context()); err != nil || len(w.takeCalls("DeleteStack")) != 2 {
			t.Errorf("%v\n%s", err, w.out.String())
		}
	})
}

func TestVersionsThatAreNotDeletedKeepTheBucket(t *testing.T) {
	w := deployedWorld()
	w.fail["delete versions"] = errTest
	err := w.deployment().deleteBucket(t.Context(), testBucket)
	if err == nil || !strings.Contains(err.Error(), "S3 did not delete 1 of 4 versions, for example functions/1.zip: AccessDenied: "+errTest.Error()) || !w.bucket {
		t.Error(err)
	}
}

func TestDrainingChangesTwoParameters(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := deployedWorld()
		w.fail["DeleteStack"] = errTest
		if err := w.deployment().Undeploy(t.Context()); err == nil || len(w.bastions) > 0 {
			t.Errorf("%v; there are %v", err, w.bastions)
		}
		got := w.named("bastion").params
		if got["Draining"] != "true" || got["Admins"] != "iam:111122223333:AIDAOTHEROTHER12,iam:111122223333:AROAEXAMPLEEXAMPLE12" || got["VpcId"] != testVPC || len(got) != 8 {
			t.Errorf("the parameters are %q", got)
		}
		w.takeCalls()
		clear(w.fail)
		if err := w.deployment().Undeploy(t.Context()); err != nil || len(w.takeCalls("UpdateStack")) > 0 {
			t.Errorf("the rerun: %v; calls %q", err, w.calls)
		}
	})
}

func TestUndeployCanBeRerunAfterAnyFailure(t *testing.T) {
	for _, broken := range append(wholeRemoval, "Invoke describe-1", "DescribeSecurityGroups", "DescribeNetworkInterfaces", "ListStacks", "DeleteTable", "DeleteRepository", "GetCallerIdentity",
		"HeadBucket", "ListObjectVersions", "DeleteObjects", "DeleteBucket") {
		bubble(t, func(t *testing.T) {
			w := deployedWorld()
			w.settings.Purge = true
			w.fail[broken] = errTest
			err := w.deployment().Undeploy(t.Context())
			if err == nil || !strings.Contains(err.Error(), errTest.Error()) || !strings.Contains(err.Error(), "rerun make undeploy") {
				t.Errorf("%s fails: %v", broken, err)
			}
			clear(w.fail)
			if err := w.deployment().Undeploy(t.Context()); err != nil {
				t.Errorf("%s failed once; the rerun: %v", broken, err)
			}
			if w.named("bastion") != nil || w.named("bastion-registry") != nil || len(w.tables) > 0 || w.repo || w.bucket || len(w.versions) > 0 || len(w.bastions) > 0 {
				t.Errorf("%s failed once; left: %v %v %v", broken, w.tables, w.repo, w.bastions)
			}
		})
	}
}

func TestReferencesToTheMemberGroupStopUndeploy(t *testing.T) {
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
				t.Errorf("%q is missing in %v", want, err)
			}
		}
		if err != nil && (strings.Contains(err.Error(), "sgr-2") || strings.Contains(err.Error(), "sgr-4")) || len(w.takeCalls("DeleteStack")) > 0 {
			t.Errorf("%v", err)
		}
	})
}

func TestUndeployClosesBastionsOfTokenCallers(t *testing.T) {
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

func TestStackThatIsNotServingIsOnlyDeleted(t *testing.T) {
	for _, status := range []types.StackStatus{types.StackStatusRollbackComplete, types.StackStatusDeleteFailed, types.StackStatusCreateFailed, types.StackStatusReviewInProgress} {
		bubble(t, func(t *testing.T) {
			w := deployedWorld()
			w.named("bastion").status = status
			if err := w.deployment().Undeploy(t.Context()); err != nil {
				t.Errorf("%s: %v", status, err)
			}
			if got := w.takeCalls(changes...); !slices.Equal(got, []string{"DeleteStack bastion", "DeleteStack bastion-registry"}) {
				t.Errorf("%s: the calls are %q", status, got)
			}
		})
	}
}

func TestFailedDeletionHasTheReason(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := deployedWorld()
		w.fail["delete"] = errTest // the status becomes DELETE_FAILED
		err := w.deployment().Undeploy(t.Context())
		if err == nil || !strings.Contains(err.Error(), "MemberGroup (AWS::EC2::SecurityGroup): DependencyViolation") || w.named("bastion-registry") == nil {
			t.Errorf("%v", err)
		}
	})
}

// The functions identify the events of undeploying as those of the admin that draining
// added.
func TestFunctionsAcceptUndeployAsAdmin(t *testing.T) {
	for _, issuer := range []string{"", "https://issuer.example"} {
		w := newWorld()
		w.add("bastion", types.StackStatusCreateComplete).params["JwtIssuer"] = issuer
		d := w.deployment()
		s, err := fetchStack(t.Context(), w, "bastion")
		if err != nil {
			t.Fatal(err)
		}
		me, err := d.identity(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		c := &functionClient{caller: me}
		sent, err := json.Marshal(c.event("GET", "/bastions"))
		if err != nil {
			t.Fatal(err)
		}
		var event events.APIGatewayV2HTTPRequest
		if err := json.Unmarshal(sent, &event); err != nil {
			t.Fatal(err)
		}
		admins := strings.Split(withAdmin("iam:111122223333:AIDAOTHEROTHER12", me.admin), ",")
		caller, err := httpapi.Owners{Admins: admins, JWTIssuer: issuer}.Caller(event.RequestContext)
		if err != nil || !caller.Admin || caller.Owner != me.admin {
			t.Errorf("issuer %q: %+v, %v; want the admin %s", issuer, caller, err, me.admin)
		}
		caller, err = httpapi.Owners{Admins: admins[:1], JWTIssuer: issuer}.Caller(event.RequestContext)
		if err != nil || caller.Admin {
			t.Errorf("issuer %q: without draining: %+v, %v", issuer, caller, err)
		}
	}
}

func TestProgressNamesStateAndStage(t *testing.T) {
	for _, test := range []struct {
		stage, want string
	}{
		{"", "2 left, for example a of iam:1:AIDA, closing"},
		{"delayed", "2 left, for example a of iam:1:AIDA, closing (delayed)"},
	} {
		left := []api.Bastion{{ID: "a", Owner: "iam:1:AIDA", State: bastion.Closing, Stage: test.stage}, {ID: "b"}}
		if got := waitingFor(left); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}
