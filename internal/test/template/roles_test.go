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

// statement is a statement of a policy, with lists of actions and resources.
type statement struct {
	role      string
	sid       string
	actions   []string
	resources []string
	condition object
}

// statements returns all statements of a role, its own and those of shared policies.
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
	if n := len(s.of("AWS::IAM::Role")); n != 10 { // with the task's two and that of the schedules
		t.Errorf("%d roles", n)
	}
}

// Some accounts refuse to create a role without the permissions boundary. The test reads
// every role of the transformed template, also those under a condition and those that the
// SAM transform adds.
func TestEveryRoleHasThePermissionsBoundary(t *testing.T) {
	want := object{"Fn::If": []any{"UseBoundary", object{"Ref": "PermissionsBoundary"}, object{"Ref": "AWS::NoValue"}}}
	template, _ := open(t)
	count := 0
	for name, resource := range template.Resources {
		if resource["Type"] != "AWS::IAM::Role" {
			continue
		}
		count++
		if got := at(resource, "Properties", "PermissionsBoundary"); !reflect.DeepEqual(got, want) {
			t.Errorf("%s has the boundary %v", name, got)
		}
	}
	if count != 10 {
		t.Errorf("%d roles", count)
	}
	for _, boundary := range []string{"", "arn:aws:iam::111122223333:policy/Boundary", "arn:aws-cn:iam::aws:policy/job-function/Boundary@1"} {
		for name, role := range deploy(t, slices.Concat(withSlack, []string{"PermissionsBoundary", boundary})...).of("AWS::IAM::Role") {
			if got, _ := at(role, "Properties", "PermissionsBoundary").(string); got != boundary {
				t.Errorf("%s has the boundary %q, want %q", name, got, boundary)
			}
		}
	}
}

// functions has the steps of the domain that each function may take.
var functions = map[string]bastion.Step{
	"CreateRole": bastion.CreateSteps, "DescribeRole": bastion.DescribeSteps, "ExtendRole": bastion.ExtendSteps,
	"DestroyRole": bastion.DestroySteps, "ReaperRole": bastion.ReaperSteps, "ObserverRole": bastion.ObserverSteps,
	"SlackRole": bastion.Notify, // it takes no step, but invokes the same alias for its own jobs
}

// needs has the permissions for each step of the domain, without reads: the call itself,
// and what AWS requires with it (see the tables of package privilege).
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

// A role allows exactly the steps that the domain's table of actions gives its function.
func TestRolesAllowTheStepsOfTheirFunctions(t *testing.T) {
	s := deploy(t, withSlack...)
	if all := s.of("AWS::Lambda::Function"); len(all) != len(functions) {
		t.Errorf("the template has %d functions, and the table %d", len(all), len(functions))
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

// wildcard matches a resource * in template.yaml, and the reason beside it.
var wildcard = regexp.MustCompile(`(?m)Resource:.*(?:'\*'|"\*"|\s\*\s)(.*)$`)

// The resource * is allowed only where AWS accepts nothing narrower. The reason is beside
// it in template.yaml, and in the tables of package privilege.
func TestWildcardResourcesHaveAReason(t *testing.T) {
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
					t.Errorf("%s allows %s on *", role, action)
				}
			}
		}
	}
	for action := range broad {
		if !used[action] {
			t.Errorf("no role allows %s: remove it from the tables", action)
		}
	}
	source, err := os.ReadFile("../../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	lines := wildcard.FindAllStringSubmatch(string(source), -1)
	if len(lines) != len(statementsFound) {
		t.Errorf("template.yaml has %d resources *, and the policies have %d", len(lines), len(statementsFound))
	}
	for _, line := range lines {
		if _, reason, _ := strings.Cut(line[1], "# "); len(strings.Fields(reason)) < 3 {
			t.Errorf("there is no reason beside %q", line[0])
		}
	}
}

// Resources that are not in the template have the stack's tag. Permissions to create them
// demand it in the request, and permissions to change them demand it on the resource.
func TestRuntimeResourcesAreTagged(t *testing.T) {
	id := attributes["AWS::StackId"]
	creating, changing := "aws:RequestTag/"+awscloud.TagStack, "aws:ResourceTag/"+awscloud.TagStack
	keys := map[string]string{
		"ec2:CreateSecurityGroup": creating, "ec2:CreateTags": creating, "ecs:RunTask": creating, "ecs:TagResource": creating,
		"ec2:AuthorizeSecurityGroupIngress": changing, "ec2:RevokeSecurityGroupIngress": changing,
		"ec2:RevokeSecurityGroupEgress": changing, "ec2:DeleteSecurityGroup": changing, "ecs:StopTask": changing,
	}
	s := deploy(t, withSlack...)
	checked := 0
	for role := range functions {
		for _, st := range statements(t, s, role) {
			for _, action := range st.actions {
				key, ok := keys[action]
				// The VPC belongs to the operator, and a new rule has no tag: the condition on
				// the group applies.
				if !ok || st.sid == "CreateGroupInVpc" || st.sid == "AdmitSourceByRule" {
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

func TestRunTaskIsLimitedToTheStack(t *testing.T) {
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

// A task may access its own item, and write its own attributes. ${aws:userid} is a
// variable of IAM, which CloudFormation must not replace.
func TestTaskRole(t *testing.T) {
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

func TestExecutionRolePullsOneRepository(t *testing.T) {
	for _, st := range statements(t, deploy(t), "ExecutionRole") {
		if st.sid == "PullImage" && !slices.Equal(st.resources, []string{"arn:aws:ecr:eu-west-1:111122223333:repository/registry-1"}) {
			t.Errorf("the repositories are %v", st.resources)
		}
	}
}
