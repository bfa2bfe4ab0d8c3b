package publickey_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// rfc4716 returns a key as PuTTYgen writes it.
func rfc4716(t testing.TB, line string) string {
	t.Helper()
	_, b64, _ := strings.Cut(line, " ")
	var b strings.Builder
	b.WriteString("---- BEGIN SSH2 PUBLIC KEY ----\nComment: \"alice@laptop: the new one\"\n")
	for len(b64) > 64 {
		b.WriteString(b64[:64] + "\n")
		b64 = b64[64:]
	}
	return b.String() + b64 + "\n---- END SSH2 PUBLIC KEY ----\n"
}

// pkix returns a key as OpenSSL writes it.
func pkix(t testing.TB, line string) string {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return pkixOf(t, key.(ssh.CryptoPublicKey).CryptoPublicKey())
}

func pkixOf(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// The files in testdata were written by OpenSSL 3.0.19 (openssl pkey -pubout, openssl rsa
// -RSAPublicKey_out, openssl req -x509) and PuTTYgen 0.78 (puttygen KEY -O public). Next
// to each file that has an accepted key is its .pub file, which OpenSSH 9.2 wrote from the
// private key. OpenSSH 9.2 cannot read the Ed25519 key of OpenSSL: that .pub file was made
// from the last 32 bytes, which are the key (RFC 8410, section 4).
func TestParseReadsFilesOfOtherPrograms(t *testing.T) {
	refused := map[string]bastion.Code{
		"openssl-x25519.txt":      publickey.CodeType,
		"openssl-p224.txt":        publickey.CodeType,
		"openssl-ed448.txt":       publickey.CodeInvalid,
		"openssl-certificate.txt": publickey.CodeCertificate,
		"putty-dsa.txt":           publickey.CodeType,
	}
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		text := read(t, file)
		if code, ok := refused[filepath.Base(file)]; ok {
			if got, err := publickey.Parse(text); got != "" || codeOf(err) != code {
				t.Errorf("%s: got %q, %v; want the code %s", file, got, err, code)
			}
			continue
		}
		want := strings.TrimSpace(read(t, strings.TrimSuffix(file, ".txt")+".pub"))
		for name, text := range map[string]string{
			"as it is":        text,
			"CRLF":            strings.ReplaceAll(text, "\n", "\r\n"),
			"byte order mark": "\ufeff" + text,
			"blanks around":   "\n  \r\n" + text + "\n\n",
			"no last newline": strings.TrimSuffix(text, "\n"),
		} {
			if got, err := publickey.Parse(text); err != nil || string(got) != want {
				t.Errorf("%s, %s: got %q, %v; want %q", file, name, got, err, want)
			}
		}
	}
}

func TestParseReadsWhatSSHKeygenExports(t *testing.T) {
	for kind, formats := range map[string][]string{
		"ed25519": {"RFC4716"}, // OpenSSH 9.2 writes no other for this type
		"ecdsa":   {"RFC4716", "PKCS8"},
		"rsa":     {"RFC4716", "PKCS8", "PEM"},
	} {
		file := filepath.Join(t.TempDir(), "id")
		sshKeygen(t, "-q", "-t", kind, "-N", "", "-C", "alice: Zo\xeb", "-f", file)
		want := strings.Join(strings.Fields(read(t, file+".pub"))[:2], " ")
		for _, format := range formats {
			text := sshKeygen(t, "-e", "-m", format, "-f", file+".pub")
			if got, err := publickey.Parse(text); err != nil || string(got) != want {
				t.Errorf("%s in %s: got %q, %v; want %q", kind, format, got, err, want)
			}
		}
	}
}

func TestParseReadsHeadersOfRFC4716(t *testing.T) {
	ed := ed25519Line(t, 1)
	file := rfc4716(t, ed)
	header := "Comment: \"alice@laptop: the new one\"\n"
	for name, text := range map[string]string{
		"no header":          strings.Replace(file, header, "", 1),
		"continued":          strings.Replace(file, header, "Comment: a comment that goes \\\non in the next line \\\nand the next\n", 1),
		"continued, CRLF":    strings.ReplaceAll(strings.Replace(file, header, "Comment: one \\\ntwo\n", 1), "\n", "\r\n"),
		"carriage returns":   strings.ReplaceAll(strings.Replace(file, header, "Comment: one \\\ntwo\n", 1), "\n", "\r"),
		"two headers":        strings.Replace(file, header, "Subject: alice\n"+header, 1),
		"private-use header": strings.Replace(file, header, "x-note: \\\n-----\n", 1),
		"bytes of any kind":  strings.Replace(file, header, "Comment: \xe9\xff\x00\x1b[2J\u2028\n", 1),
	} {
		if got, err := publickey.Parse(text); err != nil || string(got) != ed {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, ed)
		}
	}
}

func TestParseRefusesFiles(t *testing.T) {
	ed, other := ed25519Line(t, 1), ed25519Line(t, 2)
	ssh2, pkcs8 := rfc4716(t, ed), pkix(t, ed)
	for name, test := range map[string]struct {
		text string
		want bastion.Code
		hint string
	}{
		"two in RFC 4716":             {ssh2 + rfc4716(t, other), publickey.CodeTwo, ""},
		"two in PEM":                  {pkcs8 + pkix(t, other), publickey.CodeTwo, ""},
		"one of each":                 {pkcs8 + ssh2, publickey.CodeTwo, ""},
		"a damaged one before":        {strings.Replace(pkcs8, "MCow", "MC!w", 1) + pkix(t, other), publickey.CodeTwo, ""},
		"a .pub line after":           {pkcs8 + other, publickey.CodeTwo, ""},
		"a .pub line before":          {other + "\n" + pkcs8, publickey.CodeInvalid, "lines"},
		"text after":                  {ssh2 + "alice\n", publickey.CodeInvalid, "after the END line"},
		"no end":                      {strings.Split(ssh2, "---- END")[0], publickey.CodeInvalid, "from BEGIN to END"},
		"no line ends":                {strings.ReplaceAll(pkcs8, "\n", " "), publickey.CodeInvalid, "with their line ends"},
		"not base64":                  {strings.Replace(pkcs8, "MCow", "MC!w", 1), publickey.CodeInvalid, "damaged"},
		"another end":                 {strings.Replace(pkcs8, "END PUBLIC", "END OTHER", 1), publickey.CodeInvalid, "damaged"},
		"half of PEM":                 {strings.Replace(pkcs8, "MCow", "", 1), publickey.CodeInvalid, "damaged"},
		"half of RFC 4716":            {strings.Replace(ssh2, "AAAAC3Nz", "", 1), publickey.CodeInvalid, "damaged"},
		"a short RSA key in RFC 4716": {rfc4716(t, rsaLine(t, 1024)), publickey.CodeTooWeak, ""},
		"a short RSA key in PEM":      {pkix(t, rsaLine(t, 1024)), publickey.CodeTooWeak, ""},
		"a long RSA key in PEM":       {pkixOf(t, &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 16384, 1), E: 65537}), publickey.CodeInvalid, "16384"},
		"a certificate in RFC 4716":   {rfc4716(t, certificateLine(t)), publickey.CodeCertificate, "without -cert"},
		"a certificate in PEM":        {pemBlock("CERTIFICATE"), publickey.CodeCertificate, "openssl x509 -in FILE -noout -pubkey"},
		"OpenPGP":                     {pemBlock("PGP PUBLIC KEY BLOCK"), publickey.CodeInvalid, "gpg --export-ssh-key"},
		"parameters":                  {pemBlock("EC PARAMETERS"), publickey.CodeInvalid, `"-----BEGIN EC PARAMETERS-----"`},
		"a line of dashes":            {"--------\n" + ed, publickey.CodeInvalid, `"--------"`},
		"private, RFC 4716":           {"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nP2/5\n---- END SSH2 ENCRYPTED PRIVATE KEY ----\n", publickey.CodePrivate, ""},
		"public before private":       {pkcs8 + privateKeys["PKCS #8"], publickey.CodePrivate, ""},
		"private in a comment":        {strings.Replace(ssh2, "alice", "PuTTY-User-Key-File-3", 1), publickey.CodePrivate, ""},
	} {
		got, err := publickey.Parse(test.text)
		if got != "" || codeOf(err) != test.want || !strings.Contains(err.Error(), test.hint) {
			t.Errorf("%s: got %q, %v; want the code %s and %q", name, got, err, test.want, test.hint)
		}
		if err != nil && (strings.Contains(err.Error(), "AAAA") || strings.Contains(err.Error(), "alice")) {
			t.Errorf("%s: the message repeats the file: %v", name, err)
		}
	}
}

func codeOf(err error) bastion.Code {
	var problem *bastion.Error
	if errors.As(err, &problem) {
		return problem.Code
	}
	return ""
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func sshKeygen(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ssh-keygen", args...).Output()
	if err != nil {
		t.Fatalf("ssh-keygen %q: %v", args, err)
	}
	return string(out)
}
