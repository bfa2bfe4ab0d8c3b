package slack

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// units are how people write the units of time, without a plural's s.
var units = map[string]time.Duration{
	"s": time.Second, "sec": time.Second, "second": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour,
}

var (
	// lengths is a length of time in one or more parts: 1h30m, 2 hours, 1.5 h.
	lengths = regexp.MustCompile(`^(?:\d{1,9}(?:\.\d{1,3})? ?[a-z]+ ?)+$`)
	part    = regexp.MustCompile(`(\d{1,9}(?:\.\d{1,3})?) ?([a-z]+)`)
	number  = regexp.MustCompile(`^\d{1,9}(?:\.\d{1,3})?$`)
)

// parseLength reads a length of time of a second or more, its units from the
// longest to the shortest: "2h 3h" are two lengths, and not five hours.
func parseLength(text string) (time.Duration, bool) {
	text = strings.ToLower(text)
	if !lengths.MatchString(text) {
		return 0, false
	}
	var sum float64
	last := time.Duration(math.MaxInt64)
	for _, p := range part.FindAllStringSubmatch(text, -1) {
		unit, ok := units[p[2]]
		if !ok {
			unit, ok = units[strings.TrimSuffix(p[2], "s")]
		}
		n, err := strconv.ParseFloat(p[1], 64)
		if !ok || err != nil || unit >= last {
			return 0, false
		}
		last = unit
		sum += n * float64(unit)
	}
	if sum < float64(time.Second) || sum > math.MaxInt64/2 {
		return 0, false
	}
	return time.Duration(sum).Truncate(time.Second), true
}

// leadingLength reads as many of the words as make one length of time, and
// answers how many they are.
func leadingLength(words []word) (time.Duration, int) {
	const most = 8 // "1 hour 30 minutes 5 seconds" are six
	for n := min(len(words), most); n > 0; n-- {
		var texts []string
		for _, w := range words[:n] {
			texts = append(texts, w.text)
		}
		if length, ok := parseLength(strings.Join(texts, " ")); ok {
			return length, n
		}
	}
	return 0, 0
}

// inWords is a length of time as people say it, to the second.
func inWords(d time.Duration) string {
	d = d.Round(time.Second)
	var parts []string
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}} {
		if n := int64(d / unit.size); n > 0 {
			parts = append(parts, counted(n, unit.name))
		}
		d %= unit.size
	}
	if len(parts) == 0 {
		return "no time"
	}
	return strings.Join(parts, " ")
}

func counted(n int64, noun string) string {
	text := strconv.FormatInt(n, 10) + " " + noun
	if n != 1 {
		text += "s"
	}
	return text
}
