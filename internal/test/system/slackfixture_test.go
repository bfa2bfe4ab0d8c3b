//go:build conformance

package system

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// slackFixture runs the Slack function alone: in the emulators, with its table, its
// secrets and the test's Slack. The test plays the functions that it calls, so that they
// can be slow or down.
type slackFixture struct {
	slack     *fakeSlack
	lambda    *lambdaAPI
	functions functions

	// An emulator has one instance, where Lambda has one for each event. If dropWhenBusy
	// is set, a job for a busy instance is dropped.
	dropWhenBusy bool
	busy         sync.Mutex

	mu        sync.Mutex
	backends  backendState
	userCount int
}

// backendState is the state of the functions that the Slack function calls.
type backendState string

const (
	fast    backendState = "fast"
	slow    backendState = "slow"    // they respond after five seconds
	failing backendState = "failing" // they run and fail
	down    backendState = "down"    // Invoke fails for every function
)

// newSlackFixture starts a fixture with the Slack function of a version.
func newSlackFixture(t testing.TB, v version) *slackFixture {
	t.Helper()
	dynamo := emulator.DynamoDB(t)
	for _, entry := range append(credentials(), "AWS_ENDPOINT_URL_DYNAMODB="+dynamo) {
		name, value, _ := strings.Cut(entry, "=")
		t.Setenv(name, value)
	}
	createSlackTable(t)
	m := &moto{url: emulator.Moto(t), client: newHTTPClient()}
	m.putSecrets(t)
	f := &slackFixture{slack: newSlack(t), functions: functions{}, backends: fast}
	ctx, cancel := context.WithCancel(context.Background())
	f.lambda = &lambdaAPI{ctx: ctx, invoke: f.invoke, events: &eventBridge{count: map[string]int{}}}
	r := newRecorder(t, stackResources{}, map[string]string{
		"dynamodb": dynamo, "ssm": m.url, "lambda": serve(t, f),
	})
	resources := v.evaluate(t, stackResources{})
	for _, name := range []string{"slack", slackQueue} {
		f.functions[name] = startFunction(t, v.programs, name, serve(t, r.As("SlackRole", "")), functionEnvironment(resources, name, f.slack))
	}
	f.slack.app = f.slack.serveTLS(t, gateway{f.functions})
	t.Cleanup(func() {
		cancel()
		f.lambda.background.Wait()
	})
	return f
}

func (f *slackFixture) setBackends(m backendState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backends = m
}

func (f *slackFixture) backendState() backendState {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.backends
}

// ServeHTTP serves Lambda's API.
func (f *slackFixture) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.backendState() == down {
		serviceFails(w)
		return
	}
	f.lambda.ServeHTTP(w, r)
}

// invoke is an invokeFunc.
func (f *slackFixture) invoke(ctx context.Context, name string, event []byte) ([]byte, error) {
	if name == slackQueue && f.dropWhenBusy {
		if !f.busy.TryLock() {
			return []byte("null"), nil
		}
		defer f.busy.Unlock()
	}
	if function := f.functions[name]; function != nil {
		return function.Invoke(ctx, event)
	}
	switch f.backendState() {
	case slow:
		select {
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case failing:
		return []byte(`{"errorType":"Runtime.ExitError","errorMessage":"signal: killed"}`), nil
	case down:
		return nil, errors.New("the service fails")
	}
	return []byte(`{"status":200,"body":"{\"bastions\":[]}"}`), nil
}

// While the other functions are down, the Slack function says so: in its first reply if
// it could not queue the job, otherwise in the message that replaces the first reply.
func TestOutageIsReportedToSlackUser(t *testing.T) {
	f := newSlackFixture(t, thisVersion(t, "./functions/slack"))
	dave := &slackUser{apiUser: apiUser{deployment: &deployment{slack: f.slack}, sourceIP: "127.0.0.1"}, userID: "UDAVE"}
	dave.generateKey(t)
	f.setBackends(down)
	if reply, _ := f.slack.sendCommand(t, dave.userID, "key "+dave.readPublicKey(t)); !strings.Contains(reply.text, "Key saved") {
		t.Errorf("key: the reply is\n%s", reply.text) // it calls no other function
	}
	for _, command := range []string{"status", "extend 30m", "down"} {
		if reply, _ := f.slack.sendCommand(t, dave.userID, command); !strings.Contains(reply.text, "The bastion service isn't responding") {
			t.Errorf("%s, without a queue: the reply is\n%s", command, reply.text)
		}
	}
	at := f.slack.pressButton(t, dave.userID, messageButton{ID: "extend", Value: bastionIDs["reaper"]})
	if reply := f.slack.lastMessage(at, ""); !strings.Contains(reply.text, "The bastion service isn't responding") || reply.ReplaceOriginal {
		t.Errorf("a button, without a queue: the reply is %+v", reply)
	}
	reply, place := f.slack.sendCommand(t, dave.userID, "up")
	dave.startLink = reply.button(t, "open").URL // a link calls no other function either
	if status, page := dave.pressStart(t); status != http.StatusServiceUnavailable || !strings.Contains(page, "nothing was started") {
		t.Errorf("the page returned %d\n%s", status, page)
	}
	f.setBackends(failing)
	for _, command := range []string{"status", "extend 30m", "down"} {
		reply, at := f.slack.sendCommand(t, dave.userID, command)
		if !strings.Contains(reply.text, "...") {
			t.Errorf("%s: the first reply is\n%s", command, reply.text)
		}
		f.slack.waitForMessage(t, at, "The bastion service isn't responding")
	}
	if status, page := dave.pressStart(t); status != http.StatusSeeOther {
		t.Fatalf("the page returned %d\n%s", status, page)
	}
	f.slack.waitForMessage(t, place, "The bastion service isn't responding")
	if _, page, _ := dave.browse(t, dave.statusPage); !strings.Contains(page, "whether the bastion was started") {
		t.Errorf("the page says\n%s", page)
	}
}
