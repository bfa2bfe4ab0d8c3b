//go:build conformance

package system

import (
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
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
	inTest := func(environ []string, prefix string) (all []string) {
		for _, entry := range environ {
			if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, prefix) && name != "BASTIOND_ALLOW_LOOPBACK" {
				all = append(all, name)
			}
		}
		slices.Sort(all)
		return all
	}
	for what, pair := range map[string][2][]string{
		"routes":                 {inTemplate(`RouteKey: (.+)`), slices.Sorted(maps.Keys(routes))},
		"environment of tasks":   {inTemplate(`Name: (BASTIOND_\w+)`), inTest((&fargate{}).environment("1", netip.AddrPort{}), "BASTIOND_")},
		"environment of all":     {inTemplate(`(?m)^ {8}(BASTION_\w+):`), inTest(append(functionEnvironment(stackResources{}, 2222), "BASTION_SLACK="), "BASTION_")},
		"environment of two":     {inTemplate(`(?m)^ {10}(BASTION_\w+): !If \[UseSlack, !Ref SlackQueue, ''\]`), []string{"BASTION_SLACK", "BASTION_SLACK"}},
		"environment of Slack's": {inTemplate(`(?m)^ +(SLACK_\w+):`), inTest(slackEnvironment(&fakeSlack{}), "SLACK_")},
		"filter of the stream":   {inTemplate(`- Pattern: '(.+)'`), []string{`{"dynamodb":{"NewImage":{"by":{"S":["task"]}}}}`}},
		"input of the schedules": {inTemplate(`Input: '(.+)'`), []string{`{"action":"reap"}`, `{"action":"sweep"}`}},
	} {
		if !slices.Equal(pair[0], pair[1]) {
			t.Errorf("%s: template.yaml has %q, this test has %q", what, pair[0], pair[1])
		}
	}
}
