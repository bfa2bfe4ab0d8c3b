package privilege

import (
	"slices"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

func TestExpand(t *testing.T) {
	got, err := Expand([]Call{
		{"ecs:RunTask", ""}, {"ecs:RunTask", ""},
		{"dynamodb:TransactWriteItems/ConditionCheck", "records"}, {"dynamodb:Query", "records/index/due"},
	})
	want := []Permission{
		{"dynamodb:ConditionCheckItem", "records"}, {"dynamodb:Query", "records/index/due"},
		{"ecs:RunTask", "task-definition"}, {"ecs:TagResource", "task"},
		{"iam:PassRole", "execution role"}, {"iam:PassRole", "task role"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("expanded to %v, %v; want %v", got, err, want)
	}
	if _, err := Expand([]Call{{"ecs:DeleteCluster", ""}}); err == nil {
		t.Error("a call without a row was expanded")
	}
}

func TestCompareFindsOneTooFewAndOneTooMany(t *testing.T) {
	needed, err := Expand([]Call{{"ec2:CreateSecurityGroup", ""}, {"dynamodb:GetItem", "leases"}})
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
	}
	extra := Permission{"dynamodb:Scan", "leases"}
	if few, many := Compare(append(slices.Clone(needed), extra), needed); len(few) > 0 || !slices.Equal(many, []Permission{extra}) {
		t.Errorf("with %v: %v too few, %v too many", extra, few, many)
	}
}

func TestRowsNameSourceAndReason(t *testing.T) {
	for api, r := range table {
		if r.Source == "" || len(r.Needs) == 0 {
			t.Errorf("%s has no source, or needs nothing", api)
		}
		for _, p := range r.Needs {
			if (p.On == "*") != (r.Why != "") {
				t.Errorf("%s: %s on %q with the reason %q", api, p.Action, p.On, r.Why)
			}
		}
	}
}
