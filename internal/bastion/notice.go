package bastion

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"time"
)

// If Record.Notify is set, the owner receives a notice of each change that they can
// see. The record holds the latest notice. If the state of the bastion leads to
// another notice, a converge of the reaper or the observer stores and sends the new
// one. A notice that could not be sent is sent again by a later converge, and no
// request waits for a delivery.

// Notice holds the part of a bastion's state that its owner is notified of. A change
// of intent that a person does not see, such as a POST that repeats the previous one,
// does not change the notice.
type Notice struct {
	State    State        `json:"state"`
	Stage    string       `json:"stage,omitempty"`
	Failure  FailureCode  `json:"failure,omitempty"` // the code of Record.Refusal
	Attempt  int          `json:"attempt,omitempty"`
	Source   netip.Prefix `json:"source,omitzero"`
	Access   string       `json:"access,omitempty"` // see accessHash; only compared, to find out whether keys or sources have changed
	Deadline time.Time    `json:"deadline,omitzero"`
	Warning  bool         `json:"warning,omitempty"` // the bastion is ready and its deadline is near
}

// String returns the notice's state, stage, refusal, warning and attempt, for logs and tests.
func (n Notice) String() string {
	s := string(n.State)
	if n.Stage != "" {
		s += "/" + n.Stage
	}
	if n.Failure != "" {
		s += ", refused (" + string(n.Failure) + ")"
	}
	if n.Warning {
		s += ", warning"
	}
	return fmt.Sprintf("%s, attempt %d", s, n.Attempt)
}

const (
	// notifyTimeout limits one call of the notifier. A call takes tens of
	// milliseconds; a notifier that hangs must not keep a converge from its other
	// actions.
	notifyTimeout = 2 * time.Second
	// notifyFor is how long after FinishedAt a converge still sends notices.
	notifyFor = time.Hour
)

// notice returns the notice that follows from the record.
func (r Record) notice(warnBefore time.Duration, now time.Time) Notice {
	at, state := r.warnAt(warnBefore), r.State()
	return Notice{
		State: state, Stage: r.Stage(), Failure: r.Refusal().Code, Attempt: r.Attempt.Number,
		Source: r.Intent.Source, Access: r.Intent.accessHash(), Deadline: r.Intent.Deadline,
		Warning: state == Ready && !at.IsZero() && !now.Before(at),
	}
}

// accessHash returns a hash of the keys and their sources. It is empty for one key with one
// source, because the notices of earlier versions have none.
func (i Intent) accessHash() string {
	all := i.Admissions()
	if len(all) <= 1 && len(i.Sources()) <= 1 {
		return ""
	}
	h := sha256.New()
	for _, a := range all {
		fmt.Fprintln(h, a.Key, a.Sources)
	}
	return base64.RawStdEncoding.EncodeToString(h.Sum(nil)[:12])
}

// warnAt returns when to warn the owner of the deadline, or zero for never. For a
// deadline that was at most warnBefore away when it was set, there is no warning.
func (r Record) warnAt(warnBefore time.Duration) time.Time {
	at := r.Intent.Deadline.Add(-warnBefore)
	near := at.Sub(r.Intent.DeadlineSetAt) < time.Second // < time.Second and not <= 0, because deadlines are rounded up to a whole second
	if !r.Notify || !r.Intent.Open || warnBefore <= 0 || near {
		return time.Time{}
	}
	return at
}

// notify adds the action that sends the owner a notice, if the current notice was
// not sent or the last try is not confirmed. Decide calls it last, so that a pending
// notice does not delay settling or finishing.
//
// If the try fails, the record becomes due again after a pause. The pause is as long
// as notices have been pending, but at least WatchInterval and at most CheckInterval.
func (d *decision) notify() {
	r := &d.next
	want := r.notice(d.cfg.WarnBefore, d.now)
	tooLate := !r.FinishedAt.IsZero() && d.now.Sub(r.FinishedAt) >= notifyFor
	if tooLate {
		r.NotifyPendingSince = time.Time{}
	}
	if !r.Notify || tooLate || want == r.LastNotice && r.NotifyPendingSince.IsZero() {
		return
	}
	d.add(Action{Step: Notify, Notice: want})
	timing, pending := d.cfg.Timing, time.Duration(0)
	if !r.NotifyPendingSince.IsZero() {
		pending = d.now.Sub(r.NotifyPendingSince)
	}
	again := d.now.Add(min(max(pending, timing.WatchInterval), timing.CheckInterval))
	if r.DueAt.IsZero() || again.Before(r.DueAt) {
		r.DueAt = again
	}
}

// markNotifying stores the notice before it is sent. If the process dies in
// between, the next converge sends it again.
func (r *Record) markNotifying(notice Notice, version int64, now time.Time) {
	r.LastNotice, r.LastNoticeVersion = notice, version
	if r.NotifyPendingSince.IsZero() {
		r.NotifyPendingSince = now
	}
}

// recordNotified records that the notice was sent, unless another converge has
// stored a newer notice since.
func (d *decision) recordNotified() {
	if d.seen.NotifiedVersion > 0 && d.seen.NotifiedVersion == d.next.LastNoticeVersion {
		d.next.NotifyPendingSince = time.Time{}
	}
}

// notify sends the notice. A failure is only logged, because nothing else depends
// on it.
func (c *converge) notify(ctx context.Context, rec Record, notice Notice) {
	if c.Notifier == nil {
		c.notifiedVersion = rec.Version
		return
	}
	ctx, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	if err := c.Notifier.Notify(ctx, rec, notice); err != nil {
		c.notifyFailed = true
		c.Log.Warn("notice not sent", "bastion", rec.ID, "owner", rec.Owner, "notice", notice.String(), "error", err)
		return
	}
	c.notifiedVersion = rec.Version
}
