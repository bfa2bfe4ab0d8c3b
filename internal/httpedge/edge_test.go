package httpedge

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// run serves one request and returns the response and the line of the access log.
func run(t *testing.T, r *http.Request, serve func(*Exchange)) (*httptest.ResponseRecorder, map[string]any) {
	t.Helper()
	var log bytes.Buffer
	w := httptest.NewRecorder()
	Edge{Log: slog.New(slog.NewJSONHandler(&log, nil)), Now: func() time.Time { return time.Time{} }}.Handler(serve).ServeHTTP(w, r)
	var line map[string]any
	if err := json.Unmarshal(log.Bytes(), &line); err != nil {
		t.Fatalf("the log is not one line: %q", log.String())
	}
	return w, line
}

func TestEveryResponseHasTheHeaders(t *testing.T) {
	for name, serve := range map[string]func(*Exchange){
		"success": func(x *Exchange) { x.Send(200, "application/json", []byte("{}")) },
		"problem": func(x *Exchange) { x.Problem(404, CodePathNotFound, "No such path.") },
		"panic":   func(*Exchange) { panic("a bug") },
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Forwarded-For", "203.0.113.9") // it does not change the source
		w, line := run(t, r, serve)
		for header, want := range map[string]string{
			"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
			"Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"X-Source-Address": "192.0.2.1",
		} {
			if got := w.Header().Get(header); got != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
		if id := w.Header().Get("X-Request-Id"); len(id) < 16 || line["request_id"] != id {
			t.Errorf("%s: the request ID is %q, and %v in the log", name, id, line["request_id"])
		}
	}
}

func TestAccessLogHasNoPathQueryOrBody(t *testing.T) {
	r := httptest.NewRequest("POST", "/secret-path?secret-query", strings.NewReader("secret-body"))
	_, line := run(t, r, func(x *Exchange) {
		x.Route, x.Owner, x.Attrs = "/{token}", "local:alice", []slog.Attr{slog.String("host", "h")}
		x.Send(200, "text/plain", nil)
	})
	for key, want := range map[string]any{
		"level": "INFO", "method": "POST", "route": "/{token}", "status": 200.0, "duration": 0.0,
		"owner": "local:alice", "source": "192.0.2.1", "host": "h",
	} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v", key, line[key], want)
		}
	}
	if encoded, _ := json.Marshal(line); strings.Contains(string(encoded), "secret") {
		t.Errorf("the line contains a secret: %s", encoded)
	}
}

func TestLogLevelDependsOnStatusCauseAndPanic(t *testing.T) {
	cause := errors.New("broken")
	for name, test := range map[string]struct {
		serve func(*Exchange)
		want  string
	}{
		"success":                {func(x *Exchange) { x.Send(200, "text/plain", nil) }, "INFO"},
		"success with a cause":   {func(x *Exchange) { x.Cause = cause; x.Send(200, "text/plain", nil) }, "WARN"},
		"fault of the client":    {func(x *Exchange) { x.Cause = cause; x.Problem(400, "odd", "Odd.") }, "INFO"},
		"raised by the handler":  {func(x *Exchange) { x.Level = slog.LevelWarn; x.Problem(403, "odd", "Odd.") }, "WARN"},
		"internal":               {func(x *Exchange) { x.Internal() }, "ERROR"},
		"unavailable":            {func(x *Exchange) { x.Problem(503, CodeUnavailable, "Try again.") }, "WARN"},
		"panic after the status": {func(x *Exchange) { x.WriteHeader(200); panic("a bug") }, "ERROR"},
	} {
		if _, line := run(t, httptest.NewRequest("GET", "/", nil), test.serve); line["level"] != test.want {
			t.Errorf("%s: level %v, want %s", name, line["level"], test.want)
		}
	}
}

func TestPanicReturnsProblemUnlessOnPanicIsSet(t *testing.T) {
	w, line := run(t, httptest.NewRequest("GET", "/", nil), func(*Exchange) { panic("a bug") })
	var problem api.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil || w.Code != 500 || problem.Code != CodeInternal || !strings.Contains(problem.Detail, problem.RequestID) {
		t.Errorf("%d %s, %v", w.Code, w.Body, err)
	}
	if cause, _ := line["cause"].(string); !strings.Contains(cause, "a bug") || !strings.Contains(cause, "edge_test.go") {
		t.Errorf("the cause in the log lacks the panic or its place: %s", cause)
	}
	w, _ = run(t, httptest.NewRequest("GET", "/", nil), func(x *Exchange) {
		x.OnPanic = func() { x.Send(500, "text/html", []byte("<p>")) }
		panic("a bug")
	})
	if w.Code != 500 || w.Body.String() != "<p>" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestProblemAfterTheResponseHasBegunIsOnlyLogged(t *testing.T) {
	w, line := run(t, httptest.NewRequest("GET", "/", nil), func(x *Exchange) {
		x.Send(200, "text/plain", []byte("ok"))
		x.Problem(404, CodePathNotFound, "No such path.")
	})
	if w.Code != 200 || w.Body.String() != "ok" || line["code"] != string(CodePathNotFound) {
		t.Errorf("%d %s, code %v", w.Code, w.Body, line["code"])
	}
}

func TestHeadHasNoBody(t *testing.T) {
	for _, serve := range []func(*Exchange){
		func(x *Exchange) { x.Send(200, "text/plain", []byte("ok")) },
		func(x *Exchange) { x.Problem(404, CodePathNotFound, "No such path.") },
	} {
		if w, _ := run(t, httptest.NewRequest("HEAD", "/", nil), serve); w.Body.Len() > 0 || w.Header().Get("Content-Type") == "" {
			t.Errorf("%d %v %q", w.Code, w.Header(), w.Body)
		}
	}
}

func TestBodyIsLimited(t *testing.T) {
	for name, test := range map[string]struct {
		body io.Reader
		code bastion.Code
	}{
		"at the limit": {strings.NewReader(strings.Repeat("x", MaxBody)), ""},
		"beyond it":    {strings.NewReader(strings.Repeat("x", MaxBody+1)), CodeBodyTooLarge},
		"cut off":      {io.MultiReader(strings.NewReader("x"), brokenReader{}), CodeBodyIncomplete},
		"nil":          {nil, ""},
	} {
		r := httptest.NewRequest("POST", "/", test.body)
		if test.body == nil {
			r.Body = nil
		}
		run(t, r, func(x *Exchange) {
			_, err := x.Body()
			var known *bastion.Error
			if errors.As(err, &known) != (test.code != "") || known != nil && known.Code != test.code {
				t.Errorf("%s: %v, want %s", name, err, test.code)
			}
			x.WriteHeader(200)
		})
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("connection reset by peer") }
