package bastion

import (
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// CreateRequest is a request for the caller's bastion with the given name.
type CreateRequest struct {
	Caller Caller
	Name   string         // empty: "default"
	Key    Key            // empty: the only key of the open bastion, or else the owner's remembered key
	TTL    *time.Duration // nil: the operator's default
	Reason string         // see CleanReason
	// Sources are the sources of the key. If there are none, the key gets the caller's
	// address; see Intent.readmit.
	Sources []netip.Prefix
	OnlyKey bool          // Key becomes the only key of the bastion
	Wait    time.Duration // return when the bastion is ready, or after this time
	Notify  bool          // send notices to the owner

	from netip.Prefix // the caller's address, if no source is named
}

// wanted returns the sources that the key must be admitted from after the request.
func (req CreateRequest) wanted() []netip.Prefix {
	if len(req.Sources) > 0 {
		return req.Sources
	}
	return []netip.Prefix{req.from}
}

// Change is the effect of a Create on the owner's bastions.
type Change struct {
	Created bool // the bastion is new
	// AddedKey is the key that the request added to an open bastion. It is empty if the
	// request added none, or if another request removed the key while Create waited.
	AddedKey Key
}

// Create returns the caller's bastion with the requested name. If no open bastion has
// this name, Create creates a bastion. If there is such a bastion, Create adds the key of
// the request, or changes the sources of this key, and extends the bastion's deadline. The
// other keys keep their sources, unless OnlyKey is true, which removes these keys. Create
// then waits as Get does. If a part of the request is invalid or refused, nothing is
// written.
//
// *Error: CodeNameInvalid, CodeReasonInvalid, CodeTTLInvalid, CodeTTLBeyondCap (more
// than MaxTTL), CodeSourceInvalid, CodeSourceTooWide, CodeSourceNotAllowed,
// CodeSourceRequired, CodeSourceFamily, CodeKeyRequired, CodeTooManyKeys,
// CodeTooManySources, CodeQuotaOwner, CodeQuotaTotal, CodeBusy.
func (s *Service) Create(ctx context.Context, req CreateRequest) (rec Record, change Change, err error) {
	if err := s.check(&req); err != nil {
		return Record{}, Change{}, err
	}
	for range maxTries {
		rec, change, err = s.writeIntent(ctx, req)
		if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNameTaken) {
			break
		}
		err = errBusy
	}
	if err != nil {
		return Record{}, Change{}, err
	}
	if req.Key != "" {
		if err := s.Keys.RememberKey(ctx, rec.Owner, req.Key); err != nil {
			s.Log.Warn("key not remembered", "owner", rec.Owner, "error", err)
		}
	}
	rec = s.await(ctx, rec, CreateSteps, req.Wait, readyOrOver)
	if indexOfKey(rec.Intent.Admissions(), change.AddedKey) < 0 {
		change.AddedKey = "" // another request has removed it since
	}
	return rec, change, nil
}

// check refuses an invalid request. It fills in the default name and the caller's address,
// and masks the sources.
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
	if req.OnlyKey && req.Key == "" {
		return Errorf(CodeKeyRequired, "The request has only_key, but no key. Send the public key that becomes the only one, in public_key.")
	}
	return s.checkSources(req)
}

// checkSources refuses sources that a bastion cannot admit. It masks the sources, removes
// duplicates, and sets req.from if the request names no source.
func (s *Service) checkSources(req *CreateRequest) error {
	if len(req.Sources) > 0 {
		return s.checkNamedSources(req)
	}
	if s.Config.RequireSource {
		return Errorf(CodeSourceRequired, "These bastions have no public address. Name the private address that you connect from, in \"source\".")
	}
	addr := req.Caller.Address.Unmap()
	if !usable(addr) {
		return Errorf(CodeSourceInvalid, "You connected from the address %s, which a bastion cannot admit. Connect from another address.", addr)
	}
	req.from = netip.PrefixFrom(addr, addr.BitLen())
	return s.checkFamily(req.from)
}

func (s *Service) checkNamedSources(req *CreateRequest) error {
	var sources []netip.Prefix
	for _, source := range req.Sources {
		masked := source.Masked()
		if !masked.IsValid() || masked.Addr().Is4In6() || masked.Addr().IsMulticast() || masked.IsSingleIP() && !usable(masked.Addr()) {
			return Errorf(CodeSourceInvalid, "The source %s is not valid. A source is an address that you connect from, such as 203.0.113.7 or 2001:db8::7, or a prefix of such addresses, such as 203.0.113.0/28.", source)
		}
		widest := s.Config.WidestIPv6
		if masked.Addr().Is4() {
			widest = s.Config.WidestIPv4
		}
		if masked.Bits() < widest {
			return sourceTooWide(masked, widest)
		}
		if !s.mayName(masked) {
			return s.sourceNotAllowed(masked)
		}
		if err := s.checkFamily(masked); err != nil {
			return err
		}
		if !slices.Contains(sources, masked) {
			sources = append(sources, masked)
		}
	}
	if len(sources) > MaxSourcesPerKey {
		return Errorf(CodeSourceInvalid, "The request names %d sources, and a key can have at most %d. Name fewer, or a prefix that contains several.", len(sources), MaxSourcesPerKey)
	}
	req.Sources = sources
	return nil
}

// sourceTooWide returns the error for a source with a shorter prefix length than the
// operator allows.
func sourceTooWide(source netip.Prefix, widest int) error {
	if widest == source.Addr().BitLen() {
		return Errorf(CodeSourceTooWide, "The source %s is a network, and the operator allows single addresses only. Name the addresses that you connect from.", source)
	}
	return Errorf(CodeSourceTooWide, "The source %s is wider than the operator allows: at most a /%d. Name a smaller network, or single addresses.", source, widest)
}

// checkFamily refuses a source of a family that bastions have no address of.
func (s *Service) checkFamily(source netip.Prefix) error {
	switch v4 := source.Addr().Is4(); {
	case v4 && !s.Config.IPv4:
		return Errorf(CodeSourceFamily, "Your source %s is IPv4, but bastions here only have IPv6 addresses. Use an IPv6 source, for example by connecting with curl -6.", SourceText(source))
	case !v4 && !s.Config.IPv6:
		return Errorf(CodeSourceFamily, "Your source %s is IPv6, but bastions here only have IPv4 addresses. Use an IPv4 source, for example by connecting with curl -4.", SourceText(source))
	}
	return nil
}

// sourceNotAllowed returns the error for a source that callers may not name.
func (s *Service) sourceNotAllowed(source netip.Prefix) error {
	next := "Leave the field out to use the address that you call from, or ask your operator to allow it."
	if s.Config.RequireSource {
		next = "Name another one, or ask your operator to allow it."
	}
	return Errorf(CodeSourceNotAllowed, "The operator does not allow you to name the source %s. %s", SourceText(source), next)
}

// usable reports whether a rule of a group can admit the address.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a.Zone() == ""
}

// mayName reports whether the operator allows callers to name the source.
func (s *Service) mayName(source netip.Prefix) bool {
	return slices.ContainsFunc(s.Config.SourceOverride, func(p netip.Prefix) bool { return contains(p, source) })
}

// writeIntent writes the intent of the request into the record of the open bastion,
// or into a new record. ErrConflict, ErrNameTaken: another writer was first, and the
// caller must start over.
func (s *Service) writeIntent(ctx context.Context, req CreateRequest) (rec Record, change Change, err error) {
	rec, err = s.Records.FetchByName(ctx, req.Caller.Owner, req.Name)
	switch {
	case errors.Is(err, ErrNotFound):
		rec, err = s.createRecord(ctx, req)
		return rec, Change{Created: true}, err
	case err != nil:
		return Record{}, Change{}, err
	case !s.now().Before(rec.Intent.Deadline):
		// The bastion has expired, but the reaper has not closed it yet. Closing it
		// releases its name.
		next := rec
		next.close(End{Reason: EndDeadline, At: s.now()}, s.Config.Timing)
		if _, err := s.save(ctx, rec, next); err != nil {
			return Record{}, Change{}, err
		}
		return Record{}, Change{}, ErrConflict
	}
	next := rec
	if change.AddedKey, err = s.renew(&next, req); err != nil {
		return Record{}, Change{}, err
	}
	rec, err = s.save(ctx, rec, next)
	return rec, change, err
}

// renew changes the intent of an open bastion to that of the request, and returns the key
// that was added, if any.
func (s *Service) renew(next *Record, req CreateRequest) (added Key, err error) {
	now := s.now()
	added, changed, err := next.Intent.readmit(req)
	if err != nil {
		return "", err
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
	return added, nil
}

// createRecord writes the record of a new bastion.
func (s *Service) createRecord(ctx context.Context, req CreateRequest) (Record, error) {
	var err error
	if req.Key, err = s.keyFor(ctx, req); err != nil {
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
			Open: true, Reason: req.Reason,
			Deadline: wholeSecond(now.Add(ttl)), DeadlineSetAt: now,
		},
		Notify:  req.Notify,
		Version: 1,
	}
	if _, _, err := rec.Intent.readmit(req); err != nil {
		return Record{}, err
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
