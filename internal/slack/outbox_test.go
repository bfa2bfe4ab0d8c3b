package slack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatSlackAnswers(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: errors.New("connection reset")}
	for _, test := range []struct {
		name   string
		status int
		answer string
		err    error
		want   error
	}{
		{"ok", 200, "ok", nil, nil},
		{"ok as JSON", 200, `{"ok":true}`, nil, nil},
		{"used up", 404, "used_url", nil, errGone},
		{"expired", 404, `{"ok":false,"error":"expired_url"}`, nil, errGone},
		{"not allowed", 403, "", nil, errGone},
		{"no", 200, `{"ok":false,"error":"invalid_blocks"}`, nil, errGone},
		{"no such user", 200, `{"ok":false,"error":"channel_not_found"}`, nil, errGone},
		{"redirect", 302, "", nil, errGone},
		{"too many", 429, "", nil, errLater},
		{"too many as JSON", 200, `{"ok":false,"error":"ratelimited"}`, nil, errLater},
		{"down", 503, "", nil, errLater},
		{"not reached", 0, "", &net.OpError{Op: "dial", Err: errors.New("refused")}, errLater},
		{"broken off", 0, "", reset, reset},
	} {
		d := newDesk(t)
		d.slack.status, d.slack.answer, d.slack.err = test.status, test.answer, test.err
		if err := d.post(t.Context(), hookA, helpMessage(), true); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

// An error says what happened, and neither where nor with what token.
func TestErrorsHoldNoSecret(t *testing.T) {
	d := newDesk(t)
	for _, cause := range []error{
		&url.Error{Op: "Post", URL: hookA, Err: errors.New("no route to host")},
		&url.Error{Op: "Post", URL: postMessage, Err: &net.OpError{Op: "dial", Err: errors.New("refused")}},
	} {
		d.slack.err = cause
		for _, err := range []error{d.post(t.Context(), hookA, helpMessage(), true), d.direct(t.Context(), botToken, ann, helpMessage())} {
			if strings.Contains(err.Error(), "slack.com") || strings.Contains(err.Error(), botToken) {
				t.Errorf("the error tells: %v", err)
			}
		}
	}
	d.slack.err, d.slack.answer = nil, `{"ok":false,"error":"`+botToken+`"}`
	if err := d.direct(t.Context(), botToken, ann, helpMessage()); err == nil || strings.Contains(err.Error(), botToken) {
		t.Errorf("the error tells: %v", err)
	}
}

func TestTheTokenGoesToSlacksAPIOnly(t *testing.T) {
	d := newDesk(t)
	if err := d.post(t.Context(), hookA, helpMessage(), true); err != nil {
		t.Fatal(err)
	}
	if err := d.direct(t.Context(), botToken, ann, helpMessage()); err != nil {
		t.Fatal(err)
	}
	for i, want := range []sent{{url: hookA}, {url: "https://slack.com/api/chat.postMessage", token: "Bearer " + botToken}} {
		if got := d.slack.posts[i]; got.url != want.url || got.token != want.token {
			t.Errorf("to %s with %q, want %s with %q", got.url, got.token, want.url, want.token)
		}
	}
}

// There is one bot token, and it may be of one of several workspaces: the ids of
// users in another are not for it.
func TestDirectMessagesStayInTheBotsWorkspace(t *testing.T) {
	later := &net.OpError{Op: "read", Err: errors.New("connection reset")}
	for _, test := range []struct {
		name, answer string
		err          error
		teams        []string
		want         error
		asked, told  int
	}{
		{"the only workspace", "", nil, []string{"T0ANN"}, nil, 0, 1},
		{"the bot's", `{"ok":true,"team_id":"T0ANN"}`, nil, []string{"T0OTHER", "T0ANN"}, nil, 1, 1},
		{"another", `{"ok":true,"team_id":"T0OTHER"}`, nil, []string{"T0OTHER", "T0ANN"}, errGone, 1, 0},
		{"an organisation's", `{"ok":true,"team_id":"E0ORG","is_enterprise_install":true}`, nil, []string{"T0OTHER", "T0ANN"}, nil, 1, 1},
		{"nothing said of it", `{"ok":true}`, nil, []string{"T0OTHER", "T0ANN"}, errGone, 1, 0},
		{"no JSON", `ok`, nil, []string{"T0OTHER", "T0ANN"}, errLater, 1, 0},
		{"revoked", `{"ok":false,"error":"invalid_auth"}`, nil, []string{"T0OTHER", "T0ANN"}, errGone, 1, 0},
		{"no answer", "", later, []string{"T0OTHER", "T0ANN"}, errLater, 0, 0},
	} {
		d := newDesk(t)
		d.Teams = test.teams
		d.slack.answer, d.slack.err = test.answer, test.err
		if err := d.direct(t.Context(), botToken, ann, helpMessage()); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if asked, told := len(d.slack.at(authTest)), len(d.slack.at(postMessage)); asked != test.asked || told != test.told {
			t.Errorf("%s: asked %d times and told %d, want %d and %d", test.name, asked, told, test.asked, test.told)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A Slack that never answers, and one that never stops.
func TestSlackIsNotWaitedForForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		begun := time.Now()
		if err := d.post(t.Context(), hookA, helpMessage(), true); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if took := time.Since(begun); took != postFor {
			t.Errorf("it took %s", took)
		}
	})
	d := newDesk(t)
	endless := &endlessBody{}
	d.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: endless, Request: r}, nil
	})
	if err := d.post(t.Context(), hookA, helpMessage(), true); err != nil {
		t.Errorf("%v", err)
	}
	if endless.read > maxAnswer+4096 || !endless.closed {
		t.Errorf("%d bytes were read, and closed is %t", endless.read, endless.closed)
	}
}

type endlessBody struct {
	read   int
	closed bool
}

func (e *endlessBody) Read(p []byte) (int, error) {
	e.read += len(p)
	if e.read > 1<<20 {
		return 0, io.EOF
	}
	return len(p), nil
}

func (e *endlessBody) Close() error { e.closed = true; return nil }
