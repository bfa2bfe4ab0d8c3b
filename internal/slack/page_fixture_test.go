package slack

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"html"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

const (
	pageOwner = "slack:T0AB:U0CD"
	pageHost  = "slack.example.test"
	pageKey   = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c"
	pagePrint = "SHA256:fe85JkIjo8VPe+XqXJGH5Mau1EMFdK1OdKvJUFicyA8"
	homeV4    = "203.0.113.7:50123"
	homeV6    = "[2001:db8:7::42]:50123"
)

// pageFixture is an app with a table in memory, an API that replies as the test sets,
// and a queue whose jobs are never run.
type pageFixture struct {
	*App
	t     testing.TB
	table *pageTable
	log   *pageLog

	mu         sync.Mutex
	now        time.Time
	jobs       []Job
	enqueueErr error // of Enqueue
	reply      func(Call) (api.InternalReply, error)
	calls      []Call
	secrets    []string // must not be in the log
}

func newPageFixture(t testing.TB, edit func(*Options)) *pageFixture {
	t.Helper()
	app := &pageFixture{t: t, log: &pageLog{}, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	app.table = &pageTable{memory: newMemory(&faults{}, app.clock)}
	options := Options{
		Table: app.table, Functions: app, Queue: app, Now: app.clock, Rand: rand.Reader,
		Log: slog.New(slog.NewJSONHandler(app.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if edit != nil {
		edit(&options)
	}
	app.App = New(options)
	t.Cleanup(app.noSecretLogged)
	return app
}

func (app *pageFixture) clock() time.Time {
	app.mu.Lock()
	defer app.mu.Unlock()
	return app.now
}

func (app *pageFixture) sleep(d time.Duration) {
	app.mu.Lock()
	defer app.mu.Unlock()
	app.now = app.now.Add(d)
}

func (app *pageFixture) Enqueue(_ context.Context, job Job) error {
	app.mu.Lock()
	defer app.mu.Unlock()
	if app.enqueueErr != nil {
		return app.enqueueErr
	}
	app.jobs = append(app.jobs, job)
	return nil
}

func (app *pageFixture) Call(_ context.Context, call Call) (api.InternalReply, error) {
	app.mu.Lock()
	defer app.mu.Unlock()
	app.calls = append(app.calls, call)
	return app.reply(call)
}

// returns makes the API return a bastion.
func (app *pageFixture) returns(b Bastion) {
	app.mu.Lock()
	defer app.mu.Unlock()
	body, err := json.Marshal(b)
	if err != nil {
		app.t.Fatal(err)
	}
	app.reply = func(Call) (api.InternalReply, error) {
		return api.InternalReply{Status: http.StatusOK, Body: string(body)}, nil
	}
}

// secret records a value that must not be in the log.
func (app *pageFixture) secret(value string) string {
	app.mu.Lock()
	defer app.mu.Unlock()
	app.secrets = append(app.secrets, value)
	return value
}

// noSecretLogged checks at the end of every test that the log does not contain the first
// half of a token.
func (app *pageFixture) noSecretLogged() {
	for _, secret := range app.secrets {
		if strings.Contains(app.log.String(), secret[:len(secret)/2]) {
			app.t.Errorf("a token is in the log:\n%s", app.log)
		}
	}
}

// link stores the key of a start link for its owner, issues the link and returns its
// path.
func (app *pageFixture) link(edit func(*startLink)) (path string) {
	app.t.Helper()
	link := startLink{Owner: pageOwner, Name: "default", Key: pageKey, TTL: 2 * time.Hour, ResponseURL: "https://hooks.slack.com/commands/x"}
	if edit != nil {
		edit(&link)
	}
	if err := app.saveKey(app.t.Context(), link.Owner, bastion.Key(link.Key)); err != nil {
		app.t.Fatal(err)
	}
	token, err := app.issueStartLink(app.t.Context(), link)
	if err != nil {
		app.t.Fatal(err)
	}
	return "/slack/start/" + app.secret(token)
}

func (app *pageFixture) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	app.Handler().ServeHTTP(w, r)
}

// storedLink returns the stored start link of a path.
func (app *pageFixture) storedLink(path string) startLink {
	app.t.Helper()
	var link startLink
	if _, err := app.fetch(app.t.Context(), startLinkKey(hashOf(lastOf(path))), &link); err != nil {
		app.t.Fatal(err)
	}
	return link
}

// mustBeUnused checks that a link was not used and still works.
func (app *pageFixture) mustBeUnused(path string) {
	app.t.Helper()
	if link := app.storedLink(path); !link.UsedAt.IsZero() || len(app.jobs) > 0 {
		app.t.Fatalf("the link was used (%v), and %d jobs were enqueued", link.UsedAt, len(app.jobs))
	}
	if got := newVisitor(app, homeV4).open(path).press(); got.status != http.StatusSeeOther {
		app.t.Fatalf("the link no longer works: status %d", got.status)
	}
}

func lastOf(path string) string { return path[strings.LastIndex(path, "/")+1:] }

// visitor simulates a browser: it keeps cookies and sends the form of the open page.
type visitor struct {
	app     *pageFixture
	from    string
	header  http.Header
	cookies map[string]string
	path    string

	status int
	head   http.Header
	body   string
}

func newVisitor(app *pageFixture, from string) *visitor {
	return &visitor{app: app, from: from, header: http.Header{}, cookies: map[string]string{}}
}

func (b *visitor) do(method, path, body string) *visitor {
	b.app.t.Helper()
	r := httptest.NewRequest(method, "https://"+pageHost+path, strings.NewReader(body))
	r.RemoteAddr = b.from
	r.Header = b.header.Clone()
	if body != "" && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range b.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	w := httptest.NewRecorder()
	b.app.ServeHTTP(w, r)
	for _, cookie := range w.Result().Cookies() {
		b.keep(cookie)
	}
	b.path, b.status, b.head, b.body = path, w.Code, w.Header(), w.Body.String()
	if to := b.head.Get("Location"); to != "" {
		b.app.secret(lastOf(to))
	}
	return b
}

func (b *visitor) keep(cookie *http.Cookie) {
	if cookie.MaxAge < 0 {
		delete(b.cookies, cookie.Name)
		return
	}
	b.cookies[cookie.Name] = b.app.secret(cookie.Value)
}

func (b *visitor) open(path string) *visitor {
	b.app.t.Helper()
	if b.do("GET", path, ""); b.status != http.StatusOK {
		b.app.t.Fatalf("opened a link, got status %d: %s", b.status, b.text())
	}
	return b
}

var hiddenField = regexp.MustCompile(`<input type="hidden" name="([a-z]+)" value="([^"]*)">`)

// form returns the fields of the open page's form.
func (b *visitor) form() url.Values {
	values := url.Values{}
	for _, field := range hiddenField.FindAllStringSubmatch(b.body, -1) {
		values.Set(field[1], html.UnescapeString(field[2]))
	}
	return values
}

func (b *visitor) press() *visitor { return b.do("POST", b.path, b.form().Encode()) }

var markup = regexp.MustCompile(`(?s)<(style|script)>.*?</(style|script)>|<[^>]*>`)

// text returns the visible text of the open page in one line.
func (b *visitor) text() string {
	return strings.Join(strings.Fields(html.UnescapeString(markup.ReplaceAllString(b.body, " "))), " ")
}

// pageTable is a memory whose reads and writes can fail.
type pageTable struct {
	*memory
	fail     func(key string) (before, after error) // of writes, before and after the effect
	fetchErr error                                  // of every fetch
}

func (t *pageTable) Fetch(ctx context.Context, key string) ([]byte, int64, error) {
	if t.fetchErr != nil {
		return nil, 0, t.fetchErr
	}
	return t.memory.Fetch(ctx, key)
}

func (t *pageTable) Write(ctx context.Context, key string, prev int64, value []byte, expires time.Time) error {
	var before, after error
	if t.fail != nil {
		before, after = t.fail(key)
	}
	if before != nil {
		return before
	}
	if err := t.memory.Write(ctx, key, prev, value, expires); err != nil {
		return err
	}
	return after
}

// pageLog keeps the log in memory.
type pageLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *pageLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *pageLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

var errDownTest = errors.New("connection refused")

var pageAddress = netip.MustParseAddr("203.0.113.7")

// errConflictWithItself is the error of a write that was sent twice: the second request
// conflicts with the first, which took effect.
var errConflictWithItself = bastion.ErrConflict
