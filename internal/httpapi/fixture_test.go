package httpapi_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// fake is a service that returns what a test sets and records its calls.
type fake struct {
	rec     bastion.Record
	records []bastion.Record
	created bool
	added   bastion.Key
	err     error
	crash   bool

	calls  []string
	create bastion.CreateRequest
	caller bastion.Caller
	id     string
	ttl    time.Duration
	wait   time.Duration
}

func (f *fake) note(call string, caller bastion.Caller, id string, wait time.Duration) {
	f.calls = append(f.calls, call)
	f.caller, f.id, f.wait = caller, id, wait
	if f.crash {
		panic("a bug")
	}
}

func (f *fake) Create(_ context.Context, req bastion.CreateRequest) (bastion.Record, bastion.Change, error) {
	f.create = req
	f.note("Create", req.Caller, "", req.Wait)
	return f.rec, bastion.Change{Created: f.created, AddedKey: f.added}, f.err
}

func (f *fake) Get(_ context.Context, caller bastion.Caller, id string, wait time.Duration) (bastion.Record, error) {
	f.note("Get", caller, id, wait)
	return f.rec, f.err
}

func (f *fake) List(_ context.Context, caller bastion.Caller, wait time.Duration) ([]bastion.Record, error) {
	f.note("List", caller, "", wait)
	return f.records, f.err
}

func (f *fake) Extend(_ context.Context, caller bastion.Caller, id string, ttl, wait time.Duration) (bastion.Record, error) {
	f.ttl = ttl
	f.note("Extend", caller, id, wait)
	return f.rec, f.err
}

func (f *fake) Close(_ context.Context, caller bastion.Caller, id string, wait time.Duration) (bastion.Record, error) {
	f.note("Close", caller, id, wait)
	return f.rec, f.err
}

func (f *fake) CloseAll(_ context.Context, caller bastion.Caller, wait time.Duration) ([]bastion.Record, error) {
	f.note("CloseAll", caller, "", wait)
	return f.records, f.err
}

// fixture is the API over a fake, called without a network.
type fixture struct {
	*fake
	options httpapi.Options
	log     *bytes.Buffer
}

func newFixture() *fixture {
	f, log := &fake{}, &bytes.Buffer{}
	return &fixture{fake: f, log: log, options: httpapi.Options{
		Service: f,
		Log:     slog.New(slog.NewJSONHandler(log, nil)),
		Now:     func() time.Time { return noon.Add(time.Minute) },
		Identify: func(*http.Request) (bastion.Caller, error) {
			return bastion.Caller{Owner: "local:alice", Address: netip.MustParseAddr("203.0.113.7")}, nil
		},
	}}
}

// send makes a request; headers are pairs of name and value.
func (r *fixture) send(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	return r.sendReader(method, path, strings.NewReader(body), headers...)
}

func (r *fixture) sendReader(method, path string, body io.Reader, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, body)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	httpapi.New(r.options).ServeHTTP(w, req.WithContext(httpedge.WithRequestID(req.Context(), "request-1")))
	return w
}

// problem is a problem document as a client reads it.
type problem struct {
	Type, Title, Detail, Code string
	Status                    int
	RequestID                 string `json:"request_id"`
}

// readProblem decodes a problem document, and fails the test if it is incomplete.
func readProblem(t *testing.T, w *httptest.ResponseRecorder) problem {
	t.Helper()
	var p problem
	dec := json.NewDecoder(w.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		t.Fatalf("%d: not a problem document: %v", w.Code, err)
	}
	if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q", got)
	}
	if got := w.Header().Get("X-Source-Address"); got == "" {
		t.Error("the problem has no X-Source-Address")
	}
	if p.Type != "about:blank" || p.Title != http.StatusText(w.Code) || p.Status != w.Code || p.RequestID != "request-1" {
		t.Errorf("status %d, but the document says %+v", w.Code, p)
	}
	if !strings.HasSuffix(p.Detail, ".") && !strings.HasSuffix(p.Detail, "}.") {
		t.Errorf("the detail is no sentence: %s", p.Detail)
	}
	return p
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const someID = "3kq7vmx2p4hzr6ta"

// keyOf returns a public key made from a seed of equal bytes.
func keyOf(seed byte) bastion.Key {
	return bastion.Key(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signerOf(seed).PublicKey()))))
}

func signerOf(seed byte) ssh.Signer {
	s, err := ssh.NewSignerFromKey(privateKeyOf(seed))
	if err != nil {
		panic(err) // ed25519 keys make signers
	}
	return s
}

func privateKeyOf(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

var (
	userKey = keyOf(1)
	hostKey = keyOf(2)
	rsaHost = rsaKeyOf(7)
)

// rsaKeyOf returns a public RSA key of 3,072 bits, which has no private key.
func rsaKeyOf(seed byte) bastion.Key {
	n := new(big.Int).SetBytes(bytes.Repeat([]byte{seed | 0x80}, 3072/8))
	key, err := ssh.NewPublicKey(&rsa.PublicKey{N: n, E: 65537})
	if err != nil {
		panic(err)
	}
	return publickey.Of(key)
}

func starting() bastion.Record {
	source := netip.MustParsePrefix("203.0.113.7/32")
	return bastion.Record{
		ID: someID, Owner: "local:alice", Name: "default",
		CreatedAt: noon, LatestDeadline: noon.Add(8 * time.Hour),
		Intent: bastion.Intent{
			Generation: 1, Open: true, Source: source, Keys: []bastion.Key{userKey},
			Deadline: noon.Add(time.Hour), Reason: "look at the orders table",
		},
		Group:   bastion.GroupStatus{ID: "sg-1", Ingress: source},
		Attempt: bastion.Attempt{Number: 1, TaskID: "task-1", Status: bastion.TaskPending},
		Version: 3,
	}
}

func ready() bastion.Record {
	rec := starting()
	rec.Attempt.Status = bastion.TaskRunning
	rec.Attempt.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("198.51.100.24:2222")}
	rec.Attempt.HostKey, rec.Attempt.MoreHostKeys = hostKey, []bastion.Key{rsaHost}
	rec.Attempt.Generation = 1
	rec.Attempt.ReadyAt = noon.Add(30 * time.Second)
	rec.SeenAt = rec.Attempt.ReadyAt
	return rec
}

// severalKeys returns a ready bastion with two keys and sources of both families.
func severalKeys() bastion.Record {
	rec := ready()
	rec.Intent.Keys = []bastion.Key{userKey, keyOf(9)}
	rec.Intent.KeySources = []bastion.KeySources{
		{Prefixes: []netip.Prefix{rec.Intent.Source}},
		{Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28"), netip.MustParsePrefix("2001:db8::7/128")}, Named: true},
	}
	rec.Group.Ingress, rec.Group.MoreIngress = netip.MustParsePrefix("198.51.100.0/28"), []netip.Prefix{rec.Intent.Source, netip.MustParsePrefix("2001:db8::7/128")}
	rec.Attempt.Endpoints = append(rec.Attempt.Endpoints, netip.MustParseAddrPort("[2001:db8:1::24]:2222"))
	return rec
}

// severalSources returns a ready bastion with one key, for which two sources were named.
func severalSources() bastion.Record {
	rec := ready()
	rec.Intent.KeySources = []bastion.KeySources{{Prefixes: []netip.Prefix{rec.Intent.Source, netip.MustParsePrefix("198.51.100.0/28")}, Named: true}}
	rec.Group.Ingress, rec.Group.MoreIngress = netip.MustParsePrefix("198.51.100.0/28"), []netip.Prefix{rec.Intent.Source}
	return rec
}

// justSeen returns a bastion that was seen ready a second before the request.
func justSeen() bastion.Record {
	rec := ready()
	rec.SeenAt = noon.Add(59 * time.Second)
	return rec
}

// moving returns a bastion that was ready and moves to another address.
func moving() bastion.Record {
	rec := ready()
	rec.Intent.Source, rec.SeenAt = netip.MustParsePrefix("203.0.113.8/32"), time.Time{}
	return rec
}

// delayed returns the record with failing converges.
func delayed(rec bastion.Record) bastion.Record {
	rec.Failing.Since = noon.Add(40 * time.Second)
	return rec
}

// refused returns the record with converges that AWS refuses.
func refused(rec bastion.Record) bastion.Record {
	rec = delayed(rec)
	rec.Failing.Refusal = bastion.CapacityFailure
	return rec
}

func closing(reason bastion.EndReason) bastion.Record {
	rec := ready()
	rec.Intent.Open = false
	rec.End = bastion.End{Reason: reason, At: noon.Add(20 * time.Minute)}
	return rec
}

func closed() bastion.Record {
	rec := closing(bastion.EndIdle)
	rec.Attempt.EndedAt = noon.Add(21 * time.Minute)
	rec.FinishedAt = noon.Add(22 * time.Minute)
	return rec
}

func failed() bastion.Record {
	rec := starting()
	rec.Intent.Open = false
	rec.Attempt.EndedAt = noon.Add(2 * time.Minute)
	rec.End = bastion.End{Reason: bastion.EndFailed, At: noon.Add(2 * time.Minute), Failure: bastion.CapacityFailure}
	return rec
}
