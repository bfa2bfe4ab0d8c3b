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

func TestOutcomesOfRequests(t *testing.T) {
	const (
		accepted  = "accepted"
		refused   = "refused"
		retry     = "retry"
		uncertain = "retry, uncertain"
		operator  = "operator"
	)
	for _, test := range []struct {
		name   string
		status int
		answer string
		err    error
		want   string
		after  time.Duration
	}{
		{"ok", 200, "ok", nil, accepted, 0},
		{"ok as JSON", 200, `{"ok":true}`, nil, accepted, 0},
		{"used up", 404, "used_url", nil, refused, 0},
		{"expired", 404, `{"ok":false,"error":"expired_url"}`, nil, refused, 0},
		{"not allowed", 403, "", nil, refused, 0},
		{"invalid", 200, `{"ok":false,"error":"invalid_blocks"}`, nil, refused, 0},
		{"no such user", 200, `{"ok":false,"error":"channel_not_found"}`, nil, refused, 0},
		{"redirect", 302, "", nil, refused, 0},
		{"too many", 429, "", nil, retry, 7 * time.Second},
		{"too many as JSON", 200, `{"ok":false,"error":"ratelimited"}`, nil, retry, 7 * time.Second},
		{"down", 503, "", nil, retry, 7 * time.Second},
		{"not reached", 0, "", &net.OpError{Op: "dial", Err: errors.New("refused")}, retry, retryAfter},
		{"connection reset", 0, "", &net.OpError{Op: "read", Err: errors.New("connection reset")}, uncertain, retryAfter},
		{"revoked", 200, `{"ok":false,"error":"token_revoked"}`, nil, operator, 0},
	} {
		d := newFixture(t)
		d.slack.status, d.slack.reply, d.slack.err = test.status, test.answer, test.err
		d.slack.header = http.Header{"Retry-After": {"7"}}
		err := d.respond(t.Context(), hookA, helpMessage(), true)
		got, again := accepted, new(retryError)
		switch {
		case errors.As(err, &again) && again.uncertain:
			got = uncertain
		case errors.As(err, &again):
			got = retry
		case finished(err):
			got = refused
		case err != nil:
			got = operator
		}
		if got != test.want || again.after != test.after {
			t.Errorf("%s: %s after %s, want %s after %s: %v", test.name, got, again.after, test.want, test.after, err)
		}
	}
}

func TestRetryAfterIsBounded(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": retryAfter, "x": retryAfter, "-1": retryAfter, "0": time.Second, "1": time.Second, "60": time.Minute, "999999": maxRetryAfter,
		"9223372037": maxRetryAfter, "9223372036854775807": maxRetryAfter, // more than a time.Duration holds
	} {
		if got := retryAfterOf(http.Header{"Retry-After": {value}}); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

// Errors contain the cause, but neither the URL nor the token.
func TestErrorsHoldNoSecret(t *testing.T) {
	d := newFixture(t)
	for _, cause := range []error{
		&url.Error{Op: "Post", URL: hookA, Err: errors.New("no route to host")},
		&url.Error{Op: "Post", URL: postMessage, Err: &net.OpError{Op: "dial", Err: errors.New("refused")}},
	} {
		d.slack.err = cause
		_, direct := d.post(t.Context(), ann, helpMessage())
		for _, err := range []error{d.respond(t.Context(), hookA, helpMessage(), true), direct} {
			if strings.Contains(err.Error(), "slack.com") || strings.Contains(err.Error(), botToken) {
				t.Errorf("the error contains a secret: %v", err)
			}
		}
	}
	d.slack.err, d.slack.reply = nil, `{"ok":false,"error":"`+botToken+`"}`
	if _, err := d.post(t.Context(), ann, helpMessage()); err == nil || strings.Contains(err.Error(), botToken) {
		t.Errorf("the error holds a secret: %v", err)
	}
}

func TestTokenIsSentToTheWebAPIOnly(t *testing.T) {
	d := newFixture(t)
	if err := d.respond(t.Context(), hookA, helpMessage(), true); err != nil {
		t.Fatal(err)
	}
	at, err := d.post(t.Context(), ann, helpMessage())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.update(t.Context(), ann, at, helpMessage()); err != nil {
		t.Fatal(err)
	}
	bearer := "Bearer " + botToken
	for i, want := range []sent{{url: hookA}, {url: "https://slack.com/api/chat.postMessage", token: bearer}, {url: "https://slack.com/api/chat.update", token: bearer}} {
		if got := d.slack.posts[i]; got.url != want.url || got.token != want.token {
			t.Errorf("to %s with %q, want %s with %q", got.url, got.token, want.url, want.token)
		}
	}
}

// A user's ID is valid in one workspace only, so a token of another workspace must not be
// used. If only one workspace is allowed, the token is not checked.
func TestTokenOfAnotherWorkspaceIsNotUsed(t *testing.T) {
	two := []string{"T0OTHER", "T0ANN"}
	for _, test := range []struct {
		name, answer   string
		teams          []string
		checks, direct int
	}{
		{"the only workspace", "", []string{"T0ANN"}, 0, 2},
		{"the right workspace", `{"ok":true,"team_id":"T0ANN"}`, two, 1, 2}, // checked once
		{"another workspace", `{"ok":true,"team_id":"T0OTHER"}`, two, 2, 0},
		{"an organisation", `{"ok":true,"team_id":"E0ORG","is_enterprise_install":true}`, two, 1, 2},
		{"no workspace", `{"ok":true}`, two, 2, 0},
		{"not JSON", `ok`, two, 2, 0},
		{"revoked", `{"ok":false,"error":"invalid_auth"}`, two, 2, 0},
	} {
		d := newFixture(t)
		d.Teams, d.slack.reply = test.teams, test.answer
		for range 2 {
			_, _ = d.post(t.Context(), ann, helpMessage())
		}
		if checks, direct := len(d.slack.at(authTest)), len(d.slack.at(postMessage)); checks != test.checks || direct != test.direct {
			t.Errorf("%s: %d checks and %d messages, want %d and %d", test.name, checks, direct, test.checks, test.direct)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The app waits a limited time for a reply, and reads a limited part of an endless one.
func TestWaitForSlackIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFixture(t)
		d.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		begun := time.Now()
		if err := d.respond(t.Context(), hookA, helpMessage(), true); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if took := time.Since(begun); took != requestTimeout {
			t.Errorf("it took %s", took)
		}
	})
	d := newFixture(t)
	endless := &endlessBody{}
	d.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: endless, Request: r}, nil
	})
	if err := d.respond(t.Context(), hookA, helpMessage(), true); err != nil {
		t.Errorf("%v", err)
	}
	if endless.read > maxReply+4096 || !endless.closed {
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

func TestErrorOfUnsentMessageDoesNotBlameSlack(t *testing.T) {
	for err, want := range map[*refusedError]string{
		{code: "expired_url"}:              "message not sent to Slack: expired_url",
		{status: 404, code: "expired_url"}: "Slack refused the message: status 404 expired_url",
	} {
		if err.Error() != want {
			t.Errorf("error is %q, want %q", err, want)
		}
	}
}
