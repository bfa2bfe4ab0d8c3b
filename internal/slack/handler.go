package slack

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The paths of the requests that Slack makes.
const (
	commandRoute     = "/slack/command"
	interactionRoute = "/slack/interaction"
)

// The codes of problem documents here.
const (
	codePathNotFound     bastion.Code = "path_not_found"
	codeMethodNotAllowed bastion.Code = "method_not_allowed"
	codeBodyTooLarge     bastion.Code = "body_too_large"
	codeBodyInvalid      bastion.Code = "body_invalid"
	codeSignature        bastion.Code = "signature_invalid"
	codeUnavailable      bastion.Code = "unavailable"
	codeInternal         bastion.Code = "internal"
)

// endpoint answers a request of one route.
type endpoint func(*App, *exchange, *http.Request)

// endpoints are what Slack asks for, by path. The pages see to their methods and
// their line in the log themselves.
var endpoints = map[string]endpoint{
	commandRoute:     (*App).serveCommand,
	interactionRoute: (*App).serveInteraction,
}

// pageToken is the token in the path of a page of that route. http.ServeMux would
// redirect unclean paths, and tell them in doing so; here a path is right or
// unknown.
func pageToken(route, path string) (string, bool) {
	token, ok := strings.CutPrefix(path, strings.TrimSuffix(route, "{token}"))
	return token, ok && token != "" && !strings.Contains(token, "/")
}

// line is what the log says of a request: neither path, query nor body, which may
// hold a token.
type line struct {
	route  string // the path's pattern; empty for an unknown path
	status int
	source netip.Addr
	owner  string       // once it is known
	code   bastion.Code // of what was refused
	cause  error        // for the log only; it holds nothing of the request
}

// exchange is a request's answer, and its line in the log.
type exchange struct {
	http.ResponseWriter
	line
}

// headers are those of every answer: nothing keeps or frames it, and nobody is told
// its address, which may be a secret.
var headers = map[string]string{
	"Cache-Control":          "no-store",
	"X-Content-Type-Options": "nosniff",
	"Referrer-Policy":        "no-referrer",
	"X-Frame-Options":        "DENY", // for browsers that do not know frame-ancestors
}

// WriteHeader notes the status.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 {
		x.status = status
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write notes that the status is 200 if nobody said otherwise.
func (x *exchange) Write(p []byte) (int, error) {
	if x.status == 0 {
		x.status = http.StatusOK
	}
	return x.ResponseWriter.Write(p)
}

// Handler serves Slack's requests and the pages. The caller's address is the
// request's RemoteAddr, and the public host its Host: no header is asked.
func (a *App) Handler() http.Handler { return http.HandlerFunc(a.serveHTTP) }

func (a *App) serveHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range headers {
		w.Header().Set(name, value)
	}
	if token, ok := pageToken(startLinkRoute, r.URL.Path); ok {
		r.SetPathValue("token", token)
		a.serveStartLink(w, r)
		return
	}
	if token, ok := pageToken(statusPageRoute, r.URL.Path); ok {
		r.SetPathValue("token", token)
		a.serveStatusPage(w, r)
		return
	}
	start := a.Now()
	x := &exchange{ResponseWriter: w}
	x.source, x.cause = addressOf(r.RemoteAddr)
	w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	a.route(x, r)
	a.log(r, x.line, start)
}

// route lets the right endpoint answer. A panic is answered like other faults of
// ours: no server of net/http stands around a Lambda function to catch it.
func (a *App) route(x *exchange, r *http.Request) {
	defer func() {
		if v := recover(); v != nil {
			x.cause = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			x.refuse(http.StatusInternalServerError, codeInternal, "Something went wrong on the side of the service. Try again; if it goes on, tell your operator.")
		}
	}()
	serve, ok := endpoints[r.URL.Path]
	if !ok {
		x.refuse(http.StatusNotFound, codePathNotFound, "There is nothing at this path.")
		return
	}
	x.route = r.URL.Path
	if r.Method != http.MethodPost {
		x.Header().Set("Allow", http.MethodPost)
		x.refuse(http.StatusMethodNotAllowed, codeMethodNotAllowed, "Slack asks here by POST.")
		return
	}
	serve(a, x, r)
}

// refuse answers a problem document of RFC 9457, unless an answer has begun.
func (x *exchange) refuse(status int, code bastion.Code, sentence string) {
	x.code = code
	if x.status != 0 {
		return
	}
	body, err := json.Marshal(map[string]any{
		"type": "about:blank", "title": http.StatusText(status), "status": status,
		"detail": sentence, "code": code,
	})
	if err != nil {
		panic(err) // strings and a number
	}
	x.Header().Set("Content-Type", "application/problem+json")
	x.WriteHeader(status)
	_, _ = x.Write(body) // if the connection is gone, nobody is left to be told
}

// log writes the one line that each request gets.
func (a *App) log(r *http.Request, l line, start time.Time) {
	level, attrs := slog.LevelInfo, []slog.Attr{
		slog.String("method", r.Method),
		slog.String("route", l.route),
		slog.Int("status", l.status),
		slog.Float64("duration", a.Now().Sub(start).Round(time.Millisecond).Seconds()),
		slog.String("owner", l.owner),
		slog.Any("source", l.source),
	}
	if l.code != "" {
		attrs = append(attrs, slog.String("code", string(l.code)))
	}
	if l.cause != nil {
		attrs = append(attrs, slog.String("cause", l.cause.Error()))
	}
	switch {
	case l.status == http.StatusInternalServerError:
		level = slog.LevelError
	case l.status > http.StatusInternalServerError, l.status < http.StatusBadRequest && l.cause != nil:
		level = slog.LevelWarn // also what looks answered, and is not
	}
	a.Log.LogAttrs(r.Context(), level, "request", attrs...)
}
