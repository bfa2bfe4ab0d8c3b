//go:build conformance

package template

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/privilege"
)

// statement is one of a policy, with its one or several actions and resources as
// lists.
type statement struct {
	role      string
	sid       string
	actions   []string
	resources []string
	condition object
}

// statements are all that a role is allowed, its own and those it shares.
func statements(t *testing.T, s stack, role string) []statement {
	t.Helper()
	p := s.properties(t, role)
	var documents []any
	policies, _ := p["Policies"].([]any)
	for _, policy := range policies {
		documents = append(documents, at(policy, "PolicyDocument"))
	}
	managed, _ := p["ManagedPolicyArns"].([]any)
	for _, name := range managed {
		documents = append(documents, s.properties(t, name.(string))["PolicyDocument"])
	}
	for _, policy := range s.of("AWS::IAM::RolePolicy") {
		if at(policy, "Properties", "RoleName") == role {
			documents = append(documents, at(policy, "Properties", "PolicyDocument"))
		}
	}
	var all []statement
	for _, document := range documents {
		for _, one := range at(document, "Statement").([]any) {
			if at(one, "Effect") != "Allow" || at(one, "NotAction") != nil || at(one, "NotResource") != nil {
				t.Errorf("%s: %v", role, one)
			}
			condition, _ := at(one, "Condition").(object)
			all = append(all, statement{role, fmt.Sprint(at(one, "Sid")), texts(at(one, "Action")), texts(at(one, "Resource")), condition})
		}
	}
	return all
}

func texts(v any) []string {
	if one, ok := v.(string); ok {
		return []string{one}
	}
	var all []string
	for _, one := range v.([]any) {
		all = append(all, one.(string))
	}
	return all
}

func TestEachFunctionHasItsOwnRole(t *testing.T) {
	s := deploy(t, withSlack...)
	roles := map[string]string{}
	for name, function := range s.of("AWS::Lambda::Function") {
		role := at(function, "Properties", "Role").(string)
		if want := strings.TrimSuffix(name, "Function") + "Role.Arn"; role != want {
			t.Errorf("%s has the role %s", name, role)
		}
		roles[role] = name
	}
	if len(roles) != 7 {
		t.Errorf("%d roles of functions", len(roles))
	}
	if n := len(s.of("AWS::IAM::Role")); n != 10 { // and the task's two, and the schedules'
		t.Errorf("%d roles", n)
	}
}

// functions are what each may do in the domain.
var functions = map[string]bastion.Step{
	"CreateRole": bastion.CreateSteps, "DescribeRole": bastion.DescribeSteps, "ExtendRole": bastion.ExtendSteps,
	"DestroyRole": bastion.DestroySteps, "ReaperRole": bastion.ReaperSteps, "ObserverRole": bastion.ObserverSteps,
	"SlackRole": bastion.Notify, // no step of it: it hands itself its jobs by the same door
}

// needs is what each step of the domain takes of IAM, beside reading: the call
// itself and what AWS asks for with it (see the comments in template.yaml).
var needs = map[bastion.Step][]string{
	bastion.CreateGroup:      {"ec2:CreateSecurityGroup", "ec2:CreateTags"},
	bastion.RevokeEgress:     {"ec2:RevokeSecurityGroupEgress"},
	bastion.AuthorizeIngress: {"ec2:AuthorizeSecurityGroupIngress"},
	bastion.RevokeIngress:    {"ec2:RevokeSecurityGroupIngress"},
	bastion.RunTask:          {"ecs:RunTask", "ecs:TagResource", "iam:PassRole"},
	bastion.WriteLease:       {"dynamodb:UpdateItem LeasesTable.Arn"},
	bastion.StopTask:         {"ecs:StopTask"},
	bastion.EndLease:         {"dynamodb:PutItem LeasesTable.Arn"},
	bastion.DeleteGroup:      {"ec2:DeleteSecurityGroup"},
	bastion.Notify:           {"lambda:InvokeFunction " + alias("Slack", "queue")},
}

// A role allows the steps that the domain's table of actions gives its function,
// and no other.
func TestRolesFollowFromTheTableOfActions(t *testing.T) {
	s := deploy(t, withSlack...)
	if all := s.of("AWS::Lambda::Function"); len(all) != len(functions) {
		t.Errorf("the template has %d functions, and %d are said to do something", len(all), len(functions))
	}
	for role, may := range functions {
		allowed := map[string]bool{}
		for _, st := range statements(t, s, role) {
			for _, action := range st.actions {
				allowed[action] = true
				for _, resource := range st.resources {
					allowed[action+" "+resource] = true
				}
			}
		}
		for step, actions := range needs {
			for _, action := range actions {
				if want := may&step != 0; allowed[action] != want {
					t.Errorf("%s: %s is allowed: %t; %v is a step of the function: %t", role, action, allowed[action], bastion.Action{Step: step}, want)
				}
			}
		}
	}
}

// onEverything is how template.yaml writes a resource that is everything, and the
// reason beside it.
var onEverything = regexp.MustCompile(`(?m)Resource:.*(?:'\*'|"\*"|\s\*\s)(.*)$`)

// Nothing is allowed on everything but what AWS takes nothing narrower for. Why is
// beside it in template.yaml, and in the tables of package privilege.
func TestOnEverythingOnlyWithAReason(t *testing.T) {
	broad := privilege.Broad()
	s := deploy(t, withSlack...)
	used, statementsFound := map[string]bool{}, map[string]bool{}
	for role := range s.of("AWS::IAM::Role") {
		for _, st := range statements(t, s, role) {
			for _, action := range st.actions {
				if strings.Contains(action, "*") {
					t.Errorf("%s allows %s", role, action)
				}
				if !slices.Contains(st.resources, "*") {
					continue
				}
				used[action], statementsFound[st.sid] = true, true
				if broad[action] == "" {
					t.Errorf("%s allows %s on everything", role, action)
				}
			}
		}
	}
	for action := range broad {
		if !used[action] {
			t.Errorf("%s is allowed to nobody: strike it from the tables", action)
		}
	}
	source, err := os.ReadFile("../../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	lines := onEverything.FindAllStringSubmatch(string(source), -1)
	if len(lines) != len(statementsFound) {
		t.Errorf("template.yaml says %d times that a resource is everything, and %d statements mean it", len(lines), len(statementsFound))
	}
	for _, line := range lines {
		if _, reason, _ := strings.Cut(line[1], "# "); len(strings.Fields(reason)) < 3 {
			t.Errorf("no reason is beside %q", line[0])
		}
	}
}

// What is not in the template is recognised by the stack's tag: when it is made,
// and when it is changed.
func TestWhatIsMadeAtRunTimeIsTagged(t *testing.T) {
	id := attributes["AWS::StackId"]
	making, changing := "aws:RequestTag/"+awscloud.TagStack, "aws:ResourceTag/"+awscloud.TagStack
	keys := map[string]string{
		"ec2:CreateSecurityGroup": making, "ec2:CreateTags": making, "ecs:RunTask": making, "ecs:TagResource": making,
		"ec2:AuthorizeSecurityGroupIngress": changing, "ec2:RevokeSecurityGroupIngress": changing,
		"ec2:RevokeSecurityGroupEgress": changing, "ec2:DeleteSecurityGroup": changing, "ecs:StopTask": changing,
	}
	s := deploy(t, withSlack...)
	checked := 0
	for role := range functions {
		for _, st := range statements(t, s, role) {
			for _, action := range st.actions {
				key, ok := keys[action]
				// The VPC is the operator's, and rules have no tags when they are made:
				// the group beside them is checked.
				if !ok || st.sid == "MakeGroupInVpc" || st.sid == "AdmitSourceByRule" {
					continue
				}
				checked++
				if at(st.condition, "StringEquals", key) != id {
					t.Errorf("%s, %s: %s is allowed without %s", role, st.sid, action, key)
				}
			}
		}
	}
	if checked < len(keys) {
		t.Errorf("only %d statements were checked", checked)
	}
}

func TestRunTaskIsBounded(t *testing.T) {
	cluster := attributes["Cluster.Arn"]
	for _, st := range statements(t, deploy(t), "CreateRole") {
		switch st.sid {
		case "RunTask":
			if at(st.condition, "ArnEquals", "ecs:cluster") != cluster || !slices.Equal(st.resources, []string{"arn:aws:ecs:eu-west-1:111122223333:task-definition/way-in:*"}) {
				t.Errorf("RunTask: %+v", st)
			}
		case "PassTaskRoles":
			if at(st.condition, "StringEquals", "iam:PassedToService") != "ecs-tasks.amazonaws.com" || !slices.Equal(st.resources, []string{"TaskRole.Arn", "ExecutionRole.Arn"}) {
				t.Errorf("PassRole: %+v", st)
			}
		case "TagTask":
			if at(st.condition, "StringEquals", "ecs:CreateAction") != "RunTask" {
				t.Errorf("TagResource: %+v", st)
			}
		}
	}
}

// A task reaches its own item and writes its own attributes. The variable is
// IAM's: CloudFormation must leave it as it is.
func TestTheTasksRole(t *testing.T) {
	var attributes []any
	for _, name := range awscloud.TaskAttributes {
		attributes = append(attributes, name)
	}
	own := []any{"${aws:userid}"}
	want := []statement{
		{"TaskRole", "ReadOwnLease", []string{"dynamodb:GetItem"}, []string{"LeasesTable.Arn"},
			object{"ForAllValues:StringEquals": object{"dynamodb:LeadingKeys": own}}},
		{"TaskRole", "WriteOwnReport", []string{"dynamodb:UpdateItem"}, []string{"LeasesTable.Arn"},
			object{"ForAllValues:StringEquals": object{"dynamodb:LeadingKeys": own, "dynamodb:Attributes": attributes}}},
	}
	if got := statements(t, deploy(t), "TaskRole"); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestPullingTheImage(t *testing.T) {
	for _, st := range statements(t, deploy(t), "ExecutionRole") {
		if st.sid == "PullImage" && !slices.Equal(st.resources, []string{"arn:aws:ecr:eu-west-1:111122223333:repository/registry-1"}) {
			t.Errorf("an image is pulled from %v", st.resources)
		}
	}
}
