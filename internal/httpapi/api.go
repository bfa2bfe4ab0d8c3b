package httpapi

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Service is what the handlers need of the domain. Its errors are
// [*bastion.Error] for people, that of a context that ended, or of any other
// kind, which nobody but the log gets to see. A wait of 0 answers at once.
type Service interface {
	// Create answers the caller's bastion of a name, made if there was none.
	Create(ctx context.Context, req bastion.CreateRequest) (rec bastion.Record, created bool, err error)
	// Get waits until the bastion is ready or over.
	Get(ctx context.Context, caller bastion.Caller, id string, wait time.Duration) (bastion.Record, error)
	// List answers what the caller may see, oldest first.
	List(ctx context.Context, caller bastion.Caller, wait time.Duration) ([]bastion.Record, error)
	// Extend moves the deadline to at least ttl from now.
	Extend(ctx context.Context, caller bastion.Caller, id string, ttl, wait time.Duration) (bastion.Record, error)
	// Close waits until nothing of the bastion is left.
	Close(ctx context.Context, caller bastion.Caller, id string, wait time.Duration) (bastion.Record, error)
	// CloseAll closes all of the caller's own.
	CloseAll(ctx context.Context, caller bastion.Caller, wait time.Duration) ([]bastion.Record, error)
}

// Identify says who makes a request and from where. It must not read the body.
// A [*bastion.Error] is shown to the person, with status 401 unless its code has
// one of its own; any other error is logged and answered as CodeUnauthenticated.
type Identify func(*http.Request) (bastion.Caller, error)

// Target is a host behind the bastions whose host key is known beforehand. Answers
// that hold a configuration for ssh then hold a block for it too, so that
// "ssh -F FILE -J bastion-NAME TARGET" asks nothing.
type Target struct {
	Name    string      // as the bastion resolves it; its SSH listens on port 22
	User    string      // who to log in as
	HostKey bastion.Key // of its SSH server
}

// Options is what [New] is made from. Service, Identify and Log are required.
type Options struct {
	Service  Service
	Identify Identify
	Log      *slog.Logger

	// MaxWait is the longest that Prefer: wait may hold an answer; zero for 25
	// seconds, which leaves API Gateway 5 of its 30.
	MaxWait time.Duration
	Now     func() time.Time // nil for time.Now
	// RequestID names a request in its answer and in the log; nil for a random one.
	RequestID func(*http.Request) string
	// Challenge is the WWW-Authenticate header of a 401; empty for that of AWS
	// Signature Version 4.
	Challenge string
	// Targets are known to everybody who gets a bastion.
	Targets []Target
}

type handler struct{ Options }

// New makes the handler of the whole API. Log and Service are used by many
// requests at once.
func New(options Options) http.Handler {
	if options.MaxWait == 0 {
		options.MaxWait = 25 * time.Second
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.RequestID == nil {
		options.RequestID = func(*http.Request) string { return rand.Text() }
	}
	if options.Challenge == "" {
		options.Challenge = "AWS4-HMAC-SHA256"
	}
	return &handler{options}
}

// exchange is one request as it is understood step by step, and what became of
// it.
type exchange struct {
	*http.Request
	body   io.Reader   // of the request, of bounded length
	header http.Header // of the answer
	id     string      // of the request
	route  string      // the path's pattern; empty for an unknown path
	caller bastion.Caller
	format format
	wait   time.Duration
	waits  bool // Prefer: wait was given
}

// answer is what an operation that worked has to say.
type answer struct {
	status   int
	records  []bastion.Record
	list     bool   // records are a list, of any length; else there is one
	location string // of what was created
}

// reply is what goes out.
type reply struct {
	status      int
	contentType string
	body        []byte
}

func (a *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := a.Now()
	x := &exchange{Request: r, header: w.Header(), body: limited(w, r), id: a.RequestID(r)}
	x.header.Set("Cache-Control", "no-store")
	x.header.Set("X-Content-Type-Options", "nosniff")
	x.header.Set("X-Request-Id", x.id)

	out, err := a.serve(x)
	var code bastion.Code
	if err != nil {
		p := problemFor(x, err)
		code, out = p.Code, problemReply(p, x.header, a.Challenge)
	}
	x.header.Set("Content-Type", out.contentType)
	w.WriteHeader(out.status)
	_, _ = w.Write(out.body) // if the connection is gone, nobody is left to be told
	a.log(x, out.status, code, err, a.Now().Sub(start))
}

// serve takes a request from its identity to the answer's last byte. A panic is an
// error like others here: no server of net/http stands around a Lambda function
// to catch it.
func (a *handler) serve(x *exchange) (out reply, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	if err := a.identify(x); err != nil {
		return reply{}, err
	}
	run, err := route(x)
	if err != nil {
		return reply{}, err
	}
	if x.format, err = negotiate(x.Header.Values("Accept")); err != nil {
		return reply{}, err
	}
	x.wait, x.waits = preferredWait(x.Header.Values("Prefer"), a.MaxWait)
	ans, err := run(a, x)
	if err != nil {
		return reply{}, err
	}
	return a.reply(x, ans), nil
}

// reply writes what an operation answers in the form that was asked for.
func (a *handler) reply(x *exchange, ans answer) reply {
	if x.waits {
		x.header.Set("Preference-Applied", fmt.Sprintf("wait=%d", int(x.wait.Seconds())))
	}
	if ans.location != "" {
		x.header.Set("Location", ans.location)
	}
	if x.format == formatText {
		return reply{ans.status, string(formatText) + "; charset=utf-8", a.text(x.caller, ans)}
	}
	return reply{ans.status, string(formatJSON), a.json(ans)}
}

func (a *handler) identify(x *exchange) error {
	caller, err := a.Identify(x.Request)
	if err == nil && caller.Owner == "" {
		err = fmt.Errorf("the caller at %s has no owner", caller.Address)
	}
	if err != nil {
		return identityError(err)
	}
	caller.Address = caller.Address.Unmap().WithZone("")
	x.caller = caller
	return nil
}

// log writes the one line that each request gets: the pattern of the path and not
// the path, no query, no body, and of an error the code and the cause.
func (a *handler) log(x *exchange, status int, code bastion.Code, err error, took time.Duration) {
	level, attrs := slog.LevelInfo, []slog.Attr{
		slog.String("request_id", x.id),
		slog.String("method", x.Method),
		slog.String("route", x.route),
		slog.Int("status", status),
		slog.Float64("duration", took.Round(time.Millisecond).Seconds()),
		slog.String("owner", x.caller.Owner),
		slog.Any("source", x.caller.Address),
	}
	if code != "" {
		attrs = append(attrs, slog.String("code", string(code)))
	}
	if cause := hiddenCause(err); cause != nil {
		attrs = append(attrs, slog.String("cause", cause.Error()))
	}
	switch {
	case status == http.StatusInternalServerError:
		level = slog.LevelError
	case status > http.StatusInternalServerError:
		level = slog.LevelWarn
	}
	a.Log.LogAttrs(x.Context(), level, "request", attrs...)
}
