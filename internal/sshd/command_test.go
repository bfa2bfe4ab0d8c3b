package sshd

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

func TestParseCommand(t *testing.T) {
	for line, want := range map[string]command{
		"status":         {name: "status"},
		"  help  ":       {name: "help"},
		"close":          {name: "close"},
		"extend 30m":     {name: "extend", ttl: 30 * time.Minute},
		"extend  1h30m ": {name: "extend", ttl: 90 * time.Minute},
		"extend 2d":      {name: "extend", ttl: 48 * time.Hour},
	} {
		if got, err := parseCommand(line); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", line, got, err, want)
		}
	}
	for line, want := range map[string]string{
		"id":              `unknown command "id". Commands: status, extend 30m, close, help`,
		"":                `unknown command ""`,
		"status now":      `unknown command "status now"`,
		"close everybody": `unknown command "close everybody"`,
		"STATUS":          `unknown command "STATUS"`,
		"a\x1b[31mb":      `unknown command "a?[31mb"`,
		"extend":          "usage: extend 30m",
		"extend 1 hour":   "usage: extend 30m",
		"extend 30":       `"30" is not a duration`,
		"extend 0s":       `"0s" is not a duration`,
		"extend -1m":      `"-1m" is not a duration`,
		"extend \x1b]0;x": `"?]0;x" is not a duration`,
	} {
		_, err := parseCommand(line)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", line, err, want)
		}
		if unknown := errors.As(err, new(unknownCommand)); unknown != strings.HasPrefix(want, "unknown command") {
			t.Errorf("%q: unknown is %v", line, unknown)
		}
	}
}

func TestStatusText(t *testing.T) {
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	lease := bastion.Lease{
		BastionID: "abcd", Name: "default", Owner: "slack:T1:\x1b[2Jalice", Source: netip.MustParsePrefix("203.0.113.7/32"),
		Deadline: now.Add(90*time.Minute + 300*time.Millisecond), IdleTimeout: 15 * time.Minute,
		AllowedDestinations: prefixes("10.0.0.0/8", "fd12::/64"),
	}
	want := `bastion      default (abcd)
owner        slack:T1:?[2Jalice
state        ready
source       203.0.113.7/32
deadline     2030-01-01T13:30:00Z, 1h30m from now
idle         closes after 15m without a connection
connections  2 open
destinations 10.0.0.0/8, fd12::/64
`
	if got := statusText(lease, 2, now); got != want {
		t.Errorf("status:\n%swant:\n%s", got, want)
	}
	lease.IdleTimeout, lease.AllowedDestinations, lease.Deadline = 0, nil, now.Add(-time.Second)
	got := statusText(lease, 0, now)
	for _, part := range []string{"0s from now", "never closed for being idle", "destinations none"} {
		if !strings.Contains(got, part) {
			t.Errorf("%q is missing in:\n%s", part, got)
		}
	}
}

func TestClip(t *testing.T) {
	for in, want := range map[string]string{
		"plain":             "plain",
		"ü and 漢":           "ü and 漢",
		"a\x1b[31m\r\n\x00": "a?[31m???",
		"\u202eevil":        "?evil", // turns the direction of writing
		"\xff\xfe":          "?",
	} {
		if got := clip(in); got != want {
			t.Errorf("clip(%q) = %q, want %q", in, got, want)
		}
	}
	if got := clip(strings.Repeat("ü", 1000)); len(got) > 300 {
		t.Errorf("a long text stays %d bytes long", len(got))
	}
}
