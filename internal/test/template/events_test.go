//go:build conformance

package template

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/config"
)

const deadLetters = "DeadLetters.Arn"

// Everything that depends on the reaper's period follows from the one parameter.
func TestReaperPeriod(t *testing.T) {
	for period, want := range map[string]struct {
		rate           string
		seconds, total float64
		runs           float64
		environment    string
	}{
		"1": {"rate(1 minute)", 60, 300, 2, "1m"}, "2": {"rate(2 minutes)", 120, 600, 3, "2m"}, "5": {"rate(5 minutes)", 300, 1500, 4, "5m"},
	} {
		s := deploy(t, "ReaperPeriod", period)
		schedule, overdue, missing := s.properties(t, "ReapSchedule"), s.properties(t, "OverdueAlarm"), s.properties(t, "ReaperMissingAlarm")
		got := []any{
			schedule["ScheduleExpression"],
			overdue["Period"], overdue["Threshold"], s.properties(t, "ConvergesFailAlarm")["Period"], s.properties(t, "ReaperFailsAlarm")["Period"], missing["Period"], missing["Threshold"],
			at(s.properties(t, "ReaperFunction"), "Environment", "Variables", "BASTION_REAPER_PERIOD"),
		}
		expected := []any{
			want.rate, want.seconds, want.total, want.seconds, want.seconds, want.total, want.runs, want.environment,
		}
		if !reflect.DeepEqual(got, expected) {
			t.Errorf("period %s:\n got %v\nwant %v", period, got, expected)
		}
		// Sweeps run in the same function. The alarm must go off if there are only sweeps,
		// and must not if the reaper runs.
		sweeps := math.Floor(want.total/600) + 1
		if runs := want.total / want.seconds; want.runs <= math.Ceil(want.total/600) || want.runs > sweeps+1 || want.runs >= runs {
			t.Errorf("period %s: fewer than %g runs, of %g and up to %g sweeps, are too few", period, want.runs, runs, sweeps)
		}
	}
	template, _ := open(t)
	for _, value := range template.Parameters["ReaperPeriod"]["AllowedValues"].([]any) {
		if template.Mappings["Reaper"][fmt.Sprint(value)] == nil {
			t.Errorf("there is no mapping for the period %v", value)
		}
	}
	if reaper, allowed := template.Mappings["Reaper"], template.Parameters["ReaperPeriod"]["AllowedValues"].([]any); len(reaper) != len(allowed) {
		t.Errorf("%d mappings for %d periods", len(reaper), len(allowed))
	}
}

func TestSchedules(t *testing.T) {
	s := deploy(t)
	for name, want := range map[string]struct {
		rate, action string
		age          float64
	}{
		"ReapSchedule": {"rate(1 minute)", "reap", 60}, "SweepSchedule": {"rate(10 minutes)", "sweep", 300},
	} {
		p := s.properties(t, name)
		var input struct{ Action string }
		if err := json.Unmarshal([]byte(at(p, "Target", "Input").(string)), &input); err != nil {
			t.Fatal(err)
		}
		if p["ScheduleExpression"] != want.rate || p["State"] != "ENABLED" || input.Action != want.action || at(p, "FlexibleTimeWindow", "Mode") != "OFF" {
			t.Errorf("%s: %v", name, p)
		}
		if at(p, "Target", "Arn") != "ReaperFunction.Arn" || at(p, "Target", "RoleArn") != "ScheduleRole.Arn" {
			t.Errorf("%s runs %v", name, p["Target"])
		}
		if at(p, "Target", "DeadLetterConfig", "Arn") != deadLetters || at(p, "Target", "RetryPolicy", "MaximumRetryAttempts") != 2.0 ||
			at(p, "Target", "RetryPolicy", "MaximumEventAgeInSeconds") != want.age {
			t.Errorf("%s: failed deliveries: %v", name, p["Target"])
		}
	}
	if n := len(s.of("AWS::Scheduler::Schedule")); n != 2 {
		t.Errorf("%d schedules", n)
	}
}

// The template sets the retries and the dead letter queue of asynchronous functions.
func TestAsynchronousFunctions(t *testing.T) {
	s := deploy(t)
	for name, want := range map[string]struct{ retries, age float64 }{
		"ReaperFunctionEventInvokeConfig": {0, 60}, "ObserverFunctionEventInvokeConfig": {2, 300},
	} {
		p := s.properties(t, name)
		if p["MaximumRetryAttempts"] != want.retries || p["MaximumEventAgeInSeconds"] != want.age || at(p, "DestinationConfig", "OnFailure", "Destination") != deadLetters {
			t.Errorf("%s: %v", name, p)
		}
	}
}

func TestLeaseStream(t *testing.T) {
	p := deploy(t).properties(t, "LeaseStream")
	for name, want := range map[string]any{
		"EventSourceArn": "LeasesTable.StreamArn", "FunctionName": "ObserverFunction.Arn", "StartingPosition": "TRIM_HORIZON",
		"BisectBatchOnFunctionError": true, "MaximumRetryAttempts": 3.0, "MaximumRecordAgeInSeconds": 300.0,
	} {
		if p[name] != want {
			t.Errorf("%s is %v, want %v", name, p[name], want)
		}
	}
	if at(p, "DestinationConfig", "OnFailure", "Destination") != deadLetters || join(p["FunctionResponseTypes"].([]any), ",") != "ReportBatchItemFailures" {
		t.Errorf("failed records: %v", p)
	}
	filters := at(p, "FilterCriteria", "Filters").([]any)
	if len(filters) != 1 || at(filters[0], "Pattern") != `{"dynamodb":{"NewImage":{"by":{"S":["task"]}}}}` {
		t.Errorf("the filters of the stream are %v", filters)
	}
}

func TestTaskRule(t *testing.T) {
	s := deploy(t)
	p := s.properties(t, "TaskRule")
	pattern, err := json.Marshal(p["EventPattern"])
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"detail":{"clusterArn":["arn:aws:ecs:eu-west-1:111122223333:cluster/cluster1"],"startedBy":[{"prefix":"bastion/"}]},"detail-type":["ECS Task State Change"],"source":["aws.ecs"]}`
	if string(pattern) != want {
		t.Errorf("the pattern of the rule is %s", pattern)
	}
	targets := p["Targets"].([]any)
	if len(targets) != 1 || at(targets[0], "Arn") != "ObserverFunction.Arn" || at(targets[0], "DeadLetterConfig", "Arn") != deadLetters ||
		at(targets[0], "RetryPolicy", "MaximumRetryAttempts") != 5.0 {
		t.Errorf("the targets are %v", targets)
	}
	queue := s.properties(t, "DeadLettersPolicy")
	statement := at(queue, "PolicyDocument", "Statement").([]any)[0]
	if at(statement, "Condition", "ArnEquals", "aws:SourceArn") != "TaskRule.Arn" {
		t.Errorf("the queue's policy is %v", statement)
	}
}

func TestFunctionTimeouts(t *testing.T) {
	longest := 0.0
	for name, function := range deploy(t).of("AWS::Lambda::Function") {
		timeout := at(function, "Properties", "Timeout").(float64)
		longest = max(longest, timeout)
		if _, asynchronous := map[string]bool{"ReaperFunction": true, "ObserverFunction": true}[name]; !asynchronous && timeout > 28 {
			t.Errorf("the time-out of %s is %g s, but API Gateway waits for 30 s", name, timeout)
		}
	}
	if got := time.Duration(longest) * time.Second; got != config.LongestFunction {
		t.Errorf("the longest time-out is %s, want %s as in package config", got, config.LongestFunction)
	}
}

// The functions that people's requests invoke can have a share of the account's
// concurrency, which the reaper and the observer cannot lose to them.
func TestRequestConcurrency(t *testing.T) {
	requests := map[string]bool{"CreateFunction": true, "DescribeFunction": true, "ExtendFunction": true, "DestroyFunction": true}
	for _, test := range []struct {
		parameters []string
		want       any
	}{{nil, nil}, {[]string{"RequestConcurrency", "0"}, nil}, {[]string{"RequestConcurrency", "25"}, "25"}} {
		for name, function := range deploy(t, slices.Concat(withSlack, test.parameters)...).of("AWS::Lambda::Function") {
			want := test.want
			if !requests[name] {
				want = nil
			}
			if got := at(function, "Properties", "ReservedConcurrentExecutions"); got != want {
				t.Errorf("%v: %s reserves %v, want %v", test.parameters, name, got, want)
			}
		}
	}
	template, _ := open(t)
	if p := template.Parameters["RequestConcurrency"]; p["Type"] != "Number" || p["MinValue"] != 0.0 || p["Default"] != 0.0 {
		t.Errorf("the parameter is %v", p)
	}
}

// The table has each alarm's metric, statistic, condition and periods. Ten alarms are
// free.
func TestAlarms(t *testing.T) {
	const topic = "arn:aws:sns:eu-west-1:111122223333:pager"
	want := map[string]string{
		"OverdueAlarm":       "BastionOnDemand OldestOverdue Stack=way-in: Maximum GreaterThanThreshold 300, 60 s, <nil> of 1, notBreaching",
		"ConvergesFailAlarm": "BastionOnDemand FailedConverges Stack=way-in: Sum GreaterThanThreshold 0, 60 s, 3 of 5, notBreaching",
		"StartsFailAlarm":    "BastionOnDemand Failures Stack=way-in: Sum GreaterThanThreshold 2, 900 s, <nil> of 1, notBreaching",
		"ReaperFailsAlarm":   "AWS/Lambda Errors FunctionName=ReaperFunction: Sum GreaterThanThreshold 0, 60 s, 3 of 5, notBreaching",
		"ReaperMissingAlarm": "AWS/Lambda Invocations FunctionName=ReaperFunction: Sum LessThanThreshold 2, 300 s, <nil> of 1, breaching",
		"DeadLettersAlarm":   "AWS/SQS ApproximateNumberOfMessagesVisible QueueName=DeadLetters.QueueName: Maximum GreaterThanThreshold 0, 300 s, <nil> of 1, notBreaching",
	}
	got := map[string]string{}
	for name, alarm := range deploy(t, "AlarmTopicArn", topic).of("AWS::CloudWatch::Alarm") {
		p := alarm["Properties"].(object)
		if !reflect.DeepEqual(p["AlarmActions"], []any{topic}) {
			t.Errorf("%s notifies %v", name, p["AlarmActions"])
		}
		got[name] = fmt.Sprintf("%v %v %s: %v %v %v, %v s, %v of %v, %v", p["Namespace"], p["MetricName"], dimensions(p),
			p["Statistic"], p["ComparisonOperator"], p["Threshold"], p["Period"], p["DatapointsToAlarm"], p["EvaluationPeriods"], p["TreatMissingData"])
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if actions := deploy(t).properties(t, "OverdueAlarm")["AlarmActions"]; actions != nil {
		t.Errorf("without a topic: %v", actions)
	}
}

func dimensions(alarm object) string {
	var all []string
	for _, one := range alarm["Dimensions"].([]any) {
		all = append(all, fmt.Sprint(at(one, "Name"), "=", at(one, "Value")))
	}
	return strings.Join(all, " ")
}
