package lambdamode

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The names that template.yaml's alarms know.
const (
	metricNamespace = "BastionOnDemand"
	metricStarts    = "Starts"         // attempts announced
	metricReady     = "SecondsToReady" // from the request, or from a later attempt's announcement
	metricFailures  = "Failures"       // attempts that ended without having been ready
	metricOverdue   = "OldestOverdue"  // in seconds, when the reaper has left something
	metricOrphans   = "Orphans"        // that a sweep saw
)

// metrics writes CloudWatch's embedded metric format: lines of the log that
// CloudWatch makes metrics of, without a call. A metric costs money in every hour
// in which it is written, so it is written only when it says something.
type metrics struct {
	out   io.Writer
	stack string
	now   func() time.Time
}

// put writes one value in one write, so that lines of several goroutines do not
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
	if err == nil { // else the value is no number that JSON has
		_, _ = fmt.Fprintf(m.out, "%s\n", line)
	}
}

func (m *metrics) count(name string, n int) { m.put(name, "Count", float64(n)) }

func (m *metrics) seconds(name string, d time.Duration) { m.put(name, "Seconds", d.Seconds()) }

// metered is a store that sees starts, readiness and failures go by. What it sees
// has been written, and by this caller: each is counted once.
type metered struct {
	bastion.Records
	metrics *metrics
}

func (s metered) Replace(ctx context.Context, prev, next bastion.Record) error {
	err := s.Records.Replace(ctx, prev, next)
	if err != nil {
		return err
	}
	was, is := prev.Attempt, next.Attempt
	if is.Number > was.Number {
		s.metrics.count(metricStarts, 1)
	}
	if was.ReadyAt.IsZero() && !is.ReadyAt.IsZero() {
		since := is.CreatedAt
		if is.Number == 1 {
			since = next.CreatedAt
		}
		s.metrics.seconds(metricReady, is.ReadyAt.Sub(since))
	}
	if was.EndedAt.IsZero() && !is.EndedAt.IsZero() && is.ReadyAt.IsZero() && is.Failure.Code != "" {
		s.metrics.count(metricFailures, 1)
	}
	return nil
}
