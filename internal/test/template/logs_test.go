//go:build conformance

package template

import (
	"reflect"
	"strings"
	"testing"
)

// Every function writes JSON, which filters and metrics need, to its own group. Every
// group has the retention that the operator sets.
func TestLogs(t *testing.T) {
	s := deploy(t, append([]string{"LogRetentionDays", "30"}, withSlack...)...)
	for name, function := range s.of("AWS::Lambda::Function") {
		want := object{"LogFormat": "JSON", "LogGroup": strings.TrimSuffix(name, "Function") + "LogGroup"}
		if got := at(function, "Properties", "LoggingConfig"); !reflect.DeepEqual(got, want) {
			t.Errorf("%s logs to %v", name, got)
		}
	}
	groups := s.of("AWS::Logs::LogGroup")
	if len(groups) != 9 { // of the functions, the tasks and the requests
		t.Errorf("%d log groups", len(groups))
	}
	for name := range groups {
		if days := s.properties(t, name)["RetentionInDays"]; days != "30" {
			t.Errorf("%s keeps for %v days", name, days)
		}
	}
}
