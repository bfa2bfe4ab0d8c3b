package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// answerFor is how long finding an answer may take: Slack waits for three seconds.
// enqueueTimeout is within it.
const answerFor = 2500 * time.Millisecond

// errPrivate: a private key stands in the request. Nothing else has looked at it.
var errPrivate = errors.New("a private key stands in the request")

// receive answers the form of a request that Slack has signed. If there is nothing
// more to do with it, it has been answered, and form is nil. errPrivate alone is
// left for the caller to answer.
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
	agreed, err := a.Credentials(r.Context(), "")
	if err != nil {
		x.Cause = fmt.Errorf("what was agreed with Slack: %w", err)
		x.Problem(http.StatusServiceUnavailable, httpedge.CodeUnavailable, "The signing secret cannot be read just now. Try again.")
		return nil, signed{}, nil
	}
	s, err = verify(r.Header, body, agreed.SigningSecret, a.Now())
	if err != nil {
		x.Cause = err
		x.Problem(http.StatusUnauthorized, codeSignature, "This is not signed by Slack, or not now.")
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

// serveCommand answers a slash command.
func (a *App) serveCommand(x exchange, r *http.Request) {
	form, s, err := a.receive(x, r)
	if err != nil {
		x.answer(privateKeyMessage())
		return
	}
	if form == nil {
		return
	}
	c := caller{form.Get("team_id"), form.Get("user_id"), form.Get("channel_id"), form.Get("response_url")}
	if err := c.check(); err != nil {
		x.Cause = err
		x.Problem(http.StatusBadRequest, codeBodyInvalid, "The request is not as Slack makes them.")
		return
	}
	x.Owner = c.owner()
	ctx, cancel := context.WithTimeout(r.Context(), answerFor)
	defer cancel()
	l, err := a.command(ctx, r, c, s, form.Get("text"))
	if err != nil {
		if x.noteAndRefuse(err) {
			return
		}
		l = messageOf(err)
	}
	x.answer(l)
}

// noteAndRefuse notes an error for the log, and refuses what was here before.
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

// command finds the answer to a command, and hands over what takes longer.
func (a *App) command(ctx context.Context, r *http.Request, c caller, s signed, text string) (*message, error) {
	if err := a.letIn(c, true); err != nil {
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
	switch cmd.Verb {
	case VerbHelp:
		return helpMessage(), nil
	case VerbKey:
		return a.remember(ctx, c.owner(), cmd.Key)
	case VerbUp:
		return a.offer(ctx, r, c, cmd)
	}
	job := Job{Owner: c.owner(), ResponseURL: c.responseURL, Name: cmd.Name, TTL: cmd.TTL, At: a.Now()}
	switch cmd.Verb {
	case VerbDown:
		job.Action = JobDown
	case VerbExtend:
		job.Action = JobExtend
	default:
		job.Action = JobStatus
	}
	return workingMessage(job), a.enqueue(ctx, job)
}

// withinCap refuses a time that no bastion can have.
func (a *App) withinCap(cmd Command) error {
	if cmd.TTL <= a.MaxTTL {
		return nil
	}
	message := fmt.Sprintf("No bastion lives longer than %s here.", inWords(a.MaxTTL))
	cmd.TTL = a.MaxTTL
	return &Wrong{Message: message, Try: cmd.String()}
}

// handOver gives a job to somebody who has the time for it.
func (a *App) enqueue(ctx context.Context, job Job) error {
	ctx, cancel := context.WithTimeout(ctx, enqueueTimeout)
	defer cancel()
	if err := a.Queue.Enqueue(ctx, job); err != nil {
		return fmt.Errorf("hand over %s: %w", job.Action, err)
	}
	return nil
}

// remember keeps a person's key for the links that they ask for from now on.
func (a *App) remember(ctx context.Context, owner string, key bastion.Key) (*message, error) {
	_, err := edit(ctx, a, personKey(owner), func(p *person) (time.Time, error) {
		if p.Key == string(key) {
			return time.Time{}, errKeep
		}
		p.Key = string(key)
		return time.Time{}, nil
	})
	if err != nil {
		return nil, err
	}
	return keyMessage(key), nil
}

// offer answers up with a link: only who opens it tells where the person is.
func (a *App) offer(ctx context.Context, r *http.Request, c caller, cmd Command) (*message, error) {
	var p person
	if _, err := a.fetch(ctx, personKey(c.owner()), &p); err != nil {
		return nil, err
	}
	if p.Key == "" {
		return noKeyMessage(), nil
	}
	name, ttl := cmd.Name, cmd.TTL
	if name == "" {
		name = "default"
	}
	if ttl == 0 {
		ttl = min(a.DefaultTTL, a.MaxTTL)
	}
	offered := startLink{Owner: c.owner(), Name: name, Key: p.Key, TTL: ttl, Reason: cmd.Reason, ResponseURL: c.responseURL}
	token, err := a.issueStartLink(ctx, offered)
	if err != nil {
		return nil, err
	}
	offered.ExpiresAt = a.Now().Add(startLinkLife)
	return linkMessage(offered, hashOf(token), a.startLinkURL(r, token)), nil
}

// answer writes a letter as the answer to Slack's own request.
func (x exchange) answer(l *message) {
	body, err := json.Marshal(l.webhook(false))
	if err != nil {
		panic(err) // letters hold strings
	}
	x.Header().Set("Content-Type", "application/json; charset=utf-8")
	x.WriteHeader(http.StatusOK)
	_, _ = x.Write(body) // if the connection is gone, nobody is left to be told
}
