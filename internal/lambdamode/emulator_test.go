//go:build conformance

package lambdamode

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// functionNames are all functions, each with its response to {}, which no entry
// point accepts.
var functionNames = map[string]string{
	"create": "not an event of an HTTP API", "describe": "not an event of an HTTP API", "extend": "not an event of an HTTP API", "destroy": "not an event of an HTTP API",
	"reaper":   `knows \"reap\" and \"sweep\"`,
	"observer": "neither a task event nor a batch of the stream",
}

// compile builds a function for this machine and returns the path of its bootstrap.
func compile(t *testing.T, source string) string {
	t.Helper()
	bootstrap := filepath.Join(t.TempDir(), "bootstrap")
	build := exec.Command("go", "build", "-trimpath", "-tags", "lambda.norpc", "-ldflags", "-s -w", "-o", bootstrap, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", source, err, out)
	}
	return bootstrap
}

// emulate starts a function as Lambda does.
func emulate(t *testing.T, bootstrap string, environ []string) *emulator.Lambda {
	t.Helper()
	return emulator.Emulate(t, bootstrap, append(environ, "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"))
}

// invoke sends an event, and returns the response and how long it took.
func invoke(t *testing.T, l *emulator.Lambda, event string) (string, time.Duration) {
	t.Helper()
	began := time.Now()
	response, err := l.Invoke(t.Context(), []byte(event))
	if err != nil {
		t.Fatal(err)
	}
	return string(response), time.Since(began)
}

// Lambda starts every function, once with a valid and once with a wrong
// configuration.
func TestFunctionsUnderTheEmulator(t *testing.T) {
	for name, want := range functionNames {
		t.Run(name, func(t *testing.T) {
			bootstrap := compile(t, "../../functions/"+name)
			if got, _ := invoke(t, emulate(t, bootstrap, environment()), `{}`); !strings.Contains(got, want) || !strings.Contains(got, "errorMessage") {
				t.Errorf("the response is %s", got)
			}
			wrong := emulate(t, bootstrap, environment("BASTION_SSH_PORT=80", "BASTION_COLOUR=blue"))
			if got, _ := invoke(t, wrong, `{}`); strings.Contains(got, want) {
				t.Errorf("with a wrong configuration, the response is %s", got)
			}
			if !wrong.Log.Contains("BASTION_SSH_PORT", "BASTION_COLOUR") {
				t.Errorf("the log does not list the configuration errors:\n%s", wrong.Log)
			}
		})
	}
}

// An unsigned request passes through a whole compiled function without a call of
// AWS.
func TestEventThroughACompiledFunction(t *testing.T) {
	const event = `{"version":"2.0","rawPath":"/bastions","headers":{"accept":"*/*"},
		"requestContext":{"accountId":"111122223333","apiId":"abc123","requestId":"request-1","http":{"method":"GET","path":"/bastions","sourceIp":"203.0.113.7"}}}`
	e := emulate(t, compile(t, "../../functions/describe"), environment())
	got, _ := invoke(t, e, event)
	var response struct {
		StatusCode int
		Headers    map[string]string
		Body       string
	}
	if err := json.Unmarshal([]byte(got), &response); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if response.StatusCode != 401 || !strings.Contains(response.Body, `"unauthenticated"`) || response.Headers["X-Request-Id"] != "request-1" {
		t.Errorf("the response is %s", got)
	}
	if !e.Log.Contains(`"requestId"`) {
		t.Errorf("the log has no request ID:\n%s", e.Log)
	}
}

// The entry point comes from Lambda. The emulator makes the ARN from the name, so a
// qualifier in the name is one in the ARN.
func TestEntryPointsUnderTheEmulator(t *testing.T) {
	bootstrap := compile(t, "../../functions/describe")
	const event = `{"version":"2.0","rawPath":"/","requestContext":{"apiId":"abc123","requestId":"request-1","http":{"method":"GET","path":"/","sourceIp":"203.0.113.7"}}}`
	const call = `{"owner":"OWNER","source":"203.0.113.7","method":"GET","path":"/"}`
	for name, tests := range map[string]map[string]string{ // the responses by payload
		"describe": {
			event: `"statusCode":401`,
			strings.Replace(call, "OWNER", "slack:T0123ABCD:U0123ABCD", 1): "came through the entry point of API Gateway",
		},
		"describe:slack": {
			event: "not a call of the Slack function",
			strings.Replace(call, "OWNER", "slack:T0123ABCD:U0123ABCD", 1):              `"status":404`,
			strings.Replace(call, "OWNER", "iam:111122223333:AIDAEXAMPLEEXAMPLE123", 1): "may act for owners such as slack:",
		},
		"describe:queue": {event: "no entry point", strings.Replace(call, "OWNER", "slack:T0123ABCD:U0123ABCD", 1): "no entry point"},
	} {
		e := emulate(t, bootstrap, environment("AWS_LAMBDA_FUNCTION_NAME="+name))
		for payload, want := range tests {
			if got, _ := invoke(t, e, payload); !strings.Contains(got, want) {
				t.Errorf("%s, of %s: the response is %s", name, payload, got)
			}
		}
	}
}

func TestSlackFunctionUnderTheEmulator(t *testing.T) {
	bootstrap := compile(t, "../../functions/slack")
	const event = `{"version":"2.0","rawPath":"/slack","requestContext":{"apiId":"abc123","requestId":"request-1","http":{"method":"GET","path":"/slack","sourceIp":"203.0.113.7"}}}`
	const job = `{"job":{"action":"status","owner":"iam:111122223333:AIDAEXAMPLEEXAMPLE123"}}`
	for name, tests := range map[string]map[string]string{ // the responses by payload
		"slack":       {event: `"statusCode":404`, job: "came through the entry point of API Gateway", `{}`: "not an event of an HTTP API"},
		"slack:queue": {event: "neither a job nor a notice", job: "null"},
		"slack:slack": {event: "no entry point", job: "no entry point"},
	} {
		e := emulate(t, bootstrap, slackEnvironment("AWS_LAMBDA_FUNCTION_NAME="+name))
		for payload, want := range tests {
			if got, _ := invoke(t, e, payload); !strings.Contains(got, want) {
				t.Errorf("%s, of %s: the response is %s", name, payload, got)
			}
		}
		if name == "slack:queue" && !e.Log.Contains(`"level":"ERROR"`, `"job":"status"`) {
			t.Errorf("the log has no error of the job:\n%s", e.Log)
		}
	}
	wrong := emulate(t, bootstrap, slackEnvironment("SLACK_TEAMS=general", "SLACK_COLOUR=blue"))
	_, _ = invoke(t, wrong, `{}`)
	if !wrong.Log.Contains("SLACK_TEAMS", "SLACK_COLOUR") {
		t.Errorf("the log does not list the configuration errors:\n%s", wrong.Log)
	}
}

// maxInit is how much longer a function may take to start than an empty one.
const maxInit = 60 * time.Millisecond

// The time of the first event includes the start of the function. The shortest of
// several counts, because a busy machine only makes them longer.
func TestFunctionsStartQuickly(t *testing.T) {
	const times = 7
	environ := append(environment(), slackEnvironment()...) // each function reads its own variables
	start := func(bootstrap string) time.Duration {
		_, took := invoke(t, emulate(t, bootstrap, environ), `{}`)
		return took
	}
	empty := compile(t, "./testdata/empty")
	least := map[string]time.Duration{}
	names := append(slices.Sorted(maps.Keys(functionNames)), "slack")
	for _, name := range names {
		bootstrap := compile(t, "../../functions/"+name)
		for range times { // in turn, so that both run under the same load
			for key, program := range map[string]string{"empty": empty, name: bootstrap} {
				if took := start(program); least[key] == 0 || took < least[key] {
					least[key] = took
				}
			}
		}
	}
	for _, name := range names {
		more := least[name] - least["empty"]
		fmt.Printf("init of %-8s %s, an empty function %s\n", name, least[name].Round(time.Millisecond), least["empty"].Round(time.Millisecond))
		if more > maxInit {
			t.Errorf("%s takes %s longer to start than an empty function", name, more)
		}
	}
}
