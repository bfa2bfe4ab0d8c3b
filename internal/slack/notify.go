package slack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// This file turns notices about a bastion into direct messages to its owner.
//
// Each bastion has one status message, which is edited in place. Slack sends no
// notification for an edit, so five events are new messages: ready, an added key, the
// warning before a deadline, the receipt, and a failure. If a ready message must be sent
// and the owner does not know of an added key yet, the ready message also names the key.
// Then the app sends no separate message about the key.
//
// A notice is stored before any message is sent. Each delivery sends the messages that
// the newest stored notice requires. So a late notice changes nothing, stages that pass
// quickly become one edit, and a delivery can complete the work of an earlier one.

// conversation is the stored state of the direct messages about one bastion.
type conversation struct {
	Notice Notice `json:"notice"` // the newest

	// The status message: its channel, its timestamp and the digest of its content. The
	// digest is empty if the content is not known.
	Channel string `json:"channel,omitempty"`
	TS      string `json:"ts,omitempty"`
	Status  string `json:"status,omitempty"`
	// Uneditable is set if the workspace does not allow edits. Then each change of the
	// status message is a new message. Stages of a start are then left out.
	Uneditable bool `json:"uneditable,omitempty"`

	Ready  string    `json:"ready,omitempty"` // the digest of the latest ready message
	Keys   []string  `json:"keys"`            // the fingerprints that the owner knows of; nil if an earlier version stored the conversation
	Warned time.Time `json:"warned,omitzero"` // the deadline of the latest warning
	Ended  bool      `json:"ended,omitempty"` // the receipt or the failure was sent

	// SendingUntil is set while a delivery sends. Until that time, other deliveries leave
	// the sending to it.
	SendingUntil time.Time `json:"sending_until,omitzero"`
}

// senderTimeout is the time for which a delivery keeps others from sending messages
// about its bastion. It is longer than it takes to send one message and to store the
// outcome. If a delivery takes longer, a message may be sent twice.
const senderTimeout = 3 * requestTimeout

// conversationExpires returns the expiry of a conversation: a time after which no notice
// about its bastion can arrive.
func conversationExpires(b Bastion, now time.Time) time.Time {
	const after = 48 * time.Hour
	if b.LatestDeadline.After(now) {
		return b.LatestDeadline.Add(after)
	}
	return now.Add(after)
}

// kind is the kind of a direct message.
type kind string

const (
	kindReceipt kind = "receipt" // the receipt, or the message that the bastion failed
	kindWarning kind = "warning"
	kindReady   kind = "ready"
	kindKey     kind = "key" // a key was added
	kindStatus  kind = "status"
)

// urgent reports whether a message is sent before status messages.
func (k kind) urgent() bool { return k != kindStatus }

// outgoing is a message that is to be sent.
type outgoing struct {
	kind
	*message
	digest string
	edit   bool     // edits the status message
	keys   []string // the fingerprints that the owner knows of after this message; nil if it says nothing about keys
}

// next returns the most urgent message that the newest notice requires and that was not
// sent, or nil if there is none.
func (c conversation) next(now time.Time) *outgoing {
	n, b := c.Notice, c.Notice.Bastion
	added := c.addedKeys()
	switch {
	case isOver(b) && !c.Ended:
		return newOutgoing(kindReceipt, endMessage(n))
	case n.Warning && b.IsOpen() && now.Before(b.Deadline) && !c.Warned.Equal(b.Deadline):
		return newOutgoing(kindWarning, warningMessage(b, now))
	case b.State == bastion.Ready:
		if m := newOutgoing(kindReady, readyMessage(b)); m.digest != c.Ready {
			m.keys = b.Keys
			// The digest leaves out the added keys: a ready message names them only once.
			if len(added) > 0 {
				m.message = readyMessage(b).newKeys(b, added)
			}
			return m
		}
	}
	// While a bastion starts, an added key waits for the ready message, which contains it.
	// If the start is delayed, the ready message may never come, so the owner is told now.
	if len(added) > 0 && (b.State == bastion.Ready || b.IsOpen() && b.IsDelayed()) {
		m := newOutgoing(kindKey, keyAddedMessage(b, added))
		m.keys = b.Keys
		return m
	}
	if !b.IsOpen() && (c.TS == "" || c.Uneditable) {
		return nil // there is no status message to edit, and the receipt is enough
	}
	if c.Uneditable {
		b.Stage = ""
	}
	m := newOutgoing(kindStatus, statusMessage(b))
	if m.digest == c.Status {
		return nil
	}
	m.edit = c.TS != "" && !c.Uneditable
	return m
}

// addedKeys returns the keys that the owner does not know of.
func (c conversation) addedKeys() []string {
	return slices.DeleteFunc(slices.Clone(c.Notice.Bastion.Keys), func(key string) bool { return slices.Contains(c.Keys, key) })
}

// knowKeys stores that the owner knows of the keys. It leaves out keys that the bastion no
// longer accepts, so that the owner is told if such a key is added again.
func (c *conversation) knowKeys(keys []string) {
	known := []string{} // not nil, which means that nothing is stored
	for _, key := range keys {
		if slices.Contains(c.Notice.Bastion.Keys, key) {
			known = append(known, key)
		}
	}
	c.Keys = known
}

func newOutgoing(k kind, m *message) *outgoing {
	content, err := json.Marshal(m.webhook(false))
	if err != nil {
		panic(err) // every message can be encoded: it contains only text and flags
	}
	sum := sha256.Sum256(content)
	return &outgoing{kind: k, message: m, digest: hex.EncodeToString(sum[:16])}
}

// recordOutcome records the outcome of sending a message. If late is set, another delivery
// began to send before this one had finished, and Slack may have carried out their requests
// in any order. If m is the status message, its content in Slack is then not known.
func (c *conversation) recordOutcome(m *outgoing, at posted, err error, late bool) {
	retry := new(retryError)
	switch {
	case m.kind == kindWarning:
		// takeTurn set Warned before the warning was sent, so that each deadline has at
		// most one. Reset it only if Slack has certainly not accepted the warning.
		if errors.As(err, &retry) && !retry.uncertain && c.Warned.Equal(c.Notice.Bastion.Deadline) {
			c.Warned = time.Time{}
		}
	case m.edit && (refusedFor(err, editsForbidden) || refusedFor(err, messageGone)):
		c.Channel, c.TS, c.Status = "", "", ""
		c.Uneditable = c.Uneditable || refusedFor(err, editsForbidden)
	case err != nil && !finished(err):
		// next returns the message again.
	case m.kind == kindReceipt:
		c.Ended = true
	case m.kind == kindReady:
		c.Ready = m.digest
		c.knowKeys(m.keys)
	case m.kind == kindKey:
		c.knowKeys(m.keys)
	case late:
		c.Status = ""
	default:
		c.Status = m.digest
	}
	// A late delivery keeps the status message that another delivery has posted.
	if m.kind == kindStatus && !m.edit && err == nil && (!late || c.TS == "") {
		c.Channel, c.TS = at.Channel, at.TS
	}
}

// Notify sends a bastion's owner the messages that a notice requires. Notices may arrive
// late, twice and out of order. If Notify returns an error, the notice must be sent again.
func (a *App) Notify(ctx context.Context, n Notice) error {
	b := n.Bastion
	team, _, ok := bastion.ParseSlackOwner(b.Owner)
	if !ok || !bastion.ValidID(b.ID) || !slices.Contains(a.Teams, team) {
		a.Log.ErrorContext(ctx, "notice dropped: its owner is not in an allowed workspace", "bastion", b.ID, "owner", b.Owner)
		return nil
	}
	if err := a.storeNotice(ctx, n); err != nil {
		return err
	}
	var box outbox
	if _, err := a.fetch(ctx, outboxKey(team), &box); err != nil {
		return err
	}
	// Deliver even if a newer notice is stored. Its delivery may have sent nothing because an
	// earlier delivery of this notice was sending, and that delivery may then have died.
	//
	// While messages wait in the outbox, a status message must wait there too.
	err := a.deliver(ctx, b.ID, box.limits(len(box.Waiting) > 0))
	wait := new(waitError)
	switch {
	case errors.As(err, &wait) && wait.busy:
		return nil // the other delivery sends the messages; if it dies, its notice is sent again
	case errors.As(err, &wait):
		return a.putOff(ctx, team, b.ID, wait)
	case err != nil:
		return fmt.Errorf("notify the owner of bastion %s: %w", b.ID, err)
	}
	return nil
}

// storeNotice stores a notice, unless the stored one has the same version or a newer one.
func (a *App) storeNotice(ctx context.Context, n Notice) error {
	b := n.Bastion
	var c conversation
	version, err := a.fetch(ctx, conversationKey(b.ID), &c)
	if err == nil && version == 0 {
		err = a.recordLatest(ctx, b)
	}
	if err != nil {
		return err
	}
	_, err = edit(ctx, a, conversationKey(b.ID), func(c *conversation) (time.Time, error) {
		if n.Version <= c.Notice.Version {
			return time.Time{}, errKeep
		}
		c.Notice = n
		if c.Keys == nil {
			c.Keys = b.Keys // the owner knows of the keys with which the bastion was started
		}
		c.knowKeys(c.Keys)
		return conversationExpires(b, a.Now()), nil
	})
	return err
}

// deliver sends all messages that the newest notice requires and that were not sent. It
// returns a *waitError if a message must wait.
func (a *App) deliver(ctx context.Context, id string, limit limits) error {
	var (
		last *outgoing // the message that this delivery sent last
		at   posted    // where last is
		sent error     // the error of sending last; nil if Slack accepted it
		mine time.Time // SendingUntil as this delivery stored it
	)
	for {
		var m *outgoing
		var wait *waitError
		c, err := edit(ctx, a, conversationKey(id), func(c *conversation) (time.Time, error) {
			now := a.Now()
			m, wait = nil, nil
			late := !c.SendingUntil.Equal(mine)
			if last != nil {
				c.recordOutcome(last, at, sent, late)
			}
			if late && now.Before(c.SendingUntil) {
				wait = &waitError{until: c.SendingUntil, busy: true}
			} else {
				m, wait = c.takeTurn(now, limit, sent)
			}
			if last == nil && m == nil {
				return time.Time{}, errKeep
			}
			return conversationExpires(c.Notice.Bastion, now), nil
		})
		switch {
		case err != nil:
			return err
		case wait != nil:
			return wait
		case sent != nil && !finished(sent):
			return sent
		case m == nil:
			return nil
		}
		mine, last = c.SendingUntil, m
		if at, sent = a.send(ctx, c, m); sent != nil {
			a.Log.WarnContext(ctx, "message not sent", "bastion", id, "owner", c.Notice.Bastion.Owner, "kind", string(m.kind), "cause", sent)
		}
	}
}

// takeTurn returns the next message and sets SendingUntil, so that only this delivery
// sends. If there is no message, if it must wait, or if sent says that the last try
// failed, takeTurn clears SendingUntil.
func (c *conversation) takeTurn(now time.Time, limit limits, sent error) (*outgoing, *waitError) {
	c.SendingUntil = time.Time{}
	if sent != nil && !finished(sent) {
		retry := new(retryError)
		m := c.next(now)
		if !errors.As(sent, &retry) || m == nil {
			return nil, nil
		}
		return nil, &waitError{until: now.Add(retry.after), urgent: m.urgent(), edit: m.edit}
	}
	m := c.next(now)
	if m == nil {
		return nil, nil
	}
	if wait := limit.wait(now, m); wait != nil {
		return nil, wait
	}
	c.SendingUntil = now.Add(senderTimeout)
	if m.kind == kindWarning {
		c.Warned = c.Notice.Bastion.Deadline
	}
	return m, nil
}

func (a *App) send(ctx context.Context, c conversation, m *outgoing) (posted, error) {
	owner := c.Notice.Bastion.Owner
	if m.edit {
		return a.update(ctx, owner, posted{c.Channel, c.TS}, m.message)
	}
	return a.post(ctx, owner, m.message)
}

// isOver reports whether a bastion is closed or failed.
func isOver(b Bastion) bool { return b.State == bastion.Closed || b.State == bastion.Failed }
