package httpapi_test

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

func TestOperationsCallTheService(t *testing.T) {
	item := "/bastions/" + someID
	for name, test := range map[string]struct {
		method, path, body string
		rec                bastion.Record
		created            bool
		call               string
		status             int
	}{
		"create":              {"POST", "/bastions", string(userKey), starting(), true, "Create", 201},
		"create again":        {"POST", "/bastions", "", ready(), false, "Create", 200},
		"get":                 {"GET", item, "", ready(), false, "Get", 200},
		"get failed":          {"GET", item, "", failed(), false, "Get", 200},
		"extend":              {"PATCH", item, `{"ttl":"30m"}`, ready(), false, "Extend", 200},
		"close":               {"DELETE", item, "", closing(bastion.EndIdle), false, "Close", 202},
		"closed":              {"DELETE", item, "", closed(), false, "Close", 200},
		"list":                {"GET", "/bastions", "", ready(), false, "List", 200},
		"close all":           {"DELETE", "/bastions", "", closing(bastion.EndIdle), false, "CloseAll", 202},
		"close all, all gone": {"DELETE", "/bastions", "", closed(), false, "CloseAll", 200},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFixture()
			r.rec, r.records, r.created = test.rec, []bastion.Record{test.rec}, test.created
			w := r.send(test.method, test.path, test.body)
			if w.Code != test.status || !slices.Equal(r.calls, []string{test.call}) {
				t.Fatalf("%d after %v: %s", w.Code, r.calls, w.Body)
			}
			if r.caller.Owner != "local:alice" || r.caller.Address != netip.MustParseAddr("203.0.113.7") {
				t.Errorf("the service saw the caller %+v", r.caller)
			}
			if strings.HasPrefix(test.path, item) && r.id != someID {
				t.Errorf("the service saw the id %q", r.id)
			}
			if got := w.Header().Get("Location"); (got == item) != test.created {
				t.Errorf("Location %q", got)
			}
			for header, want := range map[string]string{
				"Content-Type": "application/json", "Cache-Control": "no-store",
				"X-Content-Type-Options": "nosniff", "X-Request-Id": "request-1",
			} {
				if got := w.Header().Get(header); got != want {
					t.Errorf("%s is %q, not %q", header, got, want)
				}
			}
		})
	}
}

func TestHeadIsGetWithoutABody(t *testing.T) {
	for _, path := range []string{"/bastions", "/bastions/" + someID} {
		r := newFixture()
		r.rec, r.records = ready(), []bastion.Record{ready()}
		get, head := r.send("GET", path, "", "Accept", "text/plain"), r.send("HEAD", path, "", "Accept", "text/plain")
		if head.Code != 200 || head.Body.Len() > 0 || !reflect.DeepEqual(head.Header(), get.Header()) || len(r.calls) != 2 || r.calls[0] != r.calls[1] {
			t.Errorf("HEAD %s: %d %v %q after %v, GET has %v", path, head.Code, head.Header(), head.Body, r.calls, get.Header())
		}
	}
}

func TestTwoAuthorizationHeadersAreRefused(t *testing.T) {
	r := newFixture()
	w := r.send("GET", "/bastions", "", "Authorization", "Basic YWxpY2U6", "Authorization", "Basic Ym9iOg==")
	if p := readProblem(t, w); w.Code != 400 || p.Code != "authorization_invalid" || len(r.calls) > 0 {
		t.Errorf("%d %s after %v", w.Code, p.Code, r.calls)
	}
}

func TestExtendPassesTheTTL(t *testing.T) {
	r := newFixture()
	r.rec = ready()
	if w := r.send("PATCH", "/bastions/"+someID, ` {"ttl":"1h30m"} `); w.Code != 200 || r.ttl != 90*time.Minute {
		t.Fatalf("%d, ttl %s: %s", w.Code, r.ttl, w.Body)
	}
}

func TestCloseAllWithoutBastions(t *testing.T) {
	r := newFixture()
	w := r.send("DELETE", "/bastions", "")
	if w.Code != 200 || strings.Join(strings.Fields(w.Body.String()), "") != `{"bastions":[]}` {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

func TestCreateBodies(t *testing.T) {
	hour, days := time.Hour, 48*time.Hour
	key := string(userKey)
	for name, test := range map[string]struct {
		body string
		want bastion.CreateRequest
	}{
		"nothing":            {"", bastion.CreateRequest{}},
		"blank":              {" \r\n", bastion.CreateRequest{}},
		"a key":              {key + " alice@laptop\n", bastion.CreateRequest{Key: userKey}},
		"empty object":       {" {} ", bastion.CreateRequest{}},
		"a key in JSON":      {`{"public_key":"` + key + ` alice\n"}`, bastion.CreateRequest{Key: userKey}},
		"all fields":         {`{"name":"db","source":"198.51.100.9","reason":"why","ttl":"1h","public_key":"` + key + `"}`, bastion.CreateRequest{Key: userKey, TTL: &hour, Reason: "why", Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.9/32")}, Name: "db"}},
		"source as /32":      {`{"source":"198.51.100.9/32"}`, bastion.CreateRequest{Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.9/32")}}},
		"source v6":          {`{"source":"2001:db8::7"}`, bastion.CreateRequest{Sources: []netip.Prefix{netip.MustParsePrefix("2001:db8::7/128")}}},
		"source as /128":     {`{"source":"2001:db8::7/128"}`, bastion.CreateRequest{Sources: []netip.Prefix{netip.MustParsePrefix("2001:db8::7/128")}}},
		"source mapped":      {`{"source":"::ffff:198.51.100.9"}`, bastion.CreateRequest{Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.9/32")}}},
		"source mapped/128":  {`{"source":"::ffff:198.51.100.9/128"}`, bastion.CreateRequest{Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.9/32")}}},
		"a prefix":           {`{"source":"198.51.100.9/28"}`, bastion.CreateRequest{Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28")}}},
		"a mapped prefix":    {`{"source":"::ffff:198.51.100.9/124"}`, bastion.CreateRequest{Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28")}}},
		"a list of sources":  {`{"source":["198.51.100.9","2001:db8::7/64"]}`, bastion.CreateRequest{Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.9/32"), netip.MustParsePrefix("2001:db8::/64")}}},
		"only key":           {`{"only_key":true,"public_key":"` + key + `"}`, bastion.CreateRequest{Key: userKey, OnlyKey: true}},
		"not the only key":   {`{"only_key":false}`, bastion.CreateRequest{}},
		"escapes":            {"{\"reason\":\"a \\u0022b\\u0022\"}", bastion.CreateRequest{Reason: `a "b"`}},
		"empty reason":       {`{"reason":""}`, bastion.CreateRequest{}},
		"pair of surrogates": {`{"reason":"\ud83d\uDE00"}`, bastion.CreateRequest{Reason: "😀"}},
		"escaped backslash":  {`{"reason":"\\ud800"}`, bastion.CreateRequest{Reason: `\ud800`}},
		"mark before JSON":   {"\ufeff{\"ttl\":\"1h\"}\r\n", bastion.CreateRequest{TTL: &hour}},
		"mark before a key":  {"\ufeff" + key + "\r\n", bastion.CreateRequest{Key: userKey}},
		"two days":           {`{"ttl":"2d"}`, bastion.CreateRequest{TTL: &days}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFixture()
			r.rec, r.created = starting(), true
			// curl sends this content type with every body; it must be ignored.
			w := r.send("POST", "/bastions", test.body, "Content-Type", "application/x-www-form-urlencoded")
			if w.Code != 201 {
				t.Fatalf("%d: %s", w.Code, w.Body)
			}
			test.want.Caller = r.create.Caller
			got, _ := json.Marshal(r.create)
			want, _ := json.Marshal(test.want)
			if string(got) != string(want) {
				t.Errorf("the service saw\n%s, not\n%s", got, want)
			}
		})
	}
}

func TestIdentityComesFirst(t *testing.T) {
	refused := bastion.Errorf(httpapi.CodeForbidden, "You are not on the list.")
	for name, test := range map[string]struct {
		caller bastion.Caller
		err    error
		status int
		code   string
	}{
		"forbidden":           {bastion.Caller{}, refused, 403, "forbidden"},
		"unauthenticated":     {bastion.Caller{}, bastion.Errorf(httpapi.CodeUnauthenticated, "Sign the request."), 401, "unauthenticated"},
		"a code of their own": {bastion.Caller{}, bastion.Errorf("owner_odd", "That is no name."), 401, "owner_odd"},
		"any error":           {bastion.Caller{}, http.ErrNoCookie, 401, "unauthenticated"},
		"no owner":            {bastion.Caller{}, nil, 401, "unauthenticated"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFixture()
			r.options.Challenge = `Basic realm="bastion"`
			r.options.Identify = func(*http.Request) (bastion.Caller, error) { return test.caller, test.err }
			body := &watchedReader{}
			w := r.sendReader("POST", "/bastions", body)
			p := readProblem(t, w)
			if w.Code != test.status || p.Code != test.code {
				t.Errorf("%d %s: %s", w.Code, p.Code, p.Detail)
			}
			if body.read || len(r.calls) > 0 {
				t.Errorf("body read: %t; calls: %v", body.read, r.calls)
			}
			if got := w.Header().Get("WWW-Authenticate"); (got == r.options.Challenge) != (test.status == 401) {
				t.Errorf("WWW-Authenticate %q", got)
			}
			if strings.Contains(p.Detail, http.ErrNoCookie.Error()) {
				t.Errorf("it shows the cause: %s", p.Detail)
			}
		})
	}
}

// A dual-stack socket reports IPv4 addresses as IPv6, and link-local ones with the
// name of an interface of this machine.
func TestCallerAddressIsUnmapped(t *testing.T) {
	for from, want := range map[string]string{"::ffff:203.0.113.7": "203.0.113.7", "fe80::7%eth0": "fe80::7"} {
		r := newFixture()
		r.options.Identify = func(*http.Request) (bastion.Caller, error) {
			return bastion.Caller{Owner: "local:alice", Address: netip.MustParseAddr(from)}, nil
		}
		r.send("GET", "/bastions", "")
		if r.caller.Address != netip.MustParseAddr(want) {
			t.Errorf("from %s: the service saw %s", from, r.caller.Address)
		}
	}
}

// watchedReader records whether it was read.
type watchedReader struct{ read bool }

func (w *watchedReader) Read([]byte) (int, error) {
	w.read = true
	return 0, http.ErrBodyReadAfterClose
}
