package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// This file handles the requests that Slack makes: commands and presses of buttons.

const (
	// handleTimeout limits the handling of one request, including the enqueue of its job.
	// Slack waits three seconds for the response.
	handleTimeout = 2500 * time.Millisecond
	// reportTimeout limits the request to Slack that reports why a button did nothing. The
	// app makes this request before its response, for which Slack waits.
	reportTimeout = 700 * time.Millisecond

	// Each person may send at most maxCommands commands and buttons in countFor.
	maxCommands = 20
	countFor    = time.Minute
)

// The codes of refused commands and buttons.
const (
	codeTeam     bastion.Code = "team_not_allowed"
	codeChannel  bastion.Code = "channel_not_allowed"
	codeUser     bastion.Code = "user_not_allowed"
	codeNoToken  bastion.Code = "bot_token_missing"
	codeTooMany  bastion.Code = "too_many_commands"
	codeReplayed bastion.Code = "replayed"
	codeCommand  bastion.Code = "command_invalid" // in the log only
)

// caller is the sender of a signed request. The team is the workspace in which it was
// sent. If an organisation has several workspaces, a person is a different owner in each.
type caller struct {
	team, user, channel string
	responseURL         string
	// The names of the user and the workspace in Slack. They are only shown: no decision
	// depends on them.
	userName, teamDomain string
}

func (c caller) owner() string { return bastion.SlackOwner(c.team, c.user) }

var (
	// slackID matches Slack's IDs of workspaces, users and channels.
	slackID = regexp.MustCompile(`^[A-Z0-9]{2,32}$`)
	// validHash matches a result of hashOf.
	validHash = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// errMalformed means that a signed request does not have the form of Slack's requests.
var errMalformed = errors.New("the request is signed but malformed")

// check returns an error if an ID or the URL does not have Slack's form.
func (c caller) check() error {
	switch {
	case !slackID.MatchString(c.team):
		return fmt.Errorf("%w: the team's ID", errMalformed)
	case !slackID.MatchString(c.user):
		return fmt.Errorf("%w: the user's ID", errMalformed)
	case c.channel != "" && !slackID.MatchString(c.channel):
		return fmt.Errorf("%w: the channel's ID", errMalformed)
	case !isResponseURL(c.responseURL):
		return fmt.Errorf("%w: the response_url", errMalformed)
	}
	return nil
}

// receive returns the form of a request that Slack has signed. If ok is false, there is no
// form to handle, and receive has written the response. It does not parse a request that
// contains a private key: it calls refuseKey, which must write the response.
func (a *App) receive(x exchange, r *http.Request, refuseKey func()) (form url.Values, s signed, ok bool) {
	body, err := x.Body()
	var tooLarge *bastion.Error
	switch {
	case errors.As(err, &tooLarge) && tooLarge.Code == httpedge.CodeBodyTooLarge:
		x.Problem(http.StatusRequestEntityTooLarge, tooLarge.Code, tooLarge.Message)
		return nil, signed{}, false
	case err != nil:
		x.Problem(http.StatusBadRequest, codeBodyInvalid, "The body is incomplete.")
		return nil, signed{}, false
	}
	credentials, err := a.Credentials(r.Context(), "")
	if err != nil {
		x.Cause = fmt.Errorf("read the signing secret: %w", err)
		x.Problem(http.StatusServiceUnavailable, httpedge.CodeUnavailable, "The signing secret can't be read at the moment. Try again.")
		return nil, signed{}, false
	}
	s, err = verify(r.Header, body, credentials.SigningSecret, a.Now())
	if err != nil {
		x.Cause = err
		x.Problem(http.StatusUnauthorized, codeSignature, "Invalid or expired Slack signature.")
		return nil, signed{}, false
	}
	if publickey.LooksPrivate(body) {
		x.Code = publickey.CodePrivate
		refuseKey()
		return nil, signed{}, false
	}
	form, err = url.ParseQuery(string(body))
	if err != nil {
		x.Problem(http.StatusBadRequest, codeBodyInvalid, "The body is not a form.")
		return nil, signed{}, false
	}
	if form.Get("ssl_check") == "1" { // Slack checks the certificate, and expects 200
		x.WriteHeader(http.StatusOK)
		return nil, signed{}, false
	}
	return form, s, true
}

// serveCommand handles a slash command.
func (a *App) serveCommand(x exchange, r *http.Request) {
	form, s, ok := a.receive(x, r, func() { x.writeMessage(privateKeyMessage()) })
	if !ok {
		return
	}
	c := caller{
		team: form.Get("team_id"), user: form.Get("user_id"), channel: form.Get("channel_id"), responseURL: form.Get("response_url"),
		userName: shortName(form.Get("user_name")), teamDomain: shortName(form.Get("team_domain")),
	}
	if !x.identify(c) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), handleTimeout)
	defer cancel()
	m, err := a.command(ctx, r, c, s, form.Get("text"))
	if err != nil {
		if x.recordError(err) {
			return
		}
		m = messageOf(err)
	}
	x.writeMessage(m)
}

// identify stores the sender for the log line. If the sender is malformed, it writes the
// response and returns false.
func (x exchange) identify(c caller) bool {
	if err := c.check(); err != nil {
		x.Cause = err
		x.Problem(http.StatusBadRequest, codeBodyInvalid, "Not a valid Slack request.")
		return false
	}
	x.Owner = c.owner()
	return true
}

// shortName returns the name of a user or a workspace as the app stores and shows it.
func shortName(name string) string { return shortened(oneLine(name), 80) }

// command runs a command and returns the reply.
func (a *App) command(ctx context.Context, r *http.Request, c caller, s signed, text string) (*message, error) {
	if err := a.accept(ctx, c, s, true); err != nil {
		return nil, err
	}
	cmd, err := ParseCommand(text)
	if err != nil {
		return nil, err
	}
	if err := a.withinCap(cmd); err != nil {
		return nil, err
	}
	return specOf(cmd.Verb).run(a, ctx, request{c, cmd, r})
}

// recordError adds an error to the log line of a request. If the request is a replay,
// recordError also writes the response and returns true.
func (x exchange) recordError(err error) (refused bool) {
	var known *bastion.Error
	switch {
	case errors.As(err, &known) && known.Code == codeReplayed:
		x.Problem(http.StatusUnauthorized, codeReplayed, known.Message)
		return true
	case known != nil:
		x.Code = known.Code
	case errors.As(err, new(*CommandError)):
		x.Code = codeCommand
	default:
		x.Code, x.Cause = httpedge.CodeUnavailable, err
	}
	return false
}

// writeMessage writes a message as the response to a request from Slack.
func (x exchange) writeMessage(m *message) {
	body, err := json.Marshal(m.webhook(false))
	if err != nil {
		panic(err) // every message can be encoded: it contains only text and flags
	}
	x.Header().Set("Content-Type", "application/json; charset=utf-8")
	x.WriteHeader(http.StatusOK)
	_, _ = x.Write(body) // fails if the client has closed the connection
}

// interaction contains the fields that the app uses of a button's payload.
type interaction struct {
	Type string `json:"type"`
	Team struct {
		ID string `json:"id"`
	} `json:"team"`
	User struct {
		ID string `json:"id"`
	} `json:"user"`
	ResponseURL string `json:"response_url"`
	Actions     []struct {
		ID    string `json:"action_id"`
		Value string `json:"value"`
	} `json:"actions"`
}

// button returns the action_id and the value of the pressed button. It returns false if
// the app does nothing for this button.
func (i interaction) button() (action, value string, ok bool) {
	if i.Type != "block_actions" || len(i.Actions) != 1 {
		return "", "", false
	}
	action, value = i.Actions[0].ID, i.Actions[0].Value
	switch action {
	case actionExtend, actionClose:
		ok = bastion.ValidID(value)
	case actionOpen:
		ok = validHash.MatchString(value)
	}
	return action, value, ok
}

// serveInteraction handles a press of a button. The response is empty, as Slack requires.
// The button's job sends its reply to the response_url.
func (a *App) serveInteraction(x exchange, r *http.Request) {
	form, s, ok := a.receive(x, r, func() { x.WriteHeader(http.StatusOK) })
	if !ok {
		return
	}
	var pressed interaction
	if err := json.Unmarshal([]byte(form.Get("payload")), &pressed); err != nil {
		x.Problem(http.StatusBadRequest, codeBodyInvalid, "The payload is not valid JSON.")
		return
	}
	action, value, ok := pressed.button()
	if !ok {
		x.WriteHeader(http.StatusOK)
		return
	}
	c := caller{team: pressed.Team.ID, user: pressed.User.ID, responseURL: pressed.ResponseURL}
	if !x.identify(c) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), handleTimeout)
	defer cancel()
	if err := a.press(ctx, c, s, action, value); err != nil {
		if x.recordError(err) {
			return
		}
		if action != actionOpen { // the browser has opened the link in spite of the error
			a.reportFailure(ctx, x, c.responseURL, messageOf(err))
		}
	}
	x.WriteHeader(http.StatusOK)
}

// press carries out the press of a button.
func (a *App) press(ctx context.Context, c caller, s signed, action, value string) error {
	if err := a.accept(ctx, c, s, false); err != nil {
		return err
	}
	job := Job{Owner: c.owner(), ResponseURL: c.responseURL, ID: value, At: a.Now()}
	switch action {
	case actionOpen:
		return a.recordOpened(ctx, c, value)
	case actionExtend:
		job.Action, job.TTL = JobExtend, extendBy
	case actionClose:
		job.Action = JobDown
	}
	return a.enqueue(ctx, job)
}

// recordOpened stores the response_url of the button that opens a start link. It does not
// change the stored link, but writes to another key of the table: a write to the link would
// conflict with a press of the button on the page.
func (a *App) recordOpened(ctx context.Context, c caller, hash string) error {
	var link startLink
	if _, err := a.fetch(ctx, startLinkKey(hash), &link); err != nil || link.Owner != c.owner() || !link.open(a.Now()) {
		return err
	}
	_, err := edit(ctx, a, openedKey(hash), func(o *opened) (time.Time, error) {
		o.ResponseURL = c.responseURL
		return link.ExpiresAt.Add(startTimeout), nil
	})
	return err
}

// reportFailure sends a new message that says why a button did nothing. The button stays,
// so the person can press it again.
func (a *App) reportFailure(ctx context.Context, x exchange, to string, m *message) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
	defer cancel()
	if err := a.respond(ctx, to, m, false); err != nil {
		x.Cause = errors.Join(x.Cause, fmt.Errorf("report the failure in Slack: %w", err))
	}
}

// accept checks that the caller is allowed, that the request is not a replay, and that it
// is within the caller's limit. It counts the request and stores its signature.
func (a *App) accept(ctx context.Context, c caller, s signed, command bool) error {
	if err := a.allow(c, command); err != nil {
		return err
	}
	return a.admit(ctx, c.owner(), s)
}

// allow returns an error if a caller is not allowed. The list of channels applies to
// commands only, because most buttons are in direct messages.
func (a *App) allow(c caller, command bool) error {
	switch {
	case !slices.Contains(a.Teams, c.team):
		return bastion.Errorf(codeTeam, "This workspace isn't allowed to use bastions. Ask the operator of the bastion service to allow the workspace %s.", c.team)
	case len(a.Users) > 0 && !slices.Contains(a.Users, c.user):
		return bastion.Errorf(codeUser, "You aren't allowed to use bastions here. Ask the operator of the bastion service to allow the user %s.", c.user)
	case command && len(a.Channels) > 0 && !slices.Contains(a.Channels, c.channel):
		return bastion.Errorf(codeChannel, "Bastions can't be requested in this channel. Use an allowed channel, or ask the operator of the bastion service to allow the channel %s.", c.channel)
	}
	return nil
}

// admit counts a request against its sender's limit and stores its signature. If the request
// is a replay or beyond the limit, admit returns a *bastion.Error and writes nothing. There
// is one exception: a replay that arrives at the same time as the first request is counted.
func (a *App) admit(ctx context.Context, owner string, s signed) error {
	key := seenKey(s.signature)
	var seen struct{}
	switch version, err := a.fetch(ctx, key, &seen); {
	case err != nil:
		return err
	case version != 0:
		return errReplayed()
	}
	if err := a.count(ctx, owner); err != nil {
		return err
	}
	err := a.write(ctx, key, 0, seen, s.at.Add(seenFor))
	if errors.Is(err, bastion.ErrConflict) {
		return errReplayed()
	}
	return err
}

func errReplayed() error {
	return bastion.Errorf(codeReplayed, "This request was already processed.")
}

// count adds a command or button to its sender's count. It returns a *bastion.Error if
// the request is beyond the limit.
func (a *App) count(ctx context.Context, owner string) error {
	now, tooMany := a.Now(), false
	_, err := edit(ctx, a, personKey(owner), func(p *person) (time.Time, error) {
		if now.Sub(p.Since) >= countFor || now.Before(p.Since) {
			p.Since, p.Commands = now, 0
		}
		if tooMany = p.Commands >= maxCommands; tooMany {
			return time.Time{}, errKeep
		}
		p.Commands++
		return time.Time{}, nil
	})
	if err == nil && tooMany {
		return bastion.Errorf(codeTooMany, "Rate limit: %d requests per minute. This one was ignored; try again in a minute.", maxCommands)
	}
	return err
}
