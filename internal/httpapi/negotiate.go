package httpapi

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// format is a media type of responses.
type format string

const (
	formatJSON format = "application/json"
	formatText format = "text/plain"
)

// negotiate returns the format that the Accept headers prefer (RFC 9110, section
// 12.5.1). If two formats have the same weight, negotiate returns the format that the
// more precise range matches, and JSON if the ranges are equally precise. The format
// does not matter for errors, which are always problem documents.
func negotiate(headers []string) (format, error) {
	accept := strings.Join(headers, ",")
	if strings.TrimSpace(accept) == "" {
		return formatJSON, nil
	}
	ranges := splitList(accept, ',')
	best, bestQ, bestPrecision := format(""), 0.0, 0
	for _, offered := range []format{formatJSON, formatText} {
		q, precision := quality(ranges, offered)
		if q > bestQ || q == bestQ && q > 0 && precision > bestPrecision {
			best, bestQ, bestPrecision = offered, q, precision
		}
	}
	if best == "" {
		return "", bastion.Errorf(CodeNotAcceptable, "This API returns %s or %s; Accept allows neither.", formatJSON, formatText)
	}
	return best, nil
}

// quality returns the weight and the precision of the most precise range that matches
// the format. The precision is 1 for */*, 2 for a range such as text/*, and 3 for a
// range such as text/plain. Both are 0 if no range matches.
func quality(ranges []string, offered format) (q float64, precision int) {
	family, _, _ := strings.Cut(string(offered), "/")
	for _, r := range ranges {
		parts := splitList(r, ';')
		matched := 0
		switch strings.ToLower(parts[0]) {
		case "*/*":
			matched = 1
		case family + "/*":
			matched = 2
		case string(offered):
			matched = 3
		}
		if weight, ok := weight(parts[1:]); ok && matched > precision {
			q, precision = weight, matched
		}
	}
	return q, precision
}

// weight reads the parameter q, which is 1 if it is missing. If it is malformed,
// ok is false and the range does not count.
func weight(parameters []string) (q float64, ok bool) {
	for _, p := range parameters {
		name, value, _ := strings.Cut(p, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		return q, err == nil && q >= 0 && q <= 1
	}
	return 1, true
}

// preferredWait reads the preference "wait" of the Prefer headers (RFC 7240): how
// long to hold the response, in whole seconds, at most longest. Only the first "wait"
// is read. If it is malformed, given is false.
func preferredWait(headers []string, longest time.Duration) (wait time.Duration, given bool) {
	for _, preference := range splitList(strings.Join(headers, ","), ',') {
		// Parameters follow a semicolon; wait has none.
		name, value, _ := strings.Cut(splitList(preference, ';')[0], "=")
		if !strings.EqualFold(strings.TrimSpace(name), "wait") {
			continue
		}
		seconds, ok := deltaSeconds(unquote(strings.TrimSpace(value)))
		if !ok {
			return 0, false
		}
		most := int64(longest / time.Second)
		return time.Duration(min(seconds, most)) * time.Second, true
	}
	return 0, false
}

// deltaSeconds reads a number of one or more digits. If the number does not fit in an
// int64, deltaSeconds returns the largest int64.
func deltaSeconds(text string) (int64, bool) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil { // only digits: it is out of range
		seconds = math.MaxInt64
	}
	return seconds, true
}

// splitList splits a header at separators that are not inside a quoted string, and
// trims the parts. It returns at least one part.
func splitList(header string, separator byte) []string {
	var parts []string
	start, inQuotes := 0, false
	for i := 0; i < len(header); i++ {
		switch c := header[i]; {
		case c == '"':
			inQuotes = !inQuotes
		case c == '\\' && inQuotes:
			i++
		case c == separator && !inQuotes:
			parts = append(parts, strings.TrimSpace(header[start:i]))
			start = i + 1
		}
	}
	return append(parts, strings.TrimSpace(header[start:]))
}

// unquote returns the text of a quoted string, or a token as it is.
func unquote(word string) string {
	if len(word) < 2 || word[0] != '"' || word[len(word)-1] != '"' {
		return word
	}
	var b strings.Builder
	for i := 1; i < len(word)-1; i++ {
		if word[i] == '\\' {
			i++
		}
		b.WriteByte(word[i])
	}
	return b.String()
}
