package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

func contract(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("../../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return doc
}

// exchange is a request, the result of the service, and the expected response.
type exchange struct {
	method, path string
	body         io.Reader
	header       []string
	created      bool
	record       bastion.Record
	err          error
	identify     httpapi.Identify
	want         string // status and content type, or status and code
	malformed    bool   // the request does not match the contract
}

// TestHandlersKeepTheContract sends at least one request for every documented
// response (operation, status, content type or problem code), and validates each
// request and response. A documented response that is never produced is a failure,
// and so is a response that is not documented.
func TestHandlersKeepTheContract(t *testing.T) {
	doc := contract(t)
	documented := documentedResponses(doc)
	doc.Servers = nil // the requests go to no host in particular
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	produced := map[string]bool{}
	for _, x := range exchanges(t) {
		got := x.play(t, router)
		if want := x.method + " " + pathPattern(x.path) + " " + x.want; got != want {
			t.Errorf("got %s, not %s", got, want)
		}
		if !documented[got] {
			t.Errorf("produced and not documented: %s", got)
		}
		produced[got] = true
	}
	for _, response := range slices.Sorted(maps.Keys(documented)) {
		if !produced[response] {
			t.Errorf("documented and never produced: %s", response)
		}
	}
}

func pathPattern(path string) string {
	if strings.HasPrefix(path, "/bastions/") {
		return "/bastions/{id}"
	}
	return path
}

// documentedResponses lists the responses in the contract, as "GET /bastions 200
// text/plain" or "GET /bastions 406 not_acceptable".
func documentedResponses(doc *openapi3.T) map[string]bool {
	all := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			for status, response := range op.Responses.Map() {
				for contentType, media := range response.Value.Content {
					response := method + " " + path + " " + status + " "
					if contentType != "application/problem+json" {
						all[response+contentType] = true
						continue
					}
					for _, code := range media.Schema.Value.AllOf[1].Value.Properties["code"].Value.Enum {
						all[response+code.(string)] = true
					}
				}
			}
		}
	}
	return all
}

// play sends the request and returns the response in the form of
// documentedResponses.
func (x exchange) play(t *testing.T, router routers.Router) string {
	t.Helper()
	r := newFixture()
	r.options.Targets = []httpapi.Target{privateHost}
	r.rec, r.records, r.created, r.err = x.record, []bastion.Record{x.record}, x.created, x.err
	if x.identify != nil {
		r.options.Identify = x.identify
	}
	req := x.request()
	input, err := requestInput(req, router)
	if err != nil {
		t.Fatalf("%s %s: %v", x.method, x.path, err)
	}
	if err := openapi3filter.ValidateRequest(t.Context(), input); err != nil && !x.malformed {
		t.Errorf("%s %s %s: the request: %v", x.method, x.path, x.want, err)
	}
	w := httptest.NewRecorder()
	req = x.request()
	httpapi.New(r.options).ServeHTTP(w, req.WithContext(httpedge.WithRequestID(req.Context(), "request-1")))

	body := w.Body.Bytes()
	response := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: w.Code, Header: w.Header(),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	if err := openapi3filter.ValidateResponse(t.Context(), response.SetBodyBytes(body)); err != nil {
		t.Errorf("%s %s %s: the response: %v\n%s", x.method, x.path, x.want, err, body)
	}
	contentType, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	if contentType == "application/problem+json" {
		contentType = readProblem(t, w).Code
	}
	return x.method + " " + pathPattern(x.path) + " " + strconv.Itoa(w.Code) + " " + contentType
}

// request makes a new request each time, because validation reads the body.
func (x exchange) request() *http.Request {
	body := x.body
	if seeker, ok := body.(io.Seeker); ok {
		_, _ = seeker.Seek(0, io.SeekStart) // strings.Reader always can
	}
	req := httptest.NewRequest(x.method, x.path, body)
	for i := 0; i < len(x.header); i += 2 {
		req.Header.Add(x.header[i], x.header[i+1])
	}
	return req
}

func requestInput(req *http.Request, router routers.Router) (*openapi3filter.RequestValidationInput, error) {
	route, params, err := router.FindRoute(req)
	return &openapi3filter.RequestValidationInput{
		Request: req, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: func(context.Context, *openapi3filter.AuthenticationInput) error { return nil }},
	}, err
}

// The contract lists exactly the codes of failures that package bastion declares.
func TestContractHasEveryFailureCode(t *testing.T) {
	source, err := os.ReadFile("../bastion/failure.go")
	if err != nil {
		t.Fatal(err)
	}
	var declared, documented []string
	for _, match := range regexp.MustCompile(`FailureCode = "(\w+)"`).FindAllStringSubmatch(string(source), -1) {
		declared = append(declared, match[1])
	}
	if len(declared) < 10 {
		t.Fatalf("only %d codes found in failure.go", len(declared))
	}
	failure := contract(t).Components.Schemas["Bastion"].Value.Properties["failure"].Value
	for _, code := range failure.Properties["code"].Value.Enum {
		documented = append(documented, code.(string))
	}
	slices.Sort(declared)
	slices.Sort(documented)
	if !slices.Equal(declared, documented) {
		t.Errorf("failure.go declares %q, the contract lists %q", declared, documented)
	}
}

// Readers copy the examples.
func TestExamplesOfTheContractAreAccepted(t *testing.T) {
	doc := contract(t)
	create := doc.Components.Schemas["CreateRequest"].Value
	body := map[string]any{}
	for name, property := range create.Properties {
		if property.Value.Example != nil {
			body[name] = property.Value.Example
		}
	}
	if len(body) < 4 {
		t.Fatalf("only %d examples", len(body))
	}
	r := newFixture()
	r.rec, r.created = starting(), true
	if w := r.sendReader("POST", "/bastions", bytes.NewReader(mustJSON(t, body))); w.Code != 201 {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

const itemPath = "/bastions/" + someID

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// exchanges returns the exchanges of TestHandlersKeepTheContract.
func exchanges(t *testing.T) []exchange {
	all := slices.Concat(successes(), everywhere(), malformed(t), fromTheService())
	for i := range all {
		if all[i].body == nil {
			all[i].body = defaultBody(all[i].method)
		}
		if all[i].body != http.NoBody && len(all[i].header) == 0 {
			all[i].header = []string{"Content-Type", "application/json"}
		}
	}
	return all
}

func defaultBody(method string) io.Reader {
	switch method {
	case "POST":
		return strings.NewReader(`{"ttl":"1h"}`)
	case "PATCH":
		return strings.NewReader(`{"ttl":"30m"}`)
	}
	return http.NoBody
}

// successes returns every operation in both formats and every state.
func successes() []exchange {
	var all []exchange
	for contentType, accept := range map[string]string{"application/json": "*/*", "text/plain": "text/plain"} {
		header := []string{"Accept", accept, "Prefer", "wait=5", "Content-Type", "application/json"}
		add := func(method, path string, record bastion.Record, status string) {
			all = append(all, exchange{method: method, path: path, record: record, created: status == "201", header: header, want: status + " " + contentType})
		}
		for _, record := range []bastion.Record{starting(), ready(), closing(bastion.EndIdle), closed(), failed()} {
			add("GET", "/bastions", record, "200")
			add("GET", itemPath, record, "200")
		}
		add("POST", "/bastions", starting(), "201")
		add("POST", "/bastions", ready(), "200")
		add("PATCH", itemPath, ready(), "200")
		for status, record := range map[string]bastion.Record{"202": closing(bastion.EndIdle), "200": closed()} {
			add("DELETE", "/bastions", record, status)
			add("DELETE", itemPath, record, status)
		}
		key := exchange{method: "POST", path: "/bastions", record: starting(), created: true, want: "201 " + contentType}
		key.body, key.header = strings.NewReader(string(userKey)+" alice\n"), []string{"Accept", accept, "Content-Type", "text/plain"}
		all = append(all, key)
	}
	return all
}

// everywhere returns the problems that every operation can have.
func everywhere() []exchange {
	var all []exchange
	for path, methods := range map[string][]string{"/bastions": {"GET", "POST", "DELETE"}, itemPath: {"GET", "PATCH", "DELETE"}} {
		for _, method := range methods {
			identify := func(code bastion.Code) httpapi.Identify {
				return func(*http.Request) (bastion.Caller, error) {
					return bastion.Caller{}, bastion.Errorf(code, "You may not.")
				}
			}
			all = append(all,
				exchange{method: method, path: path, identify: identify(httpapi.CodeUnauthenticated), want: "401 unauthenticated"},
				exchange{method: method, path: path, identify: identify(httpapi.CodeForbidden), want: "403 forbidden"},
				exchange{method: method, path: path, identify: identify(httpapi.CodeOwnerInvalid), want: "401 owner_invalid"},
				exchange{method: method, path: path, identify: identify(httpapi.CodeCrossOrigin), want: "403 cross_origin"},
				exchange{method: method, path: path, identify: identify(httpapi.CodeHostForeign), want: "421 host_foreign"},
				exchange{method: method, path: path, header: []string{"Authorization", "a", "Authorization", "b", "Content-Type", "application/json"}, want: "400 authorization_invalid"},
				exchange{method: method, path: path, header: []string{"Accept", "text/html", "Content-Type", "application/json"}, want: "406 not_acceptable"},
				exchange{method: method, path: path, err: errors.New("broken"), want: "500 internal"},
				exchange{method: method, path: path, err: context.DeadlineExceeded, want: "503 unavailable"},
			)
			if path == itemPath {
				all = append(all, exchange{method: method, path: path, err: bastion.Errorf(bastion.CodeNotFound, "There is none."), want: "404 not_found"})
			}
		}
	}
	return all
}

// malformed returns requests that the handlers refuse themselves.
func malformed(t *testing.T) []exchange {
	key := string(userKey)
	var all []exchange
	for want, body := range map[string]string{
		"400 key_invalid":     "junk " + key,
		"400 key_two":         key + "\n" + string(hostKey),
		"400 key_options":     "restrict " + key,
		"400 key_certificate": certificate(t),
		"400 key_too_weak":    rsa1024(t),
		"400 key_type":        "ssh-dss AAAA",
		"400 private_key":     privateKey(t),
		"400 ttl_invalid":     `{"ttl":"abc"}`,
		"400 source_invalid":  `{"source":"0.0.0.0/0"}`,
		"400 json_invalid":    `{`,
		"400 unknown_field":   `{"owner":"local:bob"}`,
		"400 field_invalid":   `{"ttl":1}`,
		"400 name_invalid":    `{"name":""}`,
		"413 body_too_large":  strings.Repeat("x", 1<<20),
	} {
		all = append(all, exchange{method: "POST", path: "/bastions", body: strings.NewReader(body), want: want, malformed: true})
	}
	for want, body := range map[string]string{
		"400 private_key":    privateKey(t),
		"400 ttl_invalid":    `{"ttl":"0s"}`,
		"400 json_invalid":   key,
		"400 unknown_field":  `{"name":"db"}`,
		"400 field_invalid":  `{"ttl":"1h","ttl":"1h"}`,
		"413 body_too_large": strings.Repeat(" ", 1<<20),
		"422 ttl_required":   `{}`,
	} {
		all = append(all, exchange{method: "PATCH", path: itemPath, body: strings.NewReader(body), want: want, malformed: true})
	}
	return append(all,
		exchange{method: "POST", path: "/bastions", body: brokenReader{}, want: "400 body_incomplete", malformed: true},
		exchange{method: "PATCH", path: itemPath, body: brokenReader{}, want: "400 body_incomplete", malformed: true})
}

// fromTheService returns requests that the service refuses.
func fromTheService() []exchange {
	var all []exchange
	add := func(method, path string, codes ...bastion.Code) {
		for _, code := range codes {
			all = append(all, exchange{method: method, path: path, err: bastion.Errorf(code, "No, and this is why."), want: strconv.Itoa(httpapi.Statuses[code]) + " " + string(code)})
		}
	}
	add("POST", "/bastions",
		bastion.CodeReasonInvalid, bastion.CodeNameInvalid, bastion.CodeSourceInvalid,
		bastion.CodeSourceNotAllowed, bastion.CodeSourceTooWide, bastion.CodeTooManyKeys, bastion.CodeTooManySources, bastion.CodeQuotaOwner, bastion.CodeQuotaTotal, bastion.CodeKeyRequired,
		bastion.CodeTTLBeyondCap, bastion.CodeSourceFamily, bastion.CodeSourceRequired, bastion.CodeBusy, httpapi.CodeDraining)
	add("PATCH", itemPath, bastion.CodeTTLBeyondCap, bastion.CodeNotOpen, bastion.CodeBusy)
	add("DELETE", itemPath, bastion.CodeBusy)
	add("DELETE", "/bastions", bastion.CodeBusy)
	return all
}
