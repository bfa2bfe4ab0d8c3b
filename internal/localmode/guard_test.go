package localmode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

func TestGuardLetsOnlyLocalToolsThrough(t *testing.T) {
	for _, test := range []struct {
		name, method, host string
		header             http.Header
		code               bastion.Code // empty: let through
	}{
		{"curl", "POST", "127.0.0.1:8080", nil, ""},
		{"another loopback address", "POST", "127.0.0.2:8080", nil, ""},
		{"localhost", "GET", "localhost:8080", nil, ""},
		{"IPv6 loopback", "GET", "[::1]:8080", nil, ""},
		{"typed into a browser", "GET", "localhost:8080", http.Header{"Sec-Fetch-Site": {"none"}}, ""},
		{"own origin", "POST", "localhost:8080", http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"http://localhost:8080"}}, ""},
		{"a form of a page without referrer", "POST", "localhost:8080", http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"null"}}, ""},

		{"rebound name", "POST", "evil.example:8080", nil, httpapi.CodeHostForeign},
		{"name that begins well", "POST", "localhost.evil.example:8080", nil, httpapi.CodeHostForeign},
		{"another port", "POST", "127.0.0.1:8081", nil, httpapi.CodeHostForeign},
		{"no port", "POST", "127.0.0.1", nil, httpapi.CodeHostForeign},
		{"no host", "POST", "", nil, httpapi.CodeHostForeign},
		{"another machine's address", "POST", "192.168.1.5:8080", nil, httpapi.CodeHostForeign},
		{"cross-site", "POST", "127.0.0.1:8080", http.Header{"Sec-Fetch-Site": {"cross-site"}}, httpapi.CodeCrossOrigin},
		{"same-site, another port", "POST", "127.0.0.1:8080", http.Header{"Sec-Fetch-Site": {"same-site"}}, httpapi.CodeCrossOrigin},
		{"cross-site GET", "GET", "127.0.0.1:8080", http.Header{"Sec-Fetch-Site": {"cross-site"}}, httpapi.CodeCrossOrigin},
		{"old browser", "POST", "127.0.0.1:8080", http.Header{"Origin": {"https://evil.example"}}, httpapi.CodeCrossOrigin},
		{"another local page", "POST", "127.0.0.1:8080", http.Header{"Origin": {"http://127.0.0.1:3000"}}, httpapi.CodeCrossOrigin},
		{"own site, another origin", "POST", "127.0.0.1:8080", http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"https://evil.example"}}, httpapi.CodeCrossOrigin},
		{"typed, opaque origin", "POST", "127.0.0.1:8080", http.Header{"Sec-Fetch-Site": {"none"}, "Origin": {"null"}}, httpapi.CodeCrossOrigin},
		{"opaque origin", "POST", "127.0.0.1:8080", http.Header{"Origin": {"null"}}, httpapi.CodeCrossOrigin},
	} {
		reached := false
		var logged bytes.Buffer
		handler := guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }), slog.New(slog.NewJSONHandler(&logged, nil)))
		r := httptest.NewRequest(test.method, "http://127.0.0.1:8080/bastions", nil)
		r.Host = test.host
		if test.header != nil {
			r.Header = test.header
		}
		here := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, here)))
		if reached != (test.code == "") {
			t.Errorf("%s: reached the API: %v", test.name, reached)
		}
		if test.code != "" {
			wantProblem(t, test.name, answer, test.code)
			if id := answer.Header().Get("X-Request-Id"); !strings.Contains(logged.String(), id) {
				t.Errorf("%s: no line of the log has its request id", test.name)
			}
		}
	}
}

func wantProblem(t *testing.T, name string, answer *httptest.ResponseRecorder, code bastion.Code) {
	t.Helper()
	var problem struct {
		Status int
		Code   bastion.Code
		Detail string
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &problem); err != nil {
		t.Fatalf("%s: %v in %s", name, err, answer.Body)
	}
	if problem.Code != code || problem.Status != answer.Code || answer.Code < 400 || problem.Detail == "" {
		t.Errorf("%s: status %d, %+v, want code %s", name, answer.Code, problem, code)
	}
	if got := answer.Header().Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("%s: content type %s", name, got)
	}
}

func TestOwnersAreNamesFromBasicAuthentication(t *testing.T) {
	for _, test := range []struct {
		name  string
		set   func(*http.Request)
		owner string // empty: refused
	}{
		{"nobody", func(*http.Request) {}, "local:local"},
		{"alice", func(r *http.Request) { r.SetBasicAuth("alice", "") }, "local:alice"},
		{"mail address", func(r *http.Request) { r.SetBasicAuth("alice@example.com", "") }, "local:alice@example.com"},
		{"64 letters", func(r *http.Request) { r.SetBasicAuth(strings.Repeat("a", 64), "") }, "local:" + strings.Repeat("a", 64)},
		{"65 letters", func(r *http.Request) { r.SetBasicAuth(strings.Repeat("a", 65), "") }, ""},
		{"empty", func(r *http.Request) { r.SetBasicAuth("", "") }, ""},
		{"newline", func(r *http.Request) { r.SetBasicAuth("alice\nroot", "") }, ""},
		{"another prefix", func(r *http.Request) { r.SetBasicAuth("iam:1", "") }, ""},
		{"space", func(r *http.Request) { r.SetBasicAuth("al ice", "") }, ""},
		{"password", func(r *http.Request) { r.SetBasicAuth("alice", "secret") }, ""},
		{"bearer", func(r *http.Request) { r.Header.Set("Authorization", "Bearer abc") }, ""},
	} {
		r := httptest.NewRequest("GET", "/bastions", nil)
		r.RemoteAddr = "127.0.0.2:5555"
		r.Header.Set("X-Forwarded-For", "10.9.8.7")
		test.set(r)
		caller, err := identify(r)
		var refused *bastion.Error
		switch {
		case test.owner == "" && (!errors.As(err, &refused) || refused.Code != httpapi.CodeOwnerInvalid):
			t.Errorf("%s: %+v, %v, want %s", test.name, caller, err, httpapi.CodeOwnerInvalid)
		case test.owner == "" && strings.Contains(err.Error(), "secret"):
			t.Errorf("%s: the error repeats the password", test.name)
		case test.owner != "" && (err != nil || caller.Owner != test.owner):
			t.Errorf("%s: %+v, %v", test.name, caller, err)
		case test.owner != "" && (caller.Address != netip.MustParseAddr("127.0.0.2") || caller.Admin):
			t.Errorf("%s: %+v", test.name, caller)
		}
	}
}
