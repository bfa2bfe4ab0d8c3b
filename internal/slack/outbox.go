package slack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// This file keeps the limits of Slack's Web API. chat.postMessage accepts one message
// a second for a channel, chat.update about fifty a minute for a workspace; beyond
// that Slack replies 429 and says for how long. See
// https://docs.slack.dev/apis/web-api/rate-limits/.
//
// A delivery that must wait is put into the workspace's outbox, and ends. One job for
// each workspace, [JobSend], then sends what is in it: ready, warnings and receipts
// before status messages. The outbox holds the IDs of bastions and not messages, so
// what is sent is what the newest notice calls for at that time.

// outbox is what is stored of a workspace's messages that must wait.
type outbox struct {
	// Before these times Slack accepts no new message, or no edit.
	PostAfter time.Time `json:"post_after,omitzero"`
	EditAfter time.Time `json:"edit_after,omitzero"`

	Waiting []waiting `json:"waiting,omitempty"`
	Serial  int64     `json:"serial,omitempty"` // of the latest addition

	// The job that works on the outbox, by its At, and until when other jobs leave the
	// outbox to it.
	Holder    time.Time `json:"holder,omitzero"`
	HeldUntil time.Time `json:"held_until,omitzero"`
}

// waiting is a bastion whose owner lacks a message.
type waiting struct {
	ID     string    `json:"id"`
	Urgent bool      `json:"urgent,omitempty"`
	Edit   bool      `json:"edit,omitempty"` // the next message is an edit
	After  time.Time `json:"after,omitzero"` // not before; another delivery is sending
	Serial int64     `json:"serial"`         // of its latest addition
	Since  time.Time `json:"since"`
}

const (
	maxWaiting = 3000          // an item of DynamoDB has 400 KB
	giveUp     = 6 * time.Hour // after which a message that waits is dropped
	outboxLife = 24 * time.Hour

	// holdStart is how long a new job has to begin, holdTime how long it keeps the outbox
	// without a sign of life.
	holdStart = 10 * time.Second
	holdTime  = 30 * time.Second

	// lookAgain is how often the job looks for additions, and handOver how much of an
	// invocation's time it leaves, so that it can pass the outbox on.
	lookAgain = 5 * time.Second
	handOver  = 15 * time.Second

	maxFailures = 3 // in a row, until the job leaves the rest for its next try
)

// waitError says that a message must wait.
type waitError struct {
	until        time.Time
	urgent, edit bool
	busy         bool // another delivery is sending about the bastion
}

func (e *waitError) Error() string {
	return "a message must wait until " + e.until.Format(time.RFC3339)
}

// limits are the times before which Slack accepts no new message, or no edit.
type limits struct {
	post, edit time.Time
	urgentOnly bool // leave status messages for later
}

func (o outbox) limits(urgentOnly bool) limits { return limits{o.PostAfter, o.EditAfter, urgentOnly} }

// wait returns why a message must wait, or nil.
func (l limits) wait(now time.Time, m *outgoing) *waitError {
	until := l.post
	if m.edit {
		until = l.edit
	}
	if now.Before(until) || l.urgentOnly && !m.urgent() {
		return &waitError{until: until, urgent: m.urgent(), edit: m.edit}
	}
	return nil
}

// learn keeps what a message that must wait says about the limits.
func (o *outbox) learn(wait *waitError) {
	switch {
	case wait.busy:
	case wait.edit:
		o.EditAfter = later(o.EditAfter, wait.until)
	default:
		o.PostAfter = later(o.PostAfter, wait.until)
	}
}

// put notes what a bastion waits for.
func (w *waiting) put(wait *waitError) {
	if wait.busy {
		w.After = wait.until
		return
	}
	w.Urgent, w.Edit, w.After = wait.urgent, wait.edit, time.Time{}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// putOff puts a bastion into its workspace's outbox, and starts the job if none has
// it.
func (a *App) putOff(ctx context.Context, team, id string, wait *waitError) error {
	var start bool
	o, err := edit(ctx, a, outboxKey(team), func(o *outbox) (time.Time, error) {
		now := a.Now()
		o.learn(wait)
		o.Serial++
		at := slices.IndexFunc(o.Waiting, func(w waiting) bool { return w.ID == id })
		if at < 0 {
			if len(o.Waiting) >= maxWaiting {
				return time.Time{}, fmt.Errorf("the outbox of %s is full", team)
			}
			at = len(o.Waiting)
			o.Waiting = append(o.Waiting, waiting{ID: id, Since: now.Truncate(time.Second).UTC()})
		}
		w := &o.Waiting[at]
		w.put(wait)
		w.Serial = o.Serial
		if start = !now.Before(o.HeldUntil); start {
			o.Holder, o.HeldUntil = now.UTC(), now.Add(holdStart).UTC()
		}
		return now.Add(outboxLife), nil
	})
	if err != nil || !start {
		return err
	}
	return a.enqueue(ctx, Job{Action: JobSend, Team: team, At: o.Holder})
}

// hold stores what the job has done and keeps the outbox for it. If nothing waits
// any more it gives the outbox up. held: the job goes on.
func (a *App) hold(ctx context.Context, team string, job time.Time, mine *progress, next, until time.Time) (o outbox, held bool, err error) {
	o, err = edit(ctx, a, outboxKey(team), func(o *outbox) (time.Time, error) {
		now := a.Now()
		if held = o.Holder.Equal(job) || !now.Before(o.HeldUntil); !held {
			return time.Time{}, errKeep
		}
		for _, dropped := range mine.applyTo(o, now) {
			a.Log.ErrorContext(ctx, "message dropped: Slack did not accept it in time", "bastion", dropped, "team", team)
		}
		o.Holder, o.HeldUntil = next, until
		if held = len(o.Waiting) > 0; !held {
			o.Holder, o.HeldUntil = time.Time{}, time.Time{}
		}
		return now.Add(outboxLife), nil
	})
	return o, held && err == nil, err
}

// progress is what a job has done since it last stored the outbox.
type progress struct {
	limits                       // as far as they were met
	sent   map[string]int64      // serials of what need not wait any more
	waits  map[string]*waitError // of what must wait on
	failed []string              // IDs, in this order
}

// applyTo brings the outbox up to date, and returns the IDs of what it gave up.
func (p *progress) applyTo(o *outbox, now time.Time) (dropped []string) {
	o.PostAfter, o.EditAfter = later(o.PostAfter, p.post), later(o.EditAfter, p.edit)
	o.Waiting = slices.DeleteFunc(o.Waiting, func(w waiting) bool {
		if serial, ok := p.sent[w.ID]; ok && serial == w.Serial {
			return true // what was added since has another serial
		}
		if now.Sub(w.Since) > giveUp {
			dropped = append(dropped, w.ID)
			return true
		}
		return false
	})
	for i := range o.Waiting {
		if wait := p.waits[o.Waiting[i].ID]; wait != nil {
			o.Waiting[i].put(wait)
		}
	}
	for _, id := range p.failed {
		if at := slices.IndexFunc(o.Waiting, func(w waiting) bool { return w.ID == id }); at >= 0 {
			w := o.Waiting[at]
			o.Waiting = append(slices.Delete(o.Waiting, at, at+1), w)
		}
	}
	return dropped
}

// pick returns the index of the bastion that is next, or -1, and the time at which
// there is one.
func (o outbox) pick(now time.Time) (at int, when time.Time) {
	at = -1
	for i, w := range o.Waiting {
		until := o.PostAfter
		if w.Edit {
			until = o.EditAfter
		}
		if until = later(until, w.After); now.Before(until) {
			if when.IsZero() || until.Before(when) {
				when = until
			}
			continue
		}
		if at < 0 || w.Urgent && !o.Waiting[at].Urgent {
			at = i
		}
		if w.Urgent {
			break
		}
	}
	return at, when
}

// sendWaiting sends what is in a workspace's outbox. It waits as long as the
// invocation has time, and then passes the outbox on to another one. An error means
// that the job must come again.
func (a *App) sendWaiting(ctx context.Context, job Job) error {
	if !slices.Contains(a.Teams, job.Team) {
		a.Log.ErrorContext(ctx, "job dropped: the workspace is not allowed", "job", job.Action, "team", job.Team)
		return nil
	}
	done := newProgress()
	failures := 0
	for {
		o, held, err := a.hold(ctx, job.Team, job.At, done, job.At, a.Now().Add(holdTime).UTC())
		if err != nil || !held {
			return err
		}
		done = newProgress()
		when, err := a.sendBatch(ctx, &o, done, &failures)
		switch {
		case err != nil:
			_, _, holdErr := a.hold(ctx, job.Team, job.At, done, time.Time{}, time.Time{})
			return errors.Join(err, holdErr)
		case timeLeft(ctx) < handOver:
			next := a.Now().UTC()
			if _, held, err := a.hold(ctx, job.Team, job.At, done, next, next.Add(holdStart)); err != nil || !held {
				return err
			}
			return a.enqueue(ctx, Job{Action: JobSend, Team: job.Team, At: next})
		}
		if pause := when.Sub(a.Now()); pause > 0 {
			if err := sleep(ctx, min(pause, lookAgain, timeLeft(ctx)-handOver+time.Second)); err != nil {
				return err
			}
		}
	}
}

// sendBatch sends until everything must wait, for lookAgain at most. It returns when
// the next message may be sent.
func (a *App) sendBatch(ctx context.Context, o *outbox, done *progress, failures *int) (when time.Time, err error) {
	for begun := a.Now(); a.Now().Sub(begun) < lookAgain && timeLeft(ctx) >= handOver; {
		at, when := o.pick(a.Now())
		if at < 0 {
			return when, err
		}
		w := o.Waiting[at]
		failure := a.deliver(ctx, w.ID, o.limits(w.Urgent))
		wait := new(waitError)
		switch {
		case failure == nil:
			*failures = 0
			done.sent[w.ID] = w.Serial
		case errors.As(failure, &wait):
			*failures = 0
			o.learn(wait)
			o.Waiting[at].put(wait)
			done.post, done.edit = o.PostAfter, o.EditAfter
			done.waits[w.ID] = wait
			continue
		default:
			done.failed = append(done.failed, w.ID)
			if *failures++; *failures >= maxFailures {
				return when, failure
			}
		}
		o.Waiting = slices.Delete(o.Waiting, at, at+1)
	}
	return time.Time{}, nil
}

func newProgress() *progress {
	return &progress{sent: map[string]int64{}, waits: map[string]*waitError{}}
}

// timeLeft is how much time the invocation has.
func timeLeft(ctx context.Context) time.Duration {
	if deadline, limited := ctx.Deadline(); limited {
		return time.Until(deadline)
	}
	return time.Hour
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
