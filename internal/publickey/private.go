package publickey

import (
	"bytes"
	"regexp"
	"strconv"
)

// gap is what stands between the words of a PEM header, also where a form
// encoding has had its way with them.
const gap = `(?:[\s+]|%20)+`

// privateMarks finds what only private keys carry: the first or last line of
// PEM and RFC 4716 files, the first line of PuTTY's, and the first bytes of an
// OpenSSH key in base64 ("openssh-key-v1\0"), should the header be lost.
var privateMarks = regexp.MustCompile(
	`(?i:(?:BEGIN|END)` + gap + `(?:[A-Z0-9]+` + gap + `){0,3}PRIVATE` + gap + `KEY)` +
		`|(?i:PuTTY-User-Key-File-[0-9])` +
		`|b3BlbnNzaC1rZXktdjEA`)

// jsonEscape is a character that JSON has written as an escape although it is
// plain ASCII.
var jsonEscape = regexp.MustCompile(`\\u00[0-7][0-9a-fA-F]|\\[nrt/"\\]`)

// LooksPrivate reports whether a private key stands anywhere in body, as it is,
// inside JSON, form-encoded, or as UTF-16.
func LooksPrivate(body []byte) bool {
	plain := bytes.ReplaceAll(body, []byte{0}, nil) // ASCII written as UTF-16
	return privateMarks.Match(plain) || privateMarks.Match(jsonEscape.ReplaceAllFunc(plain, unescape))
}

func unescape(escape []byte) []byte {
	switch escape[1] {
	case 'u':
		code, _ := strconv.ParseUint(string(escape[2:]), 16, 8) // the pattern admits nothing else
		return []byte{byte(code)}
	case 'n', 'r', 't':
		return []byte{' '}
	}
	return escape[1:]
}
