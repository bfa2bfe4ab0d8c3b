package httpapi_test

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
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

// exchange is a request, what the service says to it, and what must come out.
type exchange struct {
	method, path string
	body         io.Reader
	header       []string
	created      bool
	record       bastion.Record
	err          error
	identify     httpapi.Identify
	want         string // status and content type, or status and code
	malformed    bool   // not a request as the contract has it
}

// TestContract sends at least one request for every documented answer (operation,
// status, content type; of problems the code) and holds each request and answer to
// the document. What is documented and never produced fails, and the other way
// round.
func TestContract(t *testing.T) {
	doc := contract(t)
	documented := documentedAnswers(doc)
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
	for _, answer := range slices.Sorted(maps.Keys(documented)) {
		if !produced[answer] {
			t.Errorf("documented and never produced: %s", answer)
		}
	}
}

func pathPattern(path string) string {
	if strings.HasPrefix(path, "/bastions/") {
		return "/bastions/{id}"
	}
	return path
}

// documentedAnswers lists what the document promises, as "GET /bastions 200
// text/plain" or "GET /bastions 406 not_acceptable".
func documentedAnswers(doc *openapi3.T) map[string]bool {
	all := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			for status, response := range op.Responses.Map() {
				for contentType, media := range response.Value.Content {
					answer := method + " " + path + " " + status + " "
					if contentType != "application/problem+json" {
						all[answer+contentType] = true
						continue
					}
					for _, code := range media.Schema.Value.AllOf[1].Value.Properties["code"].Value.Enum {
						all[answer+code.(string)] = true
					}
				}
			}
		}
	}
	return all
}

// play sends the request and answers what came out, in the words of
// documentedAnswers.
func (x exchange) play(t *testing.T, router routers.Router) string {
	t.Helper()
	r := newRig()
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
		t.Errorf("%s %s %s: the answer: %v\n%s", x.method, x.path, x.want, err, body)
	}
	contentType, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	if contentType == "application/problem+json" {
		contentType = readProblem(t, w).Code
	}
	return x.method + " " + pathPattern(x.path) + " " + strconv.Itoa(w.Code) + " " + contentType
}

// request makes the request anew each time: validation reads the body too.
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

// The examples are what a reader copies: each must be as its schema says.
func TestContractExamples(t *testing.T) {
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
	r := newRig()
	r.rec, r.created = starting(), true
	if w := r.sendReader("POST", "/bastions", bytes.NewReader(mustJSON(t, body))); w.Code != 201 {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}
