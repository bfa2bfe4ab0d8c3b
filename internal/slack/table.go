package slack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// This file holds what is stored in the table, besides what startlink.go,
// statuspage.go, notify.go and outbox.go define, and how it is changed.

// person is what is stored of one user.
type person struct {
	Key        string     `json:"key,omitempty"`
	StartLinks []openLink `json:"start_links,omitempty"` // the latest, oldest first
	// The commands since Since, for the rate limit.
	Since    time.Time `json:"since,omitzero"`
	Commands int       `json:"commands,omitempty"`
}

// opened is the response_url of the button that opened a start link. What follows
// can replace the message with the button; Slack documents that for a button's URL
// only, and not for a command's.
type opened struct {
	ResponseURL string `json:"response_url"`
}

// latest is the newest bastion of an owner and name that a notice has told of. A
// start that is tried again must not start a second one.
type latest struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
}

// The keys of the table. Owners hold no '#'.
func personKey(owner string) string       { return "person#" + owner }
func seenKey(signature string) string     { return "seen#" + hashOf(signature) }
func openedKey(startLink string) string   { return "opened#" + startLink }
func latestKey(owner, name string) string { return "latest#" + owner + "#" + name }
func conversationKey(id string) string    { return "conversation#" + id }
func outboxKey(team string) string        { return "outbox#" + team }

// hashOf is stored in place of a secret.
func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// fetch reads the value of a key into v. Version 0: there is none, and v is as it
// was.
func (a *App) fetch(ctx context.Context, key string, v any) (version int64, err error) {
	value, version, err := a.Table.Fetch(ctx, key)
	switch {
	case errors.Is(err, bastion.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("fetch from Slack's table: %w", err)
	}
	if err := json.Unmarshal(value, v); err != nil {
		return 0, fmt.Errorf("decode a value of Slack's table: %w", err)
	}
	return version, nil
}

// write writes v under a key if the version there is still prev, else
// bastion.ErrConflict.
func (a *App) write(ctx context.Context, key string, prev int64, v any, expires time.Time) error {
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a value of Slack's table: %w", err)
	}
	if err := a.Table.Write(ctx, key, prev, value, expires); err != nil {
		return fmt.Errorf("write to Slack's table: %w", err)
	}
	return nil
}

// errKeep ends an edit that has nothing to write.
var errKeep = errors.New("nothing to write")

const (
	maxTries = 40 // of an edit that others are faster than
	// After patientTries a try waits for a random time, which grows up to maxPause.
	patientTries = 5
	maxPause     = 500 * time.Millisecond
)

// edit changes the value of a key, however many others do at the same time. The
// change is made to a zero T if there is none, and returns when the value expires.
// errKeep leaves what is there, and is no error.
func edit[T any](ctx context.Context, a *App, key string, change func(*T) (expires time.Time, err error)) (T, error) {
	for try := range maxTries {
		if try >= patientTries {
			pause := min(maxPause, time.Duration(try)*10*time.Millisecond)
			if err := sleep(ctx, rand.N(pause)); err != nil {
				break
			}
		}
		var v T
		version, err := a.fetch(ctx, key, &v)
		if err != nil {
			return v, err
		}
		expires, err := change(&v)
		if errors.Is(err, errKeep) {
			return v, nil
		}
		if err != nil {
			return v, err
		}
		if err := a.write(ctx, key, version, v, expires); !errors.Is(err, bastion.ErrConflict) {
			return v, err
		}
	}
	var none T
	return none, errors.New("too many writers of one value of Slack's table")
}

// recordLatest stores a bastion of which the first notice has come.
func (a *App) recordLatest(ctx context.Context, b Bastion) error {
	_, err := edit(ctx, a, latestKey(b.Owner, b.Name), func(l *latest) (time.Time, error) {
		if !b.CreatedAt.After(l.CreatedAt) {
			return time.Time{}, errKeep
		}
		*l = latest{b.ID, b.CreatedAt}
		return a.Now().Add(time.Hour), nil
	})
	return err
}
