// Package httpedge holds what all HTTP handlers of the service have in common: the
// headers of every response, the access-log line, recovery from panics, the limit
// of request bodies, problem documents, and the adapter that serves events of API
// Gateway with a handler of net/http.
package httpedge

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Codes of the problems that any handler can return.
const (
	CodePathNotFound     bastion.Code = "path_not_found"     // no such path
	CodeMethodNotAllowed bastion.Code = "method_not_allowed" // see the Allow header
	CodeBodyTooLarge     bastion.Code = "body_too_large"     // more than MaxBody bytes
	CodeBodyIncomplete   bastion.Code = "body_incomplete"    // the connection ended before the body did
	CodeUnavailable      bastion.Code = "unavailable"        // timed out; try again
	CodeInternal         bastion.Code = "internal"           // a fault of the service
)

// MaxBody is the size of the largest request body in bytes: many times the
// largest public key, and more than Slack sends.
const MaxBody = 64 << 10

// headers are headers of every response, in addition to X-Request-Id and
// X-Source-Address. They forbid browsers to store the response, to show it in a frame, to
// run scripts in it, and to send its URL, which can contain a secret, as a referrer. A
// handler may replace them.
var headers = map[string]string{
	"Cache-Control":           "no-store",
	"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
	"Referrer-Policy":         "no-referrer",
	"X-Content-Type-Options":  "nosniff",
	"X-Frame-Options":         "DENY", // for browsers that do not know frame-ancestors
}

// Edge makes handlers.
type Edge struct {
	Log *slog.Logger
	Now func() time.Time // nil for time.Now
}

// Exchange is one request with its response, and what the access log says about
// both. It is an [http.ResponseWriter].
type Exchange struct {
	Request *http.Request
	// OnPanic writes the response after a panic, if none has begun; nil for a problem
	// document.
	OnPanic func()

	// For the access log. The log must not contain the path, the query or the body,
	// because they may contain a secret.
	Route  string       // the pattern of the path; empty for an unknown path
	Owner  string       // once it is known
	Source netip.Addr   // the client; at first the address of RemoteAddr
	Code   bastion.Code // of a problem
	Cause  error        // of a failure; it must contain no part of the request
	Level  slog.Level   // the lowest level that the line can have
	Attrs  []slog.Attr  // further attributes

	id     string
	status int
	w      http.ResponseWriter
}

// Handler returns a handler that serves each request with the function. It adds the
// headers and writes the log line. It also recovers from a panic, and writes the response
// with OnPanic, or else a problem document. In a Lambda function, there is no server of
// net/http that would recover.
func (e Edge) Handler(serve func(*Exchange)) http.Handler {
	now := e.Now
	if now == nil {
		now = time.Now
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := now()
		x := &Exchange{Request: r, id: requestID(r.Context()), w: w}
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		w.Header().Set("X-Request-Id", x.id)
		x.Source, _ = RemoteAddress(r) // the handlers that need it report the error
		if x.Source.IsValid() {
			w.Header().Set("X-Source-Address", x.Source.String())
		}
		x.run(serve)
		e.log(x, now().Sub(start))
	})
}

func (x *Exchange) run(serve func(*Exchange)) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		x.Cause, x.Level = fmt.Errorf("panic: %v\n%s", v, debug.Stack()), slog.LevelError
		if x.status == 0 && x.OnPanic != nil {
			x.OnPanic()
		} else {
			x.Internal()
		}
	}()
	serve(x)
}

// log writes the line of the access log.
func (e Edge) log(x *Exchange, took time.Duration) {
	level, attrs := x.Level, []slog.Attr{
		slog.String("request_id", x.id),
		slog.String("method", x.Request.Method),
		slog.String("route", x.Route),
		slog.Int("status", x.status),
		slog.Float64("duration", took.Round(time.Millisecond).Seconds()),
		slog.String("owner", x.Owner),
		slog.Any("source", x.Source),
	}
	if x.Code != "" {
		attrs = append(attrs, slog.String("code", string(x.Code)))
	}
	if x.Cause != nil {
		attrs = append(attrs, slog.String("cause", x.Cause.Error()))
	}
	switch {
	case x.status == http.StatusInternalServerError:
		level = max(level, slog.LevelError)
	case x.status > http.StatusInternalServerError, x.status < http.StatusBadRequest && x.Cause != nil:
		level = max(level, slog.LevelWarn) // a status below 400 with a cause: the client does not see the failure
	}
	e.Log.LogAttrs(x.Request.Context(), level, "request", append(attrs, x.Attrs...)...)
}

// Header returns the headers of the response.
func (x *Exchange) Header() http.Header { return x.w.Header() }

// WriteHeader implements [http.ResponseWriter].
func (x *Exchange) WriteHeader(status int) {
	if x.status == 0 {
		x.status = status
	}
	x.w.WriteHeader(status)
}

// Write implements [http.ResponseWriter]. The response to HEAD has no body.
func (x *Exchange) Write(p []byte) (int, error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	if x.Request.Method == http.MethodHead {
		return len(p), nil
	}
	return x.w.Write(p)
}

// Send writes the response. An error means that the client is gone; it is
// ignored.
func (x *Exchange) Send(status int, contentType string, body []byte) {
	x.Header().Set("Content-Type", contentType)
	x.WriteHeader(status)
	_, _ = x.Write(body)
}

// Problem writes a problem document, with the headers that its status requires. If
// the response has begun already, Problem only sets the code for the log.
func (x *Exchange) Problem(status int, code bastion.Code, detail string) {
	x.Code = code
	if x.status != 0 {
		return
	}
	if status == http.StatusServiceUnavailable {
		x.Header().Set("Retry-After", "1")
	}
	x.Send(status, "application/problem+json", Marshal(api.NewProblem(status, code, detail, x.id)))
}

// Internal writes the problem document of a fault of the service.
func (x *Exchange) Internal() {
	x.Problem(http.StatusInternalServerError, CodeInternal,
		"Something went wrong in the service. Anything in progress will complete or be rolled back automatically. Try again; if it keeps happening, give your operator the request ID "+x.id+".")
}

// Body reads the body of the request. It returns a *bastion.Error with the code
// CodeBodyTooLarge or CodeBodyIncomplete.
func (x *Exchange) Body() ([]byte, error) {
	if x.Request.Body == nil { // servers always set a body, but a test can leave it out
		return nil, nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(x.w, x.Request.Body, MaxBody))
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return nil, bastion.Errorf(CodeBodyTooLarge, "The body is larger than %d KiB.", MaxBody>>10)
	case err != nil:
		return nil, &bastion.Error{Code: CodeBodyIncomplete, Message: "The body is incomplete. Send the request again.",
			Cause: fmt.Errorf("read body: %w", err)}
	}
	return body, nil
}

// RemoteAddress returns the address that the request's connection came from. No
// header changes it.
func RemoteAddress(r *http.Request) (netip.Addr, error) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("address of the client: %w", err)
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("address of the client: %w", err)
	}
	return address.Unmap().WithZone(""), nil
}

// Marshal encodes a document for programs and for people: indented, without HTML
// escapes.
func Marshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		panic(err) // documents hold strings, numbers and times
	}
	return b.Bytes()
}

// idKey is the context's key for the request ID.
type idKey struct{}

// WithRequestID returns a context whose requests get the ID as their request ID.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, idKey{}, id)
}

// requestID returns the ID of the context, or a random one.
func requestID(ctx context.Context) string {
	if id, ok := ctx.Value(idKey{}).(string); ok && id != "" {
		return id
	}
	return rand.Text()
}
