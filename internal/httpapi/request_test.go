package httpapi_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf16"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

// rsa1024 returns a public key that is too short.
func rsa1024(t *testing.T) string {
	t.Helper()
	n := new(big.Int).SetBit(big.NewInt(1), 1023, 1)
	key, err := ssh.NewPublicKey(&rsa.PublicKey{N: n, E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(key))
}

func certificate(t *testing.T) string {
	t.Helper()
	cert := &ssh.Certificate{Key: signerOf(1).PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, signerOf(3)); err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(cert))
}

// privateKey returns a private key made from a seed of ones.
func privateKey(t *testing.T) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(privateKeyOf(1), "")
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

// toJSON returns a POST body whose public_key is the text.
func toJSON(text string) string {
	body, err := json.Marshal(map[string]string{"public_key": text})
	if err != nil {
		panic(err) // a map of strings always marshals
	}
	return string(body)
}

func utf16LE(text string) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return string(b)
}

// Key files have other encodings than JSON, and PuTTYgen and OpenSSL write other formats.
// The comment is neither logged nor in the response.
func TestKeyFilesAreAccepted(t *testing.T) {
	key := string(userKey)
	_, b64, _ := strings.Cut(key, " ")
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public.(ssh.CryptoPublicKey).CryptoPublicKey())
	if err != nil {
		t.Fatal(err)
	}
	ssh2 := "---- BEGIN SSH2 PUBLIC KEY ----\r\nComment: \"secret-comment\"\r\n" + b64 + "\r\n---- END SSH2 PUBLIC KEY ----\r\n"
	pkcs8 := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	for name, body := range map[string]string{
		"byte order mark":            "\ufeff" + key + " secret-comment\r\n",
		"byte order mark and JSON":   "\ufeff" + toJSON(key+" secret-comment\r\n"),
		"byte order mark in JSON":    toJSON("\ufeff" + key + " secret-comment\r\n"),
		"comment in Latin-1":         key + " secret-comment J\xe9r\xf4me\n",
		"comment in Latin-1 in JSON": `{"public_key": "` + key + " secret-comment J\xe9r\xf4me\"}",
		"comment with half a pair":   `{"public_key": "` + key + ` secret-comment \ud800"}`,
		"comment of control bytes":   key + " secret-comment \x1b[2J\x00\u2028\u202e\rx\n",
		"RFC 4716":                   ssh2,
		"RFC 4716 in JSON":           toJSON(ssh2),
		"PKCS #8":                    pkcs8,
		"PKCS #8 in JSON":            toJSON(pkcs8),
		"PKCS #8, byte order mark":   "\ufeff" + pkcs8,
	} {
		r := newFixture()
		r.rec = ready()
		w := r.send("POST", "/bastions", body)
		if w.Code != 200 || r.create.Key != userKey {
			t.Errorf("%s: %d, key %q: %s", name, w.Code, r.create.Key, w.Body)
		}
		if shown := w.Body.String() + r.log.String(); strings.Contains(shown, "secret-comment") {
			t.Errorf("%s: the comment is in the response or in the log: %s", name, shown)
		}
	}
}

func TestUTF16IsNamedWithTheRepair(t *testing.T) {
	for body, want := range map[string]string{
		string(userKey): "The public key is encoded as UTF-16. Send it as UTF-8 or ASCII; in PowerShell: Get-Content id.pub | Set-Content -Encoding ascii id-ascii.pub.",
		`{"ttl": "1h"}`: "The body is JSON in UTF-16. Send it in UTF-8; in PowerShell: Get-Content body.json | Set-Content -Encoding utf8 body-utf8.json.",
	} {
		if p := readProblem(t, newFixture().send("POST", "/bastions", "\xff\xfe"+utf16LE(body))); p.Detail != want {
			t.Errorf("detail %q, want %q", p.Detail, want)
		}
	}
}

func TestRefusedSourceSaysWhatIsWrong(t *testing.T) {
	for source, want := range map[string]string{
		"example.com":        "is neither an address nor a prefix",
		"203.0.113.0/33":     "is neither an address nor a prefix",
		"::ffff:192.0.2.0/8": "is neither an address nor a prefix",
		"fe80::1%eth0":       "has a zone, which means something on one machine only",
		"::ffff:10.0.0.1%lo": "has a zone, which means something on one machine only",
		"0.0.0.0/0":          "contains all addresses",
		"::/0":               "contains all addresses",
		"::ffff:0.0.0.0/96":  "contains all addresses",
		"224.0.0.1":          "is not an address of a machine",
		"ff02::/16":          "is not an address of a machine",
		"::":                 "is not an address of a machine",
	} {
		w := newFixture().send("POST", "/bastions", `{"source": "`+source+`"}`)
		p := readProblem(t, w)
		if p.Code != "source_invalid" || !strings.HasPrefix(p.Detail, `The source "`+source+`" `+want+". Give the address") {
			t.Errorf("%s: %d %s: %s", source, w.Code, p.Code, p.Detail)
		}
	}
}

func TestBadRequestIsRefusedBeforeTheService(t *testing.T) {
	key, item := string(userKey), "/bastions/"+someID
	for name, test := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"two keys":                  {"POST", "/bastions", key + "\n" + string(hostKey), 400, "key_two"},
		"junk before a key":         {"POST", "/bastions", "junk " + key, 400, "key_invalid"},
		"no key":                    {"POST", "/bastions", "let me in", 400, "key_invalid"},
		"key options":               {"POST", "/bastions", "restrict " + key, 400, "key_options"},
		"a private key":             {"POST", "/bastions", privateKey(t), 400, "private_key"},
		"a private key in JSON":     {"POST", "/bastions", toJSON(privateKey(t)), 400, "private_key"},
		"a private key, JSON bad":   {"POST", "/bastions", `{"public_key": ` + privateKey(t), 400, "private_key"},
		"a private key to PATCH":    {"PATCH", item, privateKey(t), 400, "private_key"},
		"a certificate":             {"POST", "/bastions", certificate(t), 400, "key_certificate"},
		"RSA of 1024 bits":          {"POST", "/bastions", rsa1024(t), 400, "key_too_weak"},
		"a body of 1 MB":            {"POST", "/bastions", strings.Repeat("x", 1<<20), 413, "body_too_large"},
		"a body one byte too large": {"POST", "/bastions", key + strings.Repeat(" ", 64<<10+1-len(key)), 413, "body_too_large"},
		"a PATCH of 1 MB":           {"PATCH", item, strings.Repeat(" ", 1<<20), 413, "body_too_large"},
		"bad JSON":                  {"POST", "/bastions", `{"ttl": 1h}`, 400, "json_invalid"},
		"JSON cut off":              {"POST", "/bastions", `{"ttl": "1h"`, 400, "json_invalid"},
		"JSON and more":             {"POST", "/bastions", `{"ttl": "1h"} {}`, 400, "json_invalid"},
		"JSON not in UTF-8":         {"POST", "/bastions", "{\"reason\": \"\xff\"}", 400, "json_invalid"},
		"JSON nested deeply":        {"POST", "/bastions", `{"ttl": ` + strings.Repeat("[", 20000), 400, "json_invalid"},
		"a JSON array":              {"PATCH", item, `["30m"]`, 400, "json_invalid"},
		"an array to POST":          {"POST", "/bastions", `[{"ttl": "1h"}]`, 400, "json_invalid"},
		"half a character":          {"POST", "/bastions", `{"reason": "\ud800"}`, 400, "json_invalid"},
		"its other half":            {"POST", "/bastions", `{"reason": "a\uDC00b"}`, 400, "json_invalid"},
		"halves the wrong way":      {"POST", "/bastions", `{"reason": "\udc00\ud800"}`, 400, "json_invalid"},
		"half a name":               {"POST", "/bastions", `{"\ud800": "x"}`, 400, "unknown_field"},
		"a name not in UTF-8":       {"POST", "/bastions", "{\"ttl\xff\": \"1h\"}", 400, "unknown_field"},
		"a key not in UTF-8":        {"POST", "/bastions", "{\"public_key\": \"ssh-\xff " + key + "\"}", 400, "key_invalid"},
		"JSON in UTF-16":            {"POST", "/bastions", utf16LE(`{"ttl": "1h"}`), 400, "json_invalid"},
		"JSON in UTF-16, mark":      {"POST", "/bastions", "\xff\xfe" + utf16LE(`{"ttl": "1h"}`+"\r\n"), 400, "json_invalid"},
		"JSON in UTF-16 to PATCH":   {"PATCH", item, "\xff\xfe" + utf16LE(`{"ttl": "1h"}`), 400, "json_invalid"},
		"a key in UTF-16":           {"POST", "/bastions", "\xff\xfe" + utf16LE(key+"\r\n"), 400, "key_invalid"},
		"private key in UTF-16":     {"POST", "/bastions", "\xff\xfe" + utf16LE(privateKey(t)), 400, "private_key"},
		"reason of two lines":       {"POST", "/bastions", `{"reason": "a\u2028b"}`, 400, "reason_invalid"},
		"reason from the right":     {"POST", "/bastions", `{"reason": "\u202eevil"}`, 400, "reason_invalid"},
		"reason of 201 letters":     {"POST", "/bastions", `{"reason": "` + strings.Repeat("é", 201) + `"}`, 400, "reason_invalid"},
		"byte order mark alone":     {"PATCH", item, "\ufeff", 422, "ttl_required"},
		"a key to PATCH":            {"PATCH", item, key, 400, "json_invalid"},
		"unknown field":             {"POST", "/bastions", `{"tll": "1h"}`, 400, "unknown_field"},
		"field in capitals":         {"POST", "/bastions", `{"TTL": "1h"}`, 400, "unknown_field"},
		"owner in the body":         {"POST", "/bastions", `{"owner": "local:bob"}`, 400, "unknown_field"},
		"field of POST to PATCH":    {"PATCH", item, `{"ttl": "1h", "name": "db"}`, 400, "unknown_field"},
		"field twice":               {"POST", "/bastions", `{"ttl": "1h", "ttl": "2h"}`, 400, "field_invalid"},
		"a number":                  {"POST", "/bastions", `{"ttl": 3600}`, 400, "field_invalid"},
		"null":                      {"POST", "/bastions", `{"name": null}`, 400, "field_invalid"},
		"an object":                 {"POST", "/bastions", `{"name": {"ttl": "1h"}}`, 400, "field_invalid"},
		"ttl of 0":                  {"POST", "/bastions", `{"ttl": "0"}`, 400, "ttl_invalid"},
		"ttl of 0s":                 {"POST", "/bastions", `{"ttl": "0s"}`, 400, "ttl_invalid"},
		"ttl of -1m":                {"POST", "/bastions", `{"ttl": "-1m"}`, 400, "ttl_invalid"},
		"ttl of a blink":            {"POST", "/bastions", `{"ttl": "1ms"}`, 400, "ttl_invalid"},
		"ttl of abc":                {"POST", "/bastions", `{"ttl": "abc"}`, 400, "ttl_invalid"},
		"ttl with no unit":          {"POST", "/bastions", `{"ttl": "60"}`, 400, "ttl_invalid"},
		"ttl empty":                 {"POST", "/bastions", `{"ttl": ""}`, 400, "ttl_invalid"},
		"ttl of an overflow":        {"POST", "/bastions", `{"ttl": "9999999999h"}`, 422, "ttl_beyond_cap"},
		"ttl of 10 centuries":       {"POST", "/bastions", `{"ttl": "9999999h"}`, 422, "ttl_beyond_cap"},
		"ttl of 0 to PATCH":         {"PATCH", item, `{"ttl": "0s"}`, 400, "ttl_invalid"},
		"no ttl to PATCH":           {"PATCH", item, `{}`, 422, "ttl_required"},
		"nothing to PATCH":          {"PATCH", item, "", 422, "ttl_required"},
		"empty key":                 {"POST", "/bastions", `{"public_key": ""}`, 400, "key_invalid"},
		"empty name":                {"POST", "/bastions", `{"name": ""}`, 400, "name_invalid"},
		"source 0.0.0.0/0":          {"POST", "/bastions", `{"source": "0.0.0.0/0"}`, 400, "source_invalid"},
		"source ::/0":               {"POST", "/bastions", `{"source": "::/0"}`, 400, "source_invalid"},
		"source 0.0.0.0":            {"POST", "/bastions", `{"source": "0.0.0.0"}`, 400, "source_invalid"},
		"source /33":                {"POST", "/bastions", `{"source": "203.0.113.0/33"}`, 400, "source_invalid"},
		"source a list of none":     {"POST", "/bastions", `{"source": []}`, 400, "source_invalid"},
		"source second is wrong":    {"POST", "/bastions", `{"source": ["203.0.113.7", "0.0.0.0/0"]}`, 400, "source_invalid"},
		"source a number":           {"POST", "/bastions", `{"source": 1}`, 400, "field_invalid"},
		"source a list of numbers":  {"POST", "/bastions", `{"source": [1, 2]}`, 400, "field_invalid"},
		"source a list, null":       {"POST", "/bastions", `{"source": ["203.0.113.7", null]}`, 400, "field_invalid"},
		"source a list of lists":    {"POST", "/bastions", `{"source": [["203.0.113.7"]]}`, 400, "field_invalid"},
		"source twice":              {"POST", "/bastions", `{"source": ["203.0.113.7"], "source": "203.0.113.7"}`, 400, "field_invalid"},
		"key a list":                {"POST", "/bastions", `{"public_key": ["x"]}`, 400, "field_invalid"},
		"only_key as text":          {"POST", "/bastions", `{"only_key": "true"}`, 400, "field_invalid"},
		"only_key null":             {"POST", "/bastions", `{"only_key": null}`, 400, "field_invalid"},
		"only_key to PATCH":         {"PATCH", item, `{"ttl": "1h", "only_key": true}`, 400, "unknown_field"},
		"ttl true":                  {"POST", "/bastions", `{"ttl": true}`, 400, "field_invalid"},
		"source mapped range":       {"POST", "/bastions", `{"source": "::ffff:203.0.113.0/32"}`, 400, "source_invalid"},
		"source with a zone":        {"POST", "/bastions", `{"source": "fe80::1%eth0"}`, 400, "source_invalid"},
		"source multicast":          {"POST", "/bastions", `{"source": "224.0.0.1"}`, 400, "source_invalid"},
		"source a name":             {"POST", "/bastions", `{"source": "example.com"}`, 400, "source_invalid"},
		"source empty":              {"POST", "/bastions", `{"source": ""}`, 400, "source_invalid"},
		"source /":                  {"POST", "/bastions", `{"source": "203.0.113.7/"}`, 400, "source_invalid"},
		"wrong path":                {"GET", "/", "", 404, "path_not_found"},
		"path with a slash":         {"GET", "/bastions/", "", 404, "path_not_found"},
		"path not clean":            {"GET", "//bastions", "", 404, "path_not_found"},
		"path too deep":             {"GET", item + "/keys", "", 404, "path_not_found"},
		"id of no bastion":          {"GET", "/bastions/Default", "", 404, "not_found"},
		"id far too long":           {"DELETE", "/bastions/" + strings.Repeat("a", 4096), "", 404, "not_found"},
		"id of dots":                {"PATCH", "/bastions/..", `{"ttl":"1h"}`, 404, "not_found"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFixture()
			w := r.send(test.method, test.path, test.body)
			p := readProblem(t, w)
			if w.Code != test.status || p.Code != test.code {
				t.Errorf("%d %s: %s", w.Code, p.Code, p.Detail)
			}
			if len(r.calls) > 0 {
				t.Errorf("the service saw %v", r.calls)
			}
			if logged := r.log.String(); !strings.Contains(logged, test.code) || strings.Contains(logged, "cause") {
				t.Errorf("the log says %s", logged)
			}
		})
	}
}

func TestUnknownMethodIsRefused(t *testing.T) {
	for path, allow := range map[string]string{
		"/bastions":           "DELETE, GET, HEAD, POST",
		"/bastions/" + someID: "DELETE, GET, HEAD, PATCH",
	} {
		for _, method := range []string{"OPTIONS", "PUT", "TRACE", "CONNECT", "get", "POST", "PATCH"} {
			if strings.Contains(allow, method) {
				continue
			}
			r := newFixture()
			w := r.send(method, path, "")
			p := readProblem(t, w)
			if w.Code != 405 || p.Code != "method_not_allowed" || w.Header().Get("Allow") != allow || len(r.calls) > 0 {
				t.Errorf("%s %s: %d %s, Allow %q, calls %v", method, path, w.Code, p.Code, w.Header().Get("Allow"), r.calls)
			}
		}
	}
}

func TestBodyAtTheLimitIsAccepted(t *testing.T) {
	r := newFixture()
	r.rec = ready()
	body := string(userKey) + strings.Repeat(" ", 64<<10-len(userKey))
	if w := r.send("POST", "/bastions", body); w.Code != 200 || r.create.Key != userKey {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

func TestIncompleteBodyIsRefused(t *testing.T) {
	r := newFixture()
	w := r.sendReader("POST", "/bastions", io.MultiReader(strings.NewReader(string(userKey)), brokenReader{}))
	if p := readProblem(t, w); w.Code != 400 || p.Code != "body_incomplete" || len(r.calls) > 0 {
		t.Errorf("%d %s after %v", w.Code, p.Code, r.calls)
	}
	if !strings.Contains(r.log.String(), errBroken.Error()) {
		t.Errorf("the log does not say why: %s", r.log)
	}
}

var errBroken = errors.New("connection reset by peer")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

// net/http sets a body on every request; other callers may leave it nil.
func TestRequestWithoutABody(t *testing.T) {
	r := newFixture()
	r.rec, r.created = starting(), true
	req, err := http.NewRequest("POST", "/bastions", nil)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	httpapi.New(r.options).ServeHTTP(w, req)
	if w.Code != 201 {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

// Malformed fields are reported before missing ones, in the order of the contract.
func TestFirstMalformedFieldIsReported(t *testing.T) {
	for body, want := range map[string]string{
		`{"name": "", "source": "x", "ttl": "x", "public_key": "x"}`: "key_invalid",
		`{"name": "", "source": "x", "ttl": "x"}`:                    "ttl_invalid",
		`{"name": "", "source": "x"}`:                                "source_invalid",
		`{"name": "", "nmae": "x"}`:                                  "unknown_field",
	} {
		r := newFixture()
		if p := readProblem(t, r.send("POST", "/bastions", body)); p.Code != want {
			t.Errorf("%s: %s", body, p.Code)
		}
	}
}

func TestProblemsNameWhatIsWrong(t *testing.T) {
	for body, want := range map[string]string{
		`{"tll": "1h"}`:                             `"tll"`,
		`{"ttl": "1h", "ttl": "2h"}`:                "Duplicate field ttl",
		`{"ttl": "abc"}`:                            `"abc"`,
		`{"source": ["10.0.0.1", "10.0.0.0/0"]}`:    `"10.0.0.0/0"`,
		`{"source": [true]}`:                        "quote each address",
		`{"only_key": "yes"}`:                       "without quotes. Correct it, or leave it out.",
		`{"` + strings.Repeat("é", 100) + `": "x"}`: `"` + strings.Repeat("é", 40) + `…"`,
		"{\"\\u001b[2J\": \"x\"}":                   `"\x1b[2J"`,
	} {
		r := newFixture()
		if p := readProblem(t, r.send("POST", "/bastions", body)); !strings.Contains(p.Detail, want) {
			t.Errorf("%s: no %s in: %s", body, want, p.Detail)
		}
	}
}

// FuzzCreate sends any body to POST: the response is 201 or a documented problem,
// and nothing of the body is logged.
func FuzzCreate(f *testing.F) {
	for _, seed := range []string{"", string(userKey), `{"ttl":"1h","source":"::1","name":"a"}`, `{"public_key":"` + string(userKey) + `"}`, `{"a":`, "{\"\\ud800\":1}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r := newFixture()
		r.rec, r.created = starting(), true
		w := r.send("POST", "/bastions", body)
		if w.Code == 201 {
			return
		}
		p := readProblem(t, w)
		if w.Code != 400 && w.Code != 413 || len(r.calls) > 0 {
			t.Errorf("%d %s: %s after %v", w.Code, p.Code, p.Detail, r.calls)
		}
		if strings.Contains(r.log.String(), "cause") {
			t.Errorf("the log has a cause: %s", r.log)
		}
	})
}
