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

// BenchmarkFirstAnswer prints how long the compiled Slack function takes, under the
// emulator, to answer a command for the first time, while the functions behind it
// are fast, slow (5 s) and down; beside an empty function's answer to the same
// event. What is timed is what Lambda does: from the event to the answer.
func BenchmarkFirstAnswer(b *testing.B) {
	programs := compile(b, "./functions/slack", "./internal/lambdamode/testdata/empty")
	o := newSlackFixture(b, programs)
	o.dropWhenBusy = true
	empty := emulator.Emulate(b, filepath.Join(programs, "empty"), credentials())
	b.Run("empty", func(b *testing.B) {
		measureInvocations(b, empty, "null", func(int) []byte { return o.event(b, "UNOBODY", "help") })
	})
	for _, others := range []backendState{fast, slow, down} {
		for _, c := range []struct{ command, says string }{
			{"help", "How to use"}, {"up", "Your link is ready"}, {"status", "Looking"}, {"extend 30m", "Extending"}, {"down", "Closing"},
		} {
			if others == down && c.command != "help" && c.command != "up" { // which take no other function
				c.says = "The service does not answer"
			}
			b.Run(fmt.Sprintf("%s/%s", others, strings.Fields(c.command)[0]), func(b *testing.B) {
				o.setBackends(others)
				measureInvocations(b, o.functions["slack"], c.says, func(n int) []byte { return o.event(b, o.user(b, n), c.command) })
			})
		}
	}
}

// user is a user whose key is remembered: another one after every ten commands, of
// which nobody may give more than twenty in a minute.
func (o *slackFixture) user(b *testing.B, n int) string {
	if n%10 == 0 {
		o.userCount++
		const key = "key ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3Yp3ZCq2yX6nV0zq9oZx9oUuUJ2m3n0b4V6fJmL1dN"
		if said, _ := o.slack.sendCommand(b, fmt.Sprintf("U%04d", o.userCount), key); !strings.Contains(said.text, "Key saved") {
			b.Fatalf("key was answered\n%s", said.text)
		}
	}
	return fmt.Sprintf("U%04d", o.userCount)
}

// event is API Gateway's of a command.
func (o *slackFixture) event(b *testing.B, user, command string) []byte {
	body := commandForm(user, command, o.slack.newResponseURL("commands")).Encode()
	r := httptest.NewRequest(http.MethodPost, "/slack/command", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	signRequest(r.Header, body)
	made, _, err := newAPIEvent(r, "")
	if err != nil {
		b.Fatal(err)
	}
	return made
}

// measure invokes a function with events, each of which it must answer so, and
// reports how long it took.
func measureInvocations(b *testing.B, function *emulator.Lambda, says string, event func(n int) []byte) {
	var took []time.Duration
	for n := range b.N {
		e := event(n)
		began := time.Now()
		answer, err := function.Invoke(b.Context(), e)
		took = append(took, time.Since(began))
		if err != nil || !strings.Contains(string(answer), says) {
			b.Fatalf("answered %s, %v", answer, err)
		}
	}
	slices.Sort(took)
	at := func(share float64) float64 {
		return took[min(len(took)-1, int(share*float64(len(took))))].Seconds() * 1000
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
}
