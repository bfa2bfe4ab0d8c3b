package bastion

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Owners who asked for it are told what becomes of their bastions, and the record
// says what they were told last: whenever it calls for another notice, whoever may
// tell them does. A notice that is lost on the way is therefore told again, and
// nobody has to wait for anything to happen.

// Notice is what the owner of a bastion is told of it: as much as tells a person
// that something is different from before. A change of intent that a person does
// not see, such as a POST that asks for what there is, calls for no notice.
type Notice struct {
	State    State        `json:"state"`
	Stage    string       `json:"stage,omitempty"`
	Attempt  int          `json:"attempt,omitempty"`
	Source   netip.Prefix `json:"source,omitzero"`
	Deadline time.Time    `json:"deadline,omitzero"`
	Warning  bool         `json:"warning,omitempty"` // it is ready, and its deadline is near
}

func (n Notice) String() string {
	s := string(n.State)
	if n.Stage != "" {
		s += "/" + n.Stage
	}
	if n.Warning {
		s += ", warning"
	}
	return fmt.Sprintf("%s, attempt %d", s, n.Attempt)
}

const (
	// tellTimeout bounds one try to tell an owner. To hand a notice over takes
	// tens of milliseconds; whoever does not answer must not keep a converge from
	// what else there is to do.
	notifyTimeout = 2 * time.Second
	// tellFor is for how long after a bastion's end its owner is told of it, if
	// that fails again and again. Later they have long seen it for themselves.
	notifyFor = time.Hour
)

// notice is what the record calls for telling its owner.
func (r Record) notice(warn time.Duration, now time.Time) Notice {
	at, state := r.warnAt(warn), r.State()
	return Notice{
		State: state, Stage: r.Stage(), Attempt: r.Attempt.Number,
		Source: r.Intent.Source, Deadline: r.Intent.Deadline,
		Warning: state == Ready && !at.IsZero() && !now.Before(at),
	}
}

// warnAt is when the owner is to be warned of the deadline; zero for never. Who
// has just set a deadline that is so near needs no warning of it.
func (r Record) warnAt(warn time.Duration) time.Time {
	at := r.Intent.Deadline.Add(-warn)
	// A deadline is rounded up to a whole second.
	near := at.Sub(r.Intent.DeadlineSetAt) < time.Second
	if !r.Notify || !r.Intent.Open || warn <= 0 || near {
		return time.Time{}
	}
	return at
}

// tell wants the owner told what they do not know yet. It comes last: whether
// they know keeps nothing from being settled or finished.
//
// Each converge that may tells once. If that fails, the record is due again after
// as long as it has been failing for: not sooner than a bastion that is on its
// way, nor later than one that is ready would be looked at anyway.
func (d *decision) notify() {
	r := &d.next
	want := r.notice(d.cfg.WarnBefore, d.now)
	late := !r.FinishedAt.IsZero() && d.now.Sub(r.FinishedAt) >= notifyFor
	if late {
		r.NotifyPendingSince = time.Time{}
	}
	if !r.Notify || late || want == r.LastNotice && r.NotifyPendingSince.IsZero() {
		return
	}
	d.do(Action{Step: Notify, Notice: want})
	timing, failing := d.cfg.Timing, time.Duration(0)
	if !r.NotifyPendingSince.IsZero() {
		failing = d.now.Sub(r.NotifyPendingSince)
	}
	again := d.now.Add(min(max(failing, timing.WatchInterval), timing.CheckInterval))
	if r.DueAt.IsZero() || again.Before(r.DueAt) {
		r.DueAt = again
	}
}

// telling writes down that the owner is about to be told, before they are. Who then
// dies leaves a record that knows that nobody knows.
func (r *Record) markNotifying(notice Notice, version int64, now time.Time) {
	r.LastNotice, r.LastNoticeVersion = notice, version
	if r.NotifyPendingSince.IsZero() {
		r.NotifyPendingSince = now
	}
}

// absorbTold writes down that the owner has been told, unless somebody else has
// begun to tell them something since.
func (d *decision) absorbNotified() {
	if d.seen.NotifiedVersion > 0 && d.seen.NotifiedVersion == d.next.LastNoticeVersion {
		d.next.NotifyPendingSince = time.Time{}
	}
}

// tell tells the owner. That it failed is for the log: nothing else depends on it.
func (c *converge) notify(ctx context.Context, rec Record, notice Notice) {
	if c.Notifier == nil {
		c.notifiedVersion = rec.Version
		return
	}
	ctx, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	if err := c.Notifier.Notify(ctx, rec, notice); err != nil {
		c.notifyFailed = true
		c.Log.Warn("notice", "bastion", rec.ID, "owner", rec.Owner, "notice", notice.String(), "error", err)
		return
	}
	c.notifiedVersion = rec.Version
}
