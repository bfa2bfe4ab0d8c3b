//go:build conformance

package system

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"
)

// The parts of template.yaml that this package repeats must be equal to it.
func TestTemplateMatches(t *testing.T) {
	template, err := os.ReadFile("../../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	inTemplate := func(pattern string) (all []string) {
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(template), -1) {
			all = append(all, match[1])
		}
		slices.Sort(all)
		return all
	}
	for what, pair := range map[string][2][]string{
		"routes":                 {inTemplate(`RouteKey: (.+)`), slices.Sorted(maps.Keys(routes))},
		"filter of the stream":   {inTemplate(`- Pattern: '(.+)'`), []string{`{"dynamodb":{"NewImage":{"by":{"S":["task"]}}}}`}},
		"input of the schedules": {inTemplate(`Input: '(.+)'`), []string{`{"action":"reap"}`, `{"action":"sweep"}`}},
	} {
		if !slices.Equal(pair[0], pair[1]) {
			t.Errorf("%s: template.yaml has %q, this test has %q", what, pair[0], pair[1])
		}
	}
}
