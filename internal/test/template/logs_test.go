//go:build conformance

package template

import (
	"encoding/json"
	"maps"
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

// The log of requests says who sent a request, with IAM or with a token, and why API
// Gateway refused it. Its group has the prefix that needs no room in the account's
// resource policy for CloudWatch Logs.
func TestAccessLog(t *testing.T) {
	s := deploy(t)
	settings := s.properties(t, "Stage")["AccessLogSettings"]
	want := map[string]string{
		"request_id": "$context.requestId", "source": "$context.identity.sourceIp",
		"caller": "$context.identity.caller", "user_arn": "$context.identity.userArn", "subject": "$context.authorizer.claims.sub",
		"route": "$context.routeKey", "status": "$context.status", "latency": "$context.responseLatency",
		"error": "$context.error.message", "authorizer_error": "$context.authorizer.error", "integration_error": "$context.integrationErrorMessage",
	}
	var got map[string]string
	if err := json.Unmarshal([]byte(at(settings, "Format").(string)), &got); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if destination := at(settings, "DestinationArn"); destination != "AccessLogGroup.Arn" {
		t.Errorf("the log is written to %v", destination)
	}
	if name := s.properties(t, "AccessLogGroup")["LogGroupName"]; name != "/aws/vendedlogs/apigateway/way-in-5f1c" {
		t.Errorf("the group is %v", name)
	}
}
