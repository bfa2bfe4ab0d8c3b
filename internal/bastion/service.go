package bastion

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"time"
)

// Service is the control plane: the operations that people and schedules call.
type Service struct {
	Config  Config
	Records Records
	DueList DueList
	Keys    RememberedKeys
	Marks   OrphanMarks
	Groups  Groups
	Tasks   Tasks
	Leases  Leases
	// Notifier sends the notices. If it is nil, no notices are sent.
	Notifier Notifier

	Now  func() time.Time
	Rand io.Reader // for IDs
	Log  *slog.Logger
}

// Caller is the caller of an operation, as the authenticated transport identifies
// it.
type Caller struct {
	Owner   string     // see ValidOwner; never taken from a request's body
	Admin   bool       // may see and close the bastions of all owners
	Address netip.Addr // the address that the request came from
}

// now returns the current time in the form that records store: in UTC, without a
// monotonic clock reading.
func (s *Service) now() time.Time { return s.Now().UTC().Round(0) }

// maxTries limits how often an operation starts over because another writer was
// first.
const maxTries = 100

var errBusy = Errorf(CodeBusy, "Too many concurrent changes to this bastion. Try again.")

// Get returns a bastion that the caller may see. It waits until the bastion is
// ready, closed or failed, but not longer than wait. It changes nothing.
// *Error: CodeNotFound.
func (s *Service) Get(ctx context.Context, caller Caller, id string, wait time.Duration) (Record, error) {
	rec, err := s.fetch(ctx, caller, id)
	if err != nil {
		return Record{}, err
	}
	return s.await(ctx, rec, DescribeSteps, wait, readyOrOver), nil
}

// List returns the caller's bastions that are not finished, oldest first. For an
// admin it returns those of all owners. It waits as Get does, for all of them.
func (s *Service) List(ctx context.Context, caller Caller, wait time.Duration) ([]Record, error) {
	var recs []Record
	var err error
	if caller.Admin {
		recs, err = s.Records.List(ctx)
	} else {
		recs, err = s.Records.ListByOwner(ctx, caller.Owner)
	}
	if err != nil {
		return nil, err
	}
	return s.awaitAll(ctx, recs, DescribeSteps, wait, readyOrOver), nil
}

// Extend moves the deadline to now + ttl, unless the deadline is later already. It
// waits as Get does.
// *Error: CodeNotFound, CodeNotOpen, CodeTTLInvalid, CodeTTLBeyondCap.
func (s *Service) Extend(ctx context.Context, caller Caller, id string, ttl, wait time.Duration) (Record, error) {
	caller.Admin = false // an admin can see and close a bastion, but only its owner can extend it
	rec, err := s.update(ctx, caller, id, func(next *Record) error {
		now := s.now()
		expired := !now.Before(next.Intent.Deadline)
		if !next.Intent.Open || expired {
			state := string(next.State())
			if next.Intent.Open {
				state = "expired"
			}
			return Errorf(CodeNotOpen, "The bastion %s is %s. Start a new one.", id, state)
		}
		changed, err := next.extend(ttl, now)
		if changed {
			next.intentChanged(now, s.Config.Timing)
		}
		return err
	})
	if err != nil {
		return Record{}, err
	}
	return s.await(ctx, rec, ExtendSteps, wait, readyOrOver), nil
}

// Close changes the intent to closed. It waits until nothing of the bastion is left
// in the cloud, but not longer than wait. If the intent is closed already, Close only
// waits. *Error: CodeNotFound.
func (s *Service) Close(ctx context.Context, caller Caller, id string, wait time.Duration) (Record, error) {
	rec, err := s.closeIntent(ctx, caller, id)
	if err != nil {
		return Record{}, err
	}
	return s.await(ctx, rec, DestroySteps, wait, finished), nil
}

// CloseAll closes all of the caller's own bastions, and waits as Close does. It
// returns every bastion that was not finished when CloseAll was called. An error for
// one bastion does not keep CloseAll from closing the others.
func (s *Service) CloseAll(ctx context.Context, caller Caller, wait time.Duration) ([]Record, error) {
	recs, err := s.Records.ListByOwner(ctx, caller.Owner)
	if err != nil {
		return nil, err
	}
	var failed error
	for i, rec := range recs {
		closed, err := s.closeIntent(ctx, caller, rec.ID)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		recs[i] = closed
	}
	return s.awaitAll(ctx, recs, DestroySteps, wait, finished), failed
}

func (s *Service) closeIntent(ctx context.Context, caller Caller, id string) (Record, error) {
	return s.update(ctx, caller, id, func(next *Record) error {
		next.close(End{Reason: EndClosed, At: s.now()}, s.Config.Timing)
		return nil
	})
}

// fetch returns a bastion that the caller may see. For any other bastion it returns
// CodeNotFound.
func (s *Service) fetch(ctx context.Context, caller Caller, id string) (Record, error) {
	rec, err := s.Records.Fetch(ctx, id)
	if errors.Is(err, ErrNotFound) || err == nil && rec.Owner != caller.Owner && !caller.Admin {
		return Record{}, NotFoundError(id)
	}
	return rec, err
}

// NotFoundError returns the error for a bastion that does not exist or that belongs
// to another owner.
func NotFoundError(id string) *Error {
	return Errorf(CodeNotFound, "You have no bastion %s. GET /bastions lists yours.", QuoteShort(id))
}

// update applies edit to the record of a bastion that the caller may see. If another
// writer changes the record meanwhile, update starts over.
func (s *Service) update(ctx context.Context, caller Caller, id string, edit func(*Record) error) (Record, error) {
	for range maxTries {
		rec, err := s.fetch(ctx, caller, id)
		if err != nil {
			return Record{}, err
		}
		next := rec
		if err := edit(&next); err != nil {
			return Record{}, err
		}
		saved, err := s.save(ctx, rec, next)
		if !errors.Is(err, ErrConflict) {
			return saved, err
		}
	}
	return Record{}, errBusy
}

func finished(rec Record) bool { return !rec.FinishedAt.IsZero() }

// readyOrOver reports whether the bastion is ready, closed or failed.
func readyOrOver(rec Record) bool {
	switch rec.State() {
	case Ready, Closed, Failed:
		return true
	}
	return false
}

// await converges the bastion repeatedly with the allowed steps, and returns the
// latest record. It ends when done returns true, or after the duration wait. Errors
// are only logged: the intent is stored, so the reaper completes the change.
//
// A caller that converges gets a record that is ready only if one of its own converges saw
// the bastion ready. A caller that only reads gets the stored state.
func (s *Service) await(ctx context.Context, rec Record, allowed Step, wait time.Duration, done func(Record) bool) Record {
	if allowed == DescribeSteps && wait <= 0 {
		return rec // the caller has just read it
	}
	began := s.now()
	until := began.Add(wait)
	for {
		latest, err := s.refresh(ctx, rec.ID, allowed)
		switch {
		case ctx.Err() != nil || err == nil:
		case errors.Is(err, ErrNoTime):
			s.Log.Info("no time left", "bastions", 1)
		default:
			s.Log.Warn("converge failed", "bastion", rec.ID, "error", err)
		}
		if latest.ID != "" {
			rec = latest
		}
		if allowed != DescribeSteps && rec.SeenAt.Before(began) {
			rec.SeenAt = time.Time{} // seen by an earlier converge
		}
		if ctx.Err() != nil {
			return rec
		}
		left := until.Sub(s.now())
		if done(rec) || left <= 0 || Sleep(ctx, min(s.Config.Timing.PollInterval, left)) != nil {
			return rec
		}
	}
}

// refresh returns the latest record. If any step is allowed, it first converges the
// bastion.
func (s *Service) refresh(ctx context.Context, id string, allowed Step) (Record, error) {
	if allowed == DescribeSteps {
		return s.Records.Fetch(ctx, id)
	}
	return s.Converge(ctx, id, allowed)
}

// awaitAll calls await for several bastions. The duration wait is for all of them
// together. awaitAll first converges each bastion once, so that no bastion has to wait
// for another one.
func (s *Service) awaitAll(ctx context.Context, recs []Record, allowed Step, wait time.Duration, done func(Record) bool) []Record {
	until := s.now().Add(wait)
	for i, rec := range recs {
		recs[i] = s.await(ctx, rec, allowed, 0, done)
	}
	for i, rec := range recs {
		if left := until.Sub(s.now()); left > 0 && !done(rec) {
			recs[i] = s.await(ctx, rec, allowed, left, done)
		}
	}
	return recs
}
