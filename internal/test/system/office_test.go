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

// office is the Slack function by itself: under the emulators, with its table, its
// secrets and Slack. The functions that it calls are the test's, so that they can be
// slow or down.
type office struct {
	slack  *fakeSlack
	lambda *invoker
	own    functions

	// The emulator has one instance, where Lambda has one for each event. If hasty,
	// an event of work that finds it busy is not done.
	hasty bool
	busy  sync.Mutex

	mu     sync.Mutex
	others manner
	serial int // of users
}

// manner is how the other functions are.
type manner string

const (
	fast    manner = "fast"
	slow    manner = "slow"    // they answer after five seconds
	failing manner = "failing" // they are called, and fail
	down    manner = "down"    // Lambda itself fails, whatever is called
)

// openOffice starts it. programs is where the function is compiled.
func openOffice(t testing.TB, programs string) *office {
	t.Helper()
	dynamo := emulator.DynamoDB(t)
	for _, entry := range append(credentials(), "AWS_ENDPOINT_URL_DYNAMODB="+dynamo) {
		name, value, _ := strings.Cut(entry, "=")
		t.Setenv(name, value)
	}
	createSlackTable(t)
	m := &moto{url: emulator.Moto(t), client: client()}
	m.keepSecrets(t)
	o := &office{slack: newSlack(t), own: functions{}, others: fast}
	ctx, cancel := context.WithCancel(context.Background())
	o.lambda = &invoker{ctx: ctx, to: o.invoke, bridge: &eventBridge{count: map[string]int{}}}
	r := recording(t, place{}, map[string]string{
		"dynamodb": dynamo, "ssm": m.url, "lambda": serve(t, o),
	})
	for _, name := range []string{"slack", slackWork} {
		o.own[name] = emulate(t, programs, name, serve(t, r.As("SlackRole", "")), slackSettings(o.slack))
	}
	o.slack.app = o.slack.serveTLS(t, gateway{o.own})
	t.Cleanup(func() {
		cancel()
		o.lambda.background.Wait()
	})
	return o
}

// are changes how the other functions are.
func (o *office) are(m manner) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.others = m
}

func (o *office) now() manner {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.others
}

// ServeHTTP is Lambda.
func (o *office) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if o.now() == down {
		serviceFails(w)
		return
	}
	o.lambda.ServeHTTP(w, r)
}

// invoke is of invokes.
func (o *office) invoke(ctx context.Context, name string, event []byte) ([]byte, error) {
	if name == slackWork && o.hasty {
		if !o.busy.TryLock() {
			return []byte("null"), nil
		}
		defer o.busy.Unlock()
	}
	if function := o.own[name]; function != nil {
		return function.Invoke(ctx, event)
	}
	switch o.now() {
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
