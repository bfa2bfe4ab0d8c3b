// Package publickey reads what a person sends as their public key. It takes one
// line in the form of an OpenSSH .pub file and nothing else: what authorized_keys
// also allows (options, several keys, certificates) could give a bastion away to
// somebody the sender did not think of.
package publickey

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The codes of the errors that [Parse] answers.
const (
	CodeInvalid     bastion.Code = "key_invalid"     // not one line with one public key
	CodeTwo         bastion.Code = "key_two"         // more than one key
	CodeOptions     bastion.Code = "key_options"     // authorized_keys options before the key
	CodeCertificate bastion.Code = "key_certificate" // a certificate
	CodeTooWeak     bastion.Code = "key_too_weak"    // RSA with too few bits
	CodeType        bastion.Code = "key_type"        // a key of a type that is not taken
	CodePrivate     bastion.Code = "private_key"     // a private key
)

// Lengths of an RSA modulus in bits: fewer than minRSA are no protection, and
// more than maxRSA no OpenSSH makes.
const (
	minRSA = 2048
	maxRSA = 16384
)

// accepted are the types of key that a bastion lets in.
var accepted = []string{
	ssh.KeyAlgoED25519,
	ssh.KeyAlgoECDSA256,
	ssh.KeyAlgoECDSA384,
	ssh.KeyAlgoECDSA521,
	ssh.KeyAlgoRSA,
	ssh.KeyAlgoSKED25519,
	ssh.KeyAlgoSKECDSA256,
}

// Parse reads one public key in the form of an OpenSSH .pub file. Blank lines
// around it are fine; the comment behind it is dropped. Every error is a
// [*bastion.Error] with one of this package's codes.
func Parse(text string) (bastion.Key, error) {
	if LooksPrivate([]byte(text)) {
		return "", PrivateKeyError()
	}
	line, err := onlyLine(text)
	if err != nil {
		return "", err
	}
	fields := split(line)
	if !slices.Contains(accepted, fields[0]) {
		return "", refuseFirstField(fields)
	}
	if len(fields) < 2 {
		return "", bastion.Errorf(CodeInvalid, "The public key is cut off after its type, %s. Send the whole line of the .pub file.", fields[0])
	}
	if slices.ContainsFunc(fields[2:], isBlob) {
		return "", errTwo()
	}
	return parseBlob(fields[0], fields[1])
}

// PrivateKeyError is the error for a private key, wherever it was found.
func PrivateKeyError() *bastion.Error {
	return bastion.Errorf(CodePrivate, "This is a private key. It was neither read nor stored here, but it has left your machine: think about replacing it. Send the public half, the file whose name ends in .pub.")
}

func errTwo() *bastion.Error {
	return bastion.Errorf(CodeTwo, "There is more than one public key. A bastion lets in one: send a single line.")
}

// onlyLine answers the one line of text that is not blank, of printable
// characters.
func onlyLine(text string) (string, error) {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.Trim(line, " \t\r\n"); line != "" {
			lines = append(lines, line)
		}
	}
	switch {
	case len(lines) == 0:
		return "", bastion.Errorf(CodeInvalid, `The public key is empty. Shells do not expand ~ behind curl's @: write --data-binary @"$HOME/.ssh/id_ed25519.pub".`)
	case strings.HasPrefix(lines[0], "----"):
		return "", bastion.Errorf(CodeInvalid, "The public key is not in OpenSSH's form of one line. Convert it: ssh-keygen -i -f FILE, with -m PKCS8 if its first line says BEGIN PUBLIC KEY.")
	case len(lines) > 1 && countKeys(lines) > 1:
		return "", errTwo()
	case len(lines) > 1:
		return "", bastion.Errorf(CodeInvalid, "The public key has %d lines. Send exactly one line, as the .pub file has it, with no comment lines.", len(lines))
	case !utf8.ValidString(lines[0]) || strings.ContainsFunc(lines[0], isControl):
		return "", bastion.Errorf(CodeInvalid, "The public key holds characters that are no text. Send the line of the .pub file as UTF-8.")
	}
	return lines[0], nil
}

// split separates fields as sshd does: other spaces than these two are text.
func split(line string) []string {
	return strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
}

func isControl(r rune) bool { return unicode.IsControl(r) && r != '\t' }

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

// parseBlob reads the base64 part of a key that says to be of the given type.
func parseBlob(typ, b64 string) (bastion.Key, error) {
	blob, err := base64.StdEncoding.Strict().DecodeString(b64)
	if err != nil {
		return "", bastion.Errorf(CodeInvalid, "The public key is damaged: what follows %s is not base64. Copy the whole line again.", typ)
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return "", bastion.Errorf(CodeInvalid, "The public key is damaged: what follows %s is not a key (RSA goes up to %d bits). Copy the whole line again.", typ, maxRSA)
	}
	if key.Type() != typ {
		return "", bastion.Errorf(CodeInvalid, "The public key says %s but holds another type. Copy the whole line again.", typ)
	}
	// Clients offer the canonical form. A blob in another one would be a key
	// that never matches.
	if !bytes.Equal(key.Marshal(), blob) {
		return "", bastion.Errorf(CodeInvalid, "The public key is not in the form that OpenSSH writes. Make it again: ssh-keygen -y -f PRIVATE-KEY-FILE.")
	}
	if err := checkRSA(key); err != nil {
		return "", err
	}
	return bastion.Key(typ + " " + base64.StdEncoding.EncodeToString(blob)), nil
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
		return bastion.Errorf(CodeInvalid, "The public key is damaged: its RSA modulus cannot be one. Copy the whole line again.")
	case pub.N.BitLen() < minRSA:
		return bastion.Errorf(CodeTooWeak, "The RSA key has %d bits; at least %d are needed. Make a new one: ssh-keygen -t ed25519.", pub.N.BitLen(), minRSA)
	}
	return nil
}
