package lambdamode

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Names of metrics. TestEveryMetricHasAnAlarmOrAReason compares them with the alarms in
// template.yaml. Every metric has the dimension Stack. Failures is written a second time
// with the dimensions Stack and Code.
const (
	metricNamespace       = "BastionOnDemand"
	metricOpen            = "OpenBastions"    // starting or ready, when a run of the reaper began
	metricStarts          = "Starts"          // attempts that began
	metricReady           = "SecondsToReady"  // since the request, or since a later attempt began
	metricFailures        = "Failures"        // of starts: attempts that ended before they were ready, and refused steps of the group
	metricOverdue         = "OldestOverdue"   // in seconds, of the oldest overdue record
	metricFailedConverges = "FailedConverges" // of one run of the reaper
	metricOrphans         = "Orphans"         // that a sweep found
)

// Names of dimensions.
const (
	dimensionStack = "Stack"
	dimensionCode  = "Code" // of a failure, see bastion.FailureCode
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
	m.write(name, unit, value, nil, []string{dimensionStack})
}

// write writes one value. CloudWatch makes a metric for each set of dimensions. more has
// the values of the dimensions other than Stack, and what else the line tells.
func (m *metrics) write(name, unit string, value float64, more map[string]any, dimensions ...[]string) {
	members := map[string]any{
		"_aws": map[string]any{
			"Timestamp": m.now().UnixMilli(),
			"CloudWatchMetrics": []any{map[string]any{
				"Namespace":  metricNamespace,
				"Dimensions": dimensions,
				"Metrics":    []any{map[string]string{"Name": name, "Unit": unit}},
			}},
		},
		dimensionStack: m.stack,
		name:           value,
	}
	maps.Copy(members, more)
	line, err := json.Marshal(members)
	if err == nil { // JSON has no infinity
		_, _ = fmt.Fprintf(m.out, "%s\n", line)
	}
}

func (m *metrics) count(name string, n int) { m.put(name, "Count", float64(n)) }

func (m *metrics) seconds(name string, d time.Duration) { m.put(name, "Seconds", d.Seconds()) }

// failure counts one failure of a bastion's start, by its code and by the other sets of
// dimensions. A saved query of template.yaml lists these lines.
func (m *metrics) failure(rec bastion.Record, code bastion.FailureCode, others ...[]string) {
	about := map[string]any{dimensionCode: code, "bastion": rec.ID, "owner": rec.Owner, "name": rec.Name, "state": rec.State()}
	m.write(metricFailures, "Count", 1, about, append(others, []string{dimensionStack, dimensionCode})...)
}

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
	for _, code := range s.startFailures(prev, next) {
		s.metrics.failure(next, code, []string{dimensionStack})
	}
	// A start that is given up is no failure of an attempt. ConvergesFailAlarm has reported
	// its cause, so StartsFailAlarm, whose metric has the dimension Stack only, does not.
	if code := bastion.FailureUnavailable; prev.End.Failure.Code != code && next.End.Failure.Code == code {
		s.metrics.failure(next, code)
	}
	return nil
}

// startFailures returns the codes of the failures of a start that a write added to the
// record (bastion.Record.FailureCodes). The end of an attempt that was ready is among the
// record's failures, but it is no failure of a start. If that attempt was stable, the
// list began again with its end.
func (s metered) startFailures(prev, next bastion.Record) []bastion.FailureCode {
	known := len(prev.FailureCodes)
	a := next.Attempt
	ended := prev.Attempt.Number == a.Number && prev.Attempt.EndedAt.IsZero() && !a.EndedAt.IsZero()
	if ended && !a.ReadyAt.IsZero() && prev.Intent.Open {
		if a.EndedAt.Sub(a.ReadyAt) >= s.stableAfter {
			known = 0
		}
		if a.Failure.Code != "" {
			known++
		}
	}
	return next.FailureCodes[min(known, len(next.FailureCodes)):]
}
