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
)

// emulator comes with the SAM CLI.
const emulator = "aws-sam-cli-1.170.0/lib/python3.11/site-packages/samcli/local/rapid/aws-lambda-rie-x86_64"

// Lambda is a function under Lambda's Runtime Interface Emulator.
type Lambda struct {
	Log *Output // of the function and the emulator

	url    string
	client *http.Client
	mu     sync.Mutex // the emulator has one instance, which takes one event at a time
}

// Emulate starts the emulator, which starts the function at its first event.
// environ is all of the function's environment but for what Lambda adds.
func Emulate(t testing.TB, bootstrap string, environ []string) *Lambda {
	t.Helper()
	program := tool(t, emulator)
	if err := os.Chmod(program, 0o755); err != nil { // as a wheel holds it, it is no program
		t.Fatal(err)
	}
	front, api := fmt.Sprint("127.0.0.1:", FreePort(t)), fmt.Sprint("127.0.0.1:", FreePort(t))
	command := exec.Command("sh", "-c", untilStdinEnds, "sh", program,
		"--runtime-interface-emulator-address", front, "--runtime-api-address", api, bootstrap)
	command.Env = append(environ, "PATH="+os.Getenv("PATH"), "AWS_LAMBDA_LOG_FORMAT=JSON")
	l := &Lambda{
		url:    "http://" + front + "/2015-03-31/functions/function/invocations",
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	l.Log = start(t, command, "the emulator of "+bootstrap)
	await(t, "http://"+front, l.Log)
	return l
}

// Invoke sends an event and answers what comes back, which of a function that
// failed is an object with errorMessage.
func (l *Lambda) Invoke(ctx context.Context, event []byte) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, bytes.NewReader(event))
	if err != nil {
		return nil, err
	}
	answer, err := l.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("invoke the function: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("read the function's answer: %w", err)
	}
	return body, nil
}
