//go:build conformance

package system

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// BenchmarkFirstAnswer measures how long the compiled Slack function takes, in the
// emulator, from a command's event to the first reply, while the functions that it calls
// are fast, slow (5 s) and down. An empty function's time for the same event is the
// baseline.
func BenchmarkFirstAnswer(b *testing.B) {
	v := thisVersion(b, "./functions/slack", "./internal/lambdamode/testdata/empty")
	f := newSlackFixture(b, v)
	f.dropWhenBusy = true
	empty := emulator.Emulate(b, filepath.Join(v.programs, "empty"), credentials())
	b.Run("empty", func(b *testing.B) {
		measureInvocations(b, empty, "null", func(int) []byte { return f.event(b, "U0000", "help") })
	})
	for _, backends := range []backendState{fast, slow, down} {
		for _, c := range []struct{ command, reply string }{
			{"help", "How to use"}, {"up", "Your link is ready"}, {"status", "Looking"}, {"extend 30m", "Extending"}, {"down", "Closing"},
		} {
			if backends == down && c.command != "help" && c.command != "up" { // these call no other function
				c.reply = "The bastion service isn't responding"
			}
			b.Run(fmt.Sprintf("%s/%s", backends, strings.Fields(c.command)[0]), func(b *testing.B) {
				f.setBackends(backends)
				measureInvocations(b, f.functions["slack"], c.reply, func(n int) []byte { return f.event(b, f.user(b, n), c.command) })
			})
		}
	}
}

// user returns a user whose key is saved. It returns another user after every ten
// commands, because one user may send twenty in a minute.
func (f *slackFixture) user(b *testing.B, n int) string {
	if n%10 == 0 {
		f.userCount++
		const key = "key ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3Yp3ZCq2yX6nV0zq9oZx9oUuUJ2m3n0b4V6fJmL1dN"
		if reply, _ := f.slack.sendCommand(b, fmt.Sprintf("U%04d", f.userCount), key); !strings.Contains(reply.text, "Key saved") {
			b.Fatalf("key: the reply is\n%s", reply.text)
		}
	}
	return fmt.Sprintf("U%04d", f.userCount)
}

// event returns API Gateway's event of a command.
func (f *slackFixture) event(b *testing.B, user, command string) []byte {
	body := commandForm(user, command, f.slack.newResponseURL("commands")).Encode()
	r := httptest.NewRequest(http.MethodPost, "/slack/command", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	signRequest(r.Header, body)
	event, _, err := newAPIEvent(r, "")
	if err != nil {
		b.Fatal(err)
	}
	return event
}

// measureInvocations invokes a function with events, checks that each response contains
// the text, and reports the 50th and 99th percentile of the durations.
func measureInvocations(b *testing.B, function *emulator.Lambda, text string, event func(n int) []byte) {
	var durations []time.Duration
	for n := range b.N {
		e := event(n)
		start := time.Now()
		response, err := function.Invoke(b.Context(), e)
		durations = append(durations, time.Since(start))
		if err != nil || !strings.Contains(string(response), text) {
			b.Fatalf("returned %s, %v", response, err)
		}
	}
	slices.Sort(durations)
	at := func(share float64) float64 {
		return durations[min(len(durations)-1, int(share*float64(len(durations))))].Seconds() * 1000
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
}
