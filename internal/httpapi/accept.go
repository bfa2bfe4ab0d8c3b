package httpapi

import (
	"strconv"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// format is a media type that answers are written in.
type format string

const (
	formatJSON format = "application/json"
	formatText format = "text/plain"
)

// negotiate chooses the format that the Accept headers want most (RFC 9110,
// section 12.5.1). Where two are wanted alike, it is the one that is named more
// precisely, then JSON. Errors are problem documents whatever is wanted.
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
		return "", bastion.Errorf(CodeNotAcceptable, "Answers are %s or %s; the Accept header wants neither.", formatJSON, formatText)
	}
	return best, nil
}

// quality answers how much a format is wanted, which is what the most precise of
// the ranges that match it says, and how precise that is: 1 for */*, 2 for
// type/*, 3 for the type itself; 0 if none matches.
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

// weight reads the parameter q, which is 1 if it is missing. Not ok: it is
// malformed, and the range as if it were not there.
func weight(parameters []string) (float64, bool) {
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
