package slack

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
)

// clock is a time as pages say it; the reader's own is put beside it by script.
func clock(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") }

// lifetime is a length of time as pages say it; empty for none.
func lifetime(d time.Duration) string {
	var words []string
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}} {
		if n := d / unit.length; n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, unit.name))
			d -= n * unit.length
		}
	}
	return strings.Join(words, " ")
}

// family is what kind of address it is, in the words of those who use it.
func family(address netip.Addr) string {
	if address.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// teamAndUser are the parts of an owner of Slack's, as slack:T0123:U0123.
func teamAndUser(owner string) (team, user string) {
	team, user, _ = strings.Cut(strings.TrimPrefix(owner, "slack:"), ":")
	return team, user
}

// printable is somebody else's text without what could change how the text around
// it looks.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}
