package publickey

import (
	"bytes"
	"regexp"
	"strconv"
)

// gap matches the space between the words of a PEM header, also form-encoded.
const gap = `(?:[\s+]|%20)+`

// privateMarks matches what only private keys contain: the first or last line of
// a PEM or RFC 4716 file, the first line of a PuTTY file, and the first bytes of an
// OpenSSH key in base64 ("openssh-key-v1\0"), for a key without its header.
var privateMarks = regexp.MustCompile(
	`(?i:(?:BEGIN|END)` + gap + `(?:[A-Z0-9]+` + gap + `){0,3}PRIVATE` + gap + `KEY)` +
		`|(?i:PuTTY-User-Key-File-[0-9])` +
		`|b3BlbnNzaC1rZXktdjEA`)

// jsonEscape matches an ASCII character that is escaped in JSON.
var jsonEscape = regexp.MustCompile(`\\u00[0-7][0-9a-fA-F]|\\[nrt/"\\]`)

// LooksPrivate reports whether body contains a private key: plain, in JSON,
// form-encoded, or as UTF-16.
func LooksPrivate(body []byte) bool {
	plain := bytes.ReplaceAll(body, []byte{0}, nil) // UTF-16 to ASCII
	return privateMarks.Match(plain) || privateMarks.Match(jsonEscape.ReplaceAllFunc(plain, unescape))
}

func unescape(escape []byte) []byte {
	switch escape[1] {
	case 'u':
		code, _ := strconv.ParseUint(string(escape[2:]), 16, 8) // jsonEscape matches only such digits
		return []byte{byte(code)}
	case 'n', 'r', 't':
		return []byte{' '}
	}
	return escape[1:]
}
