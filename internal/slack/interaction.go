package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

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

// errNoButton: it was none of our buttons, or one that is a link.
var errNoButton = errors.New("not a button that does something")

// serveInteraction answers a press of a button with nothing, as Slack wants it;
// what there is to say goes to the message's own response_url.
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
		x.Problem(http.StatusBadRequest, codeBodyInvalid, "The payload is not JSON as Slack sends it.")
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
		x.Problem(http.StatusBadRequest, codeBodyInvalid, "The request is not as Slack makes them.")
		return
	}
	x.Owner = c.owner()
	job.Owner, job.ResponseURL = c.owner(), c.responseURL
	ctx, cancel := context.WithTimeout(r.Context(), answerFor)
	defer cancel()
	if isLink {
		err = a.noteOpened(ctx, c, s, link)
	} else {
		err = a.press(ctx, c, s, job)
	}
	if err != nil && x.noteAndRefuse(err) {
		return
	}
	if err != nil && !isLink { // a link has been opened by the browser all the same
		a.complain(ctx, x, c.responseURL, messageOf(err))
	}
	x.WriteHeader(http.StatusOK)
}

// jobOf is what a button is to do.
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

// link is the claim of the link that was pressed, if it was one.
func (i interaction) link() (hash string, ok bool) {
	if i.Type != "block_actions" || len(i.Actions) != 1 || i.Actions[0].ID != actionOpen {
		return "", false
	}
	return i.Actions[0].Value, validHash.MatchString(i.Actions[0].Value)
}

// validHash is what hashOf answers.
var validHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

// noteOpened remembers where to speak of a start in place of its link. The claim
// itself is not touched, so that nothing comes between it and the page's button.
func (a *App) noteOpened(ctx context.Context, c caller, s signed, hash string) error {
	if err := a.letIn(c, false); err != nil {
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
	if err := a.letIn(c, false); err != nil {
		return err
	}
	if err := a.admit(ctx, c.owner(), s); err != nil {
		return err
	}
	return a.enqueue(ctx, job)
}

// complainFor is how long telling of a button that did nothing may take: little,
// for Slack is waiting.
const complainFor = 700 * time.Millisecond

// complain says beside the message why its button did nothing. The message stays,
// so that the button can be pressed again.
func (a *App) complain(ctx context.Context, x exchange, to string, l *message) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), complainFor)
	defer cancel()
	if err := a.post(ctx, to, l, false); err != nil {
		x.Cause = errors.Join(x.Cause, fmt.Errorf("tell of it: %w", err))
	}
}
