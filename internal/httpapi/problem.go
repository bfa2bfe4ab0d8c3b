package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// The codes of errors that the HTTP side itself finds.
const (
	CodeUnauthenticated  bastion.Code = "unauthenticated"    // nobody knows who is calling
	CodeForbidden        bastion.Code = "forbidden"          // known, and not allowed in
	CodePathNotFound     bastion.Code = "path_not_found"     // no such path
	CodeMethodNotAllowed bastion.Code = "method_not_allowed" // see the Allow header
	CodeNotAcceptable    bastion.Code = "not_acceptable"     // Accept wants neither JSON nor text
	CodeBodyTooLarge     bastion.Code = "body_too_large"     // more than 64 KiB
	CodeBodyIncomplete   bastion.Code = "body_incomplete"    // the body ended before its end
	CodeJSONInvalid      bastion.Code = "json_invalid"       // not one JSON object
	CodeUnknownField     bastion.Code = "unknown_field"      // a field that there is not
	CodeFieldInvalid     bastion.Code = "field_invalid"      // a field twice, or not a string
	CodeTTLRequired      bastion.Code = "ttl_required"       // an extension without a ttl
	CodeUnavailable      bastion.Code = "unavailable"        // no answer in time; try again
	CodeInternal         bastion.Code = "internal"           // a fault of ours
)

// statuses says with which HTTP status each code is answered: 400 for what is
// malformed, 422 for what is well-formed and missing or too much, 409 for what
// the present state does not allow.
var statuses = map[bastion.Code]int{
	publickey.CodeInvalid:     http.StatusBadRequest,
	publickey.CodeTwo:         http.StatusBadRequest,
	publickey.CodeOptions:     http.StatusBadRequest,
	publickey.CodeCertificate: http.StatusBadRequest,
	publickey.CodeTooWeak:     http.StatusBadRequest,
	publickey.CodeType:        http.StatusBadRequest,
	publickey.CodePrivate:     http.StatusBadRequest,

	bastion.CodeNameInvalid:      http.StatusBadRequest,
	bastion.CodeReasonInvalid:    http.StatusBadRequest,
	bastion.CodeTTLInvalid:       http.StatusBadRequest,
	bastion.CodeSourceInvalid:    http.StatusBadRequest,
	bastion.CodeSourceNotAllowed: http.StatusForbidden,
	bastion.CodeNotFound:         http.StatusNotFound,
	bastion.CodeNotOpen:          http.StatusConflict,
	bastion.CodeQuotaOwner:       http.StatusConflict,
	bastion.CodeQuotaTotal:       http.StatusConflict,
	bastion.CodeKeyRequired:      http.StatusUnprocessableEntity,
	bastion.CodeTTLBeyondCap:     http.StatusUnprocessableEntity,
	bastion.CodeSourceFamily:     http.StatusUnprocessableEntity,
	bastion.CodeSourceRequired:   http.StatusUnprocessableEntity,
	bastion.CodeBusy:             http.StatusServiceUnavailable,
	CodeDraining:                 http.StatusServiceUnavailable,

	CodeJSONInvalid:      http.StatusBadRequest,
	CodeUnknownField:     http.StatusBadRequest,
	CodeFieldInvalid:     http.StatusBadRequest,
	CodeBodyIncomplete:   http.StatusBadRequest,
	CodeUnauthenticated:  http.StatusUnauthorized,
	CodeForbidden:        http.StatusForbidden,
	CodePathNotFound:     http.StatusNotFound,
	CodeMethodNotAllowed: http.StatusMethodNotAllowed,
	CodeNotAcceptable:    http.StatusNotAcceptable,
	CodeBodyTooLarge:     http.StatusRequestEntityTooLarge,
	CodeTTLRequired:      http.StatusUnprocessableEntity,
	CodeInternal:         http.StatusInternalServerError,
	CodeUnavailable:      http.StatusServiceUnavailable,
}

// unidentified wraps what [Identify] answered: a code without a status of its own
// then means 401.
type unidentified struct{ cause *bastion.Error }

func (u unidentified) Error() string { return u.cause.Error() }
func (u unidentified) Unwrap() error { return u.cause }

func identityError(err error) error {
	var known *bastion.Error
	if errors.As(err, &known) {
		return unidentified{known}
	}
	return unidentified{&bastion.Error{Code: CodeUnauthenticated, Cause: err,
		Message: "It is not known who you are. Sign the request, or give the credentials that this service asks for."}}
}

// problemFor says what a person gets to read of an error: its own sentence if it
// has one, and of anything else only that it happened.
func problemFor(x *exchange, err error) api.Problem {
	var known *bastion.Error
	isKnown := errors.As(err, &known)
	var status int
	if isKnown {
		status = statuses[known.Code]
	}
	switch {
	case status == 0 && errors.As(err, new(unidentified)):
		status = http.StatusUnauthorized
	case status == 0 && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		known = bastion.Errorf(CodeUnavailable, "There was no answer in time. What was asked for may have been begun: ask again.")
		status = statuses[CodeUnavailable]
	case status == 0:
		known = bastion.Errorf(CodeInternal, "Something went wrong on the side of the service. What was begun is finished or undone by itself. Try again; if it goes on, give your operator the request id %s.", x.id)
		status = statuses[CodeInternal]
	}
	return api.NewProblem(status, known.Code, known.Message, x.id)
}

// hiddenCause is what the log says of an error beyond what the person reads.
func hiddenCause(err error) error {
	var known *bastion.Error
	if errors.As(err, &known) && statuses[known.Code] != 0 {
		return known.Cause
	}
	return err
}

// problemReply writes the document, and sets the headers that its status asks for.
func problemReply(p api.Problem, header http.Header, challenge string) reply {
	switch p.Status {
	case http.StatusUnauthorized:
		header.Set("WWW-Authenticate", challenge)
	case http.StatusServiceUnavailable:
		header.Set("Retry-After", "1")
	}
	return reply{status: p.Status, contentType: "application/problem+json", body: marshal(p)}
}
