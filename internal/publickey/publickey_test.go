package publickey_test

import (
	"bytes"
	"crypto/elliptic"
	"errors"
	"strings"
	"testing"
	"unicode/utf16"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

func TestParseAccepts(t *testing.T) {
	ed := ed25519Line(t, 1)
	for name, test := range map[string]struct{ text, want string }{
		"ed25519":                       {ed, ed},
		"with a comment":                {ed + " alice@laptop, the new one\n", ed},
		"comment in UTF-8":              {ed + " Zoë\n", ed},
		"CRLF":                          {ed + " alice\r\n", ed},
		"blank lines around":            {"\r\n\n  \n" + ed + "\n\n", ed},
		"spaces and tabs":               {"  " + strings.Replace(ed, " ", " \t ", 1) + "\t", ed},
		"ecdsa nistp384":                same(ecdsaLine(t, elliptic.P384())),
		"ecdsa nistp256":                same(ecdsaLine(t, elliptic.P256())),
		"ecdsa nistp521":                same(ecdsaLine(t, elliptic.P521())),
		"rsa 2048, the minimum":         same(rsaLine(t, 2048)),
		"rsa 3072":                      same(rsaLine(t, 3072)),
		"rsa 16384, the maximum":        same(rsaLine(t, 16384)),
		"sk ed25519":                    same(skEd25519Line(t)),
		"sk ecdsa":                      same(skECDSALine(t)),
		"comment that is a type":        {ed + " ssh-ed25519", ed},
		"comment that says BEGIN":       {ed + " BEGIN", ed},
		"comment in Latin-1":            {ed + " J\xe9r\xf4me\n", ed},
		"UTF-8 byte order mark":         {"\xef\xbb\xbf" + ed + " alice\r\n", ed},
		"comment of control characters": {ed + " \x1b[2J\a\x00\x7f\u202e\u2028\r\f\v.\n", ed},
		"comment in UTF-16":             {ed + " " + utf16Text("Zoë"), ed},
		"comment that says why":         {ed + " ---- BEGIN SSH2 PUBLIC KEY ----", ed},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := publickey.Parse(test.text)
			if err != nil || string(got) != test.want {
				t.Fatalf("got %q, %v; want %q", got, err, test.want)
			}
			if got.Fingerprint() == "" {
				t.Errorf("%q has no fingerprint", got)
			}
		})
	}
}

func same(line string) struct{ text, want string } { return struct{ text, want string }{line, line} }

func TestParseRefuses(t *testing.T) {
	ed, other := ed25519Line(t, 1), ed25519Line(t, 2)
	typ, b64, _ := strings.Cut(ed, " ")
	for name, test := range map[string]struct {
		text string
		want bastion.Code
	}{
		"empty":                          {"", publickey.CodeInvalid},
		"blank":                          {" \r\n\t\n", publickey.CodeInvalid},
		"prose":                          {"please let me in", publickey.CodeInvalid},
		"two keys":                       {ed + "\n" + other + "\n", publickey.CodeTwo},
		"the same key twice":             {ed + "\n" + ed + "\n", publickey.CodeTwo},
		"two keys on one line":           {ed + " " + other, publickey.CodeTwo},
		"two keys, blank between":        {ed + "\n\n" + other, publickey.CodeTwo},
		"two keys, one with options":     {ed + "\nrestrict " + other, publickey.CodeTwo},
		"comment line":                   {"# mine\n" + ed, publickey.CodeInvalid},
		"another line after":             {ed + "\njunk", publickey.CodeInvalid},
		"text before":                    {"junk " + ed, publickey.CodeInvalid},
		"known_hosts line":               {"[192.0.2.1]:2222 " + ed, publickey.CodeInvalid},
		"quoted":                         {`"` + ed + `"`, publickey.CodeInvalid},
		"wrapped by a terminal":          {ed[:40] + "\n" + ed[40:], publickey.CodeInvalid},
		"option":                         {"restrict " + ed, publickey.CodeOptions},
		"options with a space":           {`no-pty,command="echo hello" ` + ed, publickey.CodeOptions},
		"option in capitals":             {`From="10.0.0.0/8" ` + ed, publickey.CodeOptions},
		"cert-authority":                 {"cert-authority " + ed, publickey.CodeOptions},
		"certificate":                    {certificateLine(t), publickey.CodeCertificate},
		"certificate under a plain type": {blobUnder(t, ssh.KeyAlgoED25519, certificateLine(t)), publickey.CodeInvalid},
		"dsa":                            {dsaLine(t), publickey.CodeType},
		"unknown type":                   {"ssh-mldsa65 " + b64, publickey.CodeType},
		"type missing":                   {b64, publickey.CodeInvalid},
		"type only":                      {typ, publickey.CodeInvalid},
		"type of another key":            {"ssh-rsa " + b64, publickey.CodeInvalid},
		"type in capitals":               {strings.ToUpper(typ) + " " + b64, publickey.CodeInvalid},
		"dsa under ed25519":              {blobUnder(t, ssh.KeyAlgoED25519, dsaLine(t)), publickey.CodeInvalid},
		"cut off":                        {ed[:len(ed)-8], publickey.CodeInvalid},
		"padding cut off":                {strings.TrimSuffix(skEd25519Line(t), "="), publickey.CodeInvalid},
		"not base64":                     {typ + " AAAA!AAAA", publickey.CodeInvalid},
		"no-break space":                 {typ + "\u00a0" + b64, publickey.CodeInvalid},
		"control character in the key":   {typ + " " + b64[:20] + "\x1b" + b64[20:], publickey.CodeInvalid},
		"carriage return in the key":     {typ + " " + b64[:20] + "\r" + b64[20:], publickey.CodeInvalid},
		"two keys, carriage return":      {ed + " alice\r" + other + " bob\r", publickey.CodeTwo},
		"two keys, no-break space":       {ed + " alice\u00a0" + other, publickey.CodeTwo},
		"two keys, control character":    {ed + " alice\x00" + other, publickey.CodeTwo},
		"carriage return inside":         {ed + "\rroot", publickey.CodeInvalid},
		"type is not UTF-8":              {"ssh-\xff " + b64, publickey.CodeInvalid},
		"key is not UTF-8":               {typ + " " + b64[:20] + "\xff" + b64[20:], publickey.CodeInvalid},
		"UTF-16":                         {utf16Text(ed), publickey.CodeInvalid},
		"mark in the middle":             {typ + " \ufeff" + b64, publickey.CodeInvalid},
		"rsa of 1024 bits":               {rsaLine(t, 1024), publickey.CodeTooWeak},
		"rsa of 2047 bits":               {rsaLine(t, 2047), publickey.CodeTooWeak},
		"rsa of 16385 bits":              {rsaLine(t, 16385), publickey.CodeInvalid},
		"rsa, even modulus":              {rawRSALine([]byte{1, 0, 1}, append([]byte{0, 0x80}, make([]byte, 255)...)), publickey.CodeInvalid},
		"rsa, negative modulus":          {rawRSALine([]byte{1, 0, 1}, bytes.Repeat([]byte{0x81}, 256)), publickey.CodeInvalid},
		"rsa, zeros in front":            {rawRSALine([]byte{0, 0, 1, 0, 1}, modulus()), publickey.CodeInvalid},
		"private key":                    {privateKeys["OpenSSH"], publickey.CodePrivate},
		"private and public key":         {ed + "\n" + privateKeys["PKCS #8"], publickey.CodePrivate},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := publickey.Parse(test.text)
			var problem *bastion.Error
			if !errors.As(err, &problem) {
				t.Fatalf("got %q, %v; want a *bastion.Error", got, err)
			}
			if got != "" || problem.Code != test.want {
				t.Errorf("got %q, %s; want the code %s", got, problem, test.want)
			}
			if !strings.HasSuffix(problem.Message, ".") || strings.Contains(problem.Message, "AAAA") {
				t.Errorf("the message is not a sentence, or repeats the key: %s", problem.Message)
			}
		})
	}
}

// blobUnder returns the blob of a line after another type.
func blobUnder(t *testing.T, typ, line string) string {
	t.Helper()
	_, b64, _ := strings.Cut(line, " ")
	return typ + " " + b64
}

// modulus returns an RSA modulus of 2048 bits in its wire format.
func modulus() []byte {
	n := make([]byte, 257)
	n[1], n[256] = 0x80, 1
	return n
}

// An empty body is nearly always a path that curl could not open.
func TestParseExplainsAnEmptyBody(t *testing.T) {
	_, err := publickey.Parse("")
	if err == nil || !strings.Contains(err.Error(), `@"$HOME/.ssh/id_ed25519.pub"`) {
		t.Errorf("no hint in %v", err)
	}
}

// The comment may have any bytes except a newline, which ends the line.
func TestParseIgnoresEveryByteOfTheComment(t *testing.T) {
	ed := ed25519Line(t, 1)
	for b := range 256 {
		if b == '\n' {
			continue
		}
		if got, err := publickey.Parse(ed + " a" + string([]byte{byte(b)}) + "b\n"); err != nil || string(got) != ed {
			t.Errorf("byte %#x in the comment: %q, %v", b, got, err)
		}
	}
}

func TestParseRecognisesUTF16(t *testing.T) {
	ed := ed25519Line(t, 1)
	for name, text := range map[string]string{
		"little endian":           utf16Text(ed),
		"little endian with mark": "\xff\xfe" + utf16Text(ed),
		"big endian":              swapBytes(utf16Text(ed)),
		"big endian with mark":    "\xfe\xff" + swapBytes(utf16Text(ed)),
		"through bash into JSON":  "\ufffd\ufffd" + ed + "\r",
		"RFC 4716":                "\xff\xfe" + utf16Text(rfc4716(t, ed)),
	} {
		if _, err := publickey.Parse(text); err == nil || !strings.Contains(err.Error(), "UTF-16") || !strings.Contains(err.Error(), "Set-Content -Encoding ascii") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func swapBytes(s string) string {
	b := []byte(s)
	for i := 0; i+1 < len(b); i += 2 {
		b[i], b[i+1] = b[i+1], b[i]
	}
	return string(b)
}

func utf16Text(s string) string {
	var b strings.Builder
	for _, unit := range utf16.Encode([]rune(s)) {
		b.WriteByte(byte(unit))
		b.WriteByte(byte(unit >> 8))
	}
	return b.String()
}

// FuzzParse checks that Parse returns an error with a code, or a key that x/crypto
// parses as the same key and that Parse accepts again.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", ed25519Line(f, 1), ed25519Line(f, 1) + " comment\r\n", skEd25519Line(f), rsaLine(f, 2048), rsaLine(f, 1024),
		dsaLine(f), certificateLine(f), "restrict " + ed25519Line(f, 1), ed25519Line(f, 1) + "\n" + ed25519Line(f, 2),
		privateKeys["OpenSSH"], "ssh-ed25519 AAAA", "# comment\n", rfc4716(f, ed25519Line(f, 1)), pkix(f, rsaLine(f, 2048)),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		key, err := publickey.Parse(text)
		if err != nil {
			var problem *bastion.Error
			if key != "" || !errors.As(err, &problem) || problem.Code == "" || problem.Message == "" {
				t.Fatalf("Parse(%q) = %q, %v", text, key, err)
			}
			return
		}
		again, err := publickey.Parse(string(key))
		if err != nil || again != key {
			t.Fatalf("Parse(%q) = %q, but parsing that returns %q, %v", text, key, again, err)
		}
		pub, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(key))
		if err != nil || comment != "" || len(options) > 0 || len(rest) > 0 {
			t.Fatalf("x/crypto reads %q with comment %q, options %q, rest %q, %v", key, comment, options, rest, err)
		}
		if want := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))); want != string(key) {
			t.Fatalf("Parse(%q) = %q; x/crypto has %q", text, key, want)
		}
	})
}
