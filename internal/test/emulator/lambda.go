package emulator

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/freeport"
)

// emulator is the path of the Lambda emulator, which comes with the SAM CLI. The
// folder depends on the version of Python.
const emulator = "aws-sam-cli-1.170.0/lib/python3.*/site-packages/samcli/local/rapid/aws-lambda-rie-x86_64"

// Lambda is a function under Lambda's Runtime Interface Emulator.
type Lambda struct {
	Log *Output // of the function and the emulator

	url    string
	client *http.Client
	stop   func()
	mu     sync.Mutex // the emulator has one instance, which takes one event at a time
}

// Emulate starts the emulator, which starts the function with its first event.
// environ is the function's environment without the variables that Lambda adds.
func Emulate(t testing.TB, bootstrap string, environ []string) *Lambda {
	t.Helper()
	l := &Lambda{
		Log:    &Output{},
		client: &http.Client{Timeout: 10 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	l.start(t, bootstrap, environ)
	return l
}

// Update replaces the function's program and environment when it has returned from the
// present event. Later events wait for the new program. The log continues.
func (l *Lambda) Update(t testing.TB, bootstrap string, environ []string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop()
	l.start(t, bootstrap, environ)
}

func (l *Lambda) start(t testing.TB, bootstrap string, environ []string) {
	t.Helper()
	program := Tool(t, emulator)
	if err := os.Chmod(program, 0o755); err != nil { // pip installs it without the executable bit
		t.Fatal(err)
	}
	front, api := fmt.Sprint("127.0.0.1:", freeport.Port(t)), fmt.Sprint("127.0.0.1:", freeport.Port(t))
	command := exec.Command("sh", "-c", untilStdinEnds, "sh", program,
		"--runtime-interface-emulator-address", front, "--runtime-api-address", api, bootstrap)
	command.Env = append(environ, "PATH="+os.Getenv("PATH"), "AWS_LAMBDA_LOG_FORMAT=JSON")
	l.url = "http://" + front + "/2015-03-31/functions/function/invocations"
	l.stop = start(t, command, "the emulator of "+bootstrap, l.Log)
	await(t, "http://"+front, l.Log)
}

// Invoke sends an event and returns the function's response. For a function that
// failed, this is an object with the field errorMessage.
func (l *Lambda) Invoke(ctx context.Context, event []byte) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, bytes.NewReader(event))
	if err != nil {
		return nil, err
	}
	response, err := l.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("invoke the function: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("read the function's response: %w", err)
	}
	return body, nil
}
