package bastion

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "default": true, "db-2": true, "7": true, strings.Repeat("a", 32): true,
		"": false, strings.Repeat("a", 33): false, "-a": false, "a-": false, "A": false, "a_b": false,
		"a b": false, "a\n": false, "é": false, "a.b": false, "a/b": false,
	} {
		if got := ValidName(name); got != want {
			t.Errorf("ValidName(%q) = %v, want %v", name, got, want)
		}
	}
}

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"abcdefghij234567": true,
		"":                 false, "abcdefghij23456": false, "abcdefghij2345677": false,
		"abcdefghij234560": false, "ABCDEFGHIJ234567": false, "abcdefghij23456\n": false,
	} {
		if got := ValidID(id); got != want {
			t.Errorf("ValidID(%q) = %v, want %v", id, got, want)
		}
	}
	s := &Service{Rand: rand.Reader}
	if id, err := s.newID(); err != nil || !ValidID(id) {
		t.Errorf("newID returned %q, %v, which ValidID must accept", id, err)
	}
}

func TestCleanReason(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "",
		"  debug the import \n":     "debug the import",
		"Größe prüfen: 日本語 🙂":       "Größe prüfen: 日本語 🙂",
		strings.Repeat("é", 200):    strings.Repeat("é", 200),
		`<b>"quotes" & backslash \`: `<b>"quotes" & backslash \`,
	} {
		if got, err := CleanReason(text); got != want || err != nil {
			t.Errorf("CleanReason(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		strings.Repeat("a", 201), "a\nb", "a\tb", "a\u2028b", "a\u2029b", "\u202eevil", "a\u200fb", "a\u2066b",
		"a\x00b", "a\x1b[31mb", "a\u0085b", "a\ufeffb", "\xff",
	} {
		got, err := CleanReason(text)
		if refused := (*Error)(nil); !errors.As(err, &refused) || refused.Code != CodeReasonInvalid || got != "" {
			t.Errorf("CleanReason(%q) = %q, %v, want %s", text, got, err, CodeReasonInvalid)
		}
	}
}

func TestValidOwner(t *testing.T) {
	for owner, want := range map[string]bool{
		"iam:123456789012:AIDAEXAMPLE123456":             true,
		"iam:123456789012:AROAEXAMPLE123456:ann@example": true,
		"jwt:https://issuer.example/#subject|1":          true,
		"jwt:https://issuer.example#a#b":                 true,
		"slack:T0123ABCD:U0123ABCD":                      true,
		"local:alice":                                    true,
		"local:alice@laptop":                             true,

		"": false, "alice": false, "iam:": false, "root:alice": false,
		"iam:1:AIDAEXAMPLE123456":                false,
		"iam:123456789012:aidaexample123456":     false,
		"iam:123456789012:AROAEXAMPLE123456:":    false,
		"iam:123456789012:AROAEXAMPLE123456:a:b": false,
		"jwt:https://issuer.example/":            false,
		"jwt:#subject":                           false,
		"jwt:https://issuer.example/#":           false,
		"jwt:https://issuer.example/#a b":        false,
		"slack:T0123ABCD":                        false,
		"slack:t0123abcd:u0123abcd":              false,
		"slack:T0123ABCD:U0123ABCD:x":            false,
		"local:":                                 false,
		"local:a b":                              false,
		"local:a:b":                              false,
		"local:alice\n":                          false,
	} {
		if got := ValidOwner(owner); got != want {
			t.Errorf("ValidOwner(%q) = %v, want %v", owner, got, want)
		}
	}
}

func TestParseSlackOwner(t *testing.T) {
	team, user, ok := ParseSlackOwner(SlackOwner("T0123ABCD", "U0123ABCD"))
	if team != "T0123ABCD" || user != "U0123ABCD" || !ok {
		t.Errorf("got %q, %q, %v", team, user, ok)
	}
	for _, owner := range []string{
		"", "slack:", "slack:T1", "slack::U1", "slack:T1:", "slack:T1:u1", "slack:T1:U1:", " slack:T1:U1", "slack:T1:U1\n",
		"Slack:T1:U1", "local:slack:T1:U1", "iam:123456789012:AIDAEXAMPLE123456",
	} {
		if team, user, ok := ParseSlackOwner(owner); team != "" || user != "" || ok {
			t.Errorf("ParseSlackOwner(%q) = %q, %q, %v, want none", owner, team, user, ok)
		}
	}
}

func TestParseTTL(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1s": time.Second, "45m": 45 * time.Minute, "2h": 2 * time.Hour, "1h30m": 90 * time.Minute,
		"1.5h": 90 * time.Minute, "1.5s": 1500 * time.Millisecond, "0h90s": 90 * time.Second, "60s": time.Minute,
		"2d": 48 * time.Hour, "0.5d": 12 * time.Hour, "1d12h": 36 * time.Hour, "30m1h": 90 * time.Minute,
		"0000000000000000000000000001h": time.Hour,
	} {
		if got, err := ParseTTL(text); got != want || err != nil {
			t.Errorf("ParseTTL(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for text, code := range map[string]Code{
		"": CodeTTLInvalid, "2": CodeTTLInvalid, "h": CodeTTLInvalid, "-1h": CodeTTLInvalid, "+1h": CodeTTLInvalid,
		"1 h": CodeTTLInvalid, "1h ": CodeTTLInvalid, "1H": CodeTTLInvalid, "1w": CodeTTLInvalid, "1e9s": CodeTTLInvalid,
		"1000ms": CodeTTLInvalid, ".5h": CodeTTLInvalid, "1.h": CodeTTLInvalid, "1.2.3h": CodeTTLInvalid, "0s": CodeTTLInvalid,
		"0.9s": CodeTTLInvalid, "forever": CodeTTLInvalid, "1h\n": CodeTTLInvalid,
		"9999999999h": CodeTTLBeyondCap, "99999999999999999999999999s": CodeTTLBeyondCap, "999999d": CodeTTLBeyondCap,
		"2562047h99m": CodeTTLBeyondCap, "106751d1d": CodeTTLBeyondCap,
	} {
		got, err := ParseTTL(text)
		if refused := (*Error)(nil); !errors.As(err, &refused) || refused.Code != code || got != 0 {
			t.Errorf("ParseTTL(%q) = %v, %v, want %s", text, got, err, code)
		}
	}
}

func TestFormatTTL(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Millisecond: "0s", time.Second: "1s", 90 * time.Second: "1m30s", 15 * time.Minute: "15m",
		time.Hour: "1h", 90 * time.Minute: "1h30m", time.Hour + time.Second: "1h1s", 8 * time.Hour: "8h",
		24 * time.Hour: "24h", 36 * time.Hour: "36h", 48 * time.Hour: "2d", 49 * time.Hour: "49h", 99 * time.Hour: "99h",
		-90 * time.Minute: "-1h30m", time.Hour + 999*time.Millisecond: "1h",
	} {
		if got := FormatTTL(d); got != want {
			t.Errorf("FormatTTL(%v) = %q, want %q", d, got, want)
		}
		if back, err := ParseTTL(want); d >= time.Second && (back != d.Truncate(time.Second) || err != nil) {
			t.Errorf("ParseTTL(%q) = %v, %v, want %v", want, back, err, d)
		}
	}
}

func TestQuoteShortCutsAfter40Characters(t *testing.T) {
	for text, want := range map[string]string{
		strings.Repeat("ü", 40): `"` + strings.Repeat("ü", 40) + `"`,
		strings.Repeat("ü", 41): `"` + strings.Repeat("ü", 40) + `…"`,
		"a\nb":                  `"a\nb"`,
	} {
		if got := QuoteShort(text); got != want {
			t.Errorf("%q becomes %s, want %s", text, got, want)
		}
	}
}
