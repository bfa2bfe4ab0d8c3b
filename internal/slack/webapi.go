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

	// retryAfter is the wait if Slack does not say how long; maxRetryAfter is the
	// longest that is believed.
	retryAfter    = 30 * time.Second
	maxRetryAfter = 10 * time.Minute
)

// The outcomes of a request to Slack, besides success. Any other error is for the
// operator: a token that Slack does not accept, above all.
type (
	// retryError says that Slack may accept the message after a time: it limits the
	// rate, is down or was not reached. If uncertain, it may have accepted it already.
	retryError struct {
		after     time.Duration
		uncertain bool
		cause     error
	}
	// refusedError says that Slack will never accept the message.
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
	return fmt.Sprintf("Slack refused the message: status %d %s", e.status, e.code)
}

// finished reports whether an error is final: trying again would not help.
func finished(err error) bool { return errors.As(err, new(*refusedError)) }

// The errors of chat.update after which the message cannot be edited any more; see
// https://docs.slack.dev/reference/methods/chat.update/. The first group is of the
// workspace's settings, so no other message can be edited either.
var (
	editsForbiddenErrors = []string{"cant_update_message", "edit_window_closed"}
	messageGoneErrors    = []string{"message_not_found", "channel_not_found", "not_in_channel", "is_archived", "update_failed"}
)

func editsForbidden(err error) bool {
	refused := new(refusedError)
	return errors.As(err, &refused) && slices.Contains(editsForbiddenErrors, refused.code)
}

// editRefused reports whether Slack no longer accepts edits of the message.
func editRefused(err error) bool {
	refused := new(refusedError)
	return editsForbidden(err) || errors.As(err, &refused) && slices.Contains(messageGoneErrors, refused.code)
}

// tokenErrors are errors that only the operator can correct.
var tokenErrors = []string{
	"not_authed", "invalid_auth", "account_inactive", "token_revoked", "token_expired", "missing_scope", "no_permission",
	"org_login_required", "ekm_access_denied", "not_allowed_token_type",
}

// transientErrors are errors that the next try may not meet.
var transientErrors = []string{
	"ratelimited", "rate_limited", "message_limit_exceeded", "internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org",
}

// responseURL is the complete form of a response_url. It is matched against the text
// and not against a parsed URL, so that there is only one way to read it: nothing but
// letters, digits, '_' and '-' follows the host.
var responseURL = regexp.MustCompile(`^https://hooks\.slack\.com/(commands|actions|app)(/[A-Za-z0-9_-]+){1,6}$`)

const maxResponseURL = 500

// isResponseURL reports whether Slack gives out such a URL for replies.
func isResponseURL(raw string) bool {
	return len(raw) <= maxResponseURL && responseURL.MatchString(raw)
}

// respond sends a message to a response_url. Only the user sees it. replace puts it
// in the place of the message that the URL belongs to.
func (a *App) respond(ctx context.Context, to string, m *message, replace bool) error {
	if !isResponseURL(to) {
		return &refusedError{code: "not_a_response_url"}
	}
	_, err := a.request(ctx, to, "", m.webhook(replace))
	return err
}

// posted says where a message is.
type posted struct {
	Channel string `json:"channel"`
	TS      string `json:"ts,omitempty"`
}

// post sends a new direct message to the owner. The app's conversation with a user
// has a channel of its own, which the reply names: chat.update needs it.
func (a *App) post(ctx context.Context, owner string, m *message) (posted, error) {
	_, user, _ := bastion.ParseSlackOwner(owner)
	return a.callSlack(ctx, owner, postMessage, m.direct(posted{Channel: user}))
}

// update replaces the direct message at a place.
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

// botToken returns the token with which the app writes to people of a workspace.
//
// A user's ID counts within one workspace only, so a token of another workspace must
// not be used: it could reach somebody else. Slack says whose token it is. A token of
// a whole organisation reaches all of its workspaces. See
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

// request makes one request to Slack and returns the reply. No error holds the URL,
// which is a secret, or the token.
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
	// The transport itself and not a client: it follows no redirect.
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

// unreached tells a request that certainly did not arrive from one that may have.
func unreached(err error) error {
	err = withoutURL(err)
	if op := new(net.OpError); errors.As(err, &op) && op.Op == "dial" {
		return &retryError{retryAfter, false, err}
	}
	return &retryError{retryAfter, true, err}
}

// withoutURL takes the URL out of an error of net/http.
func withoutURL(err error) error {
	if wrapped := new(url.Error); errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// slackError is the form of Slack's error names. Nothing else of a reply is logged.
var slackError = regexp.MustCompile(`^[a-z_]{1,64}$`)

// outcomeOf reads Slack's reply. A response_url replies "ok" or JSON, the Web API
// replies JSON; both may say 200 and refuse.
func outcomeOf(reply *http.Response, text []byte) error {
	var said struct {
		OK    *bool  `json:"ok"`
		Error string `json:"error"`
	}
	_ = json.Unmarshal(text, &said) // "ok" is not JSON, and is a success
	if !slackError.MatchString(said.Error) {
		said.Error = ""
	}
	refused := &refusedError{reply.StatusCode, said.Error}
	switch status := reply.StatusCode; {
	case status == http.StatusTooManyRequests || status >= http.StatusInternalServerError || slices.Contains(transientErrors, said.Error):
		return &retryError{retryAfterOf(reply.Header), false, errors.New(refused.Error())}
	case status == http.StatusOK && slices.Contains(tokenErrors, said.Error):
		return fmt.Errorf("Slack does not accept the bot token: %s", said.Error)
	case status != http.StatusOK || said.OK != nil && !*said.OK:
		return refused
	}
	return nil
}

// retryAfterOf returns how long Slack wants no further request.
func retryAfterOf(header http.Header) time.Duration {
	seconds, err := strconv.Atoi(header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return retryAfter
	}
	seconds = min(max(seconds, 1), int(maxRetryAfter/time.Second)) // before the product, which could overflow
	return time.Duration(seconds) * time.Second
}
