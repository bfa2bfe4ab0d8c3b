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

// exchange is a request's answer, and what the log says of the request.
type exchange struct {
	http.ResponseWriter
	status int
	route  string
	owner  string       // once it is known
	code   bastion.Code // of what was refused
	cause  error        // for the log only; it holds nothing of the request
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
	if token, ok := pageToken(claimRoute, r.URL.Path); ok {
		r.SetPathValue("token", token)
		a.serveClaim(w, r)
		return
	}
	if token, ok := pageToken(viewRoute, r.URL.Path); ok {
		r.SetPathValue("token", token)
		a.serveView(w, r)
		return
	}
	start := a.Now()
	x := &exchange{ResponseWriter: w}
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	a.route(x, r)
	a.log(x, r, a.Now().Sub(start))
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

// log writes the one line that each request gets: the pattern of the path and not
// the path, which may hold a token; no query, no body.
func (a *App) log(x *exchange, r *http.Request, took time.Duration) {
	level, attrs := slog.LevelInfo, []slog.Attr{
		slog.String("method", r.Method),
		slog.String("route", x.route),
		slog.Int("status", x.status),
		slog.Float64("duration", took.Round(time.Millisecond).Seconds()),
		slog.String("owner", x.owner),
	}
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		attrs = append(attrs, slog.Any("source", at.Addr().Unmap()))
	}
	if x.code != "" {
		attrs = append(attrs, slog.String("code", string(x.code)))
	}
	if x.cause != nil {
		attrs = append(attrs, slog.String("cause", x.cause.Error()))
	}
	switch {
	case x.status == http.StatusInternalServerError:
		level = slog.LevelError
	case x.status > http.StatusInternalServerError:
		level = slog.LevelWarn
	}
	a.Log.LogAttrs(r.Context(), level, "request", attrs...)
}
