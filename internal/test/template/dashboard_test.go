//go:build conformance

package template

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/monitoring"
)

func TestDashboardIsOptional(t *testing.T) {
	if found := deploy(t).of("AWS::CloudWatch::Dashboard"); len(found) != 0 {
		t.Errorf("without the parameter, the stack has %v", found)
	}
	template, _ := open(t)
	if got := template.Parameters["Dashboard"]; !reflect.DeepEqual(got["AllowedValues"], []any{"true", "false"}) || got["Default"] != "false" {
		t.Errorf("the parameter is %v", got)
	}
	// A name is unique in the account, not in the region.
	if name := deploy(t, "Dashboard", "true").properties(t, "OperatorDashboard")["DashboardName"]; name != "way-in-eu-west-1" {
		t.Errorf("the dashboard is named %v", name)
	}
}

// widgets returns the widgets of the dashboard, as CloudFormation passes it to CloudWatch.
func widgets(t *testing.T, parameters ...string) []monitoring.Widget {
	t.Helper()
	body := deploy(t, append([]string{"Dashboard", "true"}, parameters...)...).properties(t, "OperatorDashboard")["DashboardBody"].(string)
	if !json.Valid([]byte(body)) || strings.Contains(body, "${") {
		t.Fatalf("%v: the body is not JSON, or has a variable:\n%s", parameters, body)
	}
	all, err := monitoring.Widgets(body)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What the dashboard draws of other namespaces is what AWS publishes: Lambda's metrics of a
// function, all its aliases included, have the dimension FunctionName. Source:
// https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
func TestDashboardShowsErrorsAndThrottlesOfEveryFunction(t *testing.T) {
	for _, parameters := range [][]string{nil, withSlack} {
		s := deploy(t, parameters...)
		var want []string
		for function := range s.of("AWS::Lambda::Function") {
			label := strings.ToLower(strings.TrimSuffix(function, "Function"))
			want = append(want,
				fmt.Sprintf("Lambda errors: %s: Sum of AWS/Lambda Errors FunctionName=%s", label, function),
				fmt.Sprintf("Lambda throttles: %s: Sum of AWS/Lambda Throttles FunctionName=%s", label, function))
		}
		var got []string
		for _, w := range widgets(t, parameters...) {
			for _, series := range w.Series {
				if series.Metric.Namespace == "AWS/Lambda" {
					got = append(got, fmt.Sprintf("%s: %s: %s of %s", w.Title, series.Label, series.Stat, series.Metric))
				} else if series.Expression == "" && (series.Metric.Namespace != "BastionOnDemand" || series.Metric.Dimensions["Stack"] != "way-in") {
					t.Errorf("%s draws %s", w.Title, series.Metric)
				}
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%v:\n got %s\nwant %s", parameters, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
		}
	}
}

// A free dashboard has at most fifty metrics (https://aws.amazon.com/cloudwatch/pricing/).
func TestDashboardCanBeFree(t *testing.T) {
	metrics := map[string]bool{}
	for _, w := range widgets(t, withSlack...) {
		for _, series := range w.Series {
			metrics[series.Metric.String()] = true
		}
	}
	if len(metrics) > 50 {
		t.Errorf("the dashboard has %d metrics", len(metrics))
	}
}

func TestDashboardShowsTheLimitOfTheAlarm(t *testing.T) {
	for _, period := range []string{"1", "2", "5"} {
		threshold := deploy(t, "ReaperPeriod", period).properties(t, "OverdueAlarm")["Threshold"]
		limits := map[string]any{}
		for _, w := range widgets(t, "ReaperPeriod", period) {
			for _, limit := range w.Limits {
				limits[w.Title+"/"+limit.Label] = limit.Value
			}
		}
		if want := map[string]any{"Overdue/OverdueAlarm": threshold}; !maps.Equal(limits, want) {
			t.Errorf("every %s minutes: the lines are %v, want %v", period, limits, want)
		}
	}
}

// The picture and the tests without SAM read template.yaml itself.
func TestTemplateIsReadAsCloudFormationReadsIt(t *testing.T) {
	template, err := monitoring.Read("../../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := template.Dashboard("way-in", "eu-west-1")
	if err != nil {
		t.Fatal(err)
	}
	if want := widgets(t); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Every stack has the queries. Failed starts are in the logs of all functions that
// converge.
func TestSavedQueries(t *testing.T) {
	s := deploy(t, withSlack...)
	var converging []string
	for role := range s.of("AWS::IAM::Role") {
		if policies, _ := s.properties(t, role)["ManagedPolicyArns"].([]any); slices.Contains(policies, any("ConvergePolicy")) {
			converging = append(converging, strings.TrimSuffix(role, "Role")+"LogGroup")
		}
	}
	slices.Sort(converging)
	got := map[string][]string{}
	for name := range s.of("AWS::Logs::QueryDefinition") {
		p := s.properties(t, name)
		groups := texts(p["LogGroupNames"])
		slices.Sort(groups)
		got[p["Name"].(string)] = groups
	}
	want := map[string][]string{
		"way-in/Who connected to what": {"TaskLogGroup"}, "way-in/Refused attempts": {"TaskLogGroup"}, "way-in/Receipts by owner": {"TaskLogGroup"},
		"way-in/Failed starts": converging,
	}
	if len(converging) != 5 || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
