package slack

import (
	"net/netip"
	"strings"
	"time"
)

// clock is a time as pages say it; the reader's own is put beside it by script.
func clock(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") }

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
