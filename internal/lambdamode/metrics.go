package lambdamode

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Names of metrics. TestEveryMetricHasAnAlarmOrAReason compares them with the alarms in
// template.yaml.
const (
	metricNamespace       = "BastionOnDemand"
	metricStarts          = "Starts"          // attempts that began
	metricReady           = "SecondsToReady"  // since the request, or since a later attempt began
	metricFailures        = "Failures"        // of starts: attempts that ended before they were ready, and refused steps of the group
	metricOverdue         = "OldestOverdue"   // in seconds, of the oldest overdue record
	metricFailedConverges = "FailedConverges" // of one run of the reaper
	metricOrphans         = "Orphans"         // that a sweep found
)

// metrics writes CloudWatch's embedded metric format: log lines from which
// CloudWatch makes metrics, without a call. A metric costs money in every hour in
// which it is written, so nothing is written for zero.
type metrics struct {
	out   io.Writer
	stack string
	now   func() time.Time
}

// put writes one value with one write, so that lines of several goroutines do not
// mix. The format is AWS's "Embedded metric format specification".
func (m *metrics) put(name, unit string, value float64) {
	line, err := json.Marshal(map[string]any{
		"_aws": map[string]any{
			"Timestamp": m.now().UnixMilli(),
			"CloudWatchMetrics": []any{map[string]any{
				"Namespace":  metricNamespace,
				"Dimensions": [][]string{{"Stack"}},
				"Metrics":    []any{map[string]string{"Name": name, "Unit": unit}},
			}},
		},
		"Stack": m.stack,
		name:    value,
	})
	if err == nil { // JSON has no infinity
		_, _ = fmt.Fprintf(m.out, "%s\n", line)
	}
}

func (m *metrics) count(name string, n int) { m.put(name, "Count", float64(n)) }

func (m *metrics) seconds(name string, d time.Duration) { m.put(name, "Seconds", d.Seconds()) }

// metered counts starts, ready bastions and failures when this process has written
// them to the store, so that each is counted once.
type metered struct {
	bastion.Records
	metrics     *metrics
	stableAfter time.Duration // see bastion.Timing
}

func (s metered) Replace(ctx context.Context, prev, next bastion.Record) error {
	err := s.Records.Replace(ctx, prev, next)
	if err != nil {
		return err
	}
	before, after := prev.Attempt, next.Attempt
	if after.Number > before.Number {
		s.metrics.count(metricStarts, 1)
	}
	if before.ReadyAt.IsZero() && !after.ReadyAt.IsZero() {
		since := after.CreatedAt
		if after.Number == 1 {
			since = next.CreatedAt
		}
		s.metrics.seconds(metricReady, after.ReadyAt.Sub(since))
	}
	if n := s.startFailures(prev, next); n > 0 {
		s.metrics.count(metricFailures, n)
	}
	return nil
}

// startFailures returns how many failures of a start a write added to the record's count
// of failures (bastion.Record.Failures). The end of an attempt that was ready is in that
// count, but it is no failure of a start. If that attempt was stable, the count began
// again with its end.
func (s metered) startFailures(prev, next bastion.Record) int {
	n := next.Failures - prev.Failures
	a := next.Attempt
	ended := prev.Attempt.Number == a.Number && prev.Attempt.EndedAt.IsZero() && !a.EndedAt.IsZero()
	if !ended || a.ReadyAt.IsZero() || !prev.Intent.Open {
		return n
	}
	if a.EndedAt.Sub(a.ReadyAt) >= s.stableAfter {
		n = next.Failures
	}
	if a.Failure.Code != "" {
		n--
	}
	return n
}
