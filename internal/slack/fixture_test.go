package slack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// The people, places and secrets of these tests.
const (
	secret   = "8f742231b10e8888abcd99yyyzzz85a5"
	botToken = "xoxb-a-token-of-these-tests"
	ann      = "slack:T0ANN:U0ANN"
	hookA    = "https://hooks.slack.com/commands/T0ANN/111/aaa"
	hookB    = "https://hooks.slack.com/actions/T0ANN/222/bbb"
	annsKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF1CE6FEP1wUcyLQj7Z9YTUPW2E6wgbUKtPwy9Rujd3G"
	annsHome = "203.0.113.7"
)

var start = time.Date(2026, 3, 4, 9, 30, 0, 0, time.UTC)

// fixture is an app whose table, API, queue and Slack are fakes in memory.
type fixture struct {
	*App
	t           *testing.T
	faults      *faults
	table       *memory
	api         *fakeAPI
	queue       *recordingQueue
	slack       *fakeSlack
	log         *bytes.Buffer
	clock       time.Time
	credentials Credentials
	random      byte

	triggers int
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	d := &fixture{t: t, faults: &faults{}, clock: start, log: &bytes.Buffer{}, queue: &recordingQueue{}}
	now := func() time.Time { return d.clock }
	d.table = newMemory(d.faults, now)
	d.api = &fakeAPI{faults: d.faults, now: now}
	d.slack = &fakeSlack{faults: d.faults}
	d.credentials = Credentials{SigningSecret: secret, BotToken: botToken}
	d.App = New(Options{
		Table: d.table, Functions: d.api, Queue: d.queue, Transport: d.slack,
		Credentials: func(context.Context, string) (Credentials, error) { return d.credentials, nil },
		Teams:       []string{"T0ANN"},

		DefaultTTL: time.Hour, MaxTTL: 8 * time.Hour,

		Now: now, Rand: d, Log: slog.New(slog.NewJSONHandler(d.log, nil)),
	})
	return d
}

// Read makes the fixture the app's source of random bytes ([Options.Rand]), from which
// tokens are made. It returns the same bytes in each run of the test.
func (d *fixture) Read(p []byte) (int, error) {
	d.random++
	for i := range p {
		p[i] = d.random
	}
	return len(p), nil
}

// command returns the form of a slash command.
func command(text string) url.Values {
	return url.Values{
		"team_id": {"T0ANN"}, "user_id": {"U0ANN"}, "channel_id": {"C0OPS"}, "user_name": {"ann"},
		"command": {"/bastion"}, "text": {text}, "response_url": {hookA}, "token": {"an-old-token"},
	}
}

// pressed returns the form of a pressed button.
func pressed(action, value string) url.Values {
	payload := fmt.Sprintf(`{"type":"block_actions","team":{"id":"T0ANN"},"user":{"id":"U0ANN"},"channel":{"id":"D0DM"},
		"response_url":%q,"actions":[{"action_id":%q,"value":%q}]}`, hookB, action, value)
	return url.Values{"payload": {payload}}
}

// signedRequest returns a request with a form, signed as Slack signs it.
func (d *fixture) signedRequest(path string, form url.Values) *http.Request {
	body := form.Encode()
	r := httptest.NewRequest(http.MethodPost, "https://bastions.example"+path, strings.NewReader(body))
	d.sign(r, body)
	return r
}

func (d *fixture) sign(r *http.Request, body string) {
	timestamp := fmt.Sprint(d.clock.Unix())
	r.Header.Set(timestampHeader, timestamp)
	r.Header.Set(signatureHeader, signatureOf(secret, timestamp, []byte(body)))
}

func (d *fixture) serve(r *http.Request) *httptest.ResponseRecorder {
	d.t.Helper()
	w := httptest.NewRecorder()
	d.Handler().ServeHTTP(w, r)
	return w
}

// triggerID returns a different ID for each request, as Slack sends.
func (d *fixture) triggerID() string {
	d.triggers++
	return fmt.Sprintf("%d.1.abc", d.triggers)
}

// types sends a command from ann and returns the body of the reply.
func (d *fixture) types(text string) []byte {
	d.t.Helper()
	form := command(text)
	form.Set("trigger_id", d.triggerID())
	w := d.serve(d.signedRequest(commandRoute, form))
	if w.Code != http.StatusOK {
		d.t.Fatalf("%q: status %d, %s", text, w.Code, w.Body)
	}
	return w.Body.Bytes()
}

// push sends the request of a button that ann presses.
func (d *fixture) push(action, value string) {
	d.t.Helper()
	d.pushAs("U0ANN", action, value)
}

func (d *fixture) pushAs(user, action, value string) {
	d.t.Helper()
	form := pressed(action, value)
	form.Set("payload", strings.Replace(form.Get("payload"), "U0ANN", user, 1))
	form.Set("payload", strings.Replace(form.Get("payload"), "{", `{"trigger_id":"`+d.triggerID()+`",`, 1))
	w := d.serve(d.signedRequest(interactionRoute, form))
	if w.Code != http.StatusOK || w.Body.Len() != 0 {
		d.t.Fatalf("button %s: status %d, %q; want 200 and an empty body", action, w.Code, w.Body)
	}
}

// readable returns the text of a message: one line for each block.
func readable(body []byte) string {
	var l struct{ Blocks []any }
	if err := json.Unmarshal(body, &l); err != nil {
		return "not JSON: " + string(body)
	}
	var lines []string
	for _, block := range l.Blocks {
		lines = append(lines, strings.Join(textsOf(block), " | "))
	}
	return strings.Join(lines, "\n")
}

// textsOf returns the texts of a block in order.
func textsOf(v any) []string {
	switch v := v.(type) {
	case []any:
		var all []string
		for _, e := range v {
			all = append(all, textsOf(e)...)
		}
		return all
	case map[string]any:
		if text, ok := v["text"].(string); ok {
			return []string{text}
		}
		var all []string
		for _, key := range []string{"text", "elements"} {
			all = append(all, textsOf(v[key])...)
		}
		return all
	}
	return nil
}

// wantContains fails the test unless the text contains all parts.
func wantContains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("the text does not contain %q:\n%s", part, text)
		}
	}
}
