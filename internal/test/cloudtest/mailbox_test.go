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

func (m *mailbox) Notify(ctx context.Context, rec bastion.Record, notice bastion.Notice) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.latest == nil {
		m.latest = map[string]message{}
	}
	l := message{rec.ID, rec.Version, notice}
	m.messages = append(m.messages, l)
	if l.version > m.latest[l.id].version {
		m.latest[l.id] = l
	}
	return nil
}

// all are the notices so far, in the order in which they came.
func (m *mailbox) all() []bastion.Notice {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []bastion.Notice
	for _, l := range m.messages {
		all = append(all, l.notice)
	}
	return all
}

// audit compares what the owner of a bastion that has come to rest believes with
// what is the case.
func (m *mailbox) audit(rec bastion.Record, warn time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	heard, told := m.latest[rec.ID]
	if !rec.Notify {
		if told || rec.LastNotice != (bastion.Notice{}) || !rec.NotifyPendingSince.IsZero() {
			return fmt.Errorf("nobody asked to be told of %s: %+v", rec.ID, heard)
		}
		return nil
	}
	asked := rec.Intent.Deadline.Sub(rec.Intent.DeadlineSetAt) // for so long
	want := bastion.Notice{
		State: rec.State(), Stage: rec.Stage(), Attempt: rec.Attempt.Number, Source: rec.Intent.Source, Deadline: rec.Intent.Deadline,
		Warning: rec.State() == bastion.Ready && time.Until(rec.Intent.Deadline) <= warn && asked > warn+time.Second,
	}
	if heard.notice != want || rec.LastNotice != want || !rec.NotifyPendingSince.IsZero() {
		return fmt.Errorf("of %s its owner believes: %s; the record says that they were told: %s (untold since %s); it is: %s", rec.ID, heard.notice, rec.LastNotice, rec.NotifyPendingSince, want)
	}
	return nil
}
