package bastion

import (
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// CreateRequest is a request for the caller's bastion with the given name.
type CreateRequest struct {
	Caller Caller
	Name   string         // empty: "default"
	Key    Key            // empty: the key of the open bastion, or else the owner's remembered key
	TTL    *time.Duration // nil: the operator's default
	Reason string         // see CleanReason
	Source netip.Prefix   // zero: the caller's address
	Wait   time.Duration  // return when the bastion is ready, or after this time
	Notify bool           // send notices to the owner
}

// Create returns the caller's bastion with the requested name. If no open bastion has
// this name, Create creates a bastion and returns created as true. If there is such a
// bastion, Create moves its source to that of the request, replaces its key if the
// request has another one, and extends its deadline. Create then waits as Get does. If
// a part of the request is invalid, nothing is written.
//
// *Error: CodeNameInvalid, CodeReasonInvalid, CodeTTLInvalid, CodeTTLBeyondCap (more
// than MaxTTL), CodeSourceInvalid, CodeSourceNotAllowed, CodeSourceRequired,
// CodeSourceFamily, CodeKeyRequired, CodeQuotaOwner, CodeQuotaTotal, CodeBusy.
func (s *Service) Create(ctx context.Context, req CreateRequest) (rec Record, created bool, err error) {
	if err := s.check(&req); err != nil {
		return Record{}, false, err
	}
	for range maxTries {
		rec, created, err = s.writeIntent(ctx, req)
		if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNameTaken) {
			break
		}
		err = errBusy
	}
	if err != nil {
		return Record{}, false, err
	}
	if req.Key != "" {
		if err := s.Keys.RememberKey(ctx, rec.Owner, req.Key); err != nil {
			s.Log.Warn("key not remembered", "owner", rec.Owner, "error", err)
		}
	}
	return s.await(ctx, rec, CreateSteps, req.Wait, readyOrOver), created, nil
}

// check refuses an invalid request, and fills in the default name and the source.
func (s *Service) check(req *CreateRequest) error {
	if req.Name == "" {
		req.Name = "default"
	}
	if !ValidName(req.Name) {
		return Errorf(CodeNameInvalid, "The name %s is not valid. A name has 1 to 32 characters from a-z, 0-9 and -, and begins and ends with a letter or digit.", QuoteShort(req.Name))
	}
	var err error
	if req.Reason, err = CleanReason(req.Reason); err != nil {
		return err
	}
	if req.TTL != nil {
		if err := checkTTL(*req.TTL); err != nil {
			return err
		}
		if *req.TTL > s.Config.MaxTTL {
			return Errorf(CodeTTLBeyondCap, "Bastions can run for at most %s; a ttl of %s exceeds that.", FormatTTL(s.Config.MaxTTL), FormatTTL(*req.TTL))
		}
	}
	return s.checkSource(req)
}

// checkSource refuses a source that a bastion cannot admit. If the request names no
// source, checkSource sets it to the caller's address.
func (s *Service) checkSource(req *CreateRequest) error {
	if req.Source.IsValid() {
		if !req.Source.IsSingleIP() || req.Source.Addr().Is4In6() || !usable(req.Source.Addr()) {
			return Errorf(CodeSourceInvalid, "The source %s is not valid. A source is the one address you connect from, such as 203.0.113.7 or 2001:db8::7.", req.Source)
		}
		if !s.mayName(req.Source.Addr()) {
			return s.sourceNotAllowed(req.Source.Addr())
		}
	} else if s.Config.RequireSource {
		return Errorf(CodeSourceRequired, "These bastions have no public address. Name the private address that you connect from, in \"source\".")
	} else {
		addr := req.Caller.Address.Unmap()
		if !usable(addr) {
			return Errorf(CodeSourceInvalid, "You connected from the address %s, which a bastion cannot admit. Connect from another address.", addr)
		}
		req.Source = netip.PrefixFrom(addr, addr.BitLen())
	}
	switch v4 := req.Source.Addr().Is4(); {
	case v4 && !s.Config.IPv4:
		return Errorf(CodeSourceFamily, "Your source %s is an IPv4 address, but bastions here only have IPv6 addresses. Use an IPv6 source, for example by connecting with curl -6.", req.Source.Addr())
	case !v4 && !s.Config.IPv6:
		return Errorf(CodeSourceFamily, "Your source %s is an IPv6 address, but bastions here only have IPv4 addresses. Use an IPv4 source, for example by connecting with curl -4.", req.Source.Addr())
	}
	return nil
}

// sourceNotAllowed returns the error for a source that callers may not name.
func (s *Service) sourceNotAllowed(source netip.Addr) error {
	next := "Leave it out to use the address you connect from."
	if s.Config.RequireSource {
		next = "Name another one, or ask your operator to allow it."
	}
	return Errorf(CodeSourceNotAllowed, "The operator does not allow you to name the source %s. %s", source, next)
}

// usable reports whether a rule of a group can admit the address.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a.Zone() == ""
}

// mayName reports whether the operator allows callers to name the source.
func (s *Service) mayName(a netip.Addr) bool {
	for _, p := range s.Config.SourceOverride {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// writeIntent writes the intent of the request into the record of the open bastion,
// or into a new record. ErrConflict, ErrNameTaken: another writer was first, and the
// caller must start over.
func (s *Service) writeIntent(ctx context.Context, req CreateRequest) (rec Record, created bool, err error) {
	rec, err = s.Records.FetchByName(ctx, req.Caller.Owner, req.Name)
	switch {
	case errors.Is(err, ErrNotFound):
		rec, err = s.createRecord(ctx, req)
		return rec, true, err
	case err != nil:
		return Record{}, false, err
	case !s.now().Before(rec.Intent.Deadline):
		// The bastion has expired, but the reaper has not closed it yet. Closing it
		// releases its name.
		next := rec
		next.close(End{Reason: EndDeadline, At: s.now()}, s.Config.Timing)
		if _, err := s.save(ctx, rec, next); err != nil {
			return Record{}, false, err
		}
		return Record{}, false, ErrConflict
	}
	next := rec
	s.renew(&next, req)
	rec, err = s.save(ctx, rec, next)
	return rec, false, err
}

// renew changes the intent of an open bastion to that of the request.
func (s *Service) renew(next *Record, req CreateRequest) {
	now, changed := s.now(), false
	if next.Intent.Source != req.Source {
		next.Intent.Source, changed = req.Source, true
	}
	if req.Key != "" && (len(next.Intent.Keys) != 1 || next.Intent.Keys[0] != req.Key) {
		next.Intent.Keys, changed = []Key{req.Key}, true
	}
	if req.Reason != "" {
		next.Intent.Reason = req.Reason // not part of the lease
	}
	next.Notify = next.Notify || req.Notify
	ttl := s.Config.DefaultTTL
	if req.TTL != nil {
		ttl = *req.TTL
	}
	// A deadline beyond LatestDeadline is lowered instead of refused, so that a
	// repeat of the first request does not fail only because time has passed.
	deadline := Earlier(wholeSecond(now.Add(ttl)), next.LatestDeadline)
	if deadline.After(next.Intent.Deadline) {
		next.Intent.Deadline, next.Intent.DeadlineSetAt, changed = deadline, now, true
	}
	// Each request must restart the task's idle timeout. A task restarts it only when it
	// reads a lease with a higher generation. So even a request that changes nothing
	// raises the generation, but at most once in a second. In a settled record,
	// UnsettledUntil is zero, so lastChange is long ago.
	lastChange := next.UnsettledUntil.Add(-s.Config.Timing.Settle)
	if changed || s.Config.IdleTimeout > 0 && now.Sub(lastChange) >= time.Second {
		next.intentChanged(now, s.Config.Timing)
	}
}

// createRecord writes the record of a new bastion.
func (s *Service) createRecord(ctx context.Context, req CreateRequest) (Record, error) {
	key, err := s.keyFor(ctx, req)
	if err != nil {
		return Record{}, err
	}
	id, err := s.newID()
	if err != nil {
		return Record{}, err
	}
	ttl := min(s.Config.DefaultTTL, s.Config.MaxTTL)
	if req.TTL != nil {
		ttl = *req.TTL
	}
	now := s.now()
	rec := Record{
		ID: id, Owner: req.Caller.Owner, Name: req.Name,
		CreatedAt:      now,
		LatestDeadline: wholeSecond(now.Add(s.Config.MaxTTL)),
		Intent: Intent{
			Open: true, Source: req.Source, Keys: []Key{key}, Reason: req.Reason,
			Deadline: wholeSecond(now.Add(ttl)), DeadlineSetAt: now,
		},
		Notify:  req.Notify,
		Version: 1,
	}
	rec.intentChanged(now, s.Config.Timing)
	err = s.Records.Create(ctx, rec, s.Config.Quota)
	switch {
	case errors.Is(err, ErrQuotaOwner):
		return Record{}, Errorf(CodeQuotaOwner, "You have %d bastions open, the maximum per owner. Close one first.", s.Config.Quota.PerOwner)
	case errors.Is(err, ErrQuotaTotal):
		return Record{}, Errorf(CodeQuotaTotal, "All %d bastions of this stack are in use. Try again when one has closed, or ask your operator to raise the limit.", s.Config.Quota.Total)
	case err != nil:
		return Record{}, err
	}
	s.logChange(Record{}, rec)
	return rec, nil
}

// keyFor returns the key of the request, or else the owner's remembered key.
// *Error: CodeKeyRequired.
func (s *Service) keyFor(ctx context.Context, req CreateRequest) (Key, error) {
	if req.Key != "" {
		return req.Key, nil
	}
	key, err := s.Keys.RememberedKey(ctx, req.Caller.Owner)
	if errors.Is(err, ErrNotFound) {
		return "", Errorf(CodeKeyRequired, "No public key was sent and none is stored for you. Send yours as the body: curl --data-binary @\"$HOME/.ssh/id_ed25519.pub\" (check that the file exists; the shell doesn't expand ~ after @).")
	}
	return key, err
}

// newID returns 80 random bits as an ID; see ValidID.
func (s *Service) newID() (string, error) {
	var b [10]byte
	if _, err := io.ReadFull(s.Rand, b[:]); err != nil {
		return "", fmt.Errorf("make an ID: %w", err)
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:])), nil
}
