package deploy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/smithy-go"
)

// revision is what a stack is to become.
type revision struct {
	stack      string
	template   template          // for the names of its parameters
	body, url  string            // the template's text, up to 51,200 bytes, or where it is
	parameters map[string]string // others keep their values
	tags       map[string]string // nil: those that the stack has
}

// changeSetPause is the time between two reads of a change set that is being created.
const changeSetPause = 2 * time.Second

// deployStack creates or updates a stack by a change set, and waits for the end. It
// succeeds if there is nothing to change.
func (d *Deployment) deployStack(ctx context.Context, r revision) error {
	s, err := ready(ctx, d.Cloud.Stacks, d.Progress, r.stack)
	if err != nil {
		return err
	}
	set, err := d.createChangeSet(ctx, s, r)
	if err != nil {
		return err
	}
	changes, err := d.awaitChangeSet(ctx, r.stack, set)
	if err != nil || !changes {
		return errors.Join(err, d.deleteChangeSet(ctx, r.stack, set))
	}
	f, err := follow(ctx, d.Cloud.Stacks, d.Progress.W, r.stack, set.stack)
	if err != nil {
		return errors.Join(err, d.deleteChangeSet(ctx, r.stack, set))
	}
	_, err = d.Cloud.Stacks.ExecuteChangeSet(ctx, &cloudformation.ExecuteChangeSetInput{
		StackName: &set.stack, ChangeSetName: &set.id, ClientRequestToken: &set.name,
	})
	if err != nil {
		if refused := smithy.APIError(nil); errors.As(err, &refused) {
			_ = d.deleteChangeSet(ctx, r.stack, set) // fails if it is executed all the same
		}
		return fmt.Errorf("execute the change set %s of the stack %s: %w", set.name, r.stack, err)
	}
	began := time.Now()
	fmt.Fprintf(d.Progress.W, "%s the stack %s\n", set.verb(), r.stack)
	if s, err = f.wait(ctx); err != nil {
		return err
	}
	if s.status != types.StackStatusCreateComplete && s.status != types.StackStatusUpdateComplete {
		return fmt.Errorf("%s the stack %s: %w", set.verb(), r.stack, f.failure(s))
	}
	fmt.Fprintf(d.Progress.W, "%s the stack %s: done in %s\n", set.verb(), r.stack, time.Since(began).Round(time.Second))
	return nil
}

// changeSet is a change set of a stack.
type changeSet struct {
	name, id string
	stack    string // the ID of its stack
	kind     types.ChangeSetType
}

func (c changeSet) verb() string { return strings.ToLower(string(c.kind)) }

// createChangeSet starts to create a change set. A stack that does not exist then exists
// in the state REVIEW_IN_PROGRESS, and this also continues from that state.
func (d *Deployment) createChangeSet(ctx context.Context, s stack, r revision) (changeSet, error) {
	set := changeSet{name: "deploy-" + rand.Text(), kind: types.ChangeSetTypeUpdate}
	if !s.exists() || s.status == types.StackStatusReviewInProgress {
		set.kind = types.ChangeSetTypeCreate
	}
	in := &cloudformation.CreateChangeSetInput{
		StackName: &r.stack, ChangeSetName: &set.name, ChangeSetType: set.kind, ClientToken: &set.name,
		Parameters: r.parametersFor(s, set.kind), Tags: r.tagsFor(s),
		// A SAM template needs CAPABILITY_AUTO_EXPAND only without a change set: in
		// "CreateChangeSet" of the API Reference, it "doesn't apply to creating change sets".
		Capabilities: []types.Capability{types.CapabilityCapabilityIam},
	}
	if r.url != "" {
		in.TemplateURL = &r.url
	} else {
		in.TemplateBody = &r.body
	}
	out, err := d.Cloud.Stacks.CreateChangeSet(ctx, in)
	if err != nil {
		return set, fmt.Errorf("create a change set for the stack %s: %w", r.stack, err)
	}
	set.id, set.stack = aws.ToString(out.Id), aws.ToString(out.StackId)
	return set, nil
}

// parametersFor returns the given parameters. On an update, the others keep their values;
// new ones start with their defaults, and those that the template no longer has are left
// out, because CloudFormation refuses both kinds.
func (r revision) parametersFor(s stack, kind types.ChangeSetType) (all []types.Parameter) {
	for _, name := range slices.Sorted(maps.Keys(r.parameters)) {
		all = append(all, types.Parameter{ParameterKey: &name, ParameterValue: aws.String(r.parameters[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(s.parameters)) {
		_, given := r.parameters[name]
		_, known := r.template.parameters[name]
		if kind == types.ChangeSetTypeUpdate && known && !given {
			all = append(all, types.Parameter{ParameterKey: &name, UsePreviousValue: aws.Bool(true)})
		}
	}
	return all
}

// tagsFor returns the tags to set. Those of the stack are sent again if none are given:
// "UpdateStack" in the API Reference says that a call without tags keeps them, but
// "CreateChangeSet" does not.
func (r revision) tagsFor(s stack) (all []types.Tag) {
	tags := r.tags
	if tags == nil {
		tags = s.tags
	}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, types.Tag{Key: &key, Value: aws.String(tags[key])})
	}
	return all
}

// awaitChangeSet waits until the change set is created, and reports whether it has
// changes. CloudFormation calls one without changes FAILED.
func (d *Deployment) awaitChangeSet(ctx context.Context, name string, set changeSet) (changes bool, err error) {
	err = poll(ctx, d.Progress, "create a change set for the stack "+name, changeSetPause, func(ctx context.Context) (bool, string, error) {
		out, err := d.Cloud.Stacks.DescribeChangeSet(ctx, &cloudformation.DescribeChangeSetInput{StackName: &set.stack, ChangeSetName: &set.id})
		if err != nil {
			return false, "", fmt.Errorf("read the change set %s of the stack %s: %w", set.name, name, err)
		}
		reason := aws.ToString(out.StatusReason)
		switch out.Status {
		case types.ChangeSetStatusCreateComplete:
			changes = true
			return true, "", nil
		case types.ChangeSetStatusFailed:
			if set.kind == types.ChangeSetTypeUpdate && noChanges(reason) {
				return true, "", nil
			}
			return false, "", fmt.Errorf("CloudFormation cannot %s the stack %s: %s", set.verb(), name, reason)
		}
		return false, string(out.Status), nil
	})
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("the stack %s has not been changed: %w", name, ctx.Err())
	case err == nil && !changes:
		fmt.Fprintf(d.Progress.W, "the stack %s is up to date\n", name)
	}
	return changes, err
}

// noChanges reports whether a change set failed because it has no changes. The second
// reason is that of templates with a transform: aws/aws-cdk#10650.
func noChanges(reason string) bool {
	return strings.Contains(reason, "didn't contain changes") || strings.Contains(reason, "No updates are to be performed")
}

// deleteChangeSet deletes a change set that is not executed, also after an interruption.
func (d *Deployment) deleteChangeSet(ctx context.Context, name string, set changeSet) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_, err := d.Cloud.Stacks.DeleteChangeSet(ctx, &cloudformation.DeleteChangeSetInput{StackName: &set.stack, ChangeSetName: &set.id})
	if err != nil {
		return fmt.Errorf("delete the change set %s of the stack %s, which is not needed: %w", set.name, name, err)
	}
	return nil
}
