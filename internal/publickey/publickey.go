// Package publickey parses the public key that a person sends. It accepts one public
// key, in a file as OpenSSH, PuTTYgen or OpenSSL writes it, and nothing else. The other
// things that authorized_keys allows (options, several keys, certificates) could give
// access to someone whom the sender did not think of.
package publickey

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The codes of the errors that [Parse] returns.
const (
	CodeInvalid     bastion.Code = "key_invalid"     // not one public key
	CodeTwo         bastion.Code = "key_two"         // more than one key
	CodeOptions     bastion.Code = "key_options"     // authorized_keys options before the key
	CodeCertificate bastion.Code = "key_certificate" // a certificate
	CodeTooWeak     bastion.Code = "key_too_weak"    // RSA with too few bits
	CodeType        bastion.Code = "key_type"        // a key of another type
	CodePrivate     bastion.Code = "private_key"     // a private key
)

// The lengths of an RSA modulus in bits. Fewer than minRSA are too weak; OpenSSH
// makes no key of more than maxRSA.
const (
	minRSA = 2048
	maxRSA = 16384
)

// supported are the types of key that a bastion accepts.
var supported = []string{
	ssh.KeyAlgoED25519,
	ssh.KeyAlgoECDSA256,
	ssh.KeyAlgoECDSA384,
	ssh.KeyAlgoECDSA521,
	ssh.KeyAlgoRSA,
	ssh.KeyAlgoSKED25519,
	ssh.KeyAlgoSKECDSA256,
}

// options are the names that sshd(8) lists in "AUTHORIZED_KEYS FILE FORMAT".
var options = []string{
	"agent-forwarding", "cert-authority", "command", "environment", "expiry-time",
	"from", "no-agent-forwarding", "no-port-forwarding", "no-pty",
	"no-touch-required", "no-user-rc", "no-x11-forwarding", "permitlisten",
	"permitopen", "port-forwarding", "principals", "pty", "restrict", "tunnel",
	"user-rc", "verify-required", "x11-forwarding",
}

// keyType matches OpenSSH's names of key types.
var keyType = regexp.MustCompile(`^(ssh|ecdsa|sk|webauthn)-[a-z0-9@.-]+$`)

// Parse parses one public key: the line of an OpenSSH .pub file, or a file in the format
// of RFC 4716 or PEM. It ignores blank lines, a UTF-8 byte order mark and the comment,
// which may have any bytes. Every error is a [*bastion.Error] with one of this package's
// codes, and has no part of the comment.
func Parse(text string) (bastion.Key, error) {
	if LooksPrivate([]byte(text)) {
		return "", PrivateKeyError()
	}
	if IsUTF16(text) {
		return "", bastion.Errorf(CodeInvalid, "The public key is encoded as UTF-16. Send it as UTF-8 or ASCII; in PowerShell: Get-Content id.pub | Set-Content -Encoding ascii id-ascii.pub.")
	}
	text = strings.TrimLeft(strings.TrimPrefix(text, "\ufeff"), " \t\r\n")
	parse := onlyLine
	if strings.HasPrefix(text, "----") {
		parse = fromFile
	}
	line, err := parse(text)
	if err != nil {
		return "", err
	}
	fields := split(line)
	if !slices.Contains(supported, fields[0]) {
		return "", refuseFirstField(fields)
	}
	if len(fields) < 2 {
		return "", bastion.Errorf(CodeInvalid, "The public key ends after its type, %s. Send the whole line of the .pub file.", fields[0])
	}
	if slices.ContainsFunc(strings.FieldsFunc(strings.Join(fields[2:], " "), isGap), isBlob) {
		return "", errTwo()
	}
	return parseBlob(fields[0], fields[1])
}

// PrivateKeyError returns the error for a private key.
func PrivateKeyError() *bastion.Error {
	return bastion.Errorf(CodePrivate, "This is a private key. It was not stored here, but it has left your machine, so consider replacing it. Send the public key instead: the file whose name ends in .pub.")
}

func errType() *bastion.Error {
	return bastion.Errorf(CodeType, "This key type isn't supported. Supported types: %s. Create a key: ssh-keygen -t ed25519.", strings.Join(supported, ", "))
}

func errTwo() *bastion.Error {
	return bastion.Errorf(CodeTwo, "There is more than one public key. A bastion accepts one. Send a single key.")
}

// IsUTF16 reports whether the text begins with a byte order mark of UTF-16, or with
// an ASCII character in UTF-16. Windows PowerShell writes such files. If a shell has put
// such a file into JSON, the two bytes of the mark are not UTF-8, and U+FFFD replaces each.
func IsUTF16(text string) bool {
	return strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") || strings.HasPrefix(text, "\ufffd\ufffd") ||
		len(text) > 1 && (text[0] == 0) != (text[1] == 0)
}

// onlyLine returns the only line that is not blank.
func onlyLine(text string) (string, error) {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.Trim(line, " \t\r\n"); line != "" {
			lines = append(lines, line)
		}
	}
	switch {
	case len(lines) == 0:
		return "", bastion.Errorf(CodeInvalid, `The public key is empty. Check that the file exists; the shell doesn't expand ~ after curl's @: write --data-binary @"$HOME/.ssh/id_ed25519.pub".`)
	case len(lines) > 1 && countKeys(lines) > 1:
		return "", errTwo()
	case len(lines) > 1:
		return "", bastion.Errorf(CodeInvalid, "The public key has %d lines. Send the one line of the .pub file, without comment lines.", len(lines))
	}
	return lines[0], nil
}

// split separates fields as sshd does: only spaces and tabs count.
func split(line string) []string {
	return strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
}

// isGap reports whether a character could separate a second key from a comment, also for
// a reader that is not sshd.
func isGap(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

func countKeys(lines []string) int {
	n := 0
	for _, line := range lines {
		if slices.ContainsFunc(split(line), isBlob) {
			n++
		}
	}
	return n
}

// isBlob reports whether a field is the base64 of a public key.
func isBlob(field string) bool {
	blob, err := base64.StdEncoding.DecodeString(field)
	if err != nil {
		return false
	}
	_, err = ssh.ParsePublicKey(blob)
	return err == nil
}

// refuseFirstField returns the error for a line that does not begin with a supported
// type. fields has at least one element.
func refuseFirstField(fields []string) error {
	first := fields[0]
	switch {
	case strings.HasSuffix(first, "-cert-v01@openssh.com"):
		return bastion.Errorf(CodeCertificate, "This is a certificate. Send the public key itself: the .pub file without -cert in its name.")
	case isOption(first):
		return bastion.Errorf(CodeOptions, "There are options before the public key. Send only the key, beginning with its type.")
	case keyType.MatchString(first):
		return errType()
	case slices.ContainsFunc(fields[1:], isBlob):
		return bastion.Errorf(CodeInvalid, "There is text before the public key. The line must begin with the key's type, for example ssh-ed25519.")
	case isBlob(first):
		return bastion.Errorf(CodeInvalid, "The type before the public key is missing. Send the whole line of the .pub file.")
	}
	return bastion.Errorf(CodeInvalid, "This is not a public key. Send the line of a .pub file: its type, for example ssh-ed25519, a space, and the key in base64.")
}

func isOption(field string) bool {
	end := strings.IndexAny(field, "=,")
	if end < 0 {
		end = len(field)
	}
	return slices.Contains(options, strings.ToLower(field[:end]))
}

// parseBlob parses the base64 part of a key of the given type.
func parseBlob(typ, b64 string) (bastion.Key, error) {
	blob, err := base64.StdEncoding.Strict().DecodeString(b64)
	if err != nil || strings.Contains(b64, "\r") { // which the decoder skips
		return "", bastion.Errorf(CodeInvalid, "The public key is damaged: what follows %s is not base64. Copy the whole line again.", typ)
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return "", bastion.Errorf(CodeInvalid, "The public key is damaged: what follows %s is not a key (RSA keys have at most %d bits). Copy the whole line again.", typ, maxRSA)
	}
	if key.Type() != typ {
		return "", bastion.Errorf(CodeInvalid, "The public key says %s but contains a key of another type. Copy the whole line again.", typ)
	}
	// Clients offer the key in its canonical form. A key that is stored in another
	// form would never match.
	if !bytes.Equal(key.Marshal(), blob) {
		return "", bastion.Errorf(CodeInvalid, "The public key is not in the form that OpenSSH writes. Write it again: ssh-keygen -y -f PRIVATE-KEY-FILE.")
	}
	if err := checkRSA(key); err != nil {
		return "", err
	}
	return Of(key), nil
}

// Of returns a key in the form that the domain uses: its type, a space and its base64.
func Of(key ssh.PublicKey) bastion.Key {
	return bastion.Key(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))
}

func checkRSA(key ssh.PublicKey) error {
	wrapped, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return nil
	}
	pub, ok := wrapped.CryptoPublicKey().(*rsa.PublicKey)
	switch {
	case !ok:
		return nil
	case pub.N.Sign() <= 0 || pub.N.Bit(0) == 0 || pub.N.BitLen() > maxRSA:
		return bastion.Errorf(CodeInvalid, "The public key is damaged: its RSA modulus is not valid. Copy the whole line again.")
	case pub.N.BitLen() < minRSA:
		return bastion.Errorf(CodeTooWeak, "The RSA key has %d bits; at least %d are required. Create a new one: ssh-keygen -t ed25519.", pub.N.BitLen(), minRSA)
	}
	return nil
}
