package bastion

import (
	"errors"
	"fmt"
)

// Code is the stable, machine-readable name of an error. It is part of the
// API: callers switch on it, so it never changes its meaning.
type Code string

// The codes that an operation of [Service] can end in.
const (
	CodeKeyRequired      Code = "key_required"       // no key given and none remembered
	CodeNameInvalid      Code = "name_invalid"       // not 1 to 32 of a-z, 0-9 and -
	CodeReasonInvalid    Code = "reason_invalid"     // too long, or control characters
	CodeTTLInvalid       Code = "ttl_invalid"        // zero or negative
	CodeTTLBeyondCap     Code = "ttl_beyond_cap"     // past the latest deadline
	CodeSourceInvalid    Code = "source_invalid"     // not one usable address
	CodeSourceFamily     Code = "source_family"      // bastions have no address of that family
	CodeSourceNotAllowed Code = "source_not_allowed" // the operator does not let callers name it
	CodeSourceRequired   Code = "source_required"    // bastions are private: it must be named
	CodeQuotaOwner       Code = "quota_owner"        // the caller holds as many as they may
	CodeQuotaTotal       Code = "quota_total"        // the stack holds as many as it may
	CodeNotFound         Code = "not_found"          // no such bastion, or not the caller's
	CodeNotOpen          Code = "not_open"           // closing, closed or failed
	CodeBusy             Code = "busy"               // too many writers at once; try again
)

// Error is an error that a person gets to read: a stable code and a sentence
// that says what was wrong and what to do about it. Cause, if any, is for the
// log only.
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

func (e *Error) Unwrap() error { return e.Cause }

// Errorf makes an [Error] with a formatted message.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// What the ports answer, beside errors of their own that only mean "it did not
// work; it may have had its effect; try again later".
var (
	// ErrNotFound: no such thing. From EC2 and ECS it may only mean that the
	// read was stale.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the stored thing is not the one the write was meant for.
	ErrConflict = errors.New("changed meanwhile")
	// ErrNameTaken: the owner has a live bastion of that name.
	ErrNameTaken = errors.New("name taken")
	// ErrQuotaOwner and ErrQuotaTotal: creating one more would pass the limit.
	ErrQuotaOwner = errors.New("owner's quota reached")
	ErrQuotaTotal = errors.New("total quota reached")
	// ErrInUse: a group still has an interface, or another group names it.
	ErrInUse = errors.New("in use")
	// ErrNoTime: the call would have to wait for its turn, within the rate that
	// the cloud allows, for longer than the caller has. It is no failure, only for
	// later.
	ErrNoTime = errors.New("no time left")
)

// Refused is a definite answer of RunTask that no task was made: the attempt
// it was sent for has ended.
type RefusedError struct {
	Failure Failure // for the person
	Detail  string  // the cloud's own words, for the log
}

func (e *RefusedError) Error() string { return string(e.Failure.Code) + ": " + e.Detail }
