package lambdamode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/config"
	"github.com/bastion-on-demand/bastion/internal/slack"
)

const slackARN = "arn:aws:lambda:eu-west-1:111122223333:function:way-in-slack"

// slackEnvironment returns a valid environment, as template.yaml sets it.
func slackEnvironment(changes ...string) []string {
	alias := strings.TrimSuffix(slackARN, "-slack")
	return append([]string{
		"AWS_REGION=eu-west-1", "AWS_LAMBDA_FUNCTION_NAME=way-in-slack",
		"SLACK_TABLE=slack", "SLACK_SIGNING_SECRET_PARAMETER=/way-in/signing-secret", "SLACK_BOT_TOKEN_PARAMETER=/way-in/bot-token",
		"SLACK_TEAMS=T0123ABCD", "SLACK_CHANNELS=", "SLACK_USERS=", "SLACK_DEFAULT_TTL=1h", "SLACK_MAX_TTL=8h",
		"SLACK_CREATE=" + alias + "-create:slack", "SLACK_DESCRIBE=" + alias + "-describe:slack",
		"SLACK_EXTEND=" + alias + "-extend:slack", "SLACK_DESTROY=" + alias + "-destroy:slack",
	}, changes...)
}

func TestSlackFunctionIsWired(t *testing.T) {
	s, err := wireSlack(t.Context(), slackEnvironment(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	options := s.Options
	for i, v := 0, reflect.ValueOf(options); i < v.NumField(); i++ {
		name := v.Type().Field(i).Name
		if empty := v.Field(i).IsZero(); empty != (name == "Channels" || name == "Users" || name == "Plain") {
			t.Errorf("%s is %v", name, v.Field(i))
		}
	}
	if got := options.Queue.(jobs).function; got != "way-in-slack:queue" {
		t.Errorf("jobs go to %s", got)
	}
	for method, name := range map[string]string{"POST": "create", "GET": "describe", "PATCH": "extend", "DELETE": "destroy"} {
		if got := options.Functions.(functions).byMethod[method]; !strings.HasSuffix(got, ":way-in-"+name+":slack") {
			t.Errorf("%s goes to %s", method, got)
		}
	}
	if _, err := wireSlack(t.Context(), slackEnvironment("SLACK_TEAMS="), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "SLACK_TEAMS") {
		t.Errorf("without teams: %v", err)
	}
}

// worker records its jobs and notices.
type worker struct {
	jobs    []slack.Job
	notices []api.Notice
	limited bool // the context ends before Lambda ends the function
	err     error
}

func (w *worker) note(ctx context.Context) error {
	at, ok := ctx.Deadline()
	w.limited = ok && time.Until(at) < 26*time.Second
	return w.err
}

func (w *worker) RunJob(ctx context.Context, job slack.Job) error {
	w.jobs = append(w.jobs, job)
	return w.note(ctx)
}

func (w *worker) Notify(ctx context.Context, notice api.Notice) error {
	w.notices = append(w.notices, notice)
	return w.note(ctx)
}

func TestCredentialsAreThoseOfTheTeam(t *testing.T) {
	values := map[string]string{"/way-in/signing-secret": "secret", "/tokens/T0123ABCD": "first", "/tokens/T9999ABCD": "second"}
	get := func(_ context.Context, names ...string) (found []string, err error) {
		for _, name := range names {
			if values[name] == "" {
				return nil, fmt.Errorf("no parameter %s", name)
			}
			found = append(found, values[name])
		}
		return found, nil
	}
	cfg, err := config.LoadSlack(slackEnvironment("SLACK_BOT_TOKEN_PARAMETER=/tokens/", "SLACK_TEAMS=T0123ABCD,T9999ABCD"))
	if err != nil {
		t.Fatal(err)
	}
	read := credentials(get, cfg)
	for team, want := range map[string]slack.Credentials{
		"":          {SigningSecret: "secret"},
		"T0123ABCD": {SigningSecret: "secret", BotToken: "first"},
		"T9999ABCD": {SigningSecret: "secret", BotToken: "second"},
	} {
		if got, err := read(t.Context(), team); err != nil || got != want {
			t.Errorf("team %q has %+v, %v; want %+v", team, got, err, want)
		}
	}
	delete(values, "/tokens/T9999ABCD")
	if got, err := read(t.Context(), "T9999ABCD"); err == nil {
		t.Errorf("without a token: %+v", got)
	}
}

func TestSlackFunctionHasTwoEntryPoints(t *testing.T) {
	const job = `{"job":{"action":"status","owner":"slack:T0123ABCD:U0123ABCD"}}`
	const notice = `{"notice":{"version":7,"bastion":{"id":"3kq7vmx2p4hzr6ta"},"new":"of a later version"}}`
	client := eventWith(t, "")
	in := func(payload string) string { return strings.Replace(client, "{", payload[:len(payload)-1]+",", 1) }
	for name, test := range map[string]struct {
		arn, payload string
		reaches      string // empty: nothing
	}{
		"a request":                            {slackARN, client, "routes"},
		"a job":                                {slackARN + ":queue", job, "job"},
		"a notice":                             {slackARN + ":queue", notice, "notice"},
		"a job, through the API's entry point": {slackARN, job, ""},
		"a job in an event":                    {slackARN, in(job), ""},
		"a notice in an event":                 {slackARN, in(notice), ""},
		"a call in an event":                   {slackARN, in(slackCallOf(someone)), ""},
		"a request, through the queue":         {slackARN + ":queue", client, ""},
		"a call, through the queue":            {slackARN + ":queue", slackCallOf(someone), ""},
		"both":                                 {slackARN + ":queue", job[:len(job)-1] + "," + notice[1:], ""},
		"neither":                              {slackARN + ":queue", `{}`, ""},
		"null":                                 {slackARN + ":queue", `{"job":null}`, ""},
		"a string as the job":                  {slackARN + ":queue", `{"job":"status"}`, ""},
		"the API's functions' alias":           {slackARN + ":slack", job, ""},
		"$LATEST":                              {slackARN + ":$LATEST", client, ""},
		"a version":                            {slackARN + ":1", job, ""},
		"no ARN":                               {"", client, ""},
		"a job, for a function of no ARN":      {"", job, ""},
	} {
		w, reached := &worker{}, ""
		s := slackEntryPoints(w, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = "routes" }))
		response, err := s.Handle(invokedBy(t, test.arn), json.RawMessage(test.payload))
		switch {
		case len(w.jobs) == 1 && w.jobs[0] == slack.Job{Action: slack.JobStatus, Owner: someone}:
			reached += "job"
		case len(w.notices) == 1 && w.notices[0].Version == 7 && w.notices[0].Bastion.ID == "3kq7vmx2p4hzr6ta":
			reached += "notice"
		case len(w.jobs)+len(w.notices) > 0:
			reached += "something"
		}
		if reached != test.reaches || (err == nil) != (test.reaches != "") {
			t.Errorf("%s: reaches %q, and returns %v, %v", name, reached, response, err)
		}
		if (reached == "job" || reached == "notice") && !w.limited {
			t.Errorf("%s has no deadline before Lambda's timeout", name)
		}
	}
}

// After an error Lambda sends the event again.
func TestFailedWorkIsAnError(t *testing.T) {
	s := slackEntryPoints(&worker{err: errors.New("broken")}, http.NotFoundHandler())
	for _, payload := range []string{`{"job":{"action":"status"}}`, `{"notice":{}}`} {
		if _, err := s.Handle(invokedBy(t, slackARN+":queue"), json.RawMessage(payload)); err == nil || err.Error() != "broken" {
			t.Errorf("%s: %v", payload, err)
		}
	}
}

// lambdas is Lambda with API functions.
type lambdas struct {
	functions map[string]EntryPoints
	t         *testing.T
}

func (l lambdas) Invoke(_ context.Context, function string, payload []byte) ([]byte, error) {
	response, err := l.functions[function].Handle(invokedBy(l.t, function), payload)
	if err != nil {
		return nil, err
	}
	return json.Marshal(response)
}

// Calls and replies between the functions survive encoding and decoding.
func TestInternalCallReachesTheFunction(t *testing.T) {
	const item = "/bastions/3kq7vmx2p4hzr6ta"
	create, describe, extend, destroy := &domain{}, &domain{}, &domain{}, &domain{}
	of := func(d *domain) EntryPoints { return entryPointsOf(d, &bytes.Buffer{}) }
	f := functions{
		lambdas{map[string]EntryPoints{
			functionARN + "1:slack": of(create), functionARN + "2:slack": of(describe),
			functionARN + "3:slack": of(extend), functionARN + "4:slack": of(destroy),
		}, t},
		map[string]string{"POST": functionARN + "1:slack", "GET": functionARN + "2:slack", "PATCH": functionARN + "3:slack", "DELETE": functionARN + "4:slack"},
	}
	for _, test := range []struct {
		call   api.InternalCall
		to     *domain
		name   string
		status int
	}{
		{api.InternalCall{Method: "POST", Path: "/bastions", Source: netip.MustParseAddr("2001:db8::7"), Body: `{"name":"db","reason":"a \"<b>\""}`}, create, "Create", 201},
		{api.InternalCall{Method: "GET", Path: "/bastions"}, describe, "List", 200},
		{api.InternalCall{Method: "GET", Path: item}, describe, "Get", 200},
		{api.InternalCall{Method: "PATCH", Path: item, Body: `{"ttl":"30m"}`}, extend, "Extend", 200},
		{api.InternalCall{Method: "DELETE", Path: item}, destroy, "Close", 202},
		{api.InternalCall{Method: "PATCH", Path: item}, extend, "", 422},
	} {
		*test.to = domain{}
		test.call.Owner = someone
		reply, err := f.Call(t.Context(), test.call)
		if err != nil || reply.Status != test.status || !json.Valid([]byte(reply.Body)) || strings.Join(test.to.calls, " ") != test.name {
			t.Errorf("%s %s: the response is %d %s, %v; calls %v", test.call.Method, test.call.Path, reply.Status, reply.Body, err, test.to.calls)
		}
	}
	if create.create.Reason != `a "<b>"` || create.create.Caller.Address != netip.MustParseAddr("2001:db8::7") || !create.create.Notify {
		t.Errorf("create was called for %+v", create.create)
	}
	for name, call := range map[string]api.InternalCall{
		"another method":         {Owner: someone, Method: "PUT", Path: "/bastions"},
		"another's owner":        {Owner: "iam:111122223333:AIDAEXAMPLEEXAMPLE123", Method: "GET", Path: "/bastions"},
		"a start from somewhere": {Owner: someone, Method: "POST", Path: "/bastions"},
	} {
		if reply, err := f.Call(t.Context(), call); err == nil {
			t.Errorf("%s: the response is %+v", name, reply)
		}
	}
}

// fixedResponse is the response to every invocation.
type fixedResponse string

func (r fixedResponse) Invoke(context.Context, string, []byte) ([]byte, error) {
	return []byte(r), nil
}

func TestInvalidReplyIsAnError(t *testing.T) {
	f := functions{fixedResponse(`"text"`), map[string]string{"GET": "describe"}}
	if reply, err := f.Call(t.Context(), api.InternalCall{Method: "GET"}); err == nil {
		t.Errorf("the response is %+v", reply)
	}
}

func TestJobSurvivesTheQueue(t *testing.T) {
	h, w := &asyncInvoker{}, &worker{}
	job := slack.Job{Action: slack.JobExtend, Owner: someone, ResponseURL: "https://hooks.slack.com/actions/T0/1/a", Name: "db",
		ID: "3kq7vmx2p4hzr6ta", StartLink: "hash", TTL: 30*time.Minute + time.Nanosecond, At: noon}
	if err := (jobs{h, "slack:queue"}).Enqueue(t.Context(), job); err != nil || h.to != "slack:queue" {
		t.Fatalf("invoked %s, %v", h.to, err)
	}
	if _, err := slackEntryPoints(w, http.NotFoundHandler()).Handle(invokedBy(t, slackARN+":queue"), json.RawMessage(h.payload)); err != nil || len(w.jobs) != 1 || w.jobs[0] != job {
		t.Errorf("%+v came out of %s, %v", w.jobs, h.payload, err)
	}
	h.err = errors.New("broken")
	if err := (jobs{h, "slack:queue"}).Enqueue(t.Context(), job); err == nil {
		t.Error("a failed invocation is no error")
	}
}

// The whole wiring serves a request, without a call of AWS.
func TestRequestThroughTheWiring(t *testing.T) {
	app, err := wireSlack(t.Context(), slackEnvironment(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	response, err := slackEntryPoints(app, app.Handler()).Handle(invokedBy(t, slackARN), json.RawMessage(eventWith(t, "")))
	if got := response.(events.APIGatewayV2HTTPResponse); err != nil || got.StatusCode != 404 || got.Headers["X-Request-Id"] != "request-1" {
		t.Errorf("the response is %+v, %v", got, err)
	}
}
