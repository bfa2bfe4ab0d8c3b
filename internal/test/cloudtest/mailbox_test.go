package cloudtest_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// mailbox is the notifier of a world. Of two messages about a bastion, the one with the
// later version counts, as for every receiver.
type mailbox struct {
	mu       sync.Mutex
	messages []message
	latest   map[string]message // by bastion
}

type message struct {
	id      string
	version int64
	notice  bastion.Notice
}

// Notify implements [bastion.Notifier].
func (m *mailbox) Notify(ctx context.Context, rec bastion.Record, notice bastion.Notice) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.latest == nil {
		m.latest = map[string]message{}
	}
	msg := message{rec.ID, rec.Version, notice}
	m.messages = append(m.messages, msg)
	if msg.version > m.latest[msg.id].version {
		m.latest[msg.id] = msg
	}
	return nil
}

// all returns the notices so far, in the order of their delivery.
func (m *mailbox) all() []bastion.Notice {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []bastion.Notice
	for _, msg := range m.messages {
		all = append(all, msg.notice)
	}
	return all
}

// audit returns an error if the last notice about a settled bastion does not match its
// record.
func (m *mailbox) audit(rec bastion.Record, warn time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	last, notified := m.latest[rec.ID]
	if !rec.Notify {
		if notified || rec.LastNotice != (bastion.Notice{}) || !rec.NotifyPendingSince.IsZero() {
			return fmt.Errorf("a notice of %s, which has no Notify: %+v", rec.ID, last)
		}
		return nil
	}
	ttl := rec.Intent.Deadline.Sub(rec.Intent.DeadlineSetAt)
	want := bastion.Notice{
		State: rec.State(), Stage: rec.Stage(), Attempt: rec.Attempt.Number, Source: rec.Intent.Source, Access: last.notice.Access, Deadline: rec.Intent.Deadline,
		Warning: rec.State() == bastion.Ready && time.Until(rec.Intent.Deadline) <= warn && ttl > warn+time.Second,
	}
	if several := len(rec.Intent.Keys) > 1 || len(rec.Intent.Sources()) > 1; several != (want.Access != "") {
		return fmt.Errorf("notice of %s: access %q, and the record has the keys %q and sources %s", rec.ID, want.Access, rec.Intent.Keys, rec.Intent.Sources())
	}
	if last.notice != want || rec.LastNotice != want || !rec.NotifyPendingSince.IsZero() {
		return fmt.Errorf("notice of %s: last delivered %s, in the record %s (pending since %s), want %s", rec.ID, last.notice, rec.LastNotice, rec.NotifyPendingSince, want)
	}
	return nil
}
