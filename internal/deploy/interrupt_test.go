package deploy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// callsOfDeploy returns each call of a whole deployment once: its first word, and the stack or
// the function. The module is the folder with the templates.
func callsOfDeploy(t *testing.T, module string) (calls []string) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.settings.Module = module
		if err := w.deployment().Deploy(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, call := range w.calls {
			words := strings.Fields(call)
			call = words[0]
			if len(words) > 1 && (strings.Contains(call, "ChangeSet") || call == "Invoke") {
				call += " " + words[1]
			}
			if !slices.Contains(calls, call) {
				calls = append(calls, call)
			}
		}
	})
	return calls
}

// A deployment with the short template makes the same calls as one with the whole template, so
// the tests below miss no call.
func TestDeploymentWithShortTemplateMakesTheSameCalls(t *testing.T) {
	if short, whole := callsOfDeploy(t, shortModule(t)), callsOfDeploy(t, "../.."); !slices.Equal(short, whole) {
		t.Errorf("the calls are\n%q, and with the whole template\n%q", short, whole)
	}
}

// Ctrl-C at any call leaves no bastion that is open, and nothing that the next deployment
// cannot continue from.
func TestDeployCanBeRerunAfterCtrlCAtAnyCall(t *testing.T) {
	module := shortModule(t)
	for _, call := range callsOfDeploy(t, module) {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			w.settings.Module = module
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			w.on = map[string]func(){call: interrupt}
			err := w.deployment().Deploy(ctx)
			if err != nil && (!errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "interrupted in step")) {
				t.Errorf("%s: %v", call, err)
			}
			checkRerun(t, w, call)
		})
	}
}

// A killed process cleans nothing up. The bastion of a trial then ends at its deadline.
func TestDeployCanBeRerunAfterKillAtAnyCall(t *testing.T) {
	module := shortModule(t)
	for _, call := range callsOfDeploy(t, module) {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			w.settings.Module = module
			w.on = map[string]func(){call: func() { w.killed = true }}
			if err := w.deployment().Deploy(t.Context()); err == nil {
				t.Errorf("%s: the deployment succeeds without AWS", call)
			}
			w.killed = false
			synctest.Wait() // until the trial's SSH server has ended
			w.trial = fakeTrial{}
			checkRerun(t, w, call)
		})
	}
}

func checkRerun(t *testing.T, w *world, call string) {
	t.Helper()
	if state := w.trial.doc.State; w.trial.doc.ID != "" && state != bastion.Closing && state != bastion.Closed {
		t.Errorf("%s: the bastion of the trial is %s\n%s", call, state, w.out.String())
	}
	synctest.Wait() // until the trial's SSH server has ended
	w.trial = fakeTrial{}
	if err := w.deployment().Deploy(t.Context()); err != nil {
		t.Errorf("%s: the rerun: %v\n%s", call, err, w.out.String())
	}
	for _, name := range []string{"bastion", "bastion-registry"} {
		if s := w.named(name); s == nil || s.status != types.StackStatusCreateComplete && s.status != types.StackStatusUpdateComplete {
			t.Errorf("%s: after the rerun, the stack %s is %+v", call, name, s)
		}
	}
}
