package bastion

import (
	"errors"
	"fmt"
)

// Code is the stable, machine-readable name of an error. It is part of the API:
// clients depend on it, so a code never changes its meaning.
type Code string

// The codes of errors that the operations of [Service] return.
const (
	CodeKeyRequired      Code = "key_required"       // no key was sent, and none is stored for the owner, or the bastion has several
	CodeTooManyKeys      Code = "too_many_keys"      // the bastion has MaxKeys keys already
	CodeNameInvalid      Code = "name_invalid"       // see ValidName
	CodeReasonInvalid    Code = "reason_invalid"     // see CleanReason
	CodeTTLInvalid       Code = "ttl_invalid"        // not a duration of a second or more
	CodeTTLBeyondCap     Code = "ttl_beyond_cap"     // beyond the bastion's LatestDeadline, or longer than MaxTTL
	CodeSourceInvalid    Code = "source_invalid"     // not a list of addresses or prefixes that a bastion can admit
	CodeSourceTooWide    Code = "source_too_wide"    // a prefix with more addresses than the operator allows
	CodeSourceFamily     Code = "source_family"      // bastions have no address of that family
	CodeSourceNotAllowed Code = "source_not_allowed" // not a source that callers may name
	CodeSourceRequired   Code = "source_required"    // bastions are private, so the source must be named
	CodeTooManySources   Code = "too_many_sources"   // more than MaxSources for the bastion, or MaxSourcesPerKey for a key with named sources
	CodeQuotaOwner       Code = "quota_owner"        // the owner has the maximum number open
	CodeQuotaTotal       Code = "quota_total"        // the stack has the maximum number open
	CodeNotFound         Code = "not_found"          // no such bastion, or another owner's
	CodeNotOpen          Code = "not_open"           // closing, closed, failed or expired
	CodeBusy             Code = "busy"               // too many concurrent writers; retry
)

// Error is an error for people: a stable code, and a message that says what was
// wrong and what to do. The Cause can be nil; it is for the log only.
type Error struct {
	Code    Code
	Message string
	Cause   error
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Errorf returns an [Error] with a formatted message.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// The errors that ports return. After any other error of a port, the call may have
// had its effect, and a later retry may succeed.
var (
	// ErrNotFound: the requested thing does not exist. From Groups and Tasks it can
	// also mean that the read was stale.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the stored item does not meet the condition of the write.
	ErrConflict = errors.New("changed by another writer")
	// ErrNameTaken: the owner has an open bastion of that name.
	ErrNameTaken = errors.New("name taken")
	// ErrQuotaOwner and ErrQuotaTotal: one more open bastion would exceed the quota.
	ErrQuotaOwner = errors.New("owner's quota reached")
	ErrQuotaTotal = errors.New("total quota reached")
	// ErrDenied: the caller's permissions do not allow the call.
	ErrDenied = errors.New("denied")
	// ErrNoTable: the table does not exist.
	ErrNoTable = errors.New("no such table")
	// ErrUnreachable: the table's service did not respond.
	ErrUnreachable = errors.New("unreachable")
	// ErrInUse: a network interface still has the group, or another group's rule
	// refers to it.
	ErrInUse = errors.New("in use")
	// ErrNoTime: the call was not made, because its turn within the cloud's rate
	// limits would have come after the caller's deadline. This is not a failure: a
	// later converge or sweep makes the call.
	ErrNoTime = errors.New("no time left")
)

// RefusedError is the cloud's definite refusal of a call: the call had no effect, and
// a repeat has none either until the configuration, a quota or the capacity changes.
// After a refused RunTask, the attempt has no task and never will have one.
type RefusedError struct {
	Failure Failure // for people
	Detail  string  // the cloud's message, for the log
	// Denied is true if the caller's permissions do not allow the call. EC2 also denies
	// a call for a group whose tags it does not see yet, or that is gone.
	Denied bool
}

func (e *RefusedError) Error() string { return string(e.Failure.Code) + ": " + e.Detail }
