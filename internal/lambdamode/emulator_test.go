//go:build conformance

package lambdamode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// rie is the AWS Lambda Runtime Interface Emulator, which comes with the SAM CLI.
const rie = "../../.tools/aws-sam-cli-1.170.0/lib/python3.11/site-packages/samcli/local/rapid/aws-lambda-rie-x86_64"

// functionNames are all functions, each with what it answers to {}, which is no
// event of any door.
var functionNames = map[string]string{
	"create": "no event of an HTTP API", "describe": "no event of an HTTP API", "extend": "no event of an HTTP API", "destroy": "no event of an HTTP API",
	"reaper":   `told \"reap\" or \"sweep\"`,
	"observer": "neither an event of a task nor of a stream",
}

// compile builds a function for this machine and answers its bootstrap.
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

// output takes what a program prints, while it still does.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// emulator is a function under the emulator.
type emulator struct {
	url    string
	log    *output
	client *http.Client
}

// emulate starts the emulator, which starts the function at its first event.
func emulate(t *testing.T, bootstrap string, environ []string) *emulator {
	t.Helper()
	program, err := filepath.Abs(rie)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	front, api := freePort(t), freePort(t)
	e := &emulator{url: "http://" + front + "/2015-03-31/functions/function/invocations", log: &output{},
		client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	command := exec.Command(program, "--runtime-interface-emulator-address", front, "--runtime-api-address", api, bootstrap)
	command.Env = append(environ, "PATH="+os.Getenv("PATH"), "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b", "AWS_LAMBDA_LOG_FORMAT=JSON")
	command.Stdout, command.Stderr = e.log, e.log
	// The emulator has children; all of them end with the test.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
		_ = command.Wait()
	})
	waitFor(t, front)
	return e
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func waitFor(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			_ = connection.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the emulator does not listen: %v", err)
		}
		time.Sleep(10 * time.Millisecond) // between tries; nothing says when it listens
	}
}

// invoke sends an event, and answers what comes back and how long it took.
func (e *emulator) invoke(t *testing.T, event string) (string, time.Duration) {
	t.Helper()
	began := time.Now()
	answer, err := e.client.Post(e.url, "application/json", strings.NewReader(event))
	if err != nil {
		t.Fatalf("%v\n%s", err, e.log)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body), time.Since(began)
}

// Every function as Lambda starts it: whole, and told something wrong.
func TestFunctionsUnderTheEmulator(t *testing.T) {
	for name, want := range functionNames {
		t.Run(name, func(t *testing.T) {
			bootstrap := compile(t, "../../functions/"+name)
			if got, _ := emulate(t, bootstrap, environment()).invoke(t, `{}`); !strings.Contains(got, want) || !strings.Contains(got, "errorMessage") {
				t.Errorf("answered %s", got)
			}
			wrong := emulate(t, bootstrap, environment("BASTION_SSH_PORT=22", "BASTION_COLOUR=blue"))
			_, _ = wrong.invoke(t, `{}`)
			if said := wrong.log.String(); !strings.Contains(said, "BASTION_SSH_PORT") || !strings.Contains(said, "BASTION_COLOUR") {
				t.Errorf("the log does not list what is wrong:\n%s", said)
			}
		})
	}
}

// A request that nobody signed goes through all of a compiled function and calls
// nobody.
func TestAnEventThroughACompiledFunction(t *testing.T) {
	const event = `{"version":"2.0","rawPath":"/bastions","headers":{"accept":"*/*"},
		"requestContext":{"accountId":"111122223333","apiId":"abc123","requestId":"request-1","http":{"method":"GET","path":"/bastions","sourceIp":"203.0.113.7"}}}`
	e := emulate(t, compile(t, "../../functions/describe"), environment())
	got, _ := e.invoke(t, event)
	var answer struct {
		StatusCode int
		Headers    map[string]string
		Body       string
	}
	if err := json.Unmarshal([]byte(got), &answer); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if answer.StatusCode != 401 || !strings.Contains(answer.Body, `"unauthenticated"`) || answer.Headers["X-Request-Id"] != "request-1" {
		t.Errorf("answered %s", got)
	}
	if !strings.Contains(e.log.String(), `"requestId"`) {
		t.Errorf("the log does not say which invocation it was:\n%s", e.log)
	}
}

// maxInit is how much longer the start of a function may take than that of an
// empty one.
const maxInit = 60 * time.Millisecond

// A start is the first event's time: the emulator starts the function for it. Of
// several the shortest counts, as a busy machine only makes them longer.
func TestInitIsShort(t *testing.T) {
	const times = 7
	start := func(bootstrap string) time.Duration {
		_, took := emulate(t, bootstrap, environment()).invoke(t, `{}`)
		return took
	}
	empty := compile(t, "./testdata/empty")
	least := map[string]time.Duration{}
	for name := range functionNames {
		bootstrap := compile(t, "../../functions/"+name)
		for range times { // in turn, so that both meet the same load
			for key, program := range map[string]string{"empty": empty, name: bootstrap} {
				if took := start(program); least[key] == 0 || took < least[key] {
					least[key] = took
				}
			}
		}
	}
	for name := range functionNames {
		more := least[name] - least["empty"]
		fmt.Printf("init of %-8s %s, an empty function %s\n", name, least[name].Round(time.Millisecond), least["empty"].Round(time.Millisecond))
		if more > maxInit {
			t.Errorf("%s takes %s longer to start than an empty function", name, more)
		}
	}
}
