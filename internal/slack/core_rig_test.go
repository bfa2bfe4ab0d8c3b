package slack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
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

// memory is a Table.
type memory struct {
	faults *faults
	now    func() time.Time
	mu     sync.Mutex
	items  map[string]memoryItem
	writes int
}

type memoryItem struct {
	value   []byte
	version int64
	expires time.Time
}

func newMemory(faults *faults, now func() time.Time) *memory {
	return &memory{faults: faults, now: now, items: map[string]memoryItem{}}
}

func (m *memory) live(key string) (memoryItem, bool) {
	i, ok := m.items[key]
	return i, ok && (i.expires.IsZero() || m.now().Before(i.expires))
}

func (m *memory) Fetch(_ context.Context, key string) (value []byte, version int64, err error) {
	err = m.faults.around("fetch", func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		i, ok := m.live(key)
		if !ok {
			return bastion.ErrNotFound
		}
		value, version = bytes.Clone(i.value), i.version
		return nil
	})
	return value, version, err
}

func (m *memory) Write(_ context.Context, key string, prev int64, value []byte, expires time.Time) error {
	return m.faults.around("write", func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		i, ok := m.live(key)
		if !ok {
			i.version = 0
		}
		if i.version != prev {
			return bastion.ErrConflict
		}
		m.writes++
		m.items[key] = memoryItem{bytes.Clone(value), prev + 1, expires}
		return nil
	})
}

func (m *memory) Delete(_ context.Context, key string) error {
	return m.faults.around("delete", func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.writes++
		delete(m.items, key)
		return nil
	})
}

// faults lets one call of a port go wrong: the at-th, before or after its effect,
// with an error or with the death of whoever called.
type faults struct {
	mu    sync.Mutex
	at    int // 0: none
	after bool
	death bool
	calls int
	hit   string
}

var errFault = errors.New("a fault of this test")

// died is what a fault panics with.
type died struct{}

func (f *faults) around(port string, effect func() error) error {
	f.mu.Lock()
	f.calls++
	mine := f.calls == f.at
	if mine {
		f.hit = port
	}
	f.mu.Unlock()
	if mine && !f.after {
		return f.fail()
	}
	err := effect()
	if mine {
		return f.fail()
	}
	return err
}

func (f *faults) fail() error {
	if f.death {
		panic(died{})
	}
	return errFault
}

// service is the other functions.
type service struct {
	faults   *faults
	now      func() time.Time
	down     error // no answer
	problem  *bastion.Error
	bastions []*Bastion
	calls    []Call
	created  int
}

func (s *service) Call(_ context.Context, call Call) (reply Reply, err error) {
	err = s.faults.around("functions", func() error {
		s.calls = append(s.calls, call)
		if s.down != nil {
			return s.down
		}
		reply = s.serve(call)
		return nil
	})
	return reply, err
}

func (s *service) serve(call Call) Reply {
	if s.problem != nil {
		return problemReply(409, s.problem.Code, s.problem.Message)
	}
	var body struct {
		Name, TTL, Reason string
	}
	_ = json.Unmarshal(call.Body, &body)
	if call.Method == http.MethodPost {
		return s.create(call, body.Name, body.TTL, body.Reason)
	}
	if call.Path == "/bastions" {
		var mine []*Bastion
		for _, b := range s.bastions {
			if b.Owner == call.Owner && b.State != "closed" {
				mine = append(mine, b)
			}
		}
		return jsonReply(200, map[string]any{"bastions": mine})
	}
	for _, b := range s.bastions {
		if b.Owner != call.Owner || "/bastions/"+b.ID != call.Path {
			continue
		}
		switch call.Method {
		case http.MethodDelete:
			b.State, b.Stage = "closing", ""
		case http.MethodPatch:
			ttl, err := time.ParseDuration(body.TTL)
			if err != nil {
				return problemReply(400, bastion.CodeTTLInvalid, "no ttl: "+body.TTL)
			}
			if deadline := s.now().Add(ttl); deadline.After(b.Deadline) {
				b.Deadline = deadline
			}
		}
		return jsonReply(200, b)
	}
	return problemReply(404, bastion.CodeNotFound, "There is no bastion of this id.")
}

func (s *service) create(call Call, name, ttl, reason string) Reply {
	for _, b := range s.bastions {
		if b.Owner == call.Owner && b.Name == name && b.isOpen() {
			return jsonReply(200, b)
		}
	}
	length, err := time.ParseDuration(ttl)
	if err != nil {
		length = time.Hour
	}
	s.created++
	b := &Bastion{
		ID: fmt.Sprintf("aaaaaaaaaaaaaa%c2", 'a'+s.created), Name: name, Owner: call.Owner, State: "starting", Stage: "capacity",
		Reason: reason, Source: call.Source.String() + "/32", Keys: []string{bastion.Key(annsKey).Fingerprint()},
		CreatedAt: s.now(), Deadline: s.now().Add(length), LatestDeadline: s.now().Add(8 * time.Hour),
	}
	s.bastions = append(s.bastions, b)
	return jsonReply(201, b)
}

func jsonReply(status int, v any) Reply {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return Reply{status, body}
}

func problemReply(status int, code bastion.Code, detail string) Reply {
	return jsonReply(status, map[string]any{"code": code, "detail": detail, "status": status})
}

// workshop is a Work that only notes.
type workshop struct {
	down error
	jobs []Job
}

func (w *workshop) HandOver(_ context.Context, job Job) error {
	if w.down != nil {
		return w.down
	}
	w.jobs = append(w.jobs, job)
	return nil
}

// fakeSlack takes what is sent to Slack.
type fakeSlack struct {
	faults *faults
	posts  []sent
	status int    // 0: 200
	answer string // empty: ok
	err    error
}

type sent struct {
	url, token string
	body       []byte
}

func (f *fakeSlack) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	err = f.faults.around("slack", func() error {
		if f.err != nil {
			return f.err
		}
		f.posts = append(f.posts, sent{r.URL.String(), r.Header.Get("Authorization"), body})
		return nil
	})
	if err != nil {
		return nil, err
	}
	status, answer := f.status, f.answer
	if status == 0 {
		status = 200
	}
	if answer == "" {
		answer = `{"ok":true}`
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(answer)), Request: r, Header: http.Header{}}, nil
}

// at are the bodies that were posted to a URL.
func (f *fakeSlack) at(url string) [][]byte {
	var bodies [][]byte
	for _, s := range f.posts {
		if s.url == url {
			bodies = append(bodies, s.body)
		}
	}
	return bodies
}

// last is what stands at a URL, as somebody reads it.
func (f *fakeSlack) last(url string) string {
	bodies := f.at(url)
	if len(bodies) == 0 {
		return ""
	}
	return readable(bodies[len(bodies)-1])
}

// desk is the app with everything around it in memory.
type desk struct {
	*App
	t       *testing.T
	faults  *faults
	table   *memory
	service *service
	work    *workshop
	slack   *fakeSlack
	log     *bytes.Buffer
	clock   time.Time
	agreed  Agreed
	random  byte

	triggers int
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, faults: &faults{}, clock: start, log: &bytes.Buffer{}, work: &workshop{}}
	now := func() time.Time { return d.clock }
	d.table = newMemory(d.faults, now)
	d.service = &service{faults: d.faults, now: now}
	d.slack = &fakeSlack{faults: d.faults}
	d.agreed = Agreed{SigningSecret: secret, BotToken: botToken}
	d.App = New(Options{
		Table: d.table, Functions: d.service, Work: d.work, Outside: d.slack,
		Secrets: func(context.Context) (Agreed, error) { return d.agreed, nil },
		Teams:   []string{"T0ANN"},
		Now:     now, Rand: d, Log: slog.New(slog.NewJSONHandler(d.log, nil)),
	})
	return d
}

// Read makes tokens that are the same in each run.
func (d *desk) Read(p []byte) (int, error) {
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
func (d *desk) signedRequest(path string, form url.Values) *http.Request {
	body := form.Encode()
	r := httptest.NewRequest(http.MethodPost, "https://bastions.example"+path, strings.NewReader(body))
	d.sign(r, body)
	return r
}

func (d *desk) sign(r *http.Request, body string) {
	timestamp := fmt.Sprint(d.clock.Unix())
	r.Header.Set(timestampHeader, timestamp)
	r.Header.Set(signatureHeader, signatureOf(secret, timestamp, []byte(body)))
}

func (d *desk) serve(r *http.Request) *httptest.ResponseRecorder {
	d.t.Helper()
	w := httptest.NewRecorder()
	d.Handler().ServeHTTP(w, r)
	return w
}

// trigger is what makes each of Slack's requests another.
func (d *desk) trigger() string {
	d.triggers++
	return fmt.Sprintf("%d.1.abc", d.triggers)
}

// type_ lets ann type a command, and answers what she is answered.
func (d *desk) types(text string) []byte {
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
func (d *desk) push(action, value string) {
	d.t.Helper()
	form := pressed(action, value)
	form.Set("payload", strings.Replace(form.Get("payload"), "{", `{"trigger_id":"`+d.trigger()+`",`, 1))
	w := d.serve(d.signedRequest(interactionRoute, form))
	if w.Code != http.StatusOK || w.Body.Len() != 0 {
		d.t.Fatalf("button %s was answered %d %q; Slack wants 200 and nothing", action, w.Code, w.Body)
	}
}

// readable is a letter's text without its structure: one line for each block.
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
