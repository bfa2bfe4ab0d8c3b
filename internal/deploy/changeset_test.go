package deploy

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
)

// event returns an event of a resource.
func event(name, status, reason string) types.StackEvent {
	return types.StackEvent{
		LogicalResourceId: &name, PhysicalResourceId: aws.String("physical-" + name), ResourceType: aws.String("AWS::Test::Thing"),
		ResourceStatus: types.ResourceStatus(status), ResourceStatusReason: &reason,
	}
}

func TestParametersOfAnUpdate(t *testing.T) {
	r := revision{
		template:   template{parameters: map[string]templateParameter{"Given": {}, "Kept": {}, "New": {}}},
		parameters: map[string]string{"Given": "1"},
	}
	s := stack{id: "id", status: types.StackStatusUpdateComplete, parameters: map[string]string{"Given": "0", "Kept": "2", "Gone": "3"}}
	show := func(all []types.Parameter) (words []string) {
		for _, p := range all {
			word := *p.ParameterKey + "=" + aws.ToString(p.ParameterValue)
			if aws.ToBool(p.UsePreviousValue) {
				word = *p.ParameterKey + " kept"
			}
			words = append(words, word)
		}
		return words
	}
	if got := show(r.parametersFor(s, types.ChangeSetTypeUpdate)); !slices.Equal(got, []string{"Given=1", "Kept kept"}) {
		t.Errorf("of an update: %q", got)
	}
	if got := show(r.parametersFor(s, types.ChangeSetTypeCreate)); !slices.Equal(got, []string{"Given=1"}) {
		t.Errorf("of a creation: %q", got)
	}
}

func TestTagsAreSetOrKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		for _, test := range []struct{ given, want map[string]string }{
			{nil, map[string]string{}},
			{map[string]string{"Team": "a", "Old": "x"}, map[string]string{"Team": "a", "Old": "x"}},
			{nil, map[string]string{"Team": "a", "Old": "x"}},
			{map[string]string{"Team": "b"}, map[string]string{"Team": "b"}},
		} {
			w.settings.Tags = test.given
			if err := w.deployment().Deploy(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"bastion", "bastion-registry"} {
				if got := w.named(name).tags; !maps.Equal(got, test.want) {
					t.Errorf("TAGS is %q, and the tags of %s are %q", test.given, name, got)
				}
			}
			w.named("bastion").tags["aws:servicecatalog:x"] = "1" // a call that sends it would be refused
		}
	})
}

func TestFailedChangeSetHasTheReason(t *testing.T) {
	for _, test := range []struct {
		exists bool
		reason string
		want   string
	}{
		{true, "Transform AWS::Serverless-2016-10-31 failed", "cannot update the stack bastion: Transform AWS::Serverless-2016-10-31 failed"},
		{false, "Template error", "cannot create the stack bastion: Template error"},
		// A stack that does not exist cannot be up to date: guardian/riff-raff#576.
		{false, "The submitted information didn't contain changes.", "cannot create the stack bastion: The submitted"},
	} {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			w.add("bastion-registry", types.StackStatusCreateComplete)
			if test.exists {
				w.add("bastion", types.StackStatusCreateComplete)
			}
			d := w.deployment()
			w.fail["change set"] = errors.New(test.reason)
			err := d.deployStack(t.Context(), revision{stack: "bastion", body: "Resources: {}"})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v", test.reason, err)
			}
			if got := w.takeCalls("DeleteChangeSet", "ExecuteChangeSet"); !slices.Equal(got, []string{"DeleteChangeSet bastion"}) {
				t.Errorf("%s: the calls are %q", test.reason, got)
			}
		})
	}
}

// A failed change shows the resource that failed first, then the others, but not those
// that CloudFormation cancelled because of it. The next deployment succeeds.
func TestFailedChangeShowsTheCauseFirst(t *testing.T) {
	for _, exists := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			if exists {
				if err := w.deployment().Deploy(t.Context()); err != nil {
					t.Fatal(err)
				}
				w.named("bastion").happen(event("OfLastYear", "UPDATE_FAILED", "an old failure"))
				w.settings.Parameters["QuotaTotal"] = "7"
			}
			w.failing = []types.StackEvent{
				event("One", "CREATE_IN_PROGRESS", ""), event("Two", "CREATE_IN_PROGRESS", ""), event("Three", "CREATE_IN_PROGRESS", ""),
				event("Three", "CREATE_COMPLETE", ""),
				event("Two", "CREATE_FAILED", "API: lambda:CreateFunction is denied"),
				event("One", "CREATE_FAILED", "Resource creation cancelled"),
				event("Four", "CREATE_FAILED", "also denied"),
				event("Three", "DELETE_COMPLETE", ""),
			}
			err := w.deployment().Deploy(t.Context())
			want := "create the stack bastion: the stack bastion is ROLLBACK_COMPLETE\n"
			if exists {
				want = "update the stack bastion: the stack bastion is UPDATE_ROLLBACK_COMPLETE, so it runs as before\n"
			}
			want += "  Two (AWS::Test::Thing): API: lambda:CreateFunction is denied\n  Four (AWS::Test::Thing): also denied\nFix that and rerun make deploy"
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v\nwant %s", err, want)
			}
			lines := "  CREATE_COMPLETE Three (AWS::Test::Thing)\n  CREATE_FAILED Two (AWS::Test::Thing): API: lambda:CreateFunction is denied\n"
			if out := w.out.String(); !strings.Contains(out, lines) || strings.Contains(out, "OfLastYear") {
				t.Errorf("the output is\n%s", out)
			}
			if err := w.deployment().Deploy(t.Context()); err != nil {
				t.Errorf("the rerun: %v", err)
			}
		})
	}
}

func TestFailureWithoutOtherCause(t *testing.T) {
	f := &follower{name: "bastion", failed: []types.StackEvent{event("One", "UPDATE_FAILED", "Resource update cancelled")}}
	s := stack{status: types.StackStatusUpdateRollbackFailed, reason: "the stack's reason"}
	if err := f.failure(s); !strings.Contains(err.Error(), "\n  One (AWS::Test::Thing): Resource update cancelled") {
		t.Error(err)
	}
	f.failed = nil
	if err := f.failure(s); !strings.HasSuffix(err.Error(), "the stack bastion is UPDATE_ROLLBACK_FAILED; its events name no resource that failed, and its reason is: the stack's reason") {
		t.Error(err)
	}
}

// evolving is a world in which changes happen a minute apart, when a stack is read.
type evolving struct {
	*world
	next    time.Time
	changes []func()
}

func (e *evolving) DescribeStacks(ctx context.Context, in *cloudformation.DescribeStacksInput, options ...func(*cloudformation.Options)) (*cloudformation.DescribeStacksOutput, error) {
	if len(e.changes) > 0 && !time.Now().Before(e.next) {
		e.changes[0]()
		e.changes, e.next = e.changes[1:], e.next.Add(time.Minute)
	}
	return e.world.DescribeStacks(ctx, in, options...)
}

// A status and an event from before the change do not end the waiting.
func TestWaitingEndsWithTheChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		s := w.add("bastion", types.StackStatusUpdateComplete)
		began := time.Now()
		e := &evolving{world: w, next: began.Add(time.Minute), changes: []func(){
			func() {
				s.become(types.StackStatusUpdateInProgress)
				for _, name := range []string{"A", "B", "C", "D", "E"} {
					s.happen(event(name, "UPDATE_IN_PROGRESS", ""))
				}
			},
			func() { s.become(types.StackStatusUpdateCompleteCleanupInProgress) },
			func() { s.become(types.StackStatusUpdateComplete) },
		}}
		f, err := follow(t.Context(), e, &w.out, s.name, s.id)
		if err != nil {
			t.Fatal(err)
		}
		s.happen(types.StackEvent{LogicalResourceId: &s.name, PhysicalResourceId: &s.id, ResourceStatus: "UPDATE_COMPLETE"})
		if now, err := f.wait(t.Context()); err != nil || now.status != types.StackStatusUpdateComplete || time.Since(began) < 3*time.Minute {
			t.Errorf("%s after %s: %v", now.status, time.Since(began), err)
		}
		for _, want := range []string{"  after 30s: UPDATE_COMPLETE, waiting for CloudFormation\n", "UPDATE_IN_PROGRESS, waiting for A, B, C and 2 more\n"} {
			if !strings.Contains(w.out.String(), want) {
				t.Errorf("%q is missing in\n%s", want, w.out.String())
			}
		}
	})
}

// Of two deployments at the same time, CloudFormation refuses the second.
func TestRefusedChangeSetIsDeleted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.fail["ExecuteChangeSet bastion"] = refusal("InvalidChangeSetStatus", "the stack is in UPDATE_IN_PROGRESS state")
		if err := w.deployment().Deploy(t.Context()); err == nil || !strings.Contains(err.Error(), "UPDATE_IN_PROGRESS") || len(w.named("bastion").sets) > 0 {
			t.Errorf("%v; the change sets are %v", err, w.named("bastion").sets)
		}
	})
}

// Ctrl-C leaves a state that the next deployment continues from, and says what continues.
func TestInterruptedDeployment(t *testing.T) {
	for _, test := range []struct {
		during, want string
		leaves       types.StackStatus
	}{
		{"DescribeChangeSet", "the stack bastion-registry has not been changed: context canceled", types.StackStatusReviewInProgress},
		{"ExecuteChangeSet", "CloudFormation continues to change the stack bastion-registry, and the next run waits until it is done: context canceled", types.StackStatusCreateComplete},
	} {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w.on = map[string]func(){test.during: cancel}
			err := w.deployment().Deploy(ctx)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "interrupted in step 2 of 9") {
				t.Errorf("%s: %v", test.during, err)
			}
			s := w.named("bastion-registry")
			if len(s.sets) > 0 || s.status != test.leaves {
				t.Errorf("%s: %d change sets, %s", test.during, len(s.sets), s.status)
			}
			if err := w.deployment().Deploy(t.Context()); err != nil {
				t.Errorf("%s: the rerun: %v", test.during, err)
			}
		})
	}
}
