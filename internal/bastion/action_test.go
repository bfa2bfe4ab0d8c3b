package bastion

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// functions are the Lambda functions, in the order of the table.
var functions = []struct {
	name    string
	allowed Step
}{
	{"create", CreateSteps}, {"describe", DescribeSteps}, {"extend", ExtendSteps}, {"destroy", DestroySteps},
	{"reaper", ReaperSteps}, {"observer", ObserverSteps}, {"slack", 0},
}

// stepTable returns the table of functions and steps in SECURITY.md.
func stepTable() string {
	head, rule := "| step |", "| --- |"
	for _, f := range functions {
		head, rule = head+" "+f.name+" |", rule+" --- |"
	}
	lines := []string{head, rule}
	for step := CreateGroup; step <= Notify; step <<= 1 {
		name, _, _ := strings.Cut(Action{Step: step}.String(), "(")
		line := "| " + name + " |"
		for _, f := range functions {
			if f.allowed&step != 0 {
				line += " yes |"
			} else {
				line += " |"
			}
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n") + "\n"
}

func TestSecurityDocumentHasTheStepTable(t *testing.T) {
	text, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\n\n"+stepTable()+"\n") {
		t.Errorf("SECURITY.md must have this table, with an empty line before and after it:\n%s", stepTable())
	}
}

func TestStepTableHasEveryFunction(t *testing.T) {
	mains, err := filepath.Glob("../../functions/*/main.go")
	if err != nil {
		t.Fatal(err)
	}
	exist, listed := map[string]bool{}, map[string]bool{}
	for _, main := range mains {
		exist[filepath.Base(filepath.Dir(main))] = true
	}
	for _, f := range functions {
		listed[f.name] = true
	}
	if !maps.Equal(exist, listed) {
		t.Errorf("the functions are %q, and the table has %q", slices.Sorted(maps.Keys(exist)), slices.Sorted(maps.Keys(listed)))
	}
}

// String returns the step and its most important parameter, as the tables of these
// tests have it.
func (a Action) String() string {
	switch a.Step {
	case CreateGroup:
		return "CreateGroup"
	case RevokeEgress:
		return fmt.Sprintf("RevokeEgress(%s)", a.Rule.ID)
	case AuthorizeIngress:
		return fmt.Sprintf("AuthorizeIngress(%s)", a.Source)
	case RevokeIngress:
		return fmt.Sprintf("RevokeIngress(%s)", a.Rule.ID)
	case RunTask:
		return fmt.Sprintf("RunTask(%d)", a.Attempt)
	case WriteLease:
		return fmt.Sprintf("WriteLease(%d)", a.Generation)
	case StopTask:
		return "StopTask"
	case EndLease:
		return "EndLease"
	case DeleteGroup:
		return "DeleteGroup"
	case Notify:
		return fmt.Sprintf("Notify(%s)", a.Notice)
	}
	return fmt.Sprintf("Step(%d)", a.Step)
}
