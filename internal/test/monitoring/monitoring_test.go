package monitoring

import (
	"encoding/xml"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

func TestSamplesHaveEverySetOfDimensions(t *testing.T) {
	const log = `{"level":"INFO","message":"reaped"}
{"Code":"x","Failures":2,"Stack":"s","owner":"o","_aws":{"CloudWatchMetrics":[{"Dimensions":[["Stack"],["Stack","Code"]],"Metrics":[{"Name":"Failures","Unit":"Count"}],"Namespace":"N"}],"Timestamp":1000}}
`
	got, err := Samples(strings.NewReader(log))
	at := time.Unix(1, 0).UTC()
	want := []Sample{
		{Metric{"N", "Failures", map[string]string{"Stack": "s"}}, "Count", at, 2},
		{Metric{"N", "Failures", map[string]string{"Stack": "s", "Code": "x"}}, "Count", at, 2},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v, %v\nwant %v", got, err, want)
	}
	for _, wrong := range []string{"no JSON", strings.Replace(log, `"Code":"x",`, "", 1), strings.Replace(log, `"Failures":2,`, "", 1)} {
		if _, err := Samples(strings.NewReader(wrong)); err == nil {
			t.Errorf("no error for %s", wrong)
		}
	}
}

func TestStatistics(t *testing.T) {
	hundred := make([]float64, 100) // 100, 99, … 1
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, test := range []struct {
		name   string
		values []float64
		want   float64
	}{
		{"Sum", []float64{1, 2, 4}, 7}, {"Maximum", []float64{3, 9, 4}, 9},
		{"p50", hundred, 50}, {"p95", hundred, 95}, {"p100", hundred, 100},
		{"p50", []float64{8}, 8}, {"p95", []float64{8}, 8},
		{"p50", []float64{2, 1}, 1}, {"p95", []float64{2, 1}, 2},
		{"p50", []float64{5, 1, 3}, 3}, {"p95", []float64{5, 1, 3}, 5},
	} {
		if got, err := statistic(test.name, test.values); err != nil || got != test.want {
			t.Errorf("%s of %v: %g, %v, want %g", test.name, test.values, got, err, test.want)
		}
	}
	for _, name := range []string{"Average", "p0", "p101", ""} {
		if got, err := statistic(name, hundred); err == nil {
			t.Errorf("%q: %g", name, got)
		}
	}
}

func TestSeriesHaveOnePointForEachPeriod(t *testing.T) {
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	metric := Metric{"N", "Starts", map[string]string{"Stack": "s"}}
	other := Metric{"N", "Starts", map[string]string{"Stack": "another"}}
	var samples []Sample
	for minute, m := range map[int]Metric{-1: metric, 0: metric, 4: metric, 5: other, 11: metric, 15: metric} {
		samples = append(samples, Sample{m, "Count", from.Add(time.Duration(minute) * time.Minute), 1})
	}
	w := Widget{Series: []Series{{Metric: metric, ID: "m1", Stat: "Sum", Period: 5 * time.Minute}, {Expression: "FILL(m1, 0)"}}}
	got, err := w.evaluate(samples, from, from.Add(15*time.Minute))
	at := func(minute int, value float64) Point {
		return Point{from.Add(time.Duration(minute) * time.Minute), value}
	}
	want := [][]Point{{at(0, 2), at(10, 1)}, {at(0, 2), at(5, 0), at(10, 1)}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v, %v\nwant %v", got, err, want)
	}
	w.Series[1].Expression = "SUM(METRICS())"
	if _, err := w.evaluate(samples, from, from.Add(15*time.Minute)); err == nil {
		t.Error("an expression that is not supported is drawn")
	}
}

func TestWidgetsAreChecked(t *testing.T) {
	const good = `{"widgets":[{"type":"metric","x":0,"y":0,"width":8,"height":6,"properties":{"title":"T","region":"r","view":"timeSeries","stat":"Sum","period":60,` +
		`"yAxis":{"left":{"label":"l","min":0}},"metrics":[["N","M","D","v",{"label":"m"}]]}}]}`
	if all, err := Widgets(good); err != nil || len(all) != 1 || all[0].Series[0].Metric.String() != "N M D=v" || all[0].Series[0].Period != time.Minute {
		t.Errorf("%+v, %v", all, err)
	}
	for _, change := range [][2]string{
		{`{"widgets"`, `{{"widgets"`}, {`"metric",`, `"text",`}, {`"T"`, `""`}, {`"r"`, `""`}, {`"label":"l",`, ``}, {`"min":0`, `"max":0`},
		{`timeSeries`, `pie`}, {`timeSeries`, `bar`}, {`"D",`, ``}, {`"N","M","D","v",`, ``}, {`,{"label":"m"}`, ``}, {`{"label":"m"}`, `{"expression":"e"}`},
	} {
		if all, err := Widgets(strings.Replace(good, change[0], change[1], 1)); err == nil {
			t.Errorf("with %s in place of %s: %+v", change[1], change[0], all)
		}
	}
}

func TestQueriesAreParsed(t *testing.T) {
	const good = "filter msg = \"forward\"\n| fields @timestamp, owner, `source`\n| sort @timestamp desc\n| limit 1000\n"
	const sums = "filter Failures > 0\n| stats count_distinct(bastion) as bastions, sum(bytes) as all by owner\n| sort all desc\n| limit 5\n"
	for text, want := range map[string]Query{
		good: {Field: "msg", Value: "forward", Shows: []string{"owner", "source"}},
		sums: {Field: "Failures", Shows: []string{"owner", "bastion", "bytes"}},
	} {
		if got, err := parseQuery(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, change := range [][2]string{{" = ", " like "}, {"owner", "ow-ner"}, {"@timestamp desc", "other desc"}, {"1000", "20000"}, {"| limit", "limit"}, {"fields", "display"}} {
		if q, err := parseQuery(strings.Replace(good, change[0], change[1], 1)); err == nil {
			t.Errorf("with %s in place of %s: %+v", change[1], change[0], q)
		}
	}
	q := Query{Field: "msg", Value: "forward", Shows: []string{"owner", "source"}}
	lines := []map[string]any{{"msg": "refusal", "source": "x"}, {"msg": "forward", "owner": "o", "source": ""}}
	if found := q.Find(lines); len(found) != 1 || !reflect.DeepEqual(q.Missing(found), []string{"source"}) {
		t.Errorf("found %v, missing %q", found, q.Missing(found))
	}
}

// The picture shows the charts of the dashboard, in their order, and the labels of each.
func TestPictureShowsTheDashboard(t *testing.T) {
	template, err := Read("../../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	widgets, err := template.Dashboard("way-in", "eu-west-1")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("../../../docs/dashboard.svg")
	if err != nil {
		t.Fatal(err)
	}
	var picture struct {
		Charts []struct {
			Title string   `xml:"title"`
			Texts []string `xml:"text"`
		} `xml:"g"`
	}
	if err := xml.Unmarshal(source, &picture); err != nil {
		t.Fatal(err)
	}
	if len(picture.Charts) != len(widgets) {
		t.Fatalf("the picture has %d charts, the dashboard %d", len(picture.Charts), len(widgets))
	}
	for i, w := range widgets {
		chart := picture.Charts[i]
		want := []string{w.Title, w.Axis}
		for _, limit := range w.Limits {
			want = append(want, limit.Label+": "+label(limit.Value))
		}
		for _, series := range w.Series {
			if series.Visible {
				want = append(want, series.Label)
			}
		}
		for _, text := range want {
			if chart.Title != w.Title || !slices.Contains(chart.Texts, text) {
				t.Errorf("chart %d of the picture is %q, without %q of %q: run make dashboard", i, chart.Title, text, w.Title)
			}
		}
	}
}

// Points are drawn where they belong: the picture is read back.
func TestDrawingIsToScale(t *testing.T) {
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	metric := Metric{"N", "Starts", map[string]string{"Stack": "s"}}
	w := Widget{Title: "T & co", Axis: "a", Width: 12, Height: 6, View: "timeSeries", Limits: []Limit{{"limit", 3}},
		Series: []Series{{Metric: metric, Stat: "Sum", Period: time.Hour, Label: "starts", Visible: true}}}
	var samples []Sample
	for _, hour := range []int{0, 1, 1, 4} { // 1, 2, no value, no value, 1
		samples = append(samples, Sample{metric, "Count", from.Add(time.Duration(hour)*time.Hour + time.Minute), 1})
	}
	source, err := Draw([]Widget{w}, samples, from, from.Add(10*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var picture struct {
		Chart struct {
			Title string `xml:"title"`
			Lines []struct {
				Points string `xml:"points,attr"`
			} `xml:"polyline"`
			Dots []struct {
				X float64 `xml:"cx,attr"`
				Y float64 `xml:"cy,attr"`
			} `xml:"circle"`
		} `xml:"g"`
	}
	if err := xml.Unmarshal(source, &picture); err != nil {
		t.Fatal(err)
	}
	c := picture.Chart
	if c.Title != "T & co" || len(c.Lines) != 1 || len(c.Dots) != 1 {
		t.Fatalf("the chart is %+v, want one line and one dot", c)
	}
	var x0, y0, x1, y1 float64
	if _, err := fmt.Sscanf(c.Lines[0].Points, "%f,%f %f,%f", &x0, &y0, &x1, &y1); err != nil {
		t.Fatal(err)
	}
	dot := c.Dots[0] // four hours after the first point, with the same value
	if hour := x1 - x0; hour <= 0 || math.Abs(dot.X-x0-4*hour) > 0.5 || y1 >= y0 || dot.Y != y0 {
		t.Errorf("the line is %s, the dot %+v", c.Lines[0].Points, dot)
	}
}
