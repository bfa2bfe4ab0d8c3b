package slack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"time"
)

// Where Slack is spoken to, and within what bounds.
const (
	postMessage = "https://slack.com/api/chat.postMessage"
	authTest    = "https://slack.com/api/auth.test"

	maxResponseURL = 500
	postFor        = 5 * time.Second
	maxAnswer      = 16 << 10 // bytes of an answer of Slack's that are read
)

// responseURL is the whole of what a response_url may be. It is matched against the
// text and not against what a parser makes of it, so that there are no two ways to
// read it: nothing but letters, digits, '_' and '-' follows the host.
var responseURL = regexp.MustCompile(`^https://hooks\.slack\.com/(commands|actions|app)(/[A-Za-z0-9_-]+){1,6}$`)

// isResponseURL reports whether a URL is one that Slack gives to be answered at.
func isResponseURL(raw string) bool {
	return len(raw) <= maxResponseURL && responseURL.MatchString(raw)
}

// What posting may end in. Any other error means that nobody knows whether the
// message has arrived.
var (
	// errGone: Slack will not take it, now or later.
	errGone = errors.New("no message of this kind is taken by Slack")
	// errLater: Slack has not taken it, and may another time.
	errLater = errors.New("not taken by Slack this time")
)

// post sends a letter to a response_url. Nobody but the person reads it.
func (a *App) post(ctx context.Context, to string, l *message, replace bool) error {
	if !isResponseURL(to) {
		return fmt.Errorf("%w: that is no response_url of Slack's", errGone)
	}
	_, err := a.send(ctx, to, "", l.webhook(replace))
	return err
}

// direct sends a letter to an owner as the app.
func (a *App) direct(ctx context.Context, token, owner string, l *message) error {
	if len(a.Teams) > 1 {
		if err := a.botOf(ctx, token, owner); err != nil {
			return err
		}
	}
	_, err := a.send(ctx, postMessage, token, l.direct(userOf(owner)))
	return err
}

// botOf reports by an error if a token does not reach an owner's workspace. Ids of
// users are told apart by their workspaces: the bot of another would write to
// whoever has the id there. A token of a whole organisation reaches all of its
// workspaces. See https://docs.slack.dev/reference/methods/auth.test/.
func (a *App) botOf(ctx context.Context, token, owner string) error {
	text, err := a.send(ctx, authTest, token, struct{}{})
	switch {
	case errors.Is(err, errGone):
		return err
	case err != nil: // nothing has been sent to anybody
		return fmt.Errorf("%w: whose the bot is: %w", errLater, err)
	}
	var bot struct {
		Team         string `json:"team_id"`
		Organisation bool   `json:"is_enterprise_install"`
	}
	if err := json.Unmarshal(text, &bot); err != nil {
		return fmt.Errorf("%w: whose the bot is: %w", errLater, err)
	}
	if team, _ := teamAndUser(owner); team != bot.Team && !bot.Organisation {
		return fmt.Errorf("%w: the bot is of another workspace", errGone)
	}
	return nil
}

// send makes one request of Slack, and answers what Slack does. Neither the address,
// which is a secret, nor the token gets into an error.
func (a *App) send(ctx context.Context, to, token string, body any) ([]byte, error) {
	content, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errGone, err)
	}
	ctx, cancel := context.WithTimeout(ctx, postFor)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%w: the address cannot be read", errGone)
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	// The transport itself, and not a client: it follows no redirect.
	answer, err := a.Transport.RoundTrip(r)
	if err != nil {
		return nil, unreached(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil && answer.StatusCode == http.StatusOK {
		return nil, fmt.Errorf("read Slack's answer: %w", withoutURL(err))
	}
	return text, judge(answer.StatusCode, text)
}

// unreached tells whether a request that got no answer can have been taken.
func unreached(err error) error {
	err = withoutURL(err)
	if op := new(net.OpError); errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w: %w", errLater, err)
	}
	return fmt.Errorf("post to Slack: %w", err)
}

// withoutURL takes the address out of an error of net/http.
func withoutURL(err error) error {
	if wrapped := new(url.Error); errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// passing are the errors of Slack's API that another try may not meet; see
// https://docs.slack.dev/reference/methods/chat.postMessage/.
var passing = []string{"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"}

// slackError is what Slack's own names of errors look like: nothing else of an
// answer goes to the log.
var slackError = regexp.MustCompile(`^[a-z_]{1,64}$`)

// judge reads Slack's answer. A response_url answers "ok" or JSON, the API answers
// JSON; both may say 200 and mean no.
func judge(status int, text []byte) error {
	var answer struct {
		OK    *bool  `json:"ok"`
		Error string `json:"error"`
	}
	_ = json.Unmarshal(text, &answer) // "ok" is no JSON, and fine
	if !slackError.MatchString(answer.Error) {
		answer.Error = ""
	}
	switch {
	case status == http.StatusTooManyRequests || status >= http.StatusInternalServerError || slices.Contains(passing, answer.Error):
		return fmt.Errorf("%w: status %d %s", errLater, status, answer.Error)
	case status != http.StatusOK || answer.OK != nil && !*answer.OK:
		return fmt.Errorf("%w: status %d %s", errGone, status, answer.Error)
	}
	return nil
}
