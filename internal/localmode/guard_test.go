package localmode

import (
	"bufio"
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

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
)

func TestGuardLetsOnlyLocalToolsThrough(t *testing.T) {
	for _, test := range []struct {
		name, method, host string
		header             http.Header
		code               bastion.Code // empty if the request must reach the API
	}{
		{"curl", "POST", "127.0.0.1:8080", nil, ""},
		{"another loopback address", "POST", "127.0.0.2:8080", nil, ""},
		{"localhost", "GET", "localhost:8080", nil, ""},
		{"localhost in capitals", "GET", "LOCALHOST:8080", nil, ""},
		{"own origin in capitals", "POST", "LOCALHOST:8080", http.Header{"Origin": {"http://localhost:8080"}}, ""},
		{"IPv6 loopback", "GET", "[::1]:8080", nil, ""},
		{"typed into a browser", "GET", "localhost:8080", http.Header{"Sec-Fetch-Site": {"none"}}, ""},
		{"own origin", "POST", "localhost:8080", http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"http://localhost:8080"}}, ""},
		{"a form of a page without referrer", "POST", "localhost:8080", http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"null"}}, ""},

		{"name of a web page (DNS rebinding)", "POST", "evil.example:8080", nil, httpapi.CodeHostForeign},
		{"name that begins with localhost", "POST", "localhost.evil.example:8080", nil, httpapi.CodeHostForeign},
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
		response := httptest.NewRecorder()
		handler.ServeHTTP(response, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, here)))
		if reached != (test.code == "") {
			t.Errorf("%s: reached the API: %v", test.name, reached)
		}
		if test.code != "" {
			wantProblem(t, test.name, response, test.code)
			if id := response.Header().Get("X-Request-Id"); !strings.Contains(logged.String(), id) {
				t.Errorf("%s: the log does not contain the request ID", test.name)
			}
		}
	}
}

func wantProblem(t *testing.T, name string, response *httptest.ResponseRecorder, code bastion.Code) {
	t.Helper()
	var problem api.Problem
	if err := json.Unmarshal(response.Body.Bytes(), &problem); err != nil {
		t.Fatalf("%s: %v in %s", name, err, response.Body)
	}
	want := api.NewProblem(response.Code, code, problem.Detail, response.Header().Get("X-Request-Id"))
	if problem != want || response.Code < 400 || problem.Detail == "" {
		t.Errorf("%s: status %d, %+v, want %+v", name, response.Code, problem, want)
	}
	if got := string(httpedge.Marshal(want)); response.Body.String() != got { // as the API writes it
		t.Errorf("%s: the document is\n%s\nwant\n%s", name, response.Body, got)
	}
	for header, want := range map[string]string{"Content-Type": "application/problem+json", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
		if got := response.Header().Get(header); got != want {
			t.Errorf("%s: %s is %q, want %q", name, header, got, want)
		}
	}
}

// raw sends text as one request and returns the response.
func (f *fixture) raw(request string) *http.Response {
	f.t.Helper()
	host := strings.TrimPrefix(f.URL, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write([]byte(strings.ReplaceAll(request, "HOST", host))); err != nil {
		f.t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// net/http would serve OPTIONS * itself, without the guard, the headers and the log.
func TestGuardChecksOptionsAsterisk(t *testing.T) {
	f := start(t, nil)
	response := f.raw("OPTIONS * HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n")
	if response.StatusCode != http.StatusNotFound || response.Header.Get("X-Request-Id") == "" {
		t.Errorf("%s %v", response.Status, response.Header)
	}
	response = f.raw("OPTIONS * HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
	if response.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("another host: %s", response.Status)
	}
}

func TestHeadersAreLimited(t *testing.T) {
	f := start(t, nil)
	for size, want := range map[int]int{16 << 10: http.StatusOK, 72 << 10: http.StatusRequestHeaderFieldsTooLarge} {
		response := f.raw("GET /bastions HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\nX: " + strings.Repeat("x", size) + "\r\n\r\n")
		if response.StatusCode != want {
			t.Errorf("%d bytes of headers: %s, want %d", size, response.Status, want)
		}
	}
}

func TestTwoOwnersInOneRequestAreRefused(t *testing.T) {
	f := start(t, nil)
	response := f.raw("GET /bastions HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\nAuthorization: Basic YWxpY2U6\r\nAuthorization: Basic Ym9iOg==\r\n\r\n")
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("two Authorization headers: %s", response.Status)
	}
}

func TestOwnersAreNamesFromBasicAuthentication(t *testing.T) {
	for _, test := range []struct {
		name  string
		set   func(*http.Request)
		owner string // empty if the request must be refused
	}{
		{"no credentials", func(*http.Request) {}, "local:local"},
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
