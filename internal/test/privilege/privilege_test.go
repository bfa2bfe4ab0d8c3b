package privilege

import (
	"slices"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

func TestExpandNeedsARowForEveryCall(t *testing.T) {
	got, err := Expand([]Call{
		{"ecs:RunTask tagged", ""}, {"ecs:RunTask tagged", ""},
		{"dynamodb:TransactWriteItems Delete", "RecordsTable"}, {"dynamodb:Query", "RecordsTable/index/due"},
	})
	want := []Permission{
		{"dynamodb:DeleteItem", "RecordsTable", ""}, {"dynamodb:Query", "RecordsTable/index/due", ""},
		{"ecs:RunTask", "task-definition/${AWS::StackName}:*", inCluster + " and " + taggedOurs},
		{"ecs:TagResource", "task/${Cluster}/*", taggedOurs + " and StringEquals ecs:CreateAction RunTask"},
		{"iam:PassRole", "ExecutionRole", "StringEquals iam:PassedToService ecs-tasks.amazonaws.com"},
		{"iam:PassRole", "TaskRole", "StringEquals iam:PassedToService ecs-tasks.amazonaws.com"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("expanded to %v, %v; want %v", got, err, want)
	}
	for _, unknown := range []string{"ecs:DeleteCluster", "ecs:RunTask", "ec2:CreateSecurityGroup"} { // the last two without the stack's tag
		if _, err := Expand([]Call{{unknown, ""}}); err == nil {
			t.Errorf("%s was expanded", unknown)
		}
	}
}

func TestCompareFindsEveryDifference(t *testing.T) {
	needed, err := Expand([]Call{{"ec2:CreateSecurityGroup tagged", ""}, {"dynamodb:GetItem", "LeasesTable"}})
	if err != nil {
		t.Fatal(err)
	}
	if few, many := Compare(needed, needed); len(few)+len(many) > 0 {
		t.Errorf("equal sets: %v too few, %v too many", few, many)
	}
	for i, p := range needed {
		narrow := slices.Delete(slices.Clone(needed), i, i+1)
		if few, many := Compare(narrow, needed); !slices.Equal(few, []Permission{p}) || len(many) > 0 {
			t.Errorf("without %v: %v too few, %v too many", p, few, many)
		}
		bare := slices.Clone(needed)
		bare[i].If = "Bool aws:SecureTransport true"
		if few, many := Compare(bare, needed); !slices.Equal(few, []Permission{p}) || !slices.Equal(many, bare[i:i+1]) {
			t.Errorf("with another condition on %v: %v too few, %v too many", p, few, many)
		}
	}
	extra := Permission{"dynamodb:Scan", "LeasesTable", ""}
	if few, many := Compare(append(slices.Clone(needed), extra), needed); len(few) > 0 || !slices.Equal(many, []Permission{extra}) {
		t.Errorf("with %v: %v too few, %v too many", extra, few, many)
	}
}

func TestRowsHaveSourceAndReason(t *testing.T) {
	check := func(what string, needs []Permission, sources []string, why string) {
		everything := slices.ContainsFunc(needs, func(p Permission) bool { return p.On == "*" })
		if len(needs) == 0 || len(sources) == 0 || everything != (why != "") {
			t.Errorf("%s needs %v by %q, with the reason %q", what, needs, sources, why)
		}
		for _, source := range sources {
			if !strings.HasPrefix(source, "https://docs.aws.amazon.com/") {
				t.Errorf("%s has the source %q", what, source)
			}
		}
	}
	seen := map[string]bool{}
	for _, r := range table {
		check(r.API, r.Needs, r.Sources, r.Why)
		if seen[r.API] {
			t.Errorf("%s has two rows", r.API)
		}
		seen[r.API] = true
	}
	for _, u := range platform {
		check(u.Role, u.Needs, u.Sources, u.Why)
		if u.By == "" {
			t.Errorf("%s: the user of %v is missing", u.Role, u.Needs)
		}
	}
}

func TestPlatformPermissionsOfARole(t *testing.T) {
	want := []Permission{
		{"logs:CreateLogStream", "ReaperLogGroup", ""}, {"logs:PutLogEvents", "ReaperLogGroup", ""}, {"sqs:SendMessage", "DeadLetters", ""},
	}
	if got := Platform("ReaperRole"); !slices.Equal(got, want) {
		t.Errorf("the platform needs %v from the reaper's role", got)
	}
	if got := Platform("TaskRole"); len(got) > 0 {
		t.Errorf("the platform needs %v from the task's role", got)
	}
}
