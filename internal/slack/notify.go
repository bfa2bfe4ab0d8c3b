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

// This file brings what becomes of a bastion to its owner's direct messages.
//
// Each bastion has one status message, which is edited in place. An edit notifies
// nobody, so four kinds of events are new messages beside it: ready, the warning
// before a deadline, the receipt, and a failure.
//
// A notice is stored before anything is sent, and whoever sends always sends what
// the newest stored notice calls for. So a late notice changes nothing, stages that
// pass quickly become one edit, and every delivery can finish what another has begun.

// conversation is what is stored of the direct messages about one bastion.
type conversation struct {
	Notice Notice `json:"notice"` // the newest

	// The status message: where it is, and the digest of what it shows, which is empty
	// if that is unknown.
	Channel string `json:"channel,omitempty"`
	TS      string `json:"ts,omitempty"`
	Status  string `json:"status,omitempty"`
	// Uneditable: the workspace does not allow edits. The status message is then posted
	// again when it changes, and leaves out the stages.
	Uneditable bool `json:"uneditable,omitempty"`

	Ready  string    `json:"ready,omitempty"` // the digest of the latest ready message
	Warned time.Time `json:"warned,omitzero"` // the deadline of the latest warning
	Ended  bool      `json:"ended,omitempty"` // the receipt or the failure was sent

	// SendingUntil: until then a delivery has the right to send, and others leave what
	// there is to send to it. Zero: none is sending.
	SendingUntil time.Time `json:"sending_until,omitzero"`
}

// senderTimeout is how long a delivery keeps others from sending about its bastion:
// longer than sending one message and storing its outcome takes. If it is exceeded,
// a message may be sent twice.
const senderTimeout = 3 * requestTimeout

// conversationExpires is when a conversation is forgotten: when no notice of its
// bastion can come any more.
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
	kindReceipt kind = "receipt" // of a bastion that was closed, or why it failed
	kindWarning kind = "warning"
	kindReady   kind = "ready"
	kindStatus  kind = "status"
)

// urgent reports whether a message goes before status messages.
func (k kind) urgent() bool { return k != kindStatus }

// outgoing is a message that is to be sent.
type outgoing struct {
	kind
	*message
	digest string
	edit   bool // of the status message
}

// next returns the message that a conversation lacks, the most urgent first; nil if
// it lacks none.
func (c conversation) next(now time.Time) *outgoing {
	n, b := c.Notice, c.Notice.Bastion
	switch {
	case isOver(b) && !c.Ended:
		return newOutgoing(kindReceipt, endMessage(n))
	case n.Warning && b.IsOpen() && now.Before(b.Deadline) && !c.Warned.Equal(b.Deadline):
		return newOutgoing(kindWarning, warningMessage(b, now))
	case b.State == bastion.Ready:
		if m := newOutgoing(kindReady, readyMessage(b)); m.digest != c.Ready {
			return m
		}
	}
	if !b.IsOpen() && (c.TS == "" || c.Uneditable) {
		return nil // there is no status message to correct, and the receipt is enough
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

func newOutgoing(k kind, m *message) *outgoing {
	content, err := json.Marshal(m.webhook(false))
	if err != nil {
		panic(err) // messages hold strings
	}
	sum := sha256.Sum256(content)
	return &outgoing{kind: k, message: m, digest: hex.EncodeToString(sum[:16])}
}

// sent stores the outcome of sending a message. late: another delivery has sent
// since, so it is unknown what the status message shows.
func (c *conversation) sent(m *outgoing, at posted, err error, late bool) {
	retry := new(retryError)
	switch {
	case m.kind == kindWarning:
		// It was stored before it was sent, so that there is at most one for each
		// deadline. That is undone only if Slack has certainly not accepted it.
		if errors.As(err, &retry) && !retry.uncertain && c.Warned.Equal(c.Notice.Bastion.Deadline) {
			c.Warned = time.Time{}
		}
	case m.edit && editRefused(err):
		c.Channel, c.TS, c.Status = "", "", ""
		c.Uneditable = c.Uneditable || editsForbidden(err)
	case err != nil && !finished(err):
		// It is sent again.
	case m.kind == kindReceipt:
		c.Ended = true
	case m.kind == kindReady:
		c.Ready = m.digest
	case late:
		c.Status = ""
	default:
		c.Status = m.digest
	}
	if m.kind == kindStatus && !m.edit && err == nil && (!late || c.TS == "") {
		c.Channel, c.TS = at.Channel, at.TS
	}
}

// Notify tells a bastion's owner what a notice says. Notices may come late, twice
// and out of order. An error means that the notice must come again.
func (a *App) Notify(ctx context.Context, n Notice) error {
	b := n.Bastion
	team, _, ok := bastion.ParseSlackOwner(b.Owner)
	if !ok || !bastion.ValidID(b.ID) || !slices.Contains(a.Teams, team) {
		a.Log.ErrorContext(ctx, "notice dropped: its owner is not in an allowed workspace", "bastion", b.ID, "owner", b.Owner)
		return nil
	}
	if err := a.record(ctx, n); err != nil {
		return err
	}
	var box outbox
	if _, err := a.fetch(ctx, outboxKey(team), &box); err != nil {
		return err
	}
	// An older notice delivers too: the delivery of the newest may have left it to this one.
	err := a.deliver(ctx, b.ID, box.limits(len(box.Waiting) > 0))
	wait := new(waitError)
	switch {
	case errors.As(err, &wait) && wait.busy:
		return nil // the other delivery sends what this notice calls for; if it dies, its notice comes again
	case errors.As(err, &wait):
		return a.putOff(ctx, team, b.ID, wait)
	case err != nil:
		return fmt.Errorf("notify the owner of bastion %s: %w", b.ID, err)
	}
	return nil
}

// record stores a notice, unless a newer one is stored.
func (a *App) record(ctx context.Context, n Notice) error {
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
		return conversationExpires(b, a.Now()), nil
	})
	return err
}

// deliver sends what a bastion's owner lacks. *waitError: a message must wait.
func (a *App) deliver(ctx context.Context, id string, limit limits) error {
	var (
		last *outgoing // sent by this delivery
		at   posted
		sent error     // the outcome of last
		mine time.Time // SendingUntil as this delivery has written it
	)
	for {
		var m *outgoing
		var wait *waitError
		c, err := edit(ctx, a, conversationKey(id), func(c *conversation) (time.Time, error) {
			now := a.Now()
			m, wait = nil, nil
			late := !c.SendingUntil.Equal(mine)
			if last != nil {
				c.sent(last, at, sent, late)
			}
			if late && now.Before(c.SendingUntil) {
				wait = &waitError{until: c.SendingUntil, busy: true}
			} else {
				m, wait = c.turn(now, limit, sent)
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

// turn takes the right to send the next message, or gives it up if there is none or
// it must wait.
func (c *conversation) turn(now time.Time, limit limits, sent error) (*outgoing, *waitError) {
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
