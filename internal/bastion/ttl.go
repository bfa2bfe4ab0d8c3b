package bastion

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

var (
	ttlPattern = regexp.MustCompile(`^(?:[0-9]+(?:\.[0-9]+)?[dhms])+$`)
	ttlPart    = regexp.MustCompile(`([0-9.]+)([dhms])`)
)

// ParseTTL parses a duration of a second or more, such as 45m, 1h30m, 1.5h or
// 2d: numbers with the units d (24 hours), h, m and s, without spaces.
//
// *Error: CodeTTLInvalid if the text has another form or is less than a second,
// CodeTTLBeyondCap if it is more than a [time.Duration] can hold.
func ParseTTL(text string) (time.Duration, error) {
	if !ttlPattern.MatchString(text) {
		return 0, invalidTTL(text)
	}
	var sum time.Duration
	for _, part := range ttlPart.FindAllStringSubmatch(text, -1) {
		number, unit, times := part[1], part[2], time.Duration(1)
		if unit == "d" {
			unit, times = "h", 24
		}
		d, err := time.ParseDuration(number + unit)
		product := d * times
		if err != nil || product/times != d || sum+product < sum {
			return 0, Errorf(CodeTTLBeyondCap, "Bastions cannot run for as long as %s. Request a shorter ttl.", QuoteShort(text))
		}
		sum += product
	}
	if sum < time.Second {
		return 0, invalidTTL(text)
	}
	return sum, nil
}

func invalidTTL(text string) error {
	return Errorf(CodeTTLInvalid, "The ttl %s is not a duration of a second or more. Write it like 45m, 2h, 1h30m or 2d.", QuoteShort(text))
}

// QuoteShort quotes a client's text for an error message. It cuts the text after 40
// characters.
func QuoteShort(text string) string {
	const most = 40
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	return strconv.Quote(text)
}

// FormatTTL formats a duration the way people write it, without units that are
// zero: 15m, 1h, 1h30m. Two or more whole days have the unit d: 48h is formatted as
// 2d, but 49h as 49h. Fractions of a second are dropped. [ParseTTL] accepts every
// result of a second or more.
func FormatTTL(d time.Duration) string {
	d = d.Truncate(time.Second)
	if d < 0 {
		return "-" + FormatTTL(-d)
	}
	if d >= 2*day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	var b strings.Builder
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		if n := int64(d / unit.size); n > 0 {
			b.WriteString(strconv.FormatInt(n, 10) + unit.name)
		}
		d %= unit.size
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}
