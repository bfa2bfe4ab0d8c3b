package slack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Do does a job and tells its person what came of it. It may be called twice with
// the same job, or die anywhere and be called again. An error means that the person
// has not been told yet: the job is to come again.
func (a *App) RunJob(ctx context.Context, job Job) error {
	if userOf(job.Owner) == "" {
		a.Log.ErrorContext(ctx, "a job of nobody of Slack's", "job", job.Action)
		return nil
	}
	var err error
	switch job.Action {
	case JobStart:
		err = a.doStart(ctx, job)
	case JobDown:
		err = a.doDown(ctx, job)
	case JobExtend:
		err = a.doExtend(ctx, job)
	case JobStatus:
		err = a.doStatus(ctx, job)
	default:
		a.Log.ErrorContext(ctx, "an unknown job", "job", job.Action, "owner", job.Owner)
		return nil
	}
	if errors.Is(err, errGone) || errors.Is(err, errNoURL) {
		a.Log.WarnContext(ctx, "nobody could be told of a job", "job", job.Action, "owner", job.Owner, "cause", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("job %s: %w", job.Action, err)
	}
	a.Log.InfoContext(ctx, "job", "job", job.Action, "owner", job.Owner)
	return nil
}

// doStart asks for what a claim promised. It looks first at what it has done
// before: a bastion that it found is not started again, though it be closed by now.
func (a *App) doStart(ctx context.Context, job Job) error {
	c, err := a.usedStartLink(ctx, job.StartLink)
	if errors.Is(err, bastion.ErrNotFound) || err == nil && c.Owner != job.Owner {
		a.Log.WarnContext(ctx, "a start without a used claim", "owner", job.Owner)
		return nil
	}
	if err != nil {
		return err
	}
	var o opened
	if _, err := a.fetch(ctx, openedKey(job.StartLink), &o); err != nil {
		return err
	}
	c.ResponseURL = cmp.Or(o.ResponseURL, c.ResponseURL)
	// Before anything can be heard of the bastion, it is known where to speak.
	place := replyTarget{ResponseURL: c.ResponseURL, Since: c.ExpiresAt.Add(-startLinkLife)}
	if err := a.saveReplyTarget(ctx, c.Owner, c.Name, place); err != nil {
		return err
	}
	b, err := a.started(ctx, c, place)
	if err != nil {
		return a.notStarted(ctx, c, place, err)
	}
	if err := a.foundBastion(ctx, c.StatusPage, b.ID); err != nil {
		return err
	}
	if err := a.moveConversation(ctx, b, place); err != nil {
		return err
	}
	var t conversation
	if _, err := a.fetch(ctx, conversationKey(b.ID), &t); err != nil {
		return err
	}
	if t.LastDigest != "" { // a notice was faster, and what create answered may be old
		if b, err = a.describe(ctx, c.Owner, b.ID); err != nil {
			return again(err)
		}
	}
	l := usedMessage(b, c.Source)
	err = a.say(ctx, b, aboutAnswer, 0, l)
	if errors.Is(err, errNoURL) || errors.Is(err, errGone) {
		return a.postDirect(ctx, b, l) // it may be somebody else who has used the link
	}
	return err
}

// askedAt remembers where a person asked to start a bastion.
func (a *App) saveReplyTarget(ctx context.Context, owner, name string, place replyTarget) error {
	_, err := edit(ctx, a, replyTargetKey(owner, name), func(p *askedFor) (time.Time, error) {
		if !place.Since.After(p.Since) {
			return time.Time{}, errKeep
		}
		*p = askedFor{replyTarget: place}
		return place.Since.Add(urlLife), nil
	})
	return err
}

// toldError: a start came to nothing before, and the page says why.
type reportedError struct{ sentence string }

func (e *reportedError) Error() string { return "it was told already" }

// codeTooLate is for a start that nobody can be waiting for any more.
const codeTooLate bastion.Code = "too_late"

// started is the bastion of a claim, asked for if it has not been yet.
func (a *App) started(ctx context.Context, c startLink, place replyTarget) (Bastion, error) {
	var v statusPage
	if _, err := a.fetch(ctx, statusPageKey(c.StatusPage), &v); err != nil {
		return Bastion{}, err
	}
	var p askedFor
	if _, err := a.fetch(ctx, replyTargetKey(c.Owner, c.Name), &p); err != nil {
		return Bastion{}, err
	}
	if !p.Since.Equal(place.Since) { // of another link
		p.ID = ""
	}
	switch {
	case v.ID != "" || p.ID != "":
		b, err := a.describe(ctx, c.Owner, cmp.Or(v.ID, p.ID))
		return b, again(err)
	case v.Problem != "":
		return Bastion{}, &reportedError{v.Problem}
	case a.Now().Sub(c.UsedAt) > startTimeout:
		return Bastion{}, bastion.Errorf(codeTooLate, "The start was held up for so long that it was not made. Ask for a new link: %s up", slash)
	}
	return a.create(ctx, c)
}

// again keeps an error from being told: what has been started is not to be called
// a failure because it cannot be looked at, and the job comes again.
func again(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("look at what was started: %v", err)
}

// notStarted tells the page and Slack why a start comes to nothing. An error that
// is none of the functions' is answered as it is: the job comes again.
func (a *App) notStarted(ctx context.Context, c startLink, place replyTarget, cause error) error {
	var told *reportedError
	var refusal *bastion.Error
	var sentence string
	switch {
	case errors.As(cause, &told):
		sentence = told.sentence
	case errors.As(cause, &refusal):
		sentence = refusal.Message
	case errors.Is(cause, errDown):
		sentence = downSentence
	default:
		return cause
	}
	a.Log.WarnContext(ctx, "a start came to nothing", "owner", c.Owner, "cause", cause)
	if err := a.foundProblem(ctx, c.StatusPage, sentence); err != nil {
		return err
	}
	return a.postOnce(ctx, place, notStartedMessage(sentence, refusal, c.Source))
}

// doDown closes a bastion.
func (a *App) doDown(ctx context.Context, job Job) error {
	b, err := a.choose(ctx, job)
	if err == nil && b.IsOpen() {
		if err := a.moveConversation(ctx, b, replyTarget{job.ResponseURL, job.At}); err != nil {
			return err
		}
		b, err = a.close(ctx, job.Owner, b.ID)
	}
	if err != nil {
		return a.failed(ctx, job, err)
	}
	return a.answerWith(ctx, job, b, closingMessage(b))
}

// doExtend moves a bastion's deadline to at least so long from when it was asked.
func (a *App) doExtend(ctx context.Context, job Job) error {
	b, err := a.choose(ctx, job)
	if err == nil && b.IsOpen() {
		if err := a.moveConversation(ctx, b, replyTarget{job.ResponseURL, job.At}); err != nil {
			return err
		}
	}
	if err == nil {
		// A job that comes late, or twice, grants no more than was asked for.
		ttl := max(time.Second, job.TTL-max(0, a.Now().Sub(job.At)))
		b, err = a.extend(ctx, job.Owner, b.ID, ttl)
	}
	if err != nil {
		return a.failed(ctx, job, err)
	}
	return a.answerWith(ctx, job, b, extendedMessage(b, job))
}

// doStatus says what there is. Nothing is remembered of it: what becomes of a
// bastion is told where it was asked for.
func (a *App) doStatus(ctx context.Context, job Job) error {
	all, err := a.list(ctx, job.Owner)
	if err != nil {
		return a.failed(ctx, job, err)
	}
	return a.postOnce(ctx, replyTarget{job.ResponseURL, job.At}, statusMessage(all))
}

// failed tells why a job came to nothing. An error that is none of the functions'
// is answered as it is: the job comes again.
func (a *App) failed(ctx context.Context, job Job, err error) error {
	var which whichError
	var refusal *bastion.Error
	var l *message
	switch {
	case errors.As(err, &which):
		l = whichMessage(which, job)
	case errors.As(err, &refusal):
		l = refusalMessage(refusal)
	case errors.Is(err, errDown):
		l = downMessage()
	default:
		return err
	}
	a.Log.WarnContext(ctx, "a job came to nothing", "job", job.Action, "owner", job.Owner, "cause", err)
	return a.postOnce(ctx, replyTarget{job.ResponseURL, job.At}, l)
}

// answerWith answers a job about one bastion, in the conversation about it, or
// beside it if that has gone on elsewhere.
func (a *App) answerWith(ctx context.Context, job Job, b Bastion, l *message) error {
	var t conversation
	if _, err := a.fetch(ctx, conversationKey(b.ID), &t); err != nil {
		return err
	}
	if t.ResponseURL == job.ResponseURL {
		return a.say(ctx, b, aboutAnswer, 0, l)
	}
	return a.postOnce(ctx, replyTarget{job.ResponseURL, job.At}, l)
}

// postOnce posts where somebody asked, apart from any conversation.
func (a *App) postOnce(ctx context.Context, at replyTarget, l *message) error {
	if a.Now().Sub(at.Since) > urlLife {
		return errNoURL
	}
	return a.post(ctx, at.ResponseURL, l, true)
}

// say posts a letter in the conversation about a bastion.
func (a *App) say(ctx context.Context, b Bastion, k kind, version int64, l *message) error {
	to, use, err := a.takeURL(ctx, b, k, version)
	if err != nil {
		return err
	}
	if err := a.post(ctx, to, l, true); err != nil {
		return err
	}
	covered := false
	_, err = edit(ctx, a, conversationKey(b.ID), func(t *conversation) (time.Time, error) {
		covered = t.ResponseURL == to && t.LastDelivered > use
		if t.ResponseURL != to || covered {
			return time.Time{}, errKeep
		}
		t.LastDigest, t.LastDelivered = digest(l), use
		return conversationExpires(b, a.Now()), nil
	})
	if err != nil || !covered {
		return err
	}
	return a.sayNow(ctx, b)
}

// sayNow says how a bastion is, because a letter that was long on its way to Slack
// has covered a newer one.
func (a *App) sayNow(ctx context.Context, b Bastion) error {
	b, err := a.describe(ctx, b.Owner, b.ID)
	if err == nil && !ended(b) { // an end comes so much later that no letter covers it
		err = a.say(ctx, b, aboutReady, 0, stateMessage(b))
	}
	if err != nil {
		a.Log.WarnContext(ctx, "an old letter stands over a newer one", "id", b.ID, "cause", err)
	}
	return nil
}
