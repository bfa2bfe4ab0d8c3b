package publickey_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// privateKeys are the headers of private keys, without a key in them.
var privateKeys = map[string]string{
	"OpenSSH":                pemBlock("OPENSSH PRIVATE KEY"),
	"PKCS #1":                pemBlock("RSA PRIVATE KEY"),
	"PKCS #8":                pemBlock("PRIVATE KEY"),
	"PKCS #8, encrypted":     pemBlock("ENCRYPTED PRIVATE KEY"),
	"SEC 1":                  pemBlock("EC PRIVATE KEY"),
	"DSA":                    pemBlock("DSA PRIVATE KEY"),
	"OpenPGP":                pemBlock("PGP PRIVATE KEY BLOCK"),
	"ssh.com":                "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nAAAA\n",
	"PuTTY 2":                "PuTTY-User-Key-File-2: ssh-rsa\nEncryption: none\n",
	"PuTTY 3":                "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n",
	"OpenSSH without header": "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtz\n",
	"last lines only":        "c3NoLWVk\n-----END OPENSSH PRIVATE KEY-----\n",
	"header in lower case":   strings.ToLower(pemBlock("OPENSSH PRIVATE KEY")),
}

func pemBlock(label string) string {
	return "-----BEGIN " + label + "-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END " + label + "-----\n"
}

func TestLooksPrivate(t *testing.T) {
	disguises := map[string]func(string) string{
		"plain":         func(s string) string { return s },
		"after a key":   func(s string) string { return ed25519Line(t, 1) + "\n" + s },
		"CRLF":          func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
		"no newlines":   func(s string) string { return strings.ReplaceAll(s, "\n", "") },
		"newline in it": func(s string) string { return strings.ReplaceAll(s, " PRIVATE", "\nPRIVATE") },
		"in JSON":       inJSON,
		"all escaped":   func(s string) string { return `{"public_key":"` + escapeAll(s) + `"}` },
		"a JSON name":   func(s string) string { return `{` + quote(s) + `:1}` },
		"form":          url.QueryEscape,
		"path escaped":  url.PathEscape,
		"UTF-16":        utf16Text,
	}
	for kind, key := range privateKeys {
		for name, disguise := range disguises {
			if !publickey.LooksPrivate([]byte(disguise(key))) {
				t.Errorf("not recognised: %s, %s", kind, name)
			}
		}
	}
}

func TestLooksPrivateIgnoresOtherText(t *testing.T) {
	for _, body := range []string{
		"", "{}", ed25519Line(t, 1), inJSON(ed25519Line(t, 1) + " alice"), rsaLine(t, 4096), certificateLine(t),
		"-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n",
		`{"reason":"rotate the private key of the BEGINNERS' host"}`,
		`{"reason":"a backslash \\u and \\"}`,
	} {
		if publickey.LooksPrivate([]byte(body)) {
			t.Errorf("recognised as a private key: %s", body)
		}
	}
}

func inJSON(s string) string { return `{"public_key": ` + quote(s) + `}` }

func quote(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always marshals
	}
	return string(text)
}

// escapeAll returns every character as \u00XX.
func escapeAll(s string) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteString(`\u00`)
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}
