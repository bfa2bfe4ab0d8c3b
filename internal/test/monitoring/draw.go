package monitoring

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
	"time"
)

// The size of the picture, in pixels: of a unit of the dashboard's grid, of a widget's
// edges around its chart, and of text.
const (
	unit      = 50
	gap       = 8.0
	left      = 52.0
	right     = 26.0
	top       = 46.0
	axisSpace = 24.0 // below the chart, for the times
	keySpace  = 20.0 // a line of the legend
	codeWidth = 132.0
)

// palette has the colors of CloudWatch's charts, in the order of the series.
var palette = []string{"#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#084d73"}

// Draw draws widgets as SVG: the samples of the time from from to to, in UTC.
func Draw(widgets []Widget, samples []Sample, from, to time.Time) ([]byte, error) {
	from, to = from.UTC().Truncate(time.Second), to.UTC().Truncate(time.Second) // without the monotonic clock
	d := &drawing{from: from, to: to}
	height := 0
	for _, w := range widgets {
		height = max(height, (w.Y+w.Height)*unit)
	}
	d.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#16191f">`, 24*unit, height)
	d.add(`<rect width="100%%" height="100%%" fill="#f2f3f3"/>`)
	for _, w := range widgets {
		points, err := w.evaluate(samples, from, to)
		if err != nil {
			return nil, err
		}
		d.widget(w, points, samples)
	}
	d.add(`</svg>`)
	return d.out.Bytes(), nil
}

type drawing struct {
	out      bytes.Buffer
	from, to time.Time
}

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(&d.out, format+"\n", args...) }

// text writes a text; anchor is start, middle or end.
func (d *drawing) text(x, y float64, anchor, more, text string) {
	d.add(`<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>`, x, y, anchor, more, html.EscapeString(text))
}

// frame is the place of a chart, and the largest value of its axis.
type frame struct{ x, y, width, height, most float64 }

func (d *drawing) widget(w Widget, points [][]Point, samples []Sample) {
	x, y := float64(w.X*unit)+gap/2, float64(w.Y*unit)+gap/2
	width, height := float64(w.Width*unit)-gap, float64(w.Height*unit)-gap
	d.add(`<g><title>%s</title>`, html.EscapeString(w.Title))
	d.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="3" fill="#ffffff" stroke="#d5dbdb"/>`, x, y, width, height)
	d.text(x+12, y+21, "start", ` class="title" font-size="14" font-weight="bold"`, w.Title)
	d.text(x+12, y+37, "start", ` font-size="11" fill="#545b64"`, w.Axis)
	if w.View == "bar" {
		d.bars(w, samples, frame{x: x + codeWidth, y: y + top, width: width - codeWidth - 34, height: height - top - axisSpace})
	} else {
		keys := d.keys(w, x+left, width-left-right, 0, false)
		f := frame{x: x + left, y: y + top, width: width - left - right, height: height - top - axisSpace - keySpace*float64(keys) - 4}
		d.lines(w, points, f)
		d.keys(w, f.x, f.width, f.y+f.height+axisSpace+13, true)
	}
	d.add(`</g>`)
}

// lines draws the series over time.
func (d *drawing) lines(w Widget, points [][]Point, f frame) {
	var values []float64
	for i, series := range w.Series {
		for _, p := range points[i] {
			if series.Visible {
				values = append(values, p.Value)
			}
		}
	}
	for _, limit := range w.Limits {
		values = append(values, limit.Value*1.15)
	}
	step := niceStep(values, 4)
	f.most = step * math.Max(1, math.Ceil(most(values)/step))
	for value := 0.0; value <= f.most+step/2; value += step {
		y := f.at(value)
		d.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#eaeded"/>`, f.x, f.x+f.width, y, y)
		d.text(f.x-6, y+4, "end", ` fill="#545b64" font-size="11"`, label(value))
	}
	for at := d.from; !at.After(d.to); at = at.Add(d.tick(f.width)) {
		x := f.time(d, at)
		d.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#aab7b8"/>`, x, x, f.y+f.height, f.y+f.height+4)
		d.text(x, f.y+f.height+16, "middle", ` fill="#545b64" font-size="11"`, at.UTC().Format("15:04"))
	}
	d.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#aab7b8"/>`, f.x, f.x+f.width, f.y+f.height, f.y+f.height)
	for _, limit := range w.Limits {
		y := f.at(limit.Value)
		d.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#d13212" stroke-dasharray="5 3"/>`, f.x, f.x+f.width, y, y)
		d.text(f.x+4, y-4, "start", ` fill="#d13212" font-size="11"`, fmt.Sprintf("%s: %s", limit.Label, label(limit.Value)))
	}
	shown := 0
	for i, series := range w.Series {
		if !series.Visible {
			continue
		}
		d.line(points[i], w.period(i), palette[shown%len(palette)], f)
		shown++
	}
}

// line draws one series. It is interrupted where a period has no value, and a value
// without neighbours is a dot.
func (d *drawing) line(points []Point, step time.Duration, color string, f frame) {
	for i := 0; i < len(points); {
		path, j := "", i
		for ; j < len(points) && (j == i || points[j].At.Sub(points[j-1].At) == step); j++ {
			path += fmt.Sprintf("%.1f,%.1f ", f.time(d, points[j].At), f.at(points[j].Value))
		}
		if j == i+1 {
			d.add(`<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`, f.time(d, points[i].At), f.at(points[i].Value), color)
		} else {
			d.add(`<polyline points="%s" fill="none" stroke="%s" stroke-width="1.7" stroke-linejoin="round"/>`, path[:len(path)-1], color)
		}
		i = j
	}
}

// period returns the period of a series; that of an expression is its metric's.
func (w Widget) period(i int) time.Duration {
	if period := w.Series[i].Period; w.Series[i].Expression == "" {
		return period
	}
	return w.Series[0].Period
}

// bars draws one bar for each series, for the whole time.
func (d *drawing) bars(w Widget, samples []Sample, f frame) {
	values := make([]float64, len(w.Series))
	for i, series := range w.Series {
		for _, s := range samples {
			if s.Metric.String() == series.Metric.String() && !s.At.Before(d.from) && s.At.Before(d.to) {
				values[i] += s.Value
			}
		}
	}
	step := niceStep(values, 5)
	f.most = step * math.Max(1, math.Ceil(most(values)/step))
	for value := 0.0; value <= f.most+step/2; value += step {
		x := f.x + f.width*value/f.most
		d.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#eaeded"/>`, x, x, f.y, f.y+f.height)
		d.text(x, f.y+f.height+16, "middle", ` fill="#545b64" font-size="11"`, label(value))
	}
	row := f.height / float64(len(values))
	for i, value := range values {
		y := f.y + row*float64(i)
		d.text(f.x-6, y+row/2+4, "end", ` font-size="11"`, w.Series[i].Label)
		d.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`, f.x, y+row*0.15, f.width*value/f.most, row*0.7, palette[i%len(palette)])
		d.text(f.x+f.width*value/f.most+5, y+row/2+4, "start", ` font-size="11"`, label(value))
	}
}

// keys draws the legend, and returns how many lines it has.
func (d *drawing) keys(w Widget, x, width, y float64, visible bool) (lines int) {
	at, shown := 0.0, 0
	for _, series := range w.Series {
		if !series.Visible {
			continue
		}
		needs := 30 + 6.3*float64(len(series.Label))
		if at > 0 && at+needs > width {
			lines, at = lines+1, 0
		}
		if visible {
			row := y + keySpace*float64(lines)
			d.add(`<rect x="%.1f" y="%.1f" width="10" height="10" fill="%s"/>`, x+at, row-9, palette[shown%len(palette)])
			d.text(x+at+15, row, "start", "", series.Label)
		}
		at += needs
		shown++
	}
	return lines + 1
}

// at returns the place of a value on the vertical axis.
func (f frame) at(value float64) float64 { return f.y + f.height*(1-value/f.most) }

// time returns the place of a time on the horizontal axis.
func (f frame) time(d *drawing, at time.Time) float64 {
	return f.x + f.width*at.Sub(d.from).Seconds()/d.to.Sub(d.from).Seconds()
}

// tick returns the time between two marks of the horizontal axis.
func (d *drawing) tick(width float64) time.Duration {
	for _, step := range []time.Duration{time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour} {
		if width*step.Seconds()/d.to.Sub(d.from).Seconds() >= 42 {
			return step
		}
	}
	return 12 * time.Hour
}

func most(values []float64) float64 {
	highest := 0.0
	for _, value := range values {
		highest = max(highest, value)
	}
	return highest
}

// niceStep returns the distance of an axis's marks, 1, 2 or 5 times a power of ten and at
// least 1, with at most so many marks above zero.
func niceStep(values []float64, marks int) float64 {
	for power := 1.0; ; power *= 10 {
		for _, factor := range []float64{1, 2, 5} {
			if step := factor * power; most(values) <= step*float64(marks) {
				return step
			}
		}
	}
}

func label(value float64) string { return strconv.FormatFloat(value, 'f', -1, 64) }
