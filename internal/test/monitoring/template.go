// Package monitoring reads the dashboard and the saved queries of template.yaml, and
// compares them with what the code writes: the metrics in the embedded metric format, and
// the fields of log lines. It also draws the dashboard.
package monitoring

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"time"

	"go.yaml.in/yaml/v4"
)

// Template is the part of template.yaml that this package reads.
type Template struct {
	Mappings   map[string]map[string]map[string]string `yaml:"Mappings"`
	Parameters map[string]struct {
		Default string `yaml:"Default"`
	} `yaml:"Parameters"`
	Resources map[string]struct {
		Type       string               `yaml:"Type"`
		Properties map[string]yaml.Node `yaml:"Properties"`
	} `yaml:"Resources"`
}

// Read reads template.yaml.
func Read(file string) (Template, error) {
	var t Template
	source, err := os.ReadFile(file)
	if err != nil {
		return t, err
	}
	err = yaml.Unmarshal(source, &t)
	return t, err
}

// Dashboard returns the widgets of the dashboard of a stack without Slack. Each parameter
// has its default, and each resource has its logical ID as its name.
func (t Template) Dashboard(stack, region string) ([]Widget, error) {
	body, err := t.dashboardBody(stack, region)
	if err != nil {
		return nil, err
	}
	return Widgets(body)
}

func (t Template) dashboardBody(stack, region string) (string, error) {
	names := map[string]string{"AWS::StackName": stack, "AWS::Region": region}
	for name := range t.Resources {
		names[name] = name
	}
	for name, parameter := range t.Parameters {
		names[name] = parameter.Default
	}
	for _, resource := range t.Resources {
		if resource.Type == "AWS::CloudWatch::Dashboard" {
			body := resource.Properties["DashboardBody"]
			return t.value(&body, names)
		}
	}
	return "", errors.New("the template has no dashboard")
}

var variable = regexp.MustCompile(`\$\{([^}!]+)\}`)

// value evaluates the functions of CloudFormation that the dashboard uses. Every
// condition is false.
func (t Template) value(node *yaml.Node, names map[string]string) (string, error) {
	own := maps.Clone(names)
	parts := node.Content
	switch node.Tag {
	case "!Ref":
		parts = nil
		node = &yaml.Node{Value: "${" + node.Value + "}"}
	case "!If":
		return t.value(parts[2], names)
	case "!FindInMap":
		key, err := t.value(parts[1], names)
		return t.Mappings[parts[0].Value][key][parts[2].Value], err
	case "!Sub":
		if len(parts) == 2 {
			for i := 0; i < len(parts[1].Content); i += 2 {
				value, err := t.value(parts[1].Content[i+1], names)
				if err != nil {
					return "", err
				}
				own[parts[1].Content[i].Value] = value
			}
			node = parts[0]
		}
	}
	var err error
	text := variable.ReplaceAllStringFunc(node.Value, func(found string) string {
		value, ok := own[found[2:len(found)-1]]
		if !ok {
			err = errors.Join(err, fmt.Errorf("there is no %s", found))
		}
		return value
	})
	return text, err
}

// Widget is a chart of the dashboard. Its place is in units of the grid, which is 24 units
// wide.
type Widget struct {
	Title               string
	X, Y, Width, Height int
	View                string // timeSeries or bar
	Axis                string // the label of the axis of values
	Series              []Series
	Limits              []Limit
}

// Limit is a horizontal line.
type Limit struct {
	Label string
	Value float64
}

// widgetJSON is the form of a widget in the body of a dashboard. Source:
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html
type widgetJSON struct {
	Type                string
	X, Y, Width, Height int
	Properties          struct {
		Title, View, Region, Stat string
		Period                    int
		SetPeriodToTimeRange      bool
		Metrics                   [][]json.RawMessage
		YAxis                     struct {
			Left struct {
				Label     string
				Min       *float64
				ShowUnits bool
			}
		}
		Annotations struct{ Horizontal []Limit }
	}
}

// Widgets returns the widgets of the body of a dashboard.
func Widgets(body string) ([]Widget, error) {
	var dashboard struct{ Widgets []widgetJSON }
	if err := json.Unmarshal([]byte(body), &dashboard); err != nil {
		return nil, fmt.Errorf("parse the body of the dashboard: %w", err)
	}
	var all []Widget
	for _, one := range dashboard.Widgets {
		p := one.Properties
		w := Widget{Title: p.Title, X: one.X, Y: one.Y, Width: one.Width, Height: one.Height, View: p.View, Axis: p.YAxis.Left.Label, Limits: p.Annotations.Horizontal}
		switch {
		case one.Type != "metric" || p.Region == "" || p.Title == "" || w.Axis == "":
			return nil, fmt.Errorf("the widget %q is not a chart of metrics with a title, a region and an axis", p.Title)
		case p.YAxis.Left.Min == nil || *p.YAxis.Left.Min != 0 || p.View != "timeSeries" && (p.View != "bar" || !p.SetPeriodToTimeRange):
			return nil, fmt.Errorf("the widget %q is neither a time series nor bars of the time range, from 0", p.Title)
		}
		for _, metric := range p.Metrics {
			series, err := parseSeries(metric, Series{Stat: p.Stat, Period: time.Duration(p.Period) * time.Second, Visible: true})
			if err != nil {
				return nil, fmt.Errorf("the widget %q: %w", p.Title, err)
			}
			w.Series = append(w.Series, series)
		}
		all = append(all, w)
	}
	return all, nil
}

// parseSeries parses an element of a widget's metrics: a namespace, a name and pairs of a
// dimension and its value, all texts, or nothing; and an object with options at the end.
func parseSeries(parts []json.RawMessage, series Series) (Series, error) {
	if len(parts) == 0 {
		return series, errors.New("a metric is empty")
	}
	options := struct {
		ID, Label, Stat, Expression string
		Period                      int
		Visible                     *bool
	}{}
	last := len(parts) - 1
	if err := json.Unmarshal(parts[last], &options); err != nil {
		return series, fmt.Errorf("the options of a metric: %w", err)
	}
	series.ID, series.Label, series.Expression = options.ID, options.Label, options.Expression
	if options.Stat != "" {
		series.Stat = options.Stat
	}
	if options.Period != 0 {
		series.Period = time.Duration(options.Period) * time.Second
	}
	if options.Visible != nil {
		series.Visible = *options.Visible
	}
	var texts []string
	for _, part := range parts[:last] {
		var text string
		if err := json.Unmarshal(part, &text); err != nil {
			return series, fmt.Errorf("a name or a dimension of a metric: %w", err)
		}
		texts = append(texts, text)
	}
	if series.Expression != "" && len(texts) == 0 {
		return series, nil
	}
	if len(texts) < 2 || len(texts)%2 != 0 || series.Expression != "" {
		return series, fmt.Errorf("the metric %q is neither an expression nor a namespace, a name and dimensions", texts)
	}
	series.Metric = Metric{texts[0], texts[1], map[string]string{}}
	for i := 2; i < len(texts); i += 2 {
		series.Metric.Dimensions[texts[i]] = texts[i+1]
	}
	return series, nil
}
