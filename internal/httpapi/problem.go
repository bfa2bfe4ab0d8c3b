package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// Codes of the problems that the handlers of this package find. The codes that any HTTP
// handler can return are in httpedge, and those of the domain in bastion and publickey.
const (
	CodeUnauthenticated      bastion.Code = "unauthenticated"       // the caller is not known
	CodeForbidden            bastion.Code = "forbidden"             // the caller is known and may not use the service
	CodeAuthorizationInvalid bastion.Code = "authorization_invalid" // more than one Authorization header
	CodeNotAcceptable        bastion.Code = "not_acceptable"        // Accept allows neither JSON nor text
	CodeJSONInvalid          bastion.Code = "json_invalid"          // the body is not one JSON object
	CodeUnknownField         bastion.Code = "unknown_field"         // the body has an unknown field
	CodeFieldInvalid         bastion.Code = "field_invalid"         // a field twice, or of the wrong type
	CodeTTLRequired          bastion.Code = "ttl_required"          // an extension without a ttl
	CodeDraining             bastion.Code = "draining"              // the stack is being removed
)

// Codes of the problems that only local mode has.
const (
	CodeOwnerInvalid bastion.Code = "owner_invalid" // the user name cannot be an owner
	CodeCrossOrigin  bastion.Code = "cross_origin"  // a web page sent the request
	CodeHostForeign  bastion.Code = "host_foreign"  // the Host header names another host
)

// statuses is the HTTP status of each code: 400 for a malformed request, 422 for a
// well-formed one in which something is missing or too large, 409 if the present
// state does not allow it.
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
	bastion.CodeSourceTooWide:    http.StatusForbidden,
	bastion.CodeTooManyKeys:      http.StatusConflict,
	bastion.CodeTooManySources:   http.StatusConflict,
	bastion.CodeNotFound:         http.StatusNotFound,
	bastion.CodeNotOpen:          http.StatusConflict,
	bastion.CodeQuotaOwner:       http.StatusConflict,
	bastion.CodeQuotaTotal:       http.StatusConflict,
	bastion.CodeKeyRequired:      http.StatusUnprocessableEntity,
	bastion.CodeTTLBeyondCap:     http.StatusUnprocessableEntity,
	bastion.CodeSourceFamily:     http.StatusUnprocessableEntity,
	bastion.CodeSourceRequired:   http.StatusUnprocessableEntity,
	bastion.CodeBusy:             http.StatusServiceUnavailable,

	httpedge.CodePathNotFound:     http.StatusNotFound,
	httpedge.CodeMethodNotAllowed: http.StatusMethodNotAllowed,
	httpedge.CodeBodyTooLarge:     http.StatusRequestEntityTooLarge,
	httpedge.CodeBodyIncomplete:   http.StatusBadRequest,
	httpedge.CodeUnavailable:      http.StatusServiceUnavailable,
	httpedge.CodeInternal:         http.StatusInternalServerError,

	CodeUnauthenticated:      http.StatusUnauthorized,
	CodeForbidden:            http.StatusForbidden,
	CodeAuthorizationInvalid: http.StatusBadRequest,
	CodeNotAcceptable:        http.StatusNotAcceptable,
	CodeJSONInvalid:          http.StatusBadRequest,
	CodeUnknownField:         http.StatusBadRequest,
	CodeFieldInvalid:         http.StatusBadRequest,
	CodeTTLRequired:          http.StatusUnprocessableEntity,
	CodeDraining:             http.StatusServiceUnavailable,

	CodeOwnerInvalid: http.StatusUnauthorized,
	CodeCrossOrigin:  http.StatusForbidden,
	CodeHostForeign:  http.StatusMisdirectedRequest,
}

// unidentifiedError wraps the error of [Identify]. If statuses does not have the code of
// the error, fail uses status 401.
type unidentifiedError struct{ cause *bastion.Error }

func (u unidentifiedError) Error() string { return u.cause.Error() }
func (u unidentifiedError) Unwrap() error { return u.cause }

func identityError(err error) error {
	var known *bastion.Error
	if errors.As(err, &known) {
		return unidentifiedError{known}
	}
	return unidentifiedError{&bastion.Error{Code: CodeUnauthenticated, Cause: err,
		Message: "You are not authenticated. Sign the request, or send the credentials that this service requires."}}
}

// fail writes the problem document of an error. The client sees the message of a
// [*bastion.Error]; of any other error it sees only that something failed, and the
// log has the cause.
func (h *handler) fail(x *exchange, err error) {
	var known *bastion.Error
	status := 0
	if errors.As(err, &known) {
		status = statuses[known.Code]
		if status == 0 && errors.As(err, new(unidentifiedError)) {
			status = http.StatusUnauthorized
		}
	}
	switch {
	case status == http.StatusUnauthorized:
		x.Header().Set("WWW-Authenticate", h.Challenge)
		fallthrough
	case status != 0:
		x.Cause = known.Cause
		x.Problem(status, known.Code, known.Message)
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		x.Cause = err
		x.Problem(http.StatusServiceUnavailable, httpedge.CodeUnavailable, "The request timed out. The service may have done a part of it. Send the request again; this is safe.")
	default:
		x.Cause = err
		x.Internal()
	}
}
