package lambdamode

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/config"
)

// domain records its calls and their callers.
type domain struct {
	calls   []string
	callers []bastion.Caller
	create  bastion.CreateRequest
}

func (d *domain) note(call string, caller bastion.Caller) {
	d.calls, d.callers = append(d.calls, call), append(d.callers, caller)
}

func (d *domain) Create(_ context.Context, req bastion.CreateRequest) (bastion.Record, bastion.Change, error) {
	d.create = req
	d.note("Create", req.Caller)
	return bastion.Record{ID: "3kq7vmx2p4hzr6ta", Owner: req.Caller.Owner}, bastion.Change{Created: true}, nil
}

func (d *domain) Get(_ context.Context, caller bastion.Caller, _ string, _ time.Duration) (bastion.Record, error) {
	d.note("Get", caller)
	return bastion.Record{}, nil
}

func (d *domain) List(_ context.Context, caller bastion.Caller, _ time.Duration) ([]bastion.Record, error) {
	d.note("List", caller)
	return nil, nil
}

func (d *domain) Extend(_ context.Context, caller bastion.Caller, _ string, _, _ time.Duration) (bastion.Record, error) {
	d.note("Extend", caller)
	return bastion.Record{}, nil
}

func (d *domain) Close(_ context.Context, caller bastion.Caller, _ string, _ time.Duration) (bastion.Record, error) {
	d.note("Close", caller)
	return bastion.Record{}, nil
}

func (d *domain) CloseAll(_ context.Context, caller bastion.Caller, _ time.Duration) ([]bastion.Record, error) {
	d.note("CloseAll", caller)
	return nil, nil
}

const functionARN = "arn:aws:lambda:eu-west-1:111122223333:function:way-in-create"

// invokedBy returns the context of an invocation by an ARN, with API Gateway's
// timeout.
func invokedBy(t *testing.T, arn string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 28*time.Second)
	t.Cleanup(cancel)
	return lambdacontext.NewContext(ctx, &lambdacontext.LambdaContext{AwsRequestID: "invocation-1", InvokedFunctionArn: arn})
}

// entryPointsOf returns the entry points of a function that serves every method, for
// which every caller who can be an admin is one.
func entryPointsOf(d *domain, log *bytes.Buffer) EntryPoints {
	cfg := config.Config{Access: config.Access{Admins: []string{"iam:111122223333:AIDAEXAMPLEEXAMPLE123", "slack:T0123ABCD:U0123ABCD"}}}
	return apiEntryPoints(d, cfg, slog.New(slog.NewJSONHandler(log, nil)))
}

// eventWith returns the event of a signed request with a body.
func eventWith(t *testing.T, body string) string {
	t.Helper()
	event, err := json.Marshal(events.APIGatewayV2HTTPRequest{
		Version: "2.0", RawPath: "/bastions", Body: body,
		RequestContext: events.APIGatewayV2HTTPRequestContext{
			AccountID: "111122223333", APIID: "abc123", RequestID: "request-1",
			HTTP: events.APIGatewayV2HTTPRequestContextHTTPDescription{Method: "POST", Path: "/bastions", SourceIP: "203.0.113.7"},
			Authorizer: &events.APIGatewayV2HTTPRequestContextAuthorizerDescription{IAM: &events.APIGatewayV2HTTPRequestContextAuthorizerIAMDescription{
				AccountID: "111122223333", UserARN: "arn:aws:iam::111122223333:user/alice", UserID: "AIDAEXAMPLEEXAMPLE123",
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(event)
}

// slackCallOf returns a call that is valid if the owner is.
func slackCallOf(owner string) string {
	quoted, _ := json.Marshal(owner) // a string
	return fmt.Sprintf(`{"owner":%s,"source":"203.0.113.7","method":"POST","path":"/bastions","body":"{\"name\":\"db\"}"}`, quoted)
}

const someone = "slack:T0123ABCD:U0123ABCD"

func TestAPIFollowsTheConfiguration(t *testing.T) {
	for name, test := range map[string]struct {
		cfg    config.Config
		method string
		status int
		admin  bool
	}{
		"its method":     {config.Config{}, "POST", 201, false},
		"another method": {config.Config{}, "PATCH", 500, false},
		"draining":       {config.Config{Draining: true}, "POST", 503, false},
		"an admin":       {config.Config{Access: config.Access{Admins: []string{"iam:111122223333:AIDAEXAMPLEEXAMPLE123"}}}, "POST", 201, true},
	} {
		d := &domain{}
		got, err := apiEntryPoints(d, test.cfg, slog.New(slog.DiscardHandler), test.method).Handle(invokedBy(t, functionARN), json.RawMessage(eventWith(t, "{}")))
		if response, ok := got.(events.APIGatewayV2HTTPResponse); err != nil || !ok || response.StatusCode != test.status {
			t.Errorf("%s: %+v, %v; want status %d", name, got, err, test.status)
		}
		if d.create.Caller.Admin != test.admin {
			t.Errorf("%s: created for %+v", name, d.create.Caller)
		}
	}
}

func TestEachEntryPointHasItsCallers(t *testing.T) {
	for name, test := range map[string]struct {
		arn, payload string
		want         bastion.Caller
		notify       bool
	}{
		"API Gateway's": {functionARN, eventWith(t, `{"name":"db"}`),
			bastion.Caller{Owner: "iam:111122223333:AIDAEXAMPLEEXAMPLE123", Admin: true, Address: netip.MustParseAddr("203.0.113.7")}, false},
		"the Slack function's, whose owner would be an admin": {functionARN + ":slack", slackCallOf(someone),
			bastion.Caller{Owner: someone, Address: netip.MustParseAddr("203.0.113.7")}, true},
		"the Slack function's, with an address of six": {functionARN + ":slack", strings.Replace(slackCallOf(someone), "203.0.113.7", "2001:db8::7", 1),
			bastion.Caller{Owner: someone, Address: netip.MustParseAddr("2001:db8::7")}, true},
		"in another partition": {strings.Replace(functionARN, "arn:aws:", "arn:aws-cn:", 1) + ":slack", slackCallOf(someone),
			bastion.Caller{Owner: someone, Address: netip.MustParseAddr("203.0.113.7")}, true},
	} {
		d, log := &domain{}, &bytes.Buffer{}
		response, err := entryPointsOf(d, log).Handle(invokedBy(t, test.arn), json.RawMessage(test.payload))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := bastion.CreateRequest{Caller: test.want, Name: "db", Notify: test.notify}
		if !reflect.DeepEqual(d.create, want) {
			t.Errorf("%s: request\n%+v\nwant\n%+v", name, d.create, want)
		}
		encoded, err := json.Marshal(response)
		if err != nil || !bytes.Contains(encoded, []byte(`\"id\": \"3kq7vmx2p4hzr6ta\"`)) || !bytes.Contains(encoded, []byte(`:201,`)) {
			t.Errorf("%s: the response is %s, %v", name, encoded, err)
		}
		if line := log.String(); strings.Count(line, "\n") != 1 || !strings.Contains(line, `"owner":"`+test.want.Owner+`"`) || !strings.Contains(line, `-1"`) {
			t.Errorf("%s: logged %s", name, line)
		}
	}
}

// A payload of another entry point, or an owner that the entry point does not
// accept, is an error, and the domain is not called.
func TestPayloadsOfOtherEntryPointsAreRefused(t *testing.T) {
	client, call := eventWith(t, "{}"), slackCallOf(someone)
	both := strings.Replace(client, "{", call[:len(call)-1]+",", 1)
	slack := functionARN + ":slack"
	changed := func(before, after string) string { return strings.Replace(call, before, after, 1) }
	for name, test := range map[string]struct{ arn, payload string }{
		"an event through the Slack entry point":              {slack, client},
		"a Slack call through the API's entry point":          {functionARN, call},
		"both, through the API's entry point":                 {functionARN, both},
		"both, through the Slack entry point":                 {slack, both},
		"both, with the names in capitals, through the API's": {functionARN, strings.Replace(both, `"owner"`, `"OWNER"`, 1)},
		"an authorizer beside the Slack call":                 {slack, call[:len(call)-1] + `,"requestContext":{"authorizer":{}}}`},
		"an authorizer in the Slack call":                     {slack, changed(`"owner"`, `"authorizer":{"iam":{}},"owner"`)},
		"admin in the Slack call":                             {slack, changed(`"owner"`, `"admin":true,"owner"`)},
		"a caller in the Slack call":                          {slack, changed(`"owner"`, `"caller":{"Owner":"local:bob","Admin":true},"owner"`)},
		"headers in the Slack call":                           {slack, changed(`"owner"`, `"headers":{"prefer":"wait=25"},"owner"`)},
		"an IAM owner":                                        {slack, slackCallOf("iam:111122223333:AIDAEXAMPLEEXAMPLE123")},
		"an owner of a token":                                 {slack, slackCallOf("jwt:https://issuer.example#alice")},
		"a local owner":                                       {slack, slackCallOf("local:alice")},
		"no owner":                                            {slack, slackCallOf("")},
		"an owner in small letters":                           {slack, slackCallOf("slack:t0123abcd:u0123abcd")},
		"a kind in capitals":                                  {slack, slackCallOf("SLACK:T0123ABCD:U0123ABCD")},
		"an owner with a blank":                               {slack, slackCallOf(someone + " ")},
		"an owner with a line's end":                          {slack, slackCallOf(someone + "\n")},
		"an owner with a zero":                                {slack, slackCallOf(someone + "\x00")},
		"an owner of two lines":                               {slack, slackCallOf(someone + "\niam:111122223333:AIDAEXAMPLEEXAMPLE123")},
		"an owner after another":                              {slack, slackCallOf("iam:111122223333:" + someone)},
		"an owner before another":                             {slack, slackCallOf(someone + ":iam")},
		"an owner with a key's separator":                     {slack, slackCallOf("slack:T0123ABCD:U0123#ABCD")},
		"an owner with a Cyrillic letter":                     {slack, slackCallOf("slack:T0123ABCD:U0123АBCD")},
		"a team alone":                                        {slack, slackCallOf("slack:T0123ABCD")},
		"a user of no name":                                   {slack, slackCallOf("slack:T0123ABCD:")},
		"a user of 33 letters":                                {slack, slackCallOf("slack:T0123ABCD:" + strings.Repeat("U", 33))},
		"no source":                                           {slack, changed(`"source":"203.0.113.7",`, "")},
		"an empty source":                                     {slack, changed("203.0.113.7", "")},
		"a range as the source":                               {slack, changed("203.0.113.7", "203.0.113.0/24")},
		"a name for a source":                                 {slack, changed("203.0.113.7", "localhost")},
		"no method":                                           {slack, changed(`"POST"`, `""`)},
		"a method with a line's end":                          {slack, changed(`"POST"`, `"POST /bastions HTTP/1.1\r\nX: "`)},
		"a body that is no text":                              {slack, changed(`"body":"{\"name\":\"db\"}"`, `"body":{"name":"db"}`)},
		"null":                                                {slack, "null"},
		"a Slack call of null":                                {slack, `{"owner":null}`},
		"a list":                                              {slack, "[" + call + "]"},
		"nothing":                                             {slack, "{}"},
		"nothing, through the API's":                          {functionARN, "{}"},
		"a job":                                               {slack, `{"job":{"action":"start","owner":"` + someone + `"}}`},
		"$LATEST, with an event":                              {functionARN + ":$LATEST", client},
		"$LATEST, with a call":                                {functionARN + ":$LATEST", call},
		"a version, with an event":                            {functionARN + ":7", client},
		"a version, with a call":                              {functionARN + ":7", call},
		"another alias, with a call":                          {functionARN + ":queue", call},
		"an alias in capitals, with a call":                   {functionARN + ":Slack", call},
		"an alias that begins alike, with a call":             {functionARN + ":slack2", call},
		"an empty alias, with an event":                       {functionARN + ":", client},
		"an alias of an alias, with a call":                   {functionARN + ":slack:slack", call},
		"no ARN, with an event":                               {"", client},
		"no ARN, with a call":                                 {"", call},
		"the function's name for an ARN":                      {"way-in-create", client},
		"the ARN of a function of no name":                    {"arn:aws:lambda:eu-west-1:111122223333:function:", client},
		"the ARN of a layer":                                  {"arn:aws:lambda:eu-west-1:111122223333:layer:slack", client},
		"the ARN of a queue called slack":                     {"arn:aws:sqs:eu-west-1:111122223333:function:way-in:slack", call},
		"a function called slack, with a call":                {"arn:aws:lambda:eu-west-1:111122223333:function:slack", call},
		"a function called slack, with both":                  {"arn:aws:lambda:eu-west-1:111122223333:function:slack", both},
	} {
		d := &domain{}
		response, err := entryPointsOf(d, &bytes.Buffer{}).Handle(invokedBy(t, test.arn), json.RawMessage(test.payload))
		if err == nil || response != nil && !reflect.ValueOf(response).IsZero() || len(d.calls) > 0 {
			t.Errorf("%s: the response is %+v, %v; the domain was called for %v by %+v", name, response, err, d.calls, d.callers)
		}
	}
	d := &domain{}
	if response, err := entryPointsOf(d, &bytes.Buffer{}).Handle(t.Context(), json.RawMessage(client)); err == nil || len(d.calls) > 0 {
		t.Errorf("without Lambda: the response is %+v, %v", response, d.calls)
	}
}

// A client of the API writes the body. An internal call in it is only a malformed
// body of the client who signed the request.
func TestInternalCallInABodyIsOnlyABody(t *testing.T) {
	for name, body := range map[string]string{
		"the call":             slackCallOf("slack:T0123ABCD:U9999ZZZZ"),
		"the call's inside":    `{"owner":"slack:T0123ABCD:U9999ZZZZ","source":"198.51.100.1","method":"DELETE","path":"/bastions"}`,
		"an event in the call": `{"owner":` + eventWith(t, "") + `}`,
	} {
		d := &domain{}
		response, err := entryPointsOf(d, &bytes.Buffer{}).Handle(invokedBy(t, functionARN), json.RawMessage(eventWith(t, body)))
		got, ok := response.(events.APIGatewayV2HTTPResponse)
		if err != nil || !ok || got.StatusCode != 400 || !strings.Contains(got.Body, `"unknown_field"`) || len(d.calls) > 0 {
			t.Errorf("%s: the response is %+v, %v; the domain was called for %v", name, response, err, d.calls)
		}
	}
}

// Internal calls have the same operations and the same rules as the API, for the
// Slack user alone.
func TestInternalAPIIsTheAPI(t *testing.T) {
	const item = "/bastions/3kq7vmx2p4hzr6ta"
	for _, test := range []struct {
		method, path, body string
		status             int
		call, want         string
	}{
		{"POST", "/bastions", `{}`, 201, "Create", someone},
		{"GET", "/bastions", "", 200, "List", `"bastions"`},
		{"GET", item, "", 200, "Get", ""},
		{"PATCH", item, `{"ttl":"30m"}`, 200, "Extend", ""},
		{"DELETE", item, "", 202, "Close", ""},
		{"DELETE", "/bastions", "", 200, "CloseAll", ""},
		{"POST", "/bastions", `{"owner":"local:bob"}`, 400, "", "unknown_field"},
		{"POST", "/bastions", `{"reason":"` + strings.Repeat("x", 64<<10) + `"}`, 413, "", "body_too_large"},
		{"GET", "/bastions?owner=local:bob", "", 404, "", "path_not_found"},
		{"GET", "http://elsewhere.example/bastions", "", 404, "", "path_not_found"},
		{"GET", "/slack/status/token", "", 404, "", "path_not_found"},
		{"GET", "", "", 404, "", "path_not_found"},
		{"CONNECT", "/bastions", "", 405, "", "method_not_allowed"},
		{"get", "/bastions", "", 405, "", "method_not_allowed"},
	} {
		d := &domain{}
		call := api.InternalCall{Owner: someone, Method: test.method, Path: test.path, Body: test.body}
		if test.method == "POST" { // only a call that starts a bastion has a source
			call.Source = netip.MustParseAddr("203.0.113.7")
		}
		payload, err := json.Marshal(call)
		if err != nil {
			t.Fatal(err)
		}
		response, err := entryPointsOf(d, &bytes.Buffer{}).Handle(invokedBy(t, functionARN+":slack"), payload)
		got, ok := response.(api.InternalReply)
		if err != nil || !ok || got.Status != test.status || !json.Valid([]byte(got.Body)) || !strings.Contains(got.Body, test.want) {
			t.Errorf("%s %s: the response is %+v, %v", test.method, test.path, response, err)
		}
		if strings.Join(d.calls, " ") != test.call {
			t.Errorf("%s %s: the domain was called for %v", test.method, test.path, d.calls)
		}
		for _, caller := range d.callers {
			if caller.Owner != someone || caller.Admin {
				t.Errorf("%s %s: by %+v", test.method, test.path, caller)
			}
		}
	}
}
