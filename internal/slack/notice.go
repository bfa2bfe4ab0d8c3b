package slack

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Tell tells a bastion's owner what has become of it. Notices may come late, twice
// and out of order. An error means that the owner has not been told, and the notice
// is to come again.
//
// What stands in the conversation is replaced, at least once for each change:
// whoever dies before it is written down that a letter was posted posts it again.
// The warning is sent at most once for one deadline: it is written down first, and
// taken back only if Slack has definitely not taken it.
func (a *App) Notify(ctx context.Context, n Notice) error {
	b := n.Bastion
	if userOf(b.Owner) == "" || !bastion.ValidID(b.ID) {
		a.Log.ErrorContext(ctx, "a notice for nobody of Slack's", "id", b.ID)
		return nil
	}
	t, err := a.conversationAbout(ctx, b)
	if err != nil {
		return err
	}
	if n.Version <= t.Version || t.Ended {
		return nil
	}
	if err := a.postState(ctx, n, t); err != nil {
		return fmt.Errorf("tell of bastion %s: %w", b.ID, err)
	}
	if n.Warning && b.IsOpen() {
		if err := a.warn(ctx, b); err != nil {
			return fmt.Errorf("warn of the deadline of bastion %s: %w", b.ID, err)
		}
	}
	_, err = edit(ctx, a, conversationKey(b.ID), func(t *conversation) (time.Time, error) {
		if n.Version <= t.Version {
			return time.Time{}, errKeep
		}
		t.Version = n.Version
		t.Ended = t.Ended || ended(b)
		return conversationExpires(b, a.Now()), nil
	})
	return err
}

// ended reports whether nothing can follow: a failed bastion, too, says what it has
// to say at once.
func ended(b Bastion) bool {
	return b.State == bastion.Closed || b.State == bastion.Failed
}

// talkAbout is the conversation about a bastion. One that has just been started is
// spoken of where it was asked for, if the job that started it could not say so yet.
func (a *App) conversationAbout(ctx context.Context, b Bastion) (conversation, error) {
	var t conversation
	if _, err := a.fetch(ctx, conversationKey(b.ID), &t); err != nil || t.ResponseURL != "" {
		return t, err
	}
	var place replyTarget
	if _, err := a.fetch(ctx, replyTargetKey(b.Owner, b.Name), &place); err != nil {
		return conversation{}, err
	}
	// An older one of that name, which is only now gone, was asked for elsewhere.
	if place.ResponseURL == "" || !b.IsOpen() && b.CreatedAt.Before(place.Since) {
		return t, nil
	}
	if err := a.moveConversation(ctx, b, place); err != nil {
		return conversation{}, err
	}
	if err := a.heardOf(ctx, b, place); err != nil {
		return conversation{}, err
	}
	t.ResponseURL = place.ResponseURL
	return t, nil
}

// heardOf remembers that a bastion has come of what was asked for, should the job
// that made it have died before it could.
func (a *App) heardOf(ctx context.Context, b Bastion, place replyTarget) error {
	if b.CreatedAt.Before(place.Since) {
		return nil // it was there before, and the job is still to move it
	}
	_, err := edit(ctx, a, replyTargetKey(b.Owner, b.Name), func(p *askedFor) (time.Time, error) {
		if !p.Since.Equal(place.Since) || p.ID != "" {
			return time.Time{}, errKeep
		}
		p.ID = b.ID
		return place.Since.Add(urlLife), nil
	})
	return err
}

// tellState posts what the state calls for, unless it stands there already.
func (a *App) postState(ctx context.Context, n Notice, t conversation) error {
	b := n.Bastion
	var l *message
	var k kind
	switch b.State {
	case bastion.Starting:
		l, k = stateMessage(b), aboutStage
	case bastion.Ready:
		l, k = stateMessage(b), aboutReady
	case bastion.Failed:
		l, k = failedMessage(n), aboutEnd
	case bastion.Closed:
		l, k = receiptMessage(n), aboutEnd
	default: // closing: whoever asked for it has been answered, and the end follows
		return nil
	}
	if t.LastDigest == digest(l) {
		return nil
	}
	err := a.say(ctx, b, k, n.Version, l)
	if errors.Is(err, errOld) {
		return nil
	}
	if !errors.Is(err, errNoURL) && !errors.Is(err, errGone) {
		return err
	}
	if k == aboutStage {
		return nil // there will be more to say
	}
	return a.postDirect(ctx, b, l)
}

// tellDirectly sends a letter for which there is no response_url any more.
func (a *App) postDirect(ctx context.Context, b Bastion, l *message) error {
	team, _ := teamAndUser(b.Owner)
	agreed, err := a.Credentials(ctx, team)
	if err != nil {
		return fmt.Errorf("what was agreed with Slack: %w", err)
	}
	if agreed.BotToken == "" {
		a.Log.InfoContext(ctx, "nobody could be told", "id", b.ID, "owner", b.Owner, "state", b.State)
		return nil
	}
	err = a.direct(ctx, agreed.BotToken, b.Owner, l)
	if errors.Is(err, errGone) {
		a.Log.WarnContext(ctx, "nobody could be told", "id", b.ID, "owner", b.Owner, "state", b.State, "cause", err)
		return nil
	}
	return err
}

// warn sends the warning that a deadline is near, at most once for that deadline.
func (a *App) warn(ctx context.Context, b Bastion) error {
	team, _ := teamAndUser(b.Owner)
	agreed, err := a.Credentials(ctx, team)
	if err != nil {
		return fmt.Errorf("what was agreed with Slack: %w", err)
	}
	if agreed.BotToken == "" || !a.Now().Before(b.Deadline) {
		return nil
	}
	first := false
	_, err = edit(ctx, a, conversationKey(b.ID), func(t *conversation) (time.Time, error) {
		if first = !t.Warned.Equal(b.Deadline); !first {
			return time.Time{}, errKeep
		}
		t.Warned = b.Deadline
		return conversationExpires(b, a.Now()), nil
	})
	if err != nil || !first {
		return err
	}
	err = a.direct(ctx, agreed.BotToken, b.Owner, warningMessage(b, a.Now()))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errLater):
		return errors.Join(err, a.unwarn(ctx, b))
	}
	// Slack never takes it, or may have taken it: it is not sent again.
	a.Log.WarnContext(ctx, "a warning may not have arrived", "id", b.ID, "owner", b.Owner, "cause", err)
	return nil
}

// unwarn takes back that a deadline was warned of.
func (a *App) unwarn(ctx context.Context, b Bastion) error {
	_, err := edit(ctx, a, conversationKey(b.ID), func(t *conversation) (time.Time, error) {
		if !t.Warned.Equal(b.Deadline) {
			return time.Time{}, errKeep
		}
		t.Warned = time.Time{}
		return conversationExpires(b, a.Now()), nil
	})
	return err
}
