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
	"strconv"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The methods of Slack's Web API that the app calls.
const (
	postMessage   = "https://slack.com/api/chat.postMessage"
	updateMessage = "https://slack.com/api/chat.update"
	authTest      = "https://slack.com/api/auth.test"
)

const (
	requestTimeout = 5 * time.Second
	maxReply       = 16 << 10 // bytes of Slack's reply that are read

	// retryAfter is the time to wait if Slack's reply has no Retry-After. maxRetryAfter
	// is the longest time that the app waits.
	retryAfter    = 30 * time.Second
	maxRetryAfter = 10 * time.Minute
)

// A failed request to Slack returns one of these two errors, or an error with a cause that
// the operator must correct, such as a bot token that Slack does not accept.
type (
	// retryError means that Slack may accept the message later: Slack limits the rate,
	// is down, or was not reached. If uncertain is set, Slack may have accepted it already.
	retryError struct {
		after     time.Duration
		uncertain bool
		cause     error
	}
	// refusedError means that Slack will never accept the message. If status is 0, the app
	// did not send it.
	refusedError struct {
		status int
		code   string // Slack's name of the error, if it has one
	}
)

func (e *retryError) Error() string {
	return fmt.Sprintf("Slack did not confirm the message, retry after %s: %v", e.after, e.cause)
}
func (e *retryError) Unwrap() error { return e.cause }

func (e *refusedError) Error() string {
	if e.status == 0 {
		return "message not sent to Slack: " + e.code
	}
	return fmt.Sprintf("Slack refused the message: status %d %s", e.status, e.code)
}

// finished reports whether an error is final, so that a new try would not help.
func finished(err error) bool { return errors.As(err, new(*refusedError)) }

// The errors of chat.update after which a message can no longer be edited; see
// https://docs.slack.dev/reference/methods/chat.update/. The errors of the first
// group depend on the workspace's settings, so other messages cannot be edited either.
var (
	editsForbidden = []string{"cant_update_message", "edit_window_closed"}
	messageGone    = []string{"message_not_found", "channel_not_found", "not_in_channel", "is_archived", "update_failed"}
)

// refusedFor reports whether Slack has refused a message with one of the errors.
func refusedFor(err error, names []string) bool {
	refused := new(refusedError)
	return errors.As(err, &refused) && slices.Contains(names, refused.code)
}

// tokenErrors are errors that only the operator can correct.
var tokenErrors = []string{
	"not_authed", "invalid_auth", "account_inactive", "token_revoked", "token_expired", "missing_scope", "no_permission",
	"org_login_required", "ekm_access_denied", "not_allowed_token_type",
}

// transientErrors are errors after which a later try may succeed.
var transientErrors = []string{
	"ratelimited", "rate_limited", "message_limit_exceeded", "internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org",
}

// responseURL matches a complete response_url. It matches the text instead of a parsed
// URL, so two parsers cannot read the URL differently: only letters, digits, '_', '-'
// and '/' follow the host.
var responseURL = regexp.MustCompile(`^https://hooks\.slack\.com/(commands|actions|app)(/[A-Za-z0-9_-]+){1,6}$`)

const maxResponseURL = 500

// isResponseURL reports whether a text has the form of Slack's URLs for replies.
func isResponseURL(raw string) bool {
	return len(raw) <= maxResponseURL && responseURL.MatchString(raw)
}

// respond sends a message to a response_url. Only the user sees it. If replace is set,
// it replaces the message that the URL belongs to.
func (a *App) respond(ctx context.Context, to string, m *message, replace bool) error {
	if !isResponseURL(to) {
		return &refusedError{code: "not_a_response_url"}
	}
	_, err := a.request(ctx, to, "", m.webhook(replace))
	return err
}

// posted identifies a message: its channel and its timestamp in the channel.
type posted struct {
	Channel string `json:"channel"`
	TS      string `json:"ts,omitempty"`
}

// post sends a new direct message to the owner and returns its place. chat.update needs
// the channel of that place, because it does not accept a user's ID as the channel.
func (a *App) post(ctx context.Context, owner string, m *message) (posted, error) {
	_, user, _ := bastion.ParseSlackOwner(owner)
	return a.callSlack(ctx, owner, postMessage, m.direct(posted{Channel: user}))
}

// update replaces the direct message at the given place.
func (a *App) update(ctx context.Context, owner string, at posted, m *message) (posted, error) {
	return a.callSlack(ctx, owner, updateMessage, m.direct(at))
}

func (a *App) callSlack(ctx context.Context, owner, method string, body any) (posted, error) {
	team, _, _ := bastion.ParseSlackOwner(owner)
	token, err := a.botToken(ctx, team)
	if err != nil {
		return posted{}, err
	}
	reply, err := a.request(ctx, method, token, body)
	if err != nil {
		return posted{}, err
	}
	var at posted
	if err := json.Unmarshal(reply, &at); err != nil {
		return posted{}, &retryError{retryAfter, true, err}
	}
	return at, nil
}

// botToken returns the token for messages to people of a workspace.
//
// A user's ID is valid in one workspace only. With the token of another workspace, a
// message could reach a different person. So if the app serves several workspaces,
// botToken asks Slack for the workspace of the token. A token of a whole organisation is
// valid for all its workspaces. See
// https://docs.slack.dev/reference/methods/auth.test/.
func (a *App) botToken(ctx context.Context, team string) (string, error) {
	credentials, err := a.Credentials(ctx, team)
	if err != nil {
		return "", fmt.Errorf("read the bot token of %s: %w", team, err)
	}
	token := credentials.BotToken
	if len(a.Teams) < 2 {
		return token, nil
	}
	known := hashOf(team + "#" + token)
	if _, ok := a.checked.Load(known); ok {
		return token, nil
	}
	reply, err := a.request(ctx, authTest, token, struct{}{})
	if err != nil {
		return "", fmt.Errorf("check the bot token of %s: %w", team, err)
	}
	var bot struct {
		Team         string `json:"team_id"`
		Organisation bool   `json:"is_enterprise_install"`
	}
	if err := json.Unmarshal(reply, &bot); err != nil {
		return "", fmt.Errorf("check the bot token of %s: %w", team, err)
	}
	if bot.Team != team && !bot.Organisation {
		return "", fmt.Errorf("the bot token of %s belongs to another workspace", team)
	}
	a.checked.Store(known, true)
	return token, nil
}

// request makes one request to Slack and returns the body of the reply. Its errors do
// not contain the token or the URL, which is a secret.
func (a *App) request(ctx context.Context, to, token string, body any) ([]byte, error) {
	content, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode a message: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(content))
	if err != nil {
		return nil, errors.New("make a request to Slack: the URL is malformed")
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	// A transport follows no redirects; a client would.
	reply, err := a.Transport.RoundTrip(r)
	if err != nil {
		return nil, unreached(err)
	}
	defer func() { _ = reply.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(reply.Body, maxReply))
	if err != nil && reply.StatusCode == http.StatusOK {
		return nil, &retryError{retryAfter, true, withoutURL(err)}
	}
	return text, outcomeOf(reply, text)
}

// unreached returns the error for a request without a reply. If no connection was made,
// Slack has not received the request. Otherwise Slack may have received it, so the error
// is uncertain.
func unreached(err error) error {
	err = withoutURL(err)
	if op := new(net.OpError); errors.As(err, &op) && op.Op == "dial" {
		return &retryError{retryAfter, false, err}
	}
	return &retryError{retryAfter, true, err}
}

// withoutURL returns an error of net/http without the URL.
func withoutURL(err error) error {
	if wrapped := new(url.Error); errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// slackError matches the names of Slack's errors. The log contains no other part of a
// reply.
var slackError = regexp.MustCompile(`^[a-z_]{1,64}$`)

// outcomeOf returns the error for Slack's reply. A response_url replies "ok" or JSON, and
// the Web API replies JSON. Either may refuse a message with status 200.
func outcomeOf(reply *http.Response, text []byte) error {
	var result struct {
		OK    *bool  `json:"ok"`
		Error string `json:"error"`
	}
	_ = json.Unmarshal(text, &result) // "ok" is not JSON, and is a success
	if !slackError.MatchString(result.Error) {
		result.Error = ""
	}
	refused := &refusedError{reply.StatusCode, result.Error}
	switch status := reply.StatusCode; {
	case status == http.StatusTooManyRequests || status >= http.StatusInternalServerError || slices.Contains(transientErrors, result.Error):
		return &retryError{retryAfterOf(reply.Header), false, errors.New(refused.Error())}
	case status == http.StatusOK && slices.Contains(tokenErrors, result.Error):
		return fmt.Errorf("the bot token was not accepted by Slack: %s", result.Error)
	case status != http.StatusOK || result.OK != nil && !*result.OK:
		return refused
	}
	return nil
}

// retryAfterOf returns the time to wait before the next request.
func retryAfterOf(header http.Header) time.Duration {
	seconds, err := strconv.Atoi(header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return retryAfter
	}
	seconds = min(max(seconds, 1), int(maxRetryAfter/time.Second)) // before the product, which could overflow
	return time.Duration(seconds) * time.Second
}
