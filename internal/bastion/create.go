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

// CreateRequest asks for the caller's bastion of a name.
type CreateRequest struct {
	Caller Caller
	Name   string         // empty: "default"
	Key    Key            // empty: the running bastion's, or the remembered one
	TTL    *time.Duration // nil: the operator's default
	Reason string         // at most 200 characters
	Source netip.Prefix   // zero: the caller's address
	Wait   time.Duration  // hold the answer until ready, or for this long
	Notify bool           // its owner is told what becomes of it
}

// Create answers the caller's bastion of that name: a new one, or the one that
// is open, with its ingress moved to the caller's present source, a given key in
// place of the old and its deadline renewed. created says which. It then waits
// as Get does. Nothing is written unless the whole request is right.
//
// *Error: CodeNameInvalid, CodeReasonInvalid, CodeTTLInvalid, CodeSource…,
// CodeTTLBeyondCap (longer than any bastion may live), CodeKeyRequired, CodeQuotaOwner, CodeQuotaTotal, CodeBusy.
func (s *Service) Create(ctx context.Context, req CreateRequest) (rec Record, created bool, err error) {
	if err := s.check(&req); err != nil {
		return Record{}, false, err
	}
	for range maxTries {
		rec, created, err = s.intend(ctx, req)
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
			s.Log.Warn("remember key", "owner", rec.Owner, "error", err)
		}
	}
	return s.await(ctx, rec, CreateSteps, req.Wait, readyOrOver), created, nil
}

// check refuses a malformed request and fills in what follows from the caller.
func (s *Service) check(req *CreateRequest) error {
	if req.Name == "" {
		req.Name = "default"
	}
	if !ValidName(req.Name) {
		return Errorf(CodeNameInvalid, "A name is 1 to 32 characters from a-z, 0-9 and -, and begins and ends with a letter or digit; %s is not.", quoteShort(req.Name))
	}
	var err error
	if req.Reason, err = CleanReason(req.Reason); err != nil {
		return err
	}
	if req.TTL == nil {
		return s.checkSource(req)
	}
	if err := checkTTL(*req.TTL); err != nil {
		return err
	}
	if *req.TTL > s.Config.MaxTTL {
		return Errorf(CodeTTLBeyondCap, "Bastions can run for at most %s; a ttl of %s exceeds that.", FormatTTL(s.Config.MaxTTL), FormatTTL(*req.TTL))
	}
	return s.checkSource(req)
}

// checkSource settles whom the group will admit.
func (s *Service) checkSource(req *CreateRequest) error {
	if req.Source.IsValid() {
		if !isHost(req.Source) || !usable(req.Source.Addr()) {
			return Errorf(CodeSourceInvalid, "A source is the one address you connect from, such as 203.0.113.7 or 2001:db8::7; %s is not.", req.Source)
		}
		if !s.mayName(req.Source.Addr()) {
			return Errorf(CodeSourceNotAllowed, "The operator does not allow you to name the source %s. Leave it out, and the address you call from is used.", req.Source.Addr())
		}
	} else if s.Config.RequireSource {
		return Errorf(CodeSourceRequired, "These bastions have no public address. Name in \"source\" the private address that you connect from.")
	} else {
		addr := req.Caller.Address.Unmap()
		if !usable(addr) {
			return Errorf(CodeSourceInvalid, "The address you call from, %s, is not one that a bastion can admit.", addr)
		}
		req.Source = netip.PrefixFrom(addr, addr.BitLen())
	}
	if v4 := req.Source.Addr().Is4(); v4 && !s.Config.IPv4 || !v4 && !s.Config.IPv6 {
		return Errorf(CodeSourceFamily, "You come from %s, and bastions have no address of that family here. Call over the other one (curl -4 or -6).", req.Source.Addr())
	}
	return nil
}

func isHost(p netip.Prefix) bool { return p.IsSingleIP() && !p.Addr().Is4In6() }

func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a.Zone() == ""
}

func (s *Service) mayName(a netip.Addr) bool {
	for _, p := range s.Config.SourceOverride {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// intend writes the intent, once. ErrConflict, ErrNameTaken: begin anew.
func (s *Service) intend(ctx context.Context, req CreateRequest) (Record, bool, error) {
	rec, err := s.Records.FetchByName(ctx, req.Caller.Owner, req.Name)
	switch {
	case errors.Is(err, ErrNotFound):
		rec, err = s.intendNew(ctx, req)
		return rec, true, err
	case err != nil:
		return Record{}, false, err
	case !s.now().Before(rec.Intent.Deadline):
		// Expired, and the reaper has not come by yet: free its name first.
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

// renew moves an open bastion's intent to what the request says.
func (s *Service) renew(next *Record, req CreateRequest) {
	now, changed := s.now(), false
	if next.Intent.Source != req.Source {
		next.Intent.Source, changed = req.Source, true
	}
	if req.Key != "" && (len(next.Intent.Keys) != 1 || next.Intent.Keys[0] != req.Key) {
		next.Intent.Keys, changed = []Key{req.Key}, true
	}
	if req.Reason != "" {
		next.Intent.Reason = req.Reason // nothing in the cloud follows from it
	}
	next.Notify = next.Notify || req.Notify
	ttl := s.Config.DefaultTTL
	if req.TTL != nil {
		ttl = *req.TTL
	}
	// A repeat of the request that made the bastion must not fail because time has
	// passed, so what it may have at most is what it gets.
	deadline := earlier(wholeSecond(now.Add(ttl)), next.LatestDeadline)
	if deadline.After(next.Intent.Deadline) {
		next.Intent.Deadline, next.Intent.DeadlineSetAt, changed = deadline, now, true
	}
	// Asking counts as use: without a newer lease the task would not hear of it.
	latest := next.UnsettledUntil.Add(-s.Config.Timing.Settle)
	if changed || s.Config.IdleTimeout > 0 && now.Sub(latest) >= time.Second {
		next.changed(now, s.Config.Timing)
	}
}

// intendNew writes the record of a new bastion.
func (s *Service) intendNew(ctx context.Context, req CreateRequest) (Record, error) {
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
	rec.changed(now, s.Config.Timing)
	err = s.Records.Create(ctx, rec, s.Config.Quota)
	switch {
	case errors.Is(err, ErrQuotaOwner):
		return Record{}, Errorf(CodeQuotaOwner, "You have %d bastions open, which is as many as one owner may. Close one first.", s.Config.Quota.PerOwner)
	case errors.Is(err, ErrQuotaTotal):
		return Record{}, Errorf(CodeQuotaTotal, "All %d bastions that this stack may run are open. Try again when one has closed, or ask your operator for more.", s.Config.Quota.Total)
	case err != nil:
		return Record{}, err
	}
	s.logChange(Record{}, rec)
	return rec, nil
}

func (s *Service) keyFor(ctx context.Context, req CreateRequest) (Key, error) {
	if req.Key != "" {
		return req.Key, nil
	}
	key, err := s.Keys.RememberedKey(ctx, req.Caller.Owner)
	if errors.Is(err, ErrNotFound) {
		return "", Errorf(CodeKeyRequired, "No public key was given, and none is remembered of you. Send yours as the body: curl --data-binary @\"$HOME/.ssh/id_ed25519.pub\" (the shell does not expand a ~ behind the @).")
	}
	return key, err
}

// newID makes an id that every AWS name and tag can carry: 80 random bits.
func (s *Service) newID() (string, error) {
	var b [10]byte
	if _, err := io.ReadFull(s.Rand, b[:]); err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:])), nil
}
