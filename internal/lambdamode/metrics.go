package lambdamode

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Names of metrics. The alarms in template.yaml use them.
const (
	metricNamespace       = "BastionOnDemand"
	metricStarts          = "Starts"          // attempts that began
	metricReady           = "SecondsToReady"  // since the request, or since a later attempt began
	metricFailures        = "Failures"        // attempts that ended before they were ready, and refused steps of a start's group
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
	metrics *metrics
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
	ended := before.EndedAt.IsZero() && !after.EndedAt.IsZero() && after.Number == before.Number
	refused := next.Failures > prev.Failures && !ended
	if ended && after.ReadyAt.IsZero() && after.Failure.Code != "" || refused {
		s.metrics.count(metricFailures, 1)
	}
	return nil
}
