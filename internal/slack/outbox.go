package slack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// This file keeps to the rate limits of Slack's Web API. chat.postMessage accepts one
// message a second for a channel, chat.update about fifty a minute for a workspace.
// Beyond that, Slack replies 429 with the time to wait. See
// https://docs.slack.dev/apis/web-api/rate-limits/.
//
// If a message must wait, its delivery puts the bastion into the workspace's outbox and
// ends. One job for each workspace, [JobSend], sends the messages of the outbox: ready,
// warnings and receipts before status messages. The outbox contains the IDs of bastions
// instead of messages, so the job sends what the newest notice requires at that time.

// outbox is the stored list of a workspace's bastions whose messages must wait.
type outbox struct {
	// Slack accepts no new message before PostAfter and no edit before EditAfter.
	PostAfter time.Time `json:"post_after,omitzero"`
	EditAfter time.Time `json:"edit_after,omitzero"`

	Waiting []waiting `json:"waiting,omitempty"`
	Serial  int64     `json:"serial,omitempty"` // the number of additions so far

	// Holder is the At of the job that sends. Other jobs do not touch the outbox before
	// HeldUntil.
	Holder    time.Time `json:"holder,omitzero"`
	HeldUntil time.Time `json:"held_until,omitzero"`
}

// waiting is a bastion with a message that must wait.
type waiting struct {
	ID     string    `json:"id"`
	Urgent bool      `json:"urgent,omitempty"`
	Edit   bool      `json:"edit,omitempty"` // the next message is an edit
	After  time.Time `json:"after,omitzero"` // if another delivery is sending, the time until which this entry waits
	Serial int64     `json:"serial"`         // the outbox's Serial at the latest addition of this bastion
	Since  time.Time `json:"since"`
}

const (
	maxWaiting = 3000          // an item of DynamoDB has 400 KB
	maxWait    = 6 * time.Hour // after which a message that waits is dropped
	outboxLife = 24 * time.Hour

	// A new job must begin within holdStart, and then store the outbox at least once in
	// holdTime. Otherwise another job takes over.
	holdStart = 10 * time.Second
	holdTime  = 30 * time.Second

	// lookAgain is the time after which the job reads the outbox again, to find new
	// entries. The job ends reservedTime before its invocation does, so that it can
	// enqueue the next job.
	lookAgain    = 5 * time.Second
	reservedTime = 15 * time.Second

	maxFailures = 3 // after so many in a row, the job returns an error, so it runs again later
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

// limits are the times before which Slack accepts no new message and no edit.
type limits struct {
	post, edit time.Time
	urgentOnly bool // status messages must wait
}

func (o outbox) limits(urgentOnly bool) limits { return limits{o.PostAfter, o.EditAfter, urgentOnly} }

// wait returns an error if a message must wait, and nil if it can be sent now.
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

// updateLimits records the time until which a message must wait.
func (o *outbox) updateLimits(wait *waitError) {
	switch {
	case wait.busy:
	case wait.edit:
		o.EditAfter = bastion.Later(o.EditAfter, wait.until)
	default:
		o.PostAfter = bastion.Later(o.PostAfter, wait.until)
	}
}

// setWait records why and until when a bastion's message must wait.
func (w *waiting) setWait(wait *waitError) {
	if wait.busy {
		w.After = wait.until
		return
	}
	w.Urgent, w.Edit, w.After = wait.urgent, wait.edit, time.Time{}
}

// putOff puts a bastion into its workspace's outbox. If no job holds the outbox, it
// enqueues one.
func (a *App) putOff(ctx context.Context, team, id string, wait *waitError) error {
	var start bool
	o, err := edit(ctx, a, outboxKey(team), func(o *outbox) (time.Time, error) {
		now := a.Now()
		o.updateLimits(wait)
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
		w.setWait(wait)
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

// hold stores the progress of a job in the outbox, and reserves the outbox until the given
// time. If another job holds the outbox, hold changes nothing.
//
// The arguments job and next are the At of jobs. The reservation is for the job next: the
// same job, or the job that continues its work. If next is zero, or if no entry is left,
// hold releases the outbox instead.
//
// If the same job continues without progress because all entries must wait, hold writes
// only when less than half of holdTime is left of the reservation.
//
// hold returns the outbox. It reports held if no other job held the outbox and an entry is
// left.
func (a *App) hold(ctx context.Context, team string, job time.Time, done *progress, next, until time.Time) (o outbox, held bool, err error) {
	o, err = edit(ctx, a, outboxKey(team), func(o *outbox) (time.Time, error) {
		now := a.Now()
		if held = o.Holder.Equal(job) || !now.Before(o.HeldUntil); !held {
			return time.Time{}, errKeep
		}
		dropped := done.applyTo(o, now)
		for _, id := range dropped {
			a.Log.ErrorContext(ctx, "message dropped: Slack did not accept it in time", "bastion", id, "team", team)
		}
		at, _ := o.pick(now)
		idle := done.empty() && len(dropped) == 0 && len(o.Waiting) > 0 && at < 0
		if idle && o.Holder.Equal(next) && o.HeldUntil.Sub(now) > holdTime/2 {
			return time.Time{}, errKeep
		}
		o.Holder, o.HeldUntil = next, until
		if held = len(o.Waiting) > 0; !held {
			o.Holder, o.HeldUntil = time.Time{}, time.Time{}
		}
		return now.Add(outboxLife), nil
	})
	return o, held && err == nil, err
}

// progress contains the results of a job since it last stored the outbox. The maps have
// the IDs of bastions as keys.
type progress struct {
	limits                       // as this job has learned them from Slack
	sent   map[string]int64      // the serials of entries whose messages were sent
	waits  map[string]*waitError // of entries that must wait longer
	failed []string              // IDs of entries that failed, oldest first
}

// empty reports whether there is nothing to store.
func (p *progress) empty() bool { return len(p.sent)+len(p.waits)+len(p.failed) == 0 }

// applyTo changes the outbox by this progress. It drops entries that are older than
// maxWait, and returns their IDs.
func (p *progress) applyTo(o *outbox, now time.Time) (dropped []string) {
	o.PostAfter, o.EditAfter = bastion.Later(o.PostAfter, p.post), bastion.Later(o.EditAfter, p.edit)
	o.Waiting = slices.DeleteFunc(o.Waiting, func(w waiting) bool {
		if serial, ok := p.sent[w.ID]; ok && serial == w.Serial {
			return true // an entry that was added again since has another serial
		}
		if now.Sub(w.Since) > maxWait {
			dropped = append(dropped, w.ID)
			return true
		}
		return false
	})
	for i := range o.Waiting {
		if wait := p.waits[o.Waiting[i].ID]; wait != nil {
			o.Waiting[i].setWait(wait)
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

// pick returns the index of the next entry to send. If all must wait, it returns -1 and
// the time at which the first one may be sent.
func (o outbox) pick(now time.Time) (at int, when time.Time) {
	at = -1
	for i, w := range o.Waiting {
		until := o.PostAfter
		if w.Edit {
			until = o.EditAfter
		}
		if until = bastion.Later(until, w.After); now.Before(until) {
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

// sendWaiting sends the messages of a workspace's outbox, and waits when Slack's limits
// require it. Before the time of the invocation ends, it enqueues a job that continues.
// If it returns an error, the job must run again.
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
		case timeLeft(ctx) < reservedTime:
			next := a.Now().UTC()
			if _, held, err := a.hold(ctx, job.Team, job.At, done, next, next.Add(holdStart)); err != nil || !held {
				return err
			}
			return a.enqueue(ctx, Job{Action: JobSend, Team: job.Team, At: next})
		}
		if pause := when.Sub(a.Now()); pause > 0 {
			if err := bastion.Sleep(ctx, min(pause, lookAgain, timeLeft(ctx)-reservedTime+time.Second)); err != nil {
				return err
			}
		}
	}
}

// sendBatch sends messages until all must wait, or until lookAgain has passed. It returns
// the time at which the next message may be sent.
func (a *App) sendBatch(ctx context.Context, o *outbox, done *progress, failures *int) (time.Time, error) {
	for begun := a.Now(); a.Now().Sub(begun) < lookAgain && timeLeft(ctx) >= reservedTime; {
		at, when := o.pick(a.Now())
		if at < 0 {
			return when, nil
		}
		w := o.Waiting[at]
		// An urgent entry sends only its urgent messages now. Its status message waits until
		// the urgent messages of other entries are sent.
		failure := a.deliver(ctx, w.ID, o.limits(w.Urgent))
		wait := new(waitError)
		switch {
		case failure == nil:
			*failures = 0
			done.sent[w.ID] = w.Serial
		case errors.As(failure, &wait):
			*failures = 0
			o.updateLimits(wait)
			o.Waiting[at].setWait(wait)
			done.post, done.edit = o.PostAfter, o.EditAfter
			done.waits[w.ID] = wait
			continue
		default:
			done.failed = append(done.failed, w.ID)
			if *failures++; *failures >= maxFailures {
				return time.Time{}, failure
			}
		}
		o.Waiting = slices.Delete(o.Waiting, at, at+1)
	}
	return time.Time{}, nil
}

func newProgress() *progress {
	return &progress{sent: map[string]int64{}, waits: map[string]*waitError{}}
}

// timeLeft returns the time until the invocation ends; one hour if it has no end.
func timeLeft(ctx context.Context) time.Duration {
	if deadline, limited := ctx.Deadline(); limited {
		return time.Until(deadline)
	}
	return time.Hour
}
