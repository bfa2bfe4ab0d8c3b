package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestUnknownPathsAndMethods(t *testing.T) {
	for _, test := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"POST", "/", 404, "path_not_found"},
		{"POST", "/slack", 404, "path_not_found"},
		{"POST", "/slack/", 404, "path_not_found"},
		{"POST", "/slack/command/", 404, "path_not_found"},
		{"POST", "//slack/command", 404, "path_not_found"},
		{"POST", "/slack/../slack/command", 404, "path_not_found"},
		{"POST", "/Slack/Command", 404, "path_not_found"},
		{"POST", "/bastions", 404, "path_not_found"},
		{"GET", "/slack/start/", 404, "path_not_found"},
		{"GET", "/slack/start/a/b", 404, "path_not_found"},
		{"GET", "/slack/status", 404, "path_not_found"},
		{"GET", "/slack/command", 405, "method_not_allowed"},
		{"HEAD", "/slack/command", 405, "method_not_allowed"},
		{"PUT", "/slack/interaction", 405, "method_not_allowed"},
		{"OPTIONS", "/slack/interaction", 405, "method_not_allowed"},
		{"POST", "/slack/command", 401, "signature_invalid"},
		{"POST", "/slack/interaction", 401, "signature_invalid"},
	} {
		d := newFixture(t)
		r := httptest.NewRequest(test.method, "/", strings.NewReader("payload=x"))
		r.URL.Path = test.path
		w := d.serve(r)
		var p struct {
			Status              int
			Code, Detail, Title string
		}
		if test.method == "HEAD" { // no body
			p.Status, p.Code, p.Detail = test.status, test.code, "."
		} else if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		if w.Code != test.status || p.Status != test.status || p.Code != test.code || p.Detail == "" {
			t.Errorf("%s %s: %d %s, want %d %s", test.method, test.path, w.Code, w.Body, test.status, test.code)
		}
		if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
			t.Errorf("%s %s: the type is %q", test.method, test.path, got)
		}
		if allow := w.Header().Get("Allow"); (allow == "POST") != (test.status == 405) {
			t.Errorf("%s %s: Allow is %q", test.method, test.path, allow)
		}
	}
}

func TestSecurityHeaders(t *testing.T) {
	d := newFixture(t)
	w := d.serve(d.signedRequest(commandRoute, command("help")))
	for name, want := range map[string]string{
		"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "X-Frame-Options": "DENY",
		"Content-Type": "application/json; charset=utf-8",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// Handler serves the pages, too, and not only Slack's requests.
func TestHandlerServesPages(t *testing.T) {
	d := withKey(t)
	message := string(d.types("up"))
	at := strings.Index(message, "https://bastions.example/slack/start/")
	if at < 0 {
		t.Fatalf("there is no link in %s", message)
	}
	link, _, _ := strings.Cut(message[at:], `"`)
	r := httptest.NewRequest(http.MethodGet, link, nil)
	r.RemoteAddr = annsHome + ":1234"
	if w := d.serve(r); w.Code != 200 || !strings.Contains(w.Body.String(), annsHome) {
		t.Errorf("the link leads to %d %s", w.Code, w.Body)
	}
	if w := d.serve(httptest.NewRequest(http.MethodGet, "/slack/status/unknown", nil)); w.Code != 404 {
		t.Errorf("an unknown status page: status %d", w.Code)
	}
}

// The log has one line for each request, with its route. It contains no secret and no
// typed text.
func TestLogHoldsNoSecrets(t *testing.T) {
	d := withKey(t)
	message := string(d.types("up because mysecretreason"))
	d.push(actionExtend, "aaaaaaaaaaaaaaa2")
	d.types("frobnicate-typed")
	d.queue.down = errors.New("throttled")
	d.types("down")
	d.push(actionClose, "aaaaaaaaaaaaaaa2")
	d.slack.err = &url.Error{Op: "Post", URL: hookB, Err: errors.New("no route to host")}
	d.push(actionClose, "aaaaaaaaaaaaaaa2")
	d.serve(httptest.NewRequest(http.MethodPost, "/slack/command?q=inthequery", strings.NewReader("inthebody")))
	d.serve(httptest.NewRequest(http.MethodPost, "/inthepath", strings.NewReader("inthebody")))
	_, token, _ := strings.Cut(message, "/slack/start/")
	token, _, _ = strings.Cut(token, `"`)
	d.serve(httptest.NewRequest(http.MethodGet, "/slack/start/"+token+"?q=inthequery", nil))
	log := d.log.String()
	for _, secret := range []string{token, hookA, hookB, "hooks.slack.com", secret, botToken, annsKey, "an-old-token", "mysecretreason", "frobnicate-typed", "inthequery", "inthebody", "inthepath"} {
		if secret == "" || strings.Contains(log, secret) {
			t.Errorf("%q is in the log:\n%s", secret, log)
		}
	}
	lines := strings.Split(strings.TrimSpace(log), "\n")
	if len(lines) != 10 {
		t.Errorf("%d lines for 10 requests:\n%s", len(lines), log)
	}
	wantContains(t, lines[0], `"route":"/slack/command"`, `"owner":"slack:T0ANN:U0ANN"`, `"status":200`)
	wantContains(t, lines[2], `"route":"/slack/interaction"`, `"status":200`)
	wantContains(t, lines[3], `"code":"command_invalid"`)
	wantContains(t, lines[4], `"code":"unavailable"`, "throttled")
	wantContains(t, lines[6], "no route to host")
	wantContains(t, lines[8], `"status":404`)
}

func TestPanicsAreContained(t *testing.T) {
	d := newFixture(t)
	d.Credentials = func(context.Context, string) (Credentials, error) { panic("a fault of the app") }
	w := d.serve(d.signedRequest(commandRoute, command("help")))
	if w.Code != 500 || strings.Contains(w.Body.String(), "a fault of the app") || !strings.Contains(w.Body.String(), `"code": "internal"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	wantContains(t, d.log.String(), "panic: a fault of the app", `"level":"ERROR"`)
}

func TestUnreadableSecretIsUnavailable(t *testing.T) {
	d := newFixture(t)
	d.Credentials = func(context.Context, string) (Credentials, error) { return Credentials{}, errors.New("throttled") }
	if w := d.serve(d.signedRequest(commandRoute, command("help"))); w.Code != 503 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Teams are always checked, users if Users is set, channels for commands only.
func TestAllowedTeamsUsersAndChannels(t *testing.T) {
	for _, test := range []struct {
		name             string
		set              func(*fixture)
		command, pressed bool
	}{
		{"the team", func(*fixture) {}, true, true},
		{"no team", func(d *fixture) { d.Teams = nil }, false, false},
		{"another team", func(d *fixture) { d.Teams = []string{"T0BOB"} }, false, false},
		{"one of two teams", func(d *fixture) { d.Teams = []string{"T0BOB", "T0ANN"} }, true, true},
		{"the user", func(d *fixture) { d.Users = []string{"U0ANN"} }, true, true},
		{"another user", func(d *fixture) { d.Users = []string{"U0BOB"} }, false, false},
		{"the channel", func(d *fixture) { d.Channels = []string{"C0OPS"} }, true, true},
		{"another channel", func(d *fixture) { d.Channels = []string{"C0DEV"} }, false, true},
	} {
		d := newFixture(t)
		test.set(d)
		d.types("status")
		if got := len(d.queue.jobs) == 1; got != test.command {
			t.Errorf("%s: the command is allowed: %t", test.name, got)
		}
		d.queue.jobs = nil
		d.push(actionExtend, "aaaaaaaaaaaaaaa2")
		if got := len(d.queue.jobs) == 1; got != test.pressed {
			t.Errorf("%s: the button is allowed: %t", test.name, got)
		}
		if !test.command && !test.pressed && d.table.writes != 0 {
			t.Errorf("%s: refused requests made %d writes", test.name, d.table.writes)
		}
	}
}

// The owner comes from the signed form. IDs that do not have Slack's form are refused.
func TestMalformedIDsAreRefused(t *testing.T) {
	for _, field := range []string{"team_id", "user_id", "channel_id"} {
		for _, id := range []string{"T", "t0ann", "T0ANN#", "T0ANN:U0EVE", "T0ANN\n", "iam", "*", strings.Repeat("T", 33)} {
			d := newFixture(t)
			form := command("status")
			form.Set(field, id)
			if w := d.serve(d.signedRequest(commandRoute, form)); w.Code != 400 || len(d.queue.jobs) != 0 || d.table.writes != 0 {
				t.Errorf("%s %q: %d, %d jobs", field, id, w.Code, len(d.queue.jobs))
			}
		}
	}
	d := newFixture(t)
	d.types("down web")
	d.push(actionExtend, "aaaaaaaaaaaaaaa2")
	for _, job := range d.queue.jobs {
		if job.Owner != ann {
			t.Errorf("a job for %s", job.Owner)
		}
	}
}

// Unknown buttons and buttons that open a URL get status 200 and start no job.
func TestUnknownButtonsDoNothing(t *testing.T) {
	const id = "aaaaaaaaaaaaaaa2"
	payload := func(kind, actions string) string {
		return fmt.Sprintf(`{"type":%q,"team":{"id":"T0ANN"},"user":{"id":"U0ANN"},"response_url":%q,"actions":%s}`, kind, hookB, actions)
	}
	action := func(name, value string) string { return fmt.Sprintf(`[{"action_id":%q,"value":%q}]`, name, value) }
	for _, test := range []struct {
		payload string
		status  int
		jobs    int
	}{
		{payload("block_actions", action("extend", id)), 200, 1},
		{payload("block_actions", action("close", id)), 200, 1},
		{payload("block_actions", action("open", "")), 200, 0},
		{payload("block_actions", action("open", id)), 200, 0},
		{payload("block_actions", action("delete", id)), 200, 0},
		{payload("block_actions", action("close", "not an id")), 200, 0},
		{payload("block_actions", action("close", "../../bastions")), 200, 0},
		{payload("block_actions", "[]"), 200, 0},
		{payload("view_submission", action("close", id)), 200, 0},
		{payload("", "null"), 200, 0},
		{strings.Replace(payload("block_actions", action("close", id)), hookB, "https://169.254.169.254/actions/1/2", 1), 400, 0},
		{strings.Replace(payload("block_actions", action("close", id)), "U0ANN", "", 1), 400, 0},
		{"", 400, 0},
		{"not JSON", 400, 0},
		{`{"type":["block_actions"]}`, 400, 0},
	} {
		d := newFixture(t)
		w := d.serve(d.signedRequest(interactionRoute, url.Values{"payload": {test.payload}}))
		if w.Code != test.status || len(d.queue.jobs) != test.jobs || len(d.slack.posts) != 0 {
			t.Errorf("%s: %d %s, %d jobs", test.payload, w.Code, w.Body, len(d.queue.jobs))
		}
	}
}

func TestJobsOfCommandsAndButtons(t *testing.T) {
	d := newFixture(t)
	d.types("down web")
	d.types("extend 30m db")
	d.types("status")
	d.push("close", "aaaaaaaaaaaaaaa2")
	d.push("extend", "aaaaaaaaaaaaaaa2")
	want := []Job{
		{Action: JobDown, Owner: ann, ResponseURL: hookA, Name: "web", At: start},
		{Action: JobExtend, Owner: ann, ResponseURL: hookA, Name: "db", TTL: 30 * 60e9, At: start},
		{Action: JobStatus, Owner: ann, ResponseURL: hookA, At: start},
		{Action: JobDown, Owner: ann, ResponseURL: hookB, ID: "aaaaaaaaaaaaaaa2", At: start},
		{Action: JobExtend, Owner: ann, ResponseURL: hookB, ID: "aaaaaaaaaaaaaaa2", TTL: extendBy, At: start},
	}
	for i, job := range d.queue.jobs {
		if job != want[i] {
			t.Errorf("job %d is\n%+v, want\n%+v", i, job, want[i])
		}
	}
	if len(d.queue.jobs) != len(want) {
		t.Errorf("%d jobs, want %d", len(d.queue.jobs), len(want))
	}
}
