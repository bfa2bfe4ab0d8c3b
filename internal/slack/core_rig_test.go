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

// fixture is the app with everything around it in memory.
type fixture struct {
	*App
	t       *testing.T
	faults  *faults
	table   *memory
	service *service
	work    *recordingQueue
	slack   *fakeSlack
	log     *bytes.Buffer
	clock   time.Time
	agreed  Credentials
	random  byte

	triggers int
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	d := &fixture{t: t, faults: &faults{}, clock: start, log: &bytes.Buffer{}, work: &recordingQueue{}}
	now := func() time.Time { return d.clock }
	d.table = newMemory(d.faults, now)
	d.service = &service{faults: d.faults, now: now}
	d.slack = &fakeSlack{faults: d.faults}
	d.agreed = Credentials{SigningSecret: secret, BotToken: botToken}
	d.App = New(Options{
		Table: d.table, Functions: d.service, Queue: d.work, Transport: d.slack,
		Credentials: func(context.Context, string) (Credentials, error) { return d.agreed, nil },
		Teams:       []string{"T0ANN"},

		DefaultTTL: time.Hour, MaxTTL: 8 * time.Hour,

		Now: now, Rand: d, Log: slog.New(slog.NewJSONHandler(d.log, nil)),
	})
	return d
}

// Read makes tokens that are the same in each run.
func (d *fixture) Read(p []byte) (int, error) {
	d.random++
	for i := range p {
		p[i] = d.random
	}
	return len(p), nil
}

// command is a slash command's form.
func command(text string) url.Values {
	return url.Values{
		"team_id": {"T0ANN"}, "user_id": {"U0ANN"}, "channel_id": {"C0OPS"}, "user_name": {"ann"},
		"command": {"/bastion"}, "text": {text}, "response_url": {hookA}, "token": {"an-old-token"},
	}
}

// pressed is a button's form.
func pressed(action, value string) url.Values {
	payload := fmt.Sprintf(`{"type":"block_actions","team":{"id":"T0ANN"},"user":{"id":"U0ANN"},"channel":{"id":"D0DM"},
		"response_url":%q,"actions":[{"action_id":%q,"value":%q}]}`, hookB, action, value)
	return url.Values{"payload": {payload}}
}

// signedRequest is a form as Slack sends it.
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

// trigger is what makes each of Slack's requests another.
func (d *fixture) trigger() string {
	d.triggers++
	return fmt.Sprintf("%d.1.abc", d.triggers)
}

// type_ lets ann type a command, and answers what she is answered.
func (d *fixture) types(text string) []byte {
	d.t.Helper()
	form := command(text)
	form.Set("trigger_id", d.trigger())
	w := d.serve(d.signedRequest(commandRoute, form))
	if w.Code != http.StatusOK {
		d.t.Fatalf("%q was answered %d %s", text, w.Code, w.Body)
	}
	return w.Body.Bytes()
}

// push lets ann press a button.
func (d *fixture) push(action, value string) {
	d.t.Helper()
	d.pushAs("U0ANN", action, value)
}

func (d *fixture) pushAs(user, action, value string) {
	d.t.Helper()
	form := pressed(action, value)
	form.Set("payload", strings.Replace(form.Get("payload"), "U0ANN", user, 1))
	form.Set("payload", strings.Replace(form.Get("payload"), "{", `{"trigger_id":"`+d.trigger()+`",`, 1))
	w := d.serve(d.signedRequest(interactionRoute, form))
	if w.Code != http.StatusOK || w.Body.Len() != 0 {
		d.t.Fatalf("button %s was answered %d %q; Slack wants 200 and nothing", action, w.Code, w.Body)
	}
}

// readable is a message's text without its structure: one line for each block.
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

// textsOf collects the texts of a block in order.
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

// wantRead fails unless the text holds all the parts.
func wantRead(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("it does not say %q:\n%s", part, text)
		}
	}
}
