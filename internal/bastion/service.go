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
	// Notifier can be nil: then no notices are sent.
	Notifier Notifier

	Now  func() time.Time
	Rand io.Reader // ids come from here
	Log  *slog.Logger
}

// Caller is who makes a request, as the authenticated transport tells it.
type Caller struct {
	Owner   string     // prefixed; never taken from a request's body
	Admin   bool       // sees and closes everybody's bastions
	Address netip.Addr // where the request came from
}

// now is the present, in the form that records keep.
func (s *Service) now() time.Time { return s.Now().UTC().Round(0) }

// maxTries bounds how often an operation begins anew because another writer was
// first. Each time means that somebody else got something done.
const maxTries = 100

var errBusy = Errorf(CodeBusy, "Too many requests change this bastion at once. Try again.")

// Get answers one bastion of the caller's (an admin: of anybody's) and waits at
// most so long for it to be ready or over. It changes nothing.
// *Error: CodeNotFound.
func (s *Service) Get(ctx context.Context, caller Caller, id string, wait time.Duration) (Record, error) {
	rec, err := s.fetch(ctx, caller, id)
	if err != nil {
		return Record{}, err
	}
	return s.await(ctx, rec, DescribeSteps, wait, readyOrOver), nil
}

// List answers the caller's bastions (an admin: everybody's) that are not
// closed, oldest first, and waits as Get does for all of them.
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

// Extend moves the deadline to at least ttl from now; it never moves earlier.
// *Error: CodeNotFound, CodeNotOpen, CodeTTLInvalid, CodeTTLBeyondCap.
func (s *Service) Extend(ctx context.Context, caller Caller, id string, ttl, wait time.Duration) (Record, error) {
	caller.Admin = false // admins see and close; more time is for the owner to ask for
	rec, err := s.change(ctx, caller, id, func(next *Record) error {
		now := s.now()
		if !next.Intent.Open || !now.Before(next.Intent.Deadline) {
			return Errorf(CodeNotOpen, "The bastion %s is %s. Ask for a new one.", id, over(*next))
		}
		changed, err := next.extend(ttl, now)
		if changed {
			next.changed(now, s.Config.Timing)
		}
		return err
	})
	if err != nil {
		return Record{}, err
	}
	return s.await(ctx, rec, ExtendSteps, wait, readyOrOver), nil
}

// over is how a bastion that cannot be extended is described: its state, or
// expired while the reaper has not come by.
func over(rec Record) string {
	if rec.Intent.Open {
		return "expired"
	}
	return string(rec.State())
}

// Close changes the intent to closed, and waits at most so long until nothing
// is left. Closing what is closed already changes nothing.
// *Error: CodeNotFound.
func (s *Service) Close(ctx context.Context, caller Caller, id string, wait time.Duration) (Record, error) {
	rec, err := s.intendClosed(ctx, caller, id)
	if err != nil {
		return Record{}, err
	}
	return s.await(ctx, rec, DestroySteps, wait, finished), nil
}

// CloseAll closes every bastion of the caller's own, and waits as Close does. It
// answers all that were not finished when it was called.
func (s *Service) CloseAll(ctx context.Context, caller Caller, wait time.Duration) ([]Record, error) {
	recs, err := s.Records.ListByOwner(ctx, caller.Owner)
	if err != nil {
		return nil, err
	}
	var failed error
	for i, rec := range recs {
		closed, err := s.intendClosed(ctx, caller, rec.ID)
		if err != nil {
			failed = errors.Join(failed, err) // and the others all the same
			continue
		}
		recs[i] = closed
	}
	return s.awaitAll(ctx, recs, DestroySteps, wait, finished), failed
}

func (s *Service) intendClosed(ctx context.Context, caller Caller, id string) (Record, error) {
	return s.change(ctx, caller, id, func(next *Record) error {
		next.close(End{Reason: EndClosed, At: s.now()}, s.Config.Timing)
		return nil
	})
}

// fetch reads a bastion that the caller may see. Somebody else's is not found.
func (s *Service) fetch(ctx context.Context, caller Caller, id string) (Record, error) {
	rec, err := s.Records.Fetch(ctx, id)
	if errors.Is(err, ErrNotFound) || err == nil && rec.Owner != caller.Owner && !caller.Admin {
		return Record{}, Errorf(CodeNotFound, "There is no bastion %q of yours. GET /bastions lists those you have.", id)
	}
	return rec, err
}

// change applies an edit to a bastion of the caller's, however many others
// write it at the same time.
func (s *Service) change(ctx context.Context, caller Caller, id string, edit func(*Record) error) (Record, error) {
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

func readyOrOver(rec Record) bool {
	switch rec.State() {
	case Ready, Closed, Failed:
		return true
	}
	return false
}

// await takes the steps that may allows and looks again and again until done,
// or for at most so long. What goes wrong on the way is for the log: the intent
// is written, and the reaper goes on from it.
func (s *Service) await(ctx context.Context, rec Record, may Step, wait time.Duration, done func(Record) bool) Record {
	if may == DescribeSteps && wait <= 0 {
		return rec // it was only just read
	}
	until := s.now().Add(wait)
	for {
		latest, err := s.look(ctx, rec.ID, may)
		switch {
		case err != nil && ctx.Err() != nil:
			return rec
		case err != nil:
			s.Log.Warn("converge", "bastion", rec.ID, "error", err)
		default:
			rec = latest
		}
		left := until.Sub(s.now())
		if done(rec) || left <= 0 || sleep(ctx, min(s.Config.Timing.PollInterval, left)) != nil {
			return rec
		}
	}
}

func (s *Service) look(ctx context.Context, id string, may Step) (Record, error) {
	if may == DescribeSteps {
		return s.Records.Fetch(ctx, id)
	}
	return s.Converge(ctx, id, may)
}

// awaitAll awaits several, all within the same time.
func (s *Service) awaitAll(ctx context.Context, recs []Record, may Step, wait time.Duration, done func(Record) bool) []Record {
	until := s.now().Add(wait)
	for i, rec := range recs { // first a step for each, so that none waits for another's end
		recs[i] = s.await(ctx, rec, may, 0, done)
	}
	for i, rec := range recs {
		if left := until.Sub(s.now()); left > 0 && !done(rec) {
			recs[i] = s.await(ctx, rec, may, left, done)
		}
	}
	return recs
}

// sleep waits for d, or for the end of ctx, whose error it then answers.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
