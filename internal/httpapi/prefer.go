package httpapi

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// preferredWait reads the preference "wait" of the Prefer headers (RFC 7240): for
// how long to hold the answer, at most longest, in whole seconds. Of several the
// first counts; a malformed one is as none.
func preferredWait(headers []string, longest time.Duration) (wait time.Duration, given bool) {
	for _, preference := range splitList(strings.Join(headers, ","), ',') {
		// What follows a semicolon are parameters; wait has none.
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

// deltaSeconds reads 1*DIGIT; more than fits is as much as fits.
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

// splitList splits a header at a separator that is not inside a quoted string,
// and trims the parts. There is always at least one.
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

// unquote answers what a quoted string says, or a token as it is.
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
