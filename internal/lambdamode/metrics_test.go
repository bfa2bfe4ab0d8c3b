package lambdamode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/monitoring"
)

// The format and its required members are those of AWS's specification.
func TestEmbeddedMetricFormat(t *testing.T) {
	var out bytes.Buffer
	m := &metrics{out: &out, stack: "way-in", now: func() time.Time { return noon }}
	m.seconds("SecondsToReady", 1500*time.Millisecond)
	if strings.Count(out.String(), "\n") != 1 || !strings.HasSuffix(out.String(), "\n") {
		t.Errorf("not one line: %q", out.String())
	}
	var got any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"_aws": map[string]any{
			"Timestamp": float64(noon.UnixMilli()),
			"CloudWatchMetrics": []any{map[string]any{
				"Namespace":  "BastionOnDemand",
				"Dimensions": []any{[]any{"Stack"}},
				"Metrics":    []any{map[string]any{"Name": "SecondsToReady", "Unit": "Seconds"}},
			}},
		},
		"Stack":          "way-in",
		"SecondsToReady": 1.5,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// replacing is a store that accepts every write, or none.
type replacing struct {
	bastion.Records
	err error
}

func (r replacing) Replace(context.Context, bastion.Record, bastion.Record) error { return r.err }

func TestWritesAreCounted(t *testing.T) {
	at := func(d time.Duration) time.Time { return noon.Add(d) }
	stored := bastion.Attempt{Number: 1, CreatedAt: at(2 * time.Second)}
	ready, ended, onPurpose := stored, stored, stored
	ready.ReadyAt = at(40 * time.Second)
	ended.EndedAt, ended.Failure = at(time.Minute), bastion.CapacityFailure
	onPurpose.EndedAt = at(time.Minute)
	died, diedSoon := ready, ready
	died.EndedAt, died.Failure = at(time.Hour), bastion.CapacityFailure
	diedSoon.EndedAt, diedSoon.Failure = at(50*time.Second), bastion.CapacityFailure
	second := bastion.Attempt{Number: 2, CreatedAt: at(70 * time.Second)}
	secondReady := second
	secondReady.ReadyAt = at(90 * time.Second)
	open := func(a bastion.Attempt, failures int) bastion.Record {
		codes := slices.Repeat([]bastion.FailureCode{bastion.FailureCapacity}, failures)
		return bastion.Record{CreatedAt: noon, Intent: bastion.Intent{Open: true}, Attempt: a, Failures: failures, FailureCodes: codes}
	}
	closed := func(a bastion.Attempt, failures int) bastion.Record {
		rec := open(a, failures)
		rec.Intent.Open = false
		return rec
	}
	none := bastion.Attempt{}
	const failure = "Failures=1 Failures/capacity_unavailable=1"
	givenUp, cause := closed(stored, 1), closed(stored, 1)
	givenUp.End = bastion.End{Reason: bastion.EndFailed, Failure: bastion.Failure{Code: bastion.FailureUnavailable}}
	cause.End = bastion.End{Reason: bastion.EndFailed, Failure: bastion.CapacityFailure}
	interrupted := open(ended, 2)
	interrupted.FailureCodes = []bastion.FailureCode{bastion.FailureCapacity, bastion.FailureSpot}
	earlier := open(ended, 2) // of a version that stored no codes
	earlier.FailureCodes = nil
	for name, test := range map[string]struct {
		prev, next bastion.Record
		want       string
	}{
		"the first attempt":                          {open(none, 0), open(stored, 0), "Starts=1"},
		"the second attempt":                         {open(ended, 1), open(second, 1), "Starts=1"},
		"nothing new":                                {open(stored, 0), open(stored, 0), ""},
		"ready, since the request":                   {open(stored, 0), open(ready, 0), "SecondsToReady=40"},
		"ready, since the second attempt":            {open(second, 1), open(secondReady, 1), "SecondsToReady=20"},
		"still ready":                                {open(ready, 0), open(ready, 0), ""},
		"an attempt failed":                          {open(stored, 0), open(ended, 1), failure},
		"the last attempt failed":                    {open(stored, 4), closed(ended, 5), failure},
		"a failed attempt, later":                    {open(ended, 1), open(ended, 1), ""},
		"an attempt failed, and the next began":      {open(stored, 0), open(second, 1), "Starts=1 " + failure},
		"the end of a stable attempt":                {open(ready, 0), open(died, 1), ""},
		"the end of a stable attempt, after many":    {open(ready, 3), open(died, 1), ""},
		"the end of an attempt that was just ready":  {open(ready, 1), open(diedSoon, 2), ""},
		"an end on purpose":                          {open(stored, 0), closed(onPurpose, 0), ""},
		"the owner closes a start":                   {open(stored, 0), closed(stored, 0), ""},
		"the task of a closed start is stopped":      {closed(stored, 0), closed(ended, 0), ""},
		"a refused step":                             {open(none, 0), open(none, 1), failure},
		"a refused step of a group, attempt 1 ended": {open(ended, 1), open(ended, 2), failure},
		"the last refused step":                      {open(none, 4), closed(none, 5), failure},
		"an attempt failed, and a step was refused":  {open(stored, 0), open(ended, 2), failure + " " + failure},
		"a stable one ended, and a step was refused": {open(ready, 1), open(died, 2), failure},
		"another code":                               {open(stored, 1), interrupted, "Failures=1 Failures/spot_interrupted=1"},
		"after failures without codes":               {earlier, open(ended, 1), failure},
		"given up":                                   {open(stored, 1), givenUp, "Failures/aws_unavailable=1"},
		"given up, later":                            {givenUp, givenUp, ""},
		"given up after refusals, which are counted": {open(stored, 1), cause, ""},
	} {
		for _, err := range []error{nil, bastion.ErrConflict} {
			want := test.want
			if err != nil {
				want = "" // it was not written
			}
			if got := written(t, test.prev, test.next, err); got != want {
				t.Errorf("%s, write error %v: %q, want %q", name, err, got, want)
			}
		}
	}
}

// written returns the metrics of a write from which the store returns the error.
func written(t *testing.T, prev, next bastion.Record, err error) string {
	t.Helper()
	var out bytes.Buffer
	store := metered{replacing{err: err}, &metrics{out: &out, stack: "way-in", now: func() time.Time { return noon }}, time.Minute}
	if got := store.Replace(t.Context(), prev, next); !errors.Is(got, err) {
		t.Fatal(got)
	}
	return metricsIn(t, out.String())
}

// The records of the other test are written by hand. These are decided as in a converge.
func TestDecidedFailuresAreCounted(t *testing.T) {
	refusal := &bastion.RefusedError{Failure: bastion.CapacityFailure, Detail: "SecurityGroupLimitExceeded"}
	cfg := bastion.Config{MaxAttempts: 5, Subnets: []string{"subnet-1", "subnet-2"}, Timing: bastion.Timing{
		ReadLag: time.Minute, StableAfter: time.Minute, GiveUpAfter: time.Hour, WatchInterval: time.Minute, CheckInterval: time.Hour,
	}}
	source, earlier := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	start := bastion.Record{ID: "one", CreatedAt: noon, Intent: bastion.Intent{Generation: 1, Open: true, Source: source, Keys: []bastion.Key{"ssh-ed25519 AAAA"}, Deadline: noon.Add(2 * time.Hour)}}
	last := start
	last.Failures = cfg.MaxAttempts - 1
	last.FailureCodes = slices.Repeat([]bastion.FailureCode{bastion.FailureSpot}, last.Failures)
	created := bastion.Action{Step: bastion.CreateGroup}
	createdLast := created
	createdLast.Try = last.Failures

	group := bastion.Group{ID: "sg-1", Ingress: []bastion.Rule{{ID: "sgr-1", Source: source}}}
	launched := start
	launched.Group = bastion.GroupStatus{ID: "sg-1", FirstSeenAt: noon, Ingress: source}
	launched.Attempt = bastion.Attempt{Number: 1, GroupID: "sg-1", CreatedAt: noon}

	moved := launched // a stable bastion after a failed attempt, whose owner moves
	moved.Failures, moved.FailureCodes = 1, []bastion.FailureCode{bastion.FailureSpot}
	moved.Group.Ingress = earlier
	moved.Attempt.TaskID, moved.Attempt.TaskSeenAt, moved.Attempt.ReadyAt = "task1", noon, noon.Add(time.Minute)
	old := bastion.Group{ID: "sg-1", Ingress: []bastion.Rule{{ID: "sgr-1", Source: earlier}}}
	authorized := map[bastion.Action]error{{Step: bastion.AuthorizeIngress, Try: 1, GroupID: "sg-1", Source: source}: refusal}
	const failure = "Failures=1 Failures/capacity_unavailable=1"
	one := 1
	running := bastion.Task{ID: "task1", Attempt: 1, Status: bastion.TaskRunning}
	crashed := bastion.Task{ID: "task1", Attempt: 1, Status: bastion.TaskStopped, ExitCode: &one}

	for name, test := range map[string]struct {
		rec  bastion.Record
		seen bastion.Observed
		want string
	}{
		"a refused group":                             {start, bastion.Observed{Taken: map[bastion.Action]error{created: refusal}}, failure},
		"the last refused group":                      {last, bastion.Observed{Taken: map[bastion.Action]error{createdLast: refusal}}, failure},
		"a refused RunTask, after which another runs": {launched, bastion.Observed{Group: &group, Taken: map[bastion.Action]error{{Step: bastion.RunTask, Attempt: 1}: refusal}}, "Starts=1 " + failure},
		"a refused move of a ready bastion":           {moved, bastion.Observed{Group: &old, Tasks: []bastion.Task{running}, Taken: authorized}, ""},
		"the end of a ready bastion":                  {moved, bastion.Observed{Group: &group, Tasks: []bastion.Task{crashed}}, ""},
		"the end of a ready bastion, and a refusal":   {moved, bastion.Observed{Group: &old, Tasks: []bastion.Task{crashed}, Taken: authorized}, failure},
	} {
		next := bastion.Decide(cfg, test.rec, test.seen, noon.Add(time.Hour)).Next
		if got := written(t, test.rec, next, nil); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
		if failed := next.State() == bastion.Failed; failed != (test.rec.Failures == last.Failures) {
			t.Errorf("%s: the bastion is %s", name, next.State())
		}
	}
}

// metricsIn returns the values that CloudWatch makes from the lines, as NAME=VALUE, or as
// NAME/CODE=VALUE for a metric that has the dimension Code.
func metricsIn(t *testing.T, out string) string {
	t.Helper()
	samples, err := monitoring.Samples(strings.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, s := range samples {
		name := s.Metric.Name
		if s.Metric.Namespace != metricNamespace || s.Metric.Dimensions[dimensionStack] != "way-in" {
			t.Errorf("the metric is %+v", s.Metric)
		}
		if code := s.Metric.Dimensions[dimensionCode]; code != "" {
			name += "/" + code
		}
		found = append(found, fmt.Sprintf("%s=%g", name, s.Value))
	}
	return strings.Join(found, " ")
}

// withoutAlarm has the metrics that have no alarm, and the reason.
var withoutAlarm = map[string]string{
	metricOpen:    "counts open bastions, which are normal; QuotaTotal limits them",
	metricStarts:  "counts starts, which are normal",
	metricReady:   "the owner sees a slow start, and a start that fails counts in Failures",
	metricOrphans: "the sweep removes orphans by itself; if it cannot, its run fails and is a dead letter, which DeadLettersAlarm reports",
}

// An alarm on a metric that is never written never goes off. The test writes each metric
// as the functions do.
func TestEveryMetricHasAnAlarmOrAReason(t *testing.T) {
	template, err := os.ReadFile("../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	watched := map[string]bool{}
	for _, alarm := range regexp.MustCompile(`Namespace: (\w+)\n\s+MetricName: (\w+)\n\s+Dimensions: \[\{Name: Stack, Value: !Ref AWS::StackName\}\]`).FindAllStringSubmatch(string(template), -1) {
		if alarm[1] != metricNamespace {
			t.Errorf("an alarm watches %s of %s", alarm[2], alarm[1])
		}
		watched[alarm[2]] = true
	}
	if n := strings.Count(string(template), "Namespace: "+metricNamespace); n != len(watched) {
		t.Errorf("%d alarms on the project's metrics, but %d metrics with the dimension Stack", n, len(watched))
	}
	for name, reason := range withoutAlarm {
		if watched[name] || reason == "" {
			t.Errorf("%s has an alarm, or no reason to have none", name)
		}
		watched[name] = true
	}

	source, err := os.ReadFile("metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, name := range regexp.MustCompile(`\n\tmetric\w+ += "(\w+)" +//`).FindAllStringSubmatch(string(source), -1) {
		named[name[1]] = true
	}
	emitted := map[string]bool{}
	for _, s := range everySample(t) {
		if len(s.Metric.Dimensions) == 1 {
			emitted[s.Metric.Name] = true
		}
	}
	if !maps.Equal(emitted, named) || !maps.Equal(emitted, watched) {
		t.Errorf("written: %v\nnamed in metrics.go: %v\nwith an alarm or a reason: %v", emitted, named, watched)
	}
}

// failureCodes returns the constants of type bastion.FailureCode.
func failureCodes(t *testing.T) []bastion.FailureCode {
	t.Helper()
	source, err := os.ReadFile("../bastion/failure.go")
	if err != nil {
		t.Fatal(err)
	}
	var codes []bastion.FailureCode
	for _, constant := range regexp.MustCompile(`\n\tFailure\w+ +FailureCode = "(\w+)"`).FindAllStringSubmatch(string(source), -1) {
		codes = append(codes, bastion.FailureCode(constant[1]))
	}
	if len(codes) < 11 || !slices.Contains(codes, bastion.FailureUnavailable) {
		t.Fatalf("the codes are %q", codes)
	}
	return codes
}

// everySample returns a sample of every metric, written as the functions write it.
func everySample(t *testing.T) []monitoring.Sample {
	t.Helper()
	r := newReaperFixture()
	r.service.reaped = reaped{bastion.ReapResult{Started: 1, Failed: 1, FailingSince: noon.Add(-time.Hour)}, errors.New("broken")}
	r.service.orphans, r.store.open = 1, 1
	err := errors.Join(r.Handle(t.Context(), Schedule{Action: "reap"}), r.Handle(t.Context(), Schedule{Action: "sweep"}))
	store := metered{replacing{}, r.metrics, time.Minute}
	write := func(prev, next bastion.Record) { err = errors.Join(err, store.Replace(t.Context(), prev, next)) }
	started := bastion.Record{Intent: bastion.Intent{Open: true}, Attempt: bastion.Attempt{Number: 1}}
	ready := started
	ready.Attempt.ReadyAt = noon
	write(bastion.Record{}, started)
	write(started, ready)
	for _, code := range failureCodes(t) {
		failed := started
		failed.FailureCodes = []bastion.FailureCode{code}
		if code == bastion.FailureUnavailable { // the only one that is no failure of an attempt
			failed.FailureCodes, failed.End.Failure.Code = nil, code
		}
		write(started, failed)
	}
	if err != nil {
		t.Fatal(err)
	}
	samples, err := monitoring.Samples(r.out)
	if err != nil {
		t.Fatal(err)
	}
	return samples
}

// A chart of a metric that is never written stays empty. The dashboard draws every metric
// but the orphans, all codes of failures, and the unit of each metric.
func TestDashboardDrawsTheMetricsOfTheFunctions(t *testing.T) {
	units := map[string]string{} // by metric
	for _, s := range everySample(t) {
		units[s.Metric.String()] = s.Unit
	}
	template, err := monitoring.Read("../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	widgets, err := template.Dashboard("way-in", "eu-west-1")
	if err != nil {
		t.Fatal(err)
	}
	drawn := map[string]bool{}
	for _, w := range widgets {
		for _, series := range w.Series {
			name := series.Metric.String()
			if series.Expression != "" || series.Metric.Namespace != metricNamespace {
				continue
			}
			drawn[name] = true
			if units[name] == "" {
				t.Errorf("%s draws %s, which no function writes", w.Title, name)
			}
			if code := series.Metric.Dimensions[dimensionCode]; code != "" && series.Label != code {
				t.Errorf("%s: %s has the label %q", w.Title, code, series.Label)
			}
			if (units[name] == "Seconds") != (w.Axis == "seconds") {
				t.Errorf("%s draws %s, which is in %s, on the axis %q", w.Title, name, units[name], w.Axis)
			}
		}
	}
	for name := range units {
		if !drawn[name] && name != (monitoring.Metric{Namespace: metricNamespace, Name: metricOrphans, Dimensions: map[string]string{dimensionStack: "way-in"}}).String() {
			t.Errorf("the dashboard does not draw %s", name)
		}
	}
}

// The saved query lists the lines of the failures that the metrics count.
func TestSavedQueryFindsFailedStarts(t *testing.T) {
	template, err := monitoring.Read("../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	queries, err := template.Queries()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	store := metered{replacing{}, &metrics{out: &out, stack: "way-in", now: func() time.Time { return noon }}, time.Minute}
	start := bastion.Record{ID: "b1", Owner: "local:alice", Name: "db", Intent: bastion.Intent{Open: true}, Attempt: bastion.Attempt{Number: 1}}
	once, last := start, start
	once.Failures, once.FailureCodes = 1, []bastion.FailureCode{bastion.FailureSpot}
	last.Failures, last.FailureCodes = 2, []bastion.FailureCode{bastion.FailureSpot, bastion.FailureNetwork}
	last.Intent.Open, last.End = false, bastion.End{Reason: bastion.EndFailed, Failure: bastion.Failure{Code: bastion.FailureNetwork}}
	givenUp := last
	givenUp.FailureCodes, givenUp.End.Failure.Code = nil, bastion.FailureUnavailable
	err = errors.Join(store.Replace(t.Context(), bastion.Record{}, start), store.Replace(t.Context(), start, once),
		store.Replace(t.Context(), once, last), store.Replace(t.Context(), start, givenUp))
	if err != nil {
		t.Fatal(err)
	}
	var lines []map[string]any
	for text := range strings.Lines(out.String()) {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	i := slices.IndexFunc(queries, func(q monitoring.Query) bool { return q.Name == "Failed starts" })
	if i < 0 || len(lines) != 4 {
		t.Fatalf("no query, or not four lines:\n%s", &out)
	}
	rows := queries[i].Find(lines)
	var got []string
	for _, row := range rows {
		got = append(got, fmt.Sprint(row["owner"], " ", row["name"], " ", row["bastion"], " ", row["Code"], " ", row["state"]))
	}
	want := []string{
		"local:alice db b1 spot_interrupted starting", "local:alice db b1 network_unavailable failed", "local:alice db b1 aws_unavailable failed",
	}
	if missing := queries[i].Missing(rows); len(missing) > 0 || !slices.Equal(got, want) {
		t.Errorf("no line has %q\ngot  %q\nwant %q", missing, got, want)
	}
}
