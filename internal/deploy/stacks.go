package deploy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/image"
)

// stackPause is the time between two reads of a stack that changes.
const stackPause = 5 * time.Second

// stack is a CloudFormation stack. The zero value means that it does not exist.
type stack struct {
	id         string
	status     types.StackStatus
	reason     string // of the status
	parameters map[string]string
	outputs    map[string]string
	tags       map[string]string // without those of AWS
}

func (s stack) exists() bool { return s.id != "" }

func (s stack) changing() bool {
	// A stack in review has only a change set. It stays in that state, and a deployment
	// continues from it.
	return strings.HasSuffix(string(s.status), "_IN_PROGRESS") && s.status != types.StackStatusReviewInProgress
}

// fetchStack reads a stack by name, or by ID, which also finds a deleted stack.
func fetchStack(ctx context.Context, api Stacks, name string) (stack, error) {
	out, err := api.DescribeStacks(ctx, &cloudformation.DescribeStacksInput{StackName: &name})
	// "AWS CloudFormation API Reference", DescribeStacks: a stack that does not exist is
	// a ValidationError, which has other reasons too.
	if refusal := smithy.APIError(nil); errors.As(err, &refusal) && refusal.ErrorCode() == "ValidationError" && strings.Contains(refusal.ErrorMessage(), "does not exist") {
		return stack{}, nil
	}
	if err != nil {
		return stack{}, fmt.Errorf("read the stack %s: %w", name, err)
	}
	if len(out.Stacks) != 1 {
		return stack{}, fmt.Errorf("read the stack %s: CloudFormation returned %d stacks", name, len(out.Stacks))
	}
	found := out.Stacks[0]
	s := stack{id: aws.ToString(found.StackId), status: found.StackStatus, reason: aws.ToString(found.StackStatusReason),
		parameters: map[string]string{}, outputs: map[string]string{}, tags: map[string]string{}}
	for _, p := range found.Parameters {
		s.parameters[aws.ToString(p.ParameterKey)] = aws.ToString(p.ParameterValue)
	}
	for _, o := range found.Outputs {
		s.outputs[aws.ToString(o.OutputKey)] = aws.ToString(o.OutputValue)
	}
	for _, tag := range found.Tags {
		if key := aws.ToString(tag.Key); !strings.HasPrefix(key, "aws:") { // such as Service Catalog's, which nobody else may set
			s.tags[key] = aws.ToString(tag.Value)
		}
	}
	return s, nil
}

// settled waits until the stack is not changing.
func settled(ctx context.Context, api Stacks, progress image.Progress, name string) (stack, error) {
	s, err := fetchStack(ctx, api, name)
	if err != nil || !s.changing() {
		return s, err
	}
	name = s.id // it may be deleted in the meantime
	err = poll(ctx, progress, "wait for "+name, stackPause, func(ctx context.Context) (bool, string, error) {
		s, err = fetchStack(ctx, api, name)
		return !s.changing(), string(s.status), err
	})
	return s, err
}

// ready prepares a stack for a deployment: it waits until the stack is not changing,
// deletes what a failed creation left, which CloudFormation cannot update, and returns
// the stack.
func ready(ctx context.Context, api Stacks, progress image.Progress, name string) (stack, error) {
	s, err := settled(ctx, api, progress, name)
	if err != nil {
		return s, err
	}
	switch s.status {
	case types.StackStatusDeleteComplete: // while settled waited
		return stack{}, nil
	case types.StackStatusRollbackComplete, types.StackStatusCreateFailed, types.StackStatusRollbackFailed:
		fmt.Fprintf(progress.W, "the creation of the stack %s failed before (%s): deleting it first\n", name, s.status)
		return stack{}, deleteStack(ctx, api, progress, name)
	}
	return s, s.broken(name)
}

// broken returns an error if the stack cannot be deployed before a person repairs it.
func (s stack) broken(name string) error {
	switch s.status {
	case types.StackStatusDeleteFailed:
		return fmt.Errorf("the stack %s is partly deleted; finish that with make undeploy", name)
	case types.StackStatusUpdateRollbackFailed:
		return fmt.Errorf("an update of the stack %[1]s failed, and so did its rollback; run\n  aws cloudformation continue-update-rollback --stack-name %[1]s", name)
	}
	return nil
}

// deleteStack deletes a stack and waits for the end. The stack may not exist.
func deleteStack(ctx context.Context, api Stacks, progress image.Progress, name string) error {
	s, err := settled(ctx, api, progress, name)
	if err != nil {
		return err
	}
	if !s.exists() || s.status == types.StackStatusDeleteComplete {
		fmt.Fprintf(progress.W, "the stack %s does not exist\n", name)
		return nil
	}
	f, err := follow(ctx, api, progress.W, name, s.id)
	if err != nil {
		return err
	}
	if _, err := api.DeleteStack(ctx, &cloudformation.DeleteStackInput{StackName: &s.id}); err != nil {
		return fmt.Errorf("delete the stack %s: %w", name, err)
	}
	began := time.Now()
	fmt.Fprintf(progress.W, "delete the stack %s\n", name)
	if s, err = f.wait(ctx); err != nil {
		return err
	}
	if s.status != types.StackStatusDeleteComplete {
		return fmt.Errorf("delete the stack %s: %w", name, f.failure(s))
	}
	fmt.Fprintf(progress.W, "delete the stack %s: done in %s\n", name, time.Since(began).Round(time.Second))
	return nil
}

// resource is a resource of a stack.
type resource struct {
	logical, physical, kind string
	retained                bool // kept when the stack was deleted
}

func resources(ctx context.Context, api Stacks, id string) ([]resource, error) {
	var all []resource
	pages := cloudformation.NewListStackResourcesPaginator(api, &cloudformation.ListStackResourcesInput{StackName: &id})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the resources of the stack %s: %w", id, err)
		}
		for _, r := range page.StackResourceSummaries {
			all = append(all, resource{
				logical:  aws.ToString(r.LogicalResourceId),
				physical: aws.ToString(r.PhysicalResourceId),
				kind:     aws.ToString(r.ResourceType),
				retained: r.ResourceStatus == types.ResourceStatusDeleteSkipped,
			})
		}
	}
	return all, nil
}

// poll calls look until it is done, with pauses in between, and prints the state.
func poll(ctx context.Context, progress image.Progress, what string, pause time.Duration, look func(context.Context) (done bool, state string, err error)) error {
	states := make(chan string, 1)
	latest := ""
	detail := func() string {
		select {
		case latest = <-states:
		default:
		}
		return latest
	}
	return progress.Step(what, detail, func() error {
		for {
			done, state, err := look(ctx)
			if done || err != nil {
				return err
			}
			select { // keep the newest only
			case <-states:
			default:
			}
			select {
			case states <- state:
			default:
			}
			if err := bastion.Sleep(ctx, pause); err != nil {
				return err
			}
		}
	})
}
