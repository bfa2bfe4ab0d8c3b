//go:build conformance

package template

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/config"
)

const deadLetters = "DeadLetters.Arn"

func TestSchedules(t *testing.T) {
	s := deploy(t)
	for name, want := range map[string]struct{ rate, do string }{
		"ReapSchedule": {"rate(1 minute)", "reap"}, "SweepSchedule": {"rate(10 minutes)", "sweep"},
	} {
		p := s.properties(t, name)
		var input struct{ Do string }
		if err := json.Unmarshal([]byte(at(p, "Target", "Input").(string)), &input); err != nil {
			t.Fatal(err)
		}
		if p["ScheduleExpression"] != want.rate || p["State"] != "ENABLED" || input.Do != want.do || at(p, "FlexibleTimeWindow", "Mode") != "OFF" {
			t.Errorf("%s: %v", name, p)
		}
		if at(p, "Target", "Arn") != "ReaperFunction.Arn" || at(p, "Target", "RoleArn") != "ScheduleRole.Arn" {
			t.Errorf("%s runs %v", name, p["Target"])
		}
		if at(p, "Target", "DeadLetterConfig", "Arn") != deadLetters || at(p, "Target", "RetryPolicy", "MaximumRetryAttempts") != 2.0 {
			t.Errorf("%s: what is not delivered: %v", name, p["Target"])
		}
	}
	if n := len(s.of("AWS::Scheduler::Schedule")); n != 2 {
		t.Errorf("%d schedules", n)
	}
}

// What the platform sends again, and where what it gives up on goes, is said for
// both functions that nobody waits for.
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

func TestTheLeaseStream(t *testing.T) {
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
		t.Errorf("what fails: %v", p)
	}
	filters := at(p, "FilterCriteria", "Filters").([]any)
	if len(filters) != 1 || at(filters[0], "Pattern") != `{"dynamodb":{"NewImage":{"by":{"S":["task"]}}}}` {
		t.Errorf("the stream wakes the observer for %v", filters)
	}
}

func TestTheRuleOfTaskEvents(t *testing.T) {
	s := deploy(t)
	p := s.properties(t, "TaskRule")
	pattern, err := json.Marshal(p["EventPattern"])
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"detail":{"clusterArn":["arn:aws:ecs:eu-west-1:111122223333:cluster/cluster1"],"startedBy":[{"prefix":"bastion/"}]},"detail-type":["ECS Task State Change"],"source":["aws.ecs"]}`
	if string(pattern) != want {
		t.Errorf("the rule takes %s", pattern)
	}
	targets := p["Targets"].([]any)
	if len(targets) != 1 || at(targets[0], "Arn") != "ObserverFunction.Arn" || at(targets[0], "DeadLetterConfig", "Arn") != deadLetters ||
		at(targets[0], "RetryPolicy", "MaximumRetryAttempts") != 5.0 {
		t.Errorf("the targets are %v", targets)
	}
	queue := s.properties(t, "DeadLettersPolicy")
	statement := at(queue, "PolicyDocument", "Statement").([]any)[0]
	if at(statement, "Condition", "ArnEquals", "aws:SourceArn") != "TaskRule.Arn" {
		t.Errorf("whoever sends to the queue: %v", statement)
	}
}

func TestFunctionsEndInTime(t *testing.T) {
	longest := 0.0
	for name, function := range deploy(t).of("AWS::Lambda::Function") {
		timeout := at(function, "Properties", "Timeout").(float64)
		longest = max(longest, timeout)
		if _, asynchronous := map[string]bool{"ReaperFunction": true, "ObserverFunction": true}[name]; !asynchronous && timeout > 28 {
			t.Errorf("%s may run for %g s, and API Gateway waits for 30", name, timeout)
		}
	}
	if got := time.Duration(longest) * time.Second; got != config.LongestFunction {
		t.Errorf("the longest time-out is %s, and records settle as if it were %s", got, config.LongestFunction)
	}
}

func TestAlarms(t *testing.T) {
	alarms := deploy(t, "AlarmTopicArn", "arn:aws:sns:eu-west-1:111122223333:pager").of("AWS::CloudWatch::Alarm")
	if len(alarms) != 5 { // ten are free
		t.Errorf("%d alarms", len(alarms))
	}
	for name, alarm := range alarms {
		p := alarm["Properties"].(object)
		if join(p["AlarmActions"].([]any), "") != "arn:aws:sns:eu-west-1:111122223333:pager" || p["TreatMissingData"] == nil {
			t.Errorf("%s: %v", name, p)
		}
	}
	if actions := deploy(t).properties(t, "OverdueAlarm")["AlarmActions"]; actions != nil {
		t.Errorf("without a topic: %v", actions)
	}
}
