package httpapi_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

// requestOf returns the event of a signed request in payload format 2.0.
func requestOf(method, path, body string) events.APIGatewayV2HTTPRequest {
	return events.APIGatewayV2HTTPRequest{
		Version: "2.0", RouteKey: method + " " + path, RawPath: path, Body: body,
		Headers: map[string]string{"host": "abc123.execute-api.eu-west-1.amazonaws.com"},
		RequestContext: events.APIGatewayV2HTTPRequestContext{
			RouteKey: method + " " + path, AccountID: account, APIID: "abc123", Stage: "$default", RequestID: "request-1",
			DomainName: "abc123.execute-api.eu-west-1.amazonaws.com",
			Authorizer: user("alice", aUser),
			HTTP:       events.APIGatewayV2HTTPRequestContextHTTPDescription{Method: method, Path: path, Protocol: "HTTP/1.1", SourceIP: "203.0.113.7"},
		},
	}
}

func (r *fixture) handle(t *testing.T, owners httpapi.Owners, event events.APIGatewayV2HTTPRequest) events.APIGatewayV2HTTPResponse {
	t.Helper()
	response, err := httpapi.NewGateway(r.options, owners).Handle(t.Context(), event)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func TestEventIsServedAsARequest(t *testing.T) {
	r := newFixture()
	r.rec, r.created = starting(), true
	event := requestOf("POST", "/bastions", base64.StdEncoding.EncodeToString([]byte(`{"public_key":"`+string(userKey)+`","reason":"ünïcode"}`)))
	event.IsBase64Encoded = true
	event.Headers["prefer"] = "respond-async, wait=7"
	event.Headers["accept"] = "application/json"
	response := r.handle(t, byIAM, event)

	want := bastion.CreateRequest{
		Caller: bastion.Caller{Owner: "iam:111122223333:" + aUser, Address: netip.MustParseAddr("203.0.113.7")},
		Key:    userKey, Reason: "ünïcode", Wait: 7 * time.Second,
	}
	if !reflect.DeepEqual(r.create, want) {
		t.Errorf("the service was called for\n%+v\nwant\n%+v", r.create, want)
	}
	if response.StatusCode != 201 || response.IsBase64Encoded || !json.Valid([]byte(response.Body)) {
		t.Errorf("the response is %+v", response)
	}
	for name, value := range map[string]string{
		"Content-Type": "application/json", "Cache-Control": "no-store", "X-Request-Id": "request-1",
		"X-Source-Address": "203.0.113.7", "Location": "/bastions/" + someID, "Preference-Applied": "wait=7",
	} {
		if response.Headers[name] != value {
			t.Errorf("%s: %q, want %q", name, response.Headers[name], value)
		}
	}
	if len(response.Cookies) != 0 || len(response.MultiValueHeaders) != 0 {
		t.Errorf("the format has no such: %+v", response)
	}
}

func TestEventHeadersAreRequestHeaders(t *testing.T) {
	r := newFixture()
	r.rec = ready()
	event := requestOf("GET", "/bastions/"+someID, "")
	event.Headers["accept"] = "text/plain"
	if response := r.handle(t, byIAM, event); !strings.HasPrefix(response.Headers["Content-Type"], "text/plain") {
		t.Errorf("the response is %+v", response)
	}
}

func TestEventReachesEveryOperation(t *testing.T) {
	for _, test := range []struct{ method, path, call string }{
		{"POST", "/bastions", "Create"},
		{"GET", "/bastions", "List"},
		{"GET", "/bastions/" + someID, "Get"},
		{"PATCH", "/bastions/" + someID, "Extend"},
		{"DELETE", "/bastions", "CloseAll"},
		{"DELETE", "/bastions/" + someID, "Close"},
	} {
		r := newFixture()
		r.rec = ready()
		body := map[string]string{"PATCH": `{"ttl":"30m"}`}[test.method]
		if r.handle(t, byIAM, requestOf(test.method, test.path, body)); !reflect.DeepEqual(r.calls, []string{test.call}) {
			t.Errorf("%s %s: %v", test.method, test.path, r.calls)
		}
	}
}

func TestClientCannotChooseItsIdentity(t *testing.T) {
	want := bastion.Caller{Owner: "iam:111122223333:" + aUser, Address: netip.MustParseAddr("203.0.113.7")}
	for _, header := range []string{"x-forwarded-for", "forwarded", "x-real-ip", "authorization", "x-amzn-oidc-identity", "x-owner", "host", "x-http-method-override"} {
		r := newFixture()
		event := requestOf("GET", "/bastions", "")
		event.Headers[header] = "iam:111122223333:AIDASOMEBODYELSE1111, 198.51.100.1"
		event.RawQueryString = "owner=local:bob&sourceIp=198.51.100.1"
		event.QueryStringParameters = map[string]string{"owner": "local:bob"}
		event.StageVariables = map[string]string{"owner": "local:bob"}
		if r.handle(t, byIAM, event); r.caller != want {
			t.Errorf("%s made the caller %+v", header, r.caller)
		}
	}
	for _, body := range []string{
		`{"owner":"local:bob"}`, `{"caller":{"Owner":"local:bob"}}`, `{"requestContext":{"authorizer":{"iam":{}}}}`, `{"admin":"true"}`,
	} {
		r := newFixture()
		if response := r.handle(t, byIAM, requestOf("POST", "/bastions", body)); response.StatusCode != 400 || len(r.calls) != 0 {
			t.Errorf("%s: %d, %v", body, response.StatusCode, r.calls)
		}
	}
}

func TestUnknownCallerIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		owners    httpapi.Owners
		caller    *authorizer
		status    int
		challenge string
	}{
		"no caller":              {byIAM, nil, 401, "AWS4-HMAC-SHA256"},
		"no caller, with tokens": {byJWT, nil, 401, "Bearer"},
		"the root":               {byIAM, raw("arn:aws:iam::111122223333:root", account), 403, ""},
	} {
		r := newFixture()
		event := requestOf("GET", "/bastions", "")
		event.RequestContext.Authorizer = test.caller
		response := r.handle(t, test.owners, event)
		if response.StatusCode != test.status || response.Headers["Www-Authenticate"] != test.challenge || len(r.calls) != 0 {
			t.Errorf("%s: %+v, %v", name, response, r.calls)
		}
		if strings.Contains(response.Body, "root,") || response.Headers["Content-Type"] != "application/problem+json" {
			t.Errorf("%s: %s", name, response.Body)
		}
	}
}

// A payload that no client of the API can send is an error for the invoker.
func TestOtherEventsAreRefused(t *testing.T) {
	right, err := json.Marshal(requestOf("GET", "/bastions", ""))
	if err != nil {
		t.Fatal(err)
	}
	for name, payload := range map[string]string{
		"payload format 1.0":  strings.Replace(string(right), `"version":"2.0"`, `"version":"1.0"`, 1),
		"no version":          strings.Replace(string(right), `"version":"2.0"`, `"version":""`, 1),
		"no API":              strings.Replace(string(right), `"apiId":"abc123"`, `"apiId":""`, 1),
		"no method":           strings.ReplaceAll(string(right), `"method":"GET"`, `"method":""`),
		"no request id":       strings.Replace(string(right), `"requestId":"request-1"`, `"requestId":""`, 1),
		"a method of no kind": strings.ReplaceAll(string(right), `"method":"GET"`, `"method":"GET /x"`),
		"nothing":             `{}`,
		"a schedule":          `{"action":"reap"}`,
		"a task's state":      `{"version":"0","detail-type":"ECS Task State Change","source":"aws.ecs","detail":{}}`,
		"a payload of 1.0":    `{"version":"1.0","path":"/bastions","httpMethod":"GET","requestContext":{"identity":{"userArn":"arn:aws:iam::111122223333:user/alice"}}}`,
		"a load balancer's":   `{"requestContext":{"elb":{"targetGroupArn":"arn"}},"httpMethod":"GET","path":"/bastions"}`,
		"a body of no base64": strings.Replace(string(right), `"isBase64Encoded":false`, `"body":"%","isBase64Encoded":true`, 1),
	} {
		if payload == string(right) {
			t.Fatalf("%s: the event is the right one", name)
		}
		r := newFixture()
		var event events.APIGatewayV2HTTPRequest
		if err := json.Unmarshal([]byte(payload), &event); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if response, err := httpapi.NewGateway(r.options, byIAM).Handle(t.Context(), event); err == nil || len(r.calls) != 0 {
			t.Errorf("%s: the response is %+v, %v", name, response, r.calls)
		}
	}
}

// API Gateway has decoded the path.
func TestEventPathsAreNotCleaned(t *testing.T) {
	for _, test := range []struct {
		path string
		want int
	}{
		{"/bastions/" + someID, 200},
		{"/bastions/%2e%2e", 404},
		{"/bastions/../bastions", 404},
		{"/bastions/", 404},
		{"//bastions", 404},
		{"/", 404},
		{"", 404},
		{"/bastions?x", 404},
		{"http://elsewhere.example/bastions", 404},
		{"/bastions/ü%zz", 404},
	} {
		r := newFixture()
		r.rec = ready()
		response := r.handle(t, byIAM, requestOf("GET", test.path, ""))
		if response.StatusCode != test.want || response.Headers["Content-Type"] == "" {
			t.Errorf("%q: %d %s", test.path, response.StatusCode, response.Body)
		}
	}
}

func TestLargeEventBodyIsRefused(t *testing.T) {
	r := newFixture()
	if response := r.handle(t, byIAM, requestOf("POST", "/bastions", strings.Repeat("x", 64<<10+1))); response.StatusCode != 413 || len(r.calls) != 0 {
		t.Errorf("%d, %v", response.StatusCode, r.calls)
	}
}

// slow returns when its context ends, as a service that waits does.
type slow struct {
	httpapi.Service
	rec bastion.Record
}

func (s slow) Get(ctx context.Context, _ bastion.Caller, _ string, _ time.Duration) (bastion.Record, error) {
	<-ctx.Done()
	return s.rec, nil
}

// Lambda ends a function at its deadline without a response.
func TestResponseComesBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFixture()
		r.options.Service = slow{rec: starting()}
		ctx, cancel := context.WithTimeout(t.Context(), 28*time.Second)
		defer cancel()
		start := time.Now()
		response, err := httpapi.NewGateway(r.options, byIAM).Handle(ctx, requestOf("GET", "/bastions/"+someID, ""))
		if took := time.Since(start); err != nil || response.StatusCode != 200 || took != 27*time.Second {
			t.Errorf("after %s: %d, %v", took, response.StatusCode, err)
		}
	})
}

// A function serves its own methods, whatever event it gets; others are a fault of
// the routes in front of it.
func TestFunctionsServeTheirOwnMethods(t *testing.T) {
	all := []struct{ method, path, call string }{
		{"POST", "/bastions", "Create"}, {"GET", "/bastions", "List"}, {"HEAD", "/bastions", "List"}, {"GET", "/bastions/" + someID, "Get"},
		{"PATCH", "/bastions/" + someID, "Extend"}, {"DELETE", "/bastions", "CloseAll"}, {"DELETE", "/bastions/" + someID, "Close"},
	}
	for _, methods := range [][]string{{"POST"}, {"GET", "HEAD"}, {"PATCH"}, {"DELETE"}, {}} {
		for _, op := range all {
			r := newFixture()
			r.rec = ready()
			r.options.Methods = methods
			body := map[string]string{"PATCH": `{"ttl":"30m"}`}[op.method]
			response := r.handle(t, byIAM, requestOf(op.method, op.path, body))
			var want []string
			if len(methods) == 0 || slices.Contains(methods, op.method) {
				want = []string{op.call}
			}
			if !slices.Equal(r.calls, want) || (response.StatusCode == 500) != (want == nil) {
				t.Errorf("a function for %v: %s %s returns %d after %v", methods, op.method, op.path, response.StatusCode, r.calls)
			}
		}
		r := newFixture()
		r.options.Methods = methods
		if response := r.handle(t, byIAM, requestOf("PUT", "/bastions", "")); response.StatusCode != 405 {
			t.Errorf("a function for %v: PUT returns %d", methods, response.StatusCode)
		}
	}
}

func TestDrainingRefusesToCreate(t *testing.T) {
	r := newFixture()
	r.options.Draining = true
	if response := r.handle(t, byIAM, requestOf("POST", "/bastions", "")); response.StatusCode != 503 || !strings.Contains(response.Body, `"draining"`) || len(r.calls) > 0 {
		t.Errorf("POST returns %d %s after %v", response.StatusCode, response.Body, r.calls)
	}
	r.rec = ready()
	if response := r.handle(t, byIAM, requestOf("PATCH", "/bastions/"+someID, `{"ttl":"1h"}`)); response.StatusCode != 200 {
		t.Errorf("PATCH returns %d %s", response.StatusCode, response.Body)
	}
}
