package bastion

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// functions are all there are, in the order in which they are shown.
var functions = []struct {
	name string
	may  Step
}{
	{"create", CreateSteps}, {"describe", DescribeSteps}, {"extend", ExtendSteps}, {"destroy", DestroySteps},
	{"reaper", ReaperSteps}, {"observer", ObserverSteps}, {"slack", 0},
}

// actionTable is the table of functions and steps as SECURITY.md shows it.
func actionTable() string {
	head, rule := "| step |", "| --- |"
	for _, f := range functions {
		head, rule = head+" "+f.name+" |", rule+" --- |"
	}
	lines := []string{head, rule}
	for step := CreateGroup; step <= Notify; step <<= 1 {
		name, _, _ := strings.Cut(Action{Step: step}.String(), "(")
		line := "| " + name + " |"
		for _, f := range functions {
			if f.may&step != 0 {
				line += " yes |"
			} else {
				line += " |"
			}
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n") + "\n"
}

// What the document says that a function may do is what the domain says.
func TestTheDocumentSaysWhatFunctionsMay(t *testing.T) {
	text, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\n\n"+actionTable()+"\n") {
		t.Errorf("SECURITY.md must have this table, by itself:\n%s", actionTable())
	}
}

func TestTheTableHasEveryFunction(t *testing.T) {
	mains, err := filepath.Glob("../../functions/*/main.go")
	if err != nil {
		t.Fatal(err)
	}
	there, listed := map[string]bool{}, map[string]bool{}
	for _, main := range mains {
		there[filepath.Base(filepath.Dir(main))] = true
	}
	for _, f := range functions {
		listed[f.name] = true
	}
	if !maps.Equal(there, listed) {
		t.Errorf("there are the functions %q, and the table has %q", slices.Sorted(maps.Keys(there)), slices.Sorted(maps.Keys(listed)))
	}
}
