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

// What this package says a second time is what template.yaml says.
func TestTemplateMatches(t *testing.T) {
	template, err := os.ReadFile("../../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	said := func(pattern string) (all []string) {
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(template), -1) {
			all = append(all, match[1])
		}
		slices.Sort(all)
		return all
	}
	names := func(environ []string, prefix string) (all []string) {
		for _, entry := range environ {
			if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, prefix) && name != "BASTIOND_ALLOW_LOOPBACK" {
				all = append(all, name)
			}
		}
		slices.Sort(all)
		return all
	}
	for what, pair := range map[string][2][]string{
		"routes":                 {said(`RouteKey: (.+)`), slices.Sorted(maps.Keys(routes))},
		"environment of tasks":   {said(`Name: (BASTIOND_\w+)`), names((&fargate{}).environment("1", netip.AddrPort{}), "BASTIOND_")},
		"environment of all":     {said(`(?m)^ {8}(BASTION_\w+):`), names(append(functionEnvironment(stackResources{}, 2222), "BASTION_SLACK="), "BASTION_")},
		"environment of two":     {said(`(?m)^ {10}(BASTION_\w+): !If \[UseSlack, !Ref SlackQueue, ''\]`), []string{"BASTION_SLACK", "BASTION_SLACK"}},
		"environment of Slack's": {said(`(?m)^ +(SLACK_\w+):`), names(slackEnvironment(&fakeSlack{}), "SLACK_")},
		"filter of the stream":   {said(`- Pattern: '(.+)'`), []string{`{"dynamodb":{"NewImage":{"by":{"S":["task"]}}}}`}},
		"what the schedules say": {said(`Input: '(.+)'`), []string{`{"action":"reap"}`, `{"action":"sweep"}`}},
	} {
		if !slices.Equal(pair[0], pair[1]) {
			t.Errorf("%s: the template says %q, this test %q", what, pair[0], pair[1])
		}
	}
}
