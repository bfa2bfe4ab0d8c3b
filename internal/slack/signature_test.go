package slack

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	slackgo "github.com/slack-go/slack"

	"github.com/bastion-on-demand/bastion/internal/httpedge"
)

// The request is the example of Slack's documentation on signing secrets.
func TestSignatureOfSlacksExample(t *testing.T) {
	const body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
	const want = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
	if got := signatureOf(secret, "1531420618", []byte(body)); got != want {
		t.Errorf("the signature is %s, want %s", got, want)
	}
}

func TestVerifyAcceptsOnlyTheRightSignature(t *testing.T) {
	const body = "team_id=T0ANN"
	stamp := strconv.FormatInt(start.Unix(), 10)
	right := signatureOf(secret, stamp, []byte(body))
	at := func(d time.Duration) http.Header {
		stamp := strconv.FormatInt(start.Add(d).Unix(), 10)
		return http.Header{timestampHeader: {stamp}, signatureHeader: {signatureOf(secret, stamp, []byte(body))}}
	}
	with := func(stamp string) http.Header {
		return http.Header{timestampHeader: {stamp}, signatureHeader: {signatureOf(secret, stamp, []byte(body))}}
	}
	headers := func(stamps, signatures []string) http.Header {
		return http.Header{timestampHeader: stamps, signatureHeader: signatures}
	}
	for _, test := range []struct {
		name   string
		header http.Header
		body   string
		secret string
		want   error
	}{
		{"right", at(0), body, secret, nil},
		{"five minutes old", at(-window), body, secret, nil},
		{"five minutes ahead", at(window), body, secret, nil},
		{"old", at(-window - time.Second), body, secret, errStale},
		{"from the future", at(window + time.Second), body, secret, errStale},
		{"wrong secret", at(0), body, "another", errSignature},
		{"no secret configured", headers([]string{stamp}, []string{signatureOf("", stamp, []byte(body))}), body, "", errNoSecret},
		{"changed body", at(0), body + "&user_id=U0EVE", secret, errSignature},
		{"empty body", at(0), "", secret, errSignature},
		{"no signature", headers([]string{stamp}, nil), body, secret, errHeaders},
		{"no timestamp", headers(nil, []string{right}), body, secret, errHeaders},
		{"no headers", http.Header{}, body, secret, errHeaders},
		{"empty signature", headers([]string{stamp}, []string{""}), body, secret, errSignature},
		{"empty timestamp", with(""), body, secret, errTimestamp},
		{"doubled signature", headers([]string{stamp}, []string{right, right}), body, secret, errHeaders},
		{"doubled timestamp", headers([]string{stamp, stamp}, []string{right}), body, secret, errHeaders},
		{"doubled as API Gateway joins it", headers([]string{stamp}, []string{right + "," + right}), body, secret, errSignature},
		{"timestamp doubled as API Gateway joins it", with(stamp + "," + stamp), body, secret, errTimestamp},
		{"signature of another timestamp", headers([]string{strconv.FormatInt(start.Unix()+1, 10)}, []string{right}), body, secret, errSignature},
		{"capital letters", headers([]string{stamp}, []string{strings.ToUpper(right)}), body, secret, errSignature},
		{"without version", headers([]string{stamp}, []string{strings.TrimPrefix(right, "v0=")}), body, secret, errSignature},
		{"other version", headers([]string{stamp}, []string{"v1" + strings.TrimPrefix(right, "v0")}), body, secret, errSignature},
		{"cut off", headers([]string{stamp}, []string{right[:len(right)-1]}), body, secret, errSignature},
		{"trailing space", headers([]string{stamp}, []string{right + " "}), body, secret, errSignature},
		{"signed number", with("+" + stamp), body, secret, errTimestamp},
		{"negative", with("-1"), body, secret, errTimestamp},
		{"fraction", with(stamp + ".5"), body, secret, errTimestamp},
		{"hexadecimal", with("0x5f"), body, secret, errTimestamp},
		{"leading space", with(" " + stamp), body, secret, errTimestamp},
		{"Arabic digits", with("١٧٧٢٦١٦٦٠٠"), body, secret, errTimestamp},
		{"beyond any clock", with("99999999999999999999"), body, secret, errTimestamp},
	} {
		got, err := verify(test.header, []byte(test.body), test.secret, start)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if passed := got.signature != ""; passed != (test.want == nil) {
			t.Errorf("%s: passed is %t", test.name, passed)
		}
	}
}

// verify and slack-go's verifier accept the same requests, with one exception: slack-go
// also accepts a signature in capital letters. randomRequest makes no such signature.
func TestVerifyAgreesWithSlackGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // slack-go reads the clock, which stands still here
		random := rand.New(rand.NewPCG(1, 2))
		now, passed := time.Now(), 0
		const rounds = 20_000
		for range rounds {
			body, header := randomRequest(random, now)
			_, ours := verify(header, body, secret, now)
			theirs := verifyWithSlackGo(header, body)
			if (ours == nil) != (theirs == nil) {
				t.Fatalf("verify: %v, slack-go: %v, for %q %v", ours, theirs, body, header)
			}
			if ours == nil {
				passed++
			}
		}
		if passed < rounds/10 || passed > rounds*9/10 {
			t.Errorf("%d of %d passed: the cases are not mixed", passed, rounds)
		}
	})
}

func verifyWithSlackGo(header http.Header, body []byte) error {
	verifier, err := slackgo.NewSecretsVerifier(header, secret)
	if err != nil {
		return err
	}
	if _, err := verifier.Write(body); err != nil {
		return err
	}
	return verifier.Ensure()
}

// randomRequest returns a request whose signature is right about half of the time.
func randomRequest(random *rand.Rand, now time.Time) ([]byte, http.Header) {
	body := make([]byte, random.IntN(200))
	for i := range body {
		body[i] = byte(random.Uint32())
	}
	stamp := strconv.FormatInt(now.Unix()+int64(random.IntN(900)-450), 10)
	signature := signatureOf(secret, stamp, body)
	switch random.IntN(8) {
	case 0:
		signature = signatureOf("another", stamp, body)
	case 1:
		body = append(body, 'x')
	case 2:
		at := 3 + random.IntN(len(signature)-3)
		signature = signature[:at] + "g" + signature[at+1:]
	case 3:
		signature = signature[:random.IntN(len(signature))]
	case 4:
		stamp = stamp[:random.IntN(len(stamp))]
	}
	header := http.Header{}
	header.Set(signatureHeader, signature)
	header.Set(timestampHeader, stamp)
	return body, header
}

// Every request without a valid signature gets the same response, and writes nothing.
func TestRequestWithoutSignatureIsRefused(t *testing.T) {
	form := command("key " + annsKey)
	body := form.Encode()
	right := func(d *fixture) *http.Request { return d.signedRequest(commandRoute, form) }
	for _, test := range []struct {
		name    string
		request func(d *fixture) *http.Request
		status  int
	}{
		{"right", right, 200},
		{"wrong secret", func(d *fixture) *http.Request { d.credentials.SigningSecret = "another"; return right(d) }, 401},
		{"no secret configured", func(d *fixture) *http.Request {
			d.credentials.SigningSecret = ""
			r := right(d)
			r.Header.Set(signatureHeader, signatureOf("", r.Header.Get(timestampHeader), []byte(body)))
			return r
		}, 401},
		{"missing header", func(d *fixture) *http.Request { r := right(d); r.Header.Del(signatureHeader); return r }, 401},
		{"old timestamp", func(d *fixture) *http.Request { r := right(d); d.clock = d.clock.Add(window + time.Second); return r }, 401},
		{"future timestamp", func(d *fixture) *http.Request { r := right(d); d.clock = d.clock.Add(-window - time.Second); return r }, 401},
		{"changed body", func(d *fixture) *http.Request {
			r := right(d)
			r.Body = http.NoBody
			return r
		}, 401},
		{"doubled header", func(d *fixture) *http.Request {
			r := right(d)
			r.Header.Add(signatureHeader, r.Header.Get(signatureHeader))
			return r
		}, 401},
		{"unsigned, and not a form", func(d *fixture) *http.Request {
			return httptest.NewRequest(http.MethodPost, commandRoute, strings.NewReader("%zz;&=%"))
		}, 401},
		// API Gateway encodes some bodies in base64. The adapter decodes them, because the
		// signature is of the body as Slack sent it.
		{"body still in base64", func(d *fixture) *http.Request {
			r := right(d)
			r.Body = httptest.NewRequest(http.MethodPost, "/", strings.NewReader("dGVhbV9pZD1UMEFOTg==")).Body
			return r
		}, 401},
	} {
		d := newFixture(t)
		w := d.serve(test.request(d))
		if w.Code != test.status {
			t.Errorf("%s: %d %s, want %d", test.name, w.Code, w.Body, test.status)
		}
		if did := d.table.writes > 0; did != (test.status == 200) {
			t.Errorf("%s: %d writes", test.name, d.table.writes)
		}
		if test.status == 401 && !strings.Contains(w.Body.String(), `"code": "signature_invalid"`) {
			t.Errorf("%s: the response is %s", test.name, w.Body)
		}
	}
}

func TestReplayIsRefused(t *testing.T) {
	replay(t, commandRoute, command("status"))
	replay(t, interactionRoute, pressed(actionClose, "aaaaaaaaaaaaaaa2"))
}

func replay(t *testing.T, route string, form url.Values) {
	d := newFixture(t)
	first := d.serve(d.signedRequest(route, form))
	again := d.signedRequest(route, form)
	for _, later := range []time.Duration{0, time.Minute, window - time.Minute} {
		d.clock = d.clock.Add(later)
		r := again.Clone(t.Context())
		r.Body = httptest.NewRequest(http.MethodPost, "/", strings.NewReader(form.Encode())).Body
		w := d.serve(r)
		if w.Code != 401 || !strings.Contains(w.Body.String(), `"code": "replayed"`) {
			t.Errorf("%s: the same request once more, %s later: %d %s", route, d.clock.Sub(start), w.Code, w.Body)
		}
	}
	if first.Code != 200 || len(d.queue.jobs) != 1 {
		t.Errorf("%s: the first request: status %d, and %d jobs, want 1", route, first.Code, len(d.queue.jobs))
	}
}

// A replayed request does not count against its person's limit.
func TestReplaysAreNotCounted(t *testing.T) {
	d := newFixture(t)
	form := command("status")
	for range 2 * maxCommands {
		d.serve(d.signedRequest(commandRoute, form))
	}
	d.types("status")
	if len(d.queue.jobs) != 2 {
		t.Errorf("%d jobs, want the first and the last", len(d.queue.jobs))
	}
}

// A signature is remembered for longer than it is accepted, even if Slack's clock is
// ahead.
func TestReplayIsRememberedBeyondTheWindow(t *testing.T) {
	d := newFixture(t)
	r := d.signedRequest(commandRoute, command("status"))
	signature := r.Header.Get(signatureHeader)
	d.clock = d.clock.Add(-window) // the request comes from the future
	d.serve(r)
	d.clock = d.clock.Add(2 * window) // the last time at which it is accepted
	if _, _, err := d.table.Fetch(t.Context(), seenKey(signature)); err != nil {
		t.Errorf("the signature is forgotten while it is still accepted: %v", err)
	}
	d.clock = d.clock.Add(2 * time.Minute)
	if _, _, err := d.table.Fetch(t.Context(), seenKey(signature)); err == nil {
		t.Error("the signature is never forgotten")
	}
}

func TestLargeBodyIsRefused(t *testing.T) {
	for _, test := range []struct{ size, status int }{{httpedge.MaxBody, 200}, {httpedge.MaxBody + 1, 413}} {
		d := newFixture(t)
		form := command("help")
		form.Set("pad", "")
		form.Set("pad", strings.Repeat("x", test.size-len(form.Encode())))
		w := d.serve(d.signedRequest(commandRoute, form))
		if w.Code != test.status {
			t.Errorf("%d bytes: %d, want %d", len(form.Encode()), w.Code, test.status)
		}
	}
}

func TestCertificateCheck(t *testing.T) {
	d := newFixture(t)
	form := url.Values{"ssl_check": {"1"}, "token": {"an-old-token"}}
	if w := d.serve(d.signedRequest(commandRoute, form)); w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("signed: %d %q, want 200 and nothing", w.Code, w.Body)
	}
	unsigned := httptest.NewRequest(http.MethodPost, commandRoute, strings.NewReader(form.Encode()))
	if w := d.serve(unsigned); w.Code != 401 {
		t.Errorf("not signed: %d, want 401", w.Code)
	}
	if d.table.writes != 0 {
		t.Errorf("%d writes", d.table.writes)
	}
}
