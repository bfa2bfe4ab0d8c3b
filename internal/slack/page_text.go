package slack

import (
	"net/netip"
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
