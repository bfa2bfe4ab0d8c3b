package lambdamode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
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
	failure := bastion.CapacityFailure
	at := func(d time.Duration) time.Time { return noon.Add(d) }
	stored := bastion.Attempt{Number: 1, CreatedAt: at(2 * time.Second)}
	ready, ended, died := stored, stored, stored
	ready.ReadyAt = at(40 * time.Second)
	ended.EndedAt, ended.Failure = at(time.Minute), failure
	died = ready
	died.EndedAt, died.Failure = at(time.Hour), failure
	second := bastion.Attempt{Number: 2, CreatedAt: at(70 * time.Second)}
	secondReady := second
	secondReady.ReadyAt = at(90 * time.Second)
	onPurpose := stored
	onPurpose.EndedAt = at(time.Minute)
	for _, test := range []struct {
		name      string
		prev, now bastion.Attempt
		want      string
	}{
		{"the first attempt", bastion.Attempt{}, stored, "Starts=1"},
		{"nothing new", stored, stored, ""},
		{"ready, from the request on", stored, ready, "SecondsToReady=40"},
		{"ready still", ready, ready, ""},
		{"a failed start", stored, ended, "Failures=1"},
		{"a failed start, still", ended, ended, ""},
		{"the end of a ready attempt is no failed start", ready, died, ""},
		{"an end on purpose is no failed start", stored, onPurpose, ""},
		{"the second attempt", ended, second, "Starts=1"},
		{"ready, from its announcement on", second, secondReady, "SecondsToReady=20"},
	} {
		for _, err := range []error{nil, bastion.ErrConflict} {
			var out bytes.Buffer
			store := metered{replacing{err: err}, &metrics{out: &out, stack: "way-in", now: func() time.Time { return noon }}}
			prev := bastion.Record{CreatedAt: noon, Attempt: test.prev}
			next := bastion.Record{CreatedAt: noon, Attempt: test.now}
			if got := store.Replace(t.Context(), prev, next); !errors.Is(got, err) {
				t.Fatal(got)
			}
			want := test.want
			if err != nil {
				want = "" // it was not written
			}
			if got := metricsIn(t, out.String()); got != want {
				t.Errorf("%s, write error %v: %q, want %q", test.name, err, got, want)
			}
		}
	}
}

var value = regexp.MustCompile(`"(Starts|SecondsToReady|Failures|OldestOverdue|Orphans)":([0-9.]+)`)

func metricsIn(t *testing.T, out string) string {
	t.Helper()
	var found []string
	for _, match := range value.FindAllStringSubmatch(out, -1) {
		found = append(found, match[1]+"="+match[2])
	}
	return strings.Join(found, " ")
}

// An alarm on a metric that is never written never goes off.
func TestAlarmsWatchExistingMetrics(t *testing.T) {
	template, err := os.ReadFile("../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	alarms := regexp.MustCompile(`Namespace: (\w+)\n\s+MetricName: (\w+)\n\s+Dimensions: \[\{Name: Stack,`).FindAllStringSubmatch(string(template), -1)
	if len(alarms) != 2 {
		t.Fatalf("%d alarms on the project's metrics, want 2", len(alarms))
	}
	for _, alarm := range alarms {
		if alarm[1] != metricNamespace || !slices.Contains([]string{metricStarts, metricReady, metricFailures, metricOverdue, metricOrphans}, alarm[2]) {
			t.Errorf("an alarm watches %s of %s", alarm[2], alarm[1])
		}
	}
}
