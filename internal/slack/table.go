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

// This file has the functions that read and change the table, and the stored types
// that startlink.go, statuspage.go, notify.go and outbox.go do not define.

// person is the stored data of one user.
type person struct {
	Key        string     `json:"key,omitempty"`
	StartLinks []openLink `json:"start_links,omitempty"` // unused links, oldest first
	// Commands is the number of commands and buttons since Since, for the rate limit.
	Since    time.Time `json:"since,omitzero"`
	Commands int       `json:"commands,omitempty"`
}

// opened is stored when a person presses the button in Slack that opens a start link. A
// reply to the button's response_url can replace the message with the button. Slack
// documents this replacement only for the response_url of a button, not of a command.
type opened struct {
	ResponseURL string `json:"response_url"`
}

// latest identifies the newest bastion with a given owner and name. It is stored when the
// first notice about that bastion arrives. With it, a repeated start job finds its bastion
// instead of starting a second one.
type latest struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
}

// The keys of the table. An owner contains no '#'.
func personKey(owner string) string       { return "person#" + owner }
func seenKey(signature string) string     { return "seen#" + hashOf(signature) }
func openedKey(startLink string) string   { return "opened#" + startLink }
func latestKey(owner, name string) string { return "latest#" + owner + "#" + name }
func conversationKey(id string) string    { return "conversation#" + id }
func outboxKey(team string) string        { return "outbox#" + team }

// hashOf returns the hash that is stored instead of a secret.
func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// fetch reads the value of a key into v and returns its version. If there is no value,
// it returns version 0 and leaves v unchanged.
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

// write stores v under a key. It returns bastion.ErrConflict if the stored version is
// not prev.
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

// errKeep is returned by the function of an edit that has nothing to write.
var errKeep = errors.New("nothing to write")

const (
	maxTries = 40 // of an edit whose writes conflict with others
	// The first immediateTries tries begin at once. Each later try first waits for a random
	// time. The limit of that time grows with each try, up to maxPause.
	immediateTries = 5
	maxPause       = 500 * time.Millisecond
)

// edit changes the value of a key and returns the new value. If others change it at the
// same time, edit reads it again and calls change again. change gets a zero T if there
// is no value, and returns the time at which the new value expires. If change returns
// errKeep, edit writes nothing and returns no error.
func edit[T any](ctx context.Context, a *App, key string, change func(*T) (expires time.Time, err error)) (T, error) {
	for try := range maxTries {
		if try >= immediateTries {
			pause := min(maxPause, time.Duration(try)*10*time.Millisecond)
			if err := bastion.Sleep(ctx, rand.N(pause)); err != nil {
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

// recordLatest stores a bastion whose first notice has arrived.
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
