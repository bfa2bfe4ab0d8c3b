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
	// handleTimeout is how long a request may take: Slack waits for three seconds.
	// enqueueTimeout is within it.
	handleTimeout = 2500 * time.Millisecond
	// complainTimeout is how long it may take to say that a button did nothing. Slack is
	// still waiting.
	complainTimeout = 700 * time.Millisecond

	// The limit of commands and buttons for each person.
	maxCommands = 20
	countFor    = time.Minute
)

// The codes of refusals that a person in Slack reads.
const (
	codeTeam     bastion.Code = "team_not_allowed"
	codeChannel  bastion.Code = "channel_not_allowed"
	codeUser     bastion.Code = "user_not_allowed"
	codeNoToken  bastion.Code = "bot_token_missing"
	codeTooMany  bastion.Code = "too_many_commands"
	codeReplayed bastion.Code = "replayed"
	codeCommand  bastion.Code = "command_invalid" // in the log
)

// caller is the sender of a signed request. In an organisation of several workspaces
// the team is the workspace in which it was sent: the same person is another owner in
// another workspace.
type caller struct {
	team, user, channel string
	responseURL         string
	// What Slack calls the user and the workspace. They are for display only: nothing
	// is ever decided by them.
	userName, teamDomain string
}

func (c caller) owner() string { return bastion.SlackOwner(c.team, c.user) }

var (
	// slackID is the form of Slack's IDs of workspaces, users and channels.
	slackID = regexp.MustCompile(`^[A-Z0-9]{2,32}$`)
	// validHash is the form of what hashOf returns.
	validHash = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

var (
	// errPrivate: the request holds a private key. Nothing else has looked at it.
	errPrivate = errors.New("the request holds a private key")
	// errMalformed: Slack does not send such requests.
	errMalformed = errors.New("the request is signed but malformed")
	// errNoButton: it was none of our buttons, or one that is a link.
	errNoButton = errors.New("not a button that does something")
)

// check refuses a request with an ID or URL of another form than Slack's.
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

// receive returns the form of a request that Slack has signed. If form is nil, the
// request has been answered, except after errPrivate.
func (a *App) receive(x exchange, r *http.Request) (form url.Values, s signed, err error) {
	body, err := x.Body()
	var tooLarge *bastion.Error
	switch {
	case errors.As(err, &tooLarge) && tooLarge.Code == httpedge.CodeBodyTooLarge:
		x.Problem(http.StatusRequestEntityTooLarge, tooLarge.Code, tooLarge.Message)
		return nil, signed{}, nil
	case err != nil:
		x.Problem(http.StatusBadRequest, codeBodyInvalid, "The body is incomplete.")
		return nil, signed{}, nil
	}
	credentials, err := a.Credentials(r.Context(), "")
	if err != nil {
		x.Cause = fmt.Errorf("read the signing secret: %w", err)
		x.Problem(http.StatusServiceUnavailable, httpedge.CodeUnavailable, "The signing secret can't be read at the moment. Try again.")
		return nil, signed{}, nil
	}
	s, err = verify(r.Header, body, credentials.SigningSecret, a.Now())
	if err != nil {
		x.Cause = err
		x.Problem(http.StatusUnauthorized, codeSignature, "Invalid or expired Slack signature.")
		return nil, signed{}, nil
	}
	if publickey.LooksPrivate(body) {
		x.Code = publickey.CodePrivate
		return nil, s, errPrivate
	}
	form, err = url.ParseQuery(string(body))
	if err != nil {
		x.Problem(http.StatusBadRequest, codeBodyInvalid, "The body is not a form.")
		return nil, signed{}, nil
	}
	if form.Get("ssl_check") == "1" { // Slack looks at the certificate, and wants 200
		x.WriteHeader(http.StatusOK)
		return nil, signed{}, nil
	}
	return form, s, nil
}

// serveCommand handles a slash command.
func (a *App) serveCommand(x exchange, r *http.Request) {
	form, s, err := a.receive(x, r)
	if err != nil {
		x.answer(privateKeyMessage())
		return
	}
	if form == nil {
		return
	}
	c := caller{
		team: form.Get("team_id"), user: form.Get("user_id"), channel: form.Get("channel_id"), responseURL: form.Get("response_url"),
		userName: shortName(form.Get("user_name")), teamDomain: shortName(form.Get("team_domain")),
	}
	if err := c.check(); err != nil {
		x.Cause = err
		x.Problem(http.StatusBadRequest, codeBodyInvalid, "Not a valid Slack request.")
		return
	}
	x.Owner = c.owner()
	ctx, cancel := context.WithTimeout(r.Context(), handleTimeout)
	defer cancel()
	m, err := a.command(ctx, r, c, s, form.Get("text"))
	if err != nil {
		if x.noteAndRefuse(err) {
			return
		}
		m = messageOf(err)
	}
	x.answer(m)
}

// shortName is a name of Slack's as it is stored and shown.
func shortName(name string) string { return shortened(oneLine(name), 80) }

// command runs a command and returns the reply.
func (a *App) command(ctx context.Context, r *http.Request, c caller, s signed, text string) (*message, error) {
	if err := a.allow(c, true); err != nil {
		return nil, err
	}
	if err := a.admit(ctx, c.owner(), s); err != nil {
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

// noteAndRefuse notes an error for the log, and refuses a replayed request.
func (x exchange) noteAndRefuse(err error) (refused bool) {
	var known *bastion.Error
	switch {
	case errors.As(err, &known) && known.Code == codeReplayed:
		x.Problem(http.StatusUnauthorized, codeReplayed, known.Message)
		return true
	case known != nil:
		x.Code = known.Code
	case errors.As(err, new(*Wrong)):
		x.Code = codeCommand
	default:
		x.Code, x.Cause = httpedge.CodeUnavailable, err
	}
	return false
}

// answer writes a message as the response to Slack's own request.
func (x exchange) answer(m *message) {
	body, err := json.Marshal(m.webhook(false))
	if err != nil {
		panic(err) // messages hold strings
	}
	x.Header().Set("Content-Type", "application/json; charset=utf-8")
	x.WriteHeader(http.StatusOK)
	_, _ = x.Write(body) // the client may be gone
}

// interaction is what is used of the payload that a button sends.
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

// serveInteraction handles a press of a button. The response is empty, as Slack wants
// it; the reply goes to the message's response_url.
func (a *App) serveInteraction(x exchange, r *http.Request) {
	form, s, err := a.receive(x, r)
	if err != nil {
		x.WriteHeader(http.StatusOK)
		return
	}
	if form == nil {
		return
	}
	var pressed interaction
	if err := json.Unmarshal([]byte(form.Get("payload")), &pressed); err != nil {
		x.Problem(http.StatusBadRequest, codeBodyInvalid, "The payload is not valid JSON.")
		return
	}
	job, err := a.jobOf(pressed)
	link, isLink := pressed.link()
	if errors.Is(err, errNoButton) && !isLink {
		x.WriteHeader(http.StatusOK)
		return
	}
	c := caller{team: pressed.Team.ID, user: pressed.User.ID, responseURL: pressed.ResponseURL}
	if err := c.check(); err != nil {
		x.Cause = err
		x.Problem(http.StatusBadRequest, codeBodyInvalid, "Not a valid Slack request.")
		return
	}
	x.Owner = c.owner()
	job.Owner, job.ResponseURL = c.owner(), c.responseURL
	ctx, cancel := context.WithTimeout(r.Context(), handleTimeout)
	defer cancel()
	if isLink {
		err = a.noteOpened(ctx, c, s, link)
	} else {
		err = a.press(ctx, c, s, job)
	}
	if err != nil && x.noteAndRefuse(err) {
		return
	}
	if err != nil && !isLink { // the browser has opened the link all the same
		a.complain(ctx, x, c.responseURL, messageOf(err))
	}
	x.WriteHeader(http.StatusOK)
}

// jobOf returns the job of a button.
func (a *App) jobOf(pressed interaction) (Job, error) {
	if pressed.Type != "block_actions" || len(pressed.Actions) != 1 || !bastion.ValidID(pressed.Actions[0].Value) {
		return Job{}, errNoButton
	}
	job := Job{ID: pressed.Actions[0].Value, At: a.Now()}
	switch pressed.Actions[0].ID {
	case actionExtend:
		job.Action, job.TTL = JobExtend, extendBy
	case actionClose:
		job.Action = JobDown
	default:
		return Job{}, errNoButton
	}
	return job, nil
}

// link returns the hash of the start link that was opened, if it was one.
func (i interaction) link() (hash string, ok bool) {
	if i.Type != "block_actions" || len(i.Actions) != 1 || i.Actions[0].ID != actionOpen {
		return "", false
	}
	return i.Actions[0].Value, validHash.MatchString(i.Actions[0].Value)
}

// noteOpened stores where the reply of a start can replace its link. The link itself
// is not changed, so that nothing comes between it and the page's button.
func (a *App) noteOpened(ctx context.Context, c caller, s signed, hash string) error {
	if err := a.allow(c, false); err != nil {
		return err
	}
	if err := a.admit(ctx, c.owner(), s); err != nil {
		return err
	}
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

// press does what a command does, for a button.
func (a *App) press(ctx context.Context, c caller, s signed, job Job) error {
	if err := a.allow(c, false); err != nil {
		return err
	}
	if err := a.admit(ctx, c.owner(), s); err != nil {
		return err
	}
	return a.enqueue(ctx, job)
}

// complain says beside the message why its button did nothing. The message stays, so
// that the button can be pressed again.
func (a *App) complain(ctx context.Context, x exchange, to string, m *message) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), complainTimeout)
	defer cancel()
	if err := a.respond(ctx, to, m, false); err != nil {
		x.Cause = errors.Join(x.Cause, fmt.Errorf("say so in Slack: %w", err))
	}
}

// allow returns why a caller is not allowed, or nil. A button works wherever its
// message is, direct messages above all, so the list of channels is for commands only.
func (a *App) allow(c caller, command bool) error {
	switch {
	case !slices.Contains(a.Teams, c.team):
		return bastion.Errorf(codeTeam, "This workspace isn't allowed to use bastions. Ask the operator of the bastion service to allow the workspace %s.", c.team)
	case len(a.Users) > 0 && !slices.Contains(a.Users, c.user):
		return bastion.Errorf(codeUser, "You aren't allowed to use bastions here. Ask the operator of the bastion service to allow the user %s.", c.user)
	case command && len(a.Channels) > 0 && !slices.Contains(a.Channels, c.channel):
		return bastion.Errorf(codeChannel, "Bastions can't be requested in this channel. Use one of the channels that your operator has chosen, or ask them to allow the channel %s.", c.channel)
	}
	return nil
}

// admit counts a request against its person's limit and stores its signature.
// *bastion.Error: it is beyond the limit or replayed; then nothing is written.
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

// count counts a command or button of a person.
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
