package monitoring

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Metric identifies a metric, as CloudWatch does.
type Metric struct {
	Namespace, Name string
	Dimensions      map[string]string
}

// String returns the namespace, the name and the dimensions in the order of their names.
func (m Metric) String() string {
	text := m.Namespace + " " + m.Name
	for _, name := range slices.Sorted(maps.Keys(m.Dimensions)) {
		text += " " + name + "=" + m.Dimensions[name]
	}
	return text
}

// Sample is one value of a metric.
type Sample struct {
	Metric Metric
	Unit   string
	At     time.Time
	Value  float64
}

// embedded is the part of a line in the embedded metric format that tells what the
// metrics are.
type embedded struct {
	AWS *struct {
		Timestamp         int64
		CloudWatchMetrics []struct {
			Namespace  string
			Dimensions [][]string
			Metrics    []struct{ Name, Unit string }
		}
	} `json:"_aws"`
}

// Samples returns what CloudWatch makes from the lines of a log in the embedded metric
// format: one sample for each metric and each set of dimensions. It skips other lines.
// Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
func Samples(log io.Reader) ([]Sample, error) {
	var all []Sample
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20) // a log event has at most 1 MB
	for lines.Scan() {
		var line embedded
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("parse log line %q: %w", lines.Bytes(), err)
		}
		if line.AWS == nil {
			continue
		}
		var members map[string]any
		if err := json.Unmarshal(lines.Bytes(), &members); err != nil {
			return nil, err
		}
		for _, directive := range line.AWS.CloudWatchMetrics {
			for _, set := range directive.Dimensions {
				dimensions := map[string]string{}
				for _, name := range set {
					value, ok := members[name].(string)
					if !ok || value == "" {
						return nil, fmt.Errorf("the dimension %s has no value in %s", name, lines.Bytes())
					}
					dimensions[name] = value
				}
				for _, metric := range directive.Metrics {
					value, ok := members[metric.Name].(float64)
					if !ok {
						return nil, fmt.Errorf("the metric %s has no value in %s", metric.Name, lines.Bytes())
					}
					all = append(all, Sample{Metric{directive.Namespace, metric.Name, dimensions}, metric.Unit, time.UnixMilli(line.AWS.Timestamp).UTC(), value})
				}
			}
		}
	}
	return all, lines.Err()
}

// Series is a line or a bar of a widget.
type Series struct {
	Metric     Metric // zero for an expression
	Expression string
	ID, Label  string
	Stat       string // of the metric
	Period     time.Duration
	Visible    bool
}

// Point is a value of a series in the period that begins at At.
type Point struct {
	At    time.Time
	Value float64
}

// points returns the statistic of the samples in each period from from to to. Periods
// without samples have no point.
func (s Series) points(samples []Sample, from, to time.Time) ([]Point, error) {
	periods := map[time.Time][]float64{}
	wanted := s.Metric.String()
	for _, sample := range samples {
		if at := sample.At.UTC().Truncate(s.Period); !at.Before(from) && at.Before(to) && sample.Metric.String() == wanted {
			periods[at] = append(periods[at], sample.Value)
		}
	}
	var points []Point
	for _, at := range slices.SortedFunc(maps.Keys(periods), time.Time.Compare) {
		value, err := statistic(s.Stat, periods[at])
		if err != nil {
			return nil, err
		}
		points = append(points, Point{at, value})
	}
	return points, nil
}

// statistic returns a statistic of at least one value. A percentile pN is the smallest of
// the values that at least N percent of the values do not exceed.
func statistic(name string, values []float64) (float64, error) {
	var percent int
	switch _, err := fmt.Sscanf(name, "p%d", &percent); {
	case err == nil && percent > 0 && percent <= 100:
		sorted := slices.Sorted(slices.Values(values))
		return sorted[(len(sorted)*percent+99)/100-1], nil
	case name == "Maximum":
		return slices.Max(values), nil
	case name == "Sum":
		sum := 0.0
		for _, value := range values {
			sum += value
		}
		return sum, nil
	}
	return 0, fmt.Errorf("statistic %q is not supported", name)
}

// evaluate returns the points of the series of a widget, by their index. The only
// expression is FILL(ID, 0), which gives the metric the value 0 in periods without one.
func (w Widget) evaluate(samples []Sample, from, to time.Time) ([][]Point, error) {
	all := make([][]Point, len(w.Series))
	byID := map[string]int{}
	for i, series := range w.Series {
		if series.Expression != "" {
			continue
		}
		var err error
		if all[i], err = series.points(samples, from, to); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", w.Title, series.Label, err)
		}
		byID[series.ID] = i
	}
	for i, series := range w.Series {
		if series.Expression == "" {
			continue
		}
		id, ok := strings.CutPrefix(series.Expression, "FILL(")
		id, ok2 := strings.CutSuffix(id, ", 0)")
		of, known := byID[id]
		if !ok || !ok2 || !known {
			return nil, fmt.Errorf("%s: the expression %q is not FILL(ID, 0) of a metric of the widget", w.Title, series.Expression)
		}
		values := map[time.Time]float64{}
		for _, point := range all[of] {
			values[point.At] = point.Value
		}
		for at := from; at.Before(to); at = at.Add(w.Series[of].Period) {
			all[i] = append(all[i], Point{at, values[at]})
		}
	}
	return all, nil
}
