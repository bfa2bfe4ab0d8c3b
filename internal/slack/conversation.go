package slack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"
)

// Slack takes a response_url five times within thirty minutes; see
// https://docs.slack.dev/interactivity/handling-user-interaction/#message_responses.
const (
	maxUses = 5
	urlLife = 29 * time.Minute // a minute is for clocks, and for the way
)

// kind is what a letter is about, and so how much of a URL it may use up.
type kind int

const (
	aboutStage  kind = iota // of a start
	aboutAnswer             // to a command or a button
	aboutReady
	aboutEnd
)

// maxStages is how many letters may be about stages.
const maxStages = 2

// leaves is how many uses there must be left after a letter: one for ready and one
// for the end are nobody else's.
func (k kind) leaves() int {
	switch k {
	case aboutEnd:
		return 0
	case aboutReady:
		return 1
	}
	return 2
}

// What reserving a use may end in.
var (
	// errNoURL: there is no response_url that a letter of this kind may use.
	errNoURL = errors.New("no response_url that may be used")
	// errOld: something newer is being said.
	errOld = errors.New("something newer is being said")
)

// talkExpires is when a conversation is forgotten: when nothing of its bastion can
// be news any more.
func conversationExpires(b Bastion, now time.Time) time.Time {
	const after = 48 * time.Hour
	if b.LatestDeadline.After(now) {
		return b.LatestDeadline.Add(after)
	}
	return now.Add(after)
}

// takeURL reserves a use of the conversation's URL, and answers the URL and which of
// its uses it is. It is counted before it is made: what is in doubt counts. version
// is that of the notice which is told, or 0.
func (a *App) takeURL(ctx context.Context, b Bastion, k kind, version int64) (to string, use int, err error) {
	now := a.Now()
	t, err := edit(ctx, a, conversationKey(b.ID), func(t *conversation) (time.Time, error) {
		switch {
		case version != 0 && version < t.Delivering:
			return time.Time{}, errOld
		case t.ResponseURL == "" || now.Sub(t.Since) > urlLife:
			return time.Time{}, errNoURL
		case t.Uses+1+k.leaves() > maxUses, k == aboutStage && t.Stages >= maxStages:
			return time.Time{}, errNoURL
		}
		t.Uses++
		t.Delivering = max(t.Delivering, version)
		if k == aboutStage {
			t.Stages++
		}
		return conversationExpires(b, now), nil
	})
	if err != nil {
		return "", 0, err
	}
	return t.ResponseURL, t.Uses, nil
}

// moveTalk goes on with a conversation where its person has last asked. One that
// has been moved to a later URL stays there.
func (a *App) moveConversation(ctx context.Context, b Bastion, to replyTarget) error {
	_, err := edit(ctx, a, conversationKey(b.ID), func(t *conversation) (time.Time, error) {
		if t.ResponseURL == to.ResponseURL || to.Since.Before(t.Since) {
			return time.Time{}, errKeep
		}
		t.ResponseURL, t.Since, t.Uses, t.Stages, t.LastDelivered, t.LastDigest = to.ResponseURL, to.Since, 0, 0, 0, ""
		return conversationExpires(b, a.Now()), nil
	})
	return err
}

// digest is what is remembered of a letter.
func digest(l *message) string {
	content, err := json.Marshal(l.webhook(true))
	if err != nil {
		panic(err) // letters hold strings
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:16])
}
