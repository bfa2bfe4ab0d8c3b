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

	"github.com/bastion-on-demand/bastion/internal/image"
)

// stackPause is the time between two looks at a stack that changes.
const stackPause = 5 * time.Second

// stack is what there is of a stack; the zero one is none.
type stack struct {
	id         string
	status     types.StackStatus
	parameters map[string]string
	outputs    map[string]string
}

func (s stack) exists() bool { return s.id != "" }

func (s stack) changing() bool {
	// A stack under review has a change set and nothing else: it does not end by
	// itself, and the SAM CLI goes on from it.
	return strings.HasSuffix(string(s.status), "_IN_PROGRESS") && s.status != types.StackStatusReviewInProgress
}

// fetchStack reads a stack by name, or by id, under which a deleted one can
// still be read.
func fetchStack(ctx context.Context, api Stacks, name string) (stack, error) {
	answer, err := api.DescribeStacks(ctx, &cloudformation.DescribeStacksInput{StackName: &name})
	// "AWS CloudFormation API Reference", DescribeStacks: a ValidationError when
	// there is no such stack. It is not the only reason for one.
	if refusal := smithy.APIError(nil); errors.As(err, &refusal) && refusal.ErrorCode() == "ValidationError" && strings.Contains(refusal.ErrorMessage(), "does not exist") {
		return stack{}, nil
	}
	if err != nil {
		return stack{}, fmt.Errorf("look at the stack %s: %w", name, err)
	}
	if len(answer.Stacks) != 1 {
		return stack{}, fmt.Errorf("look at the stack %s: CloudFormation answers %d stacks", name, len(answer.Stacks))
	}
	found := answer.Stacks[0]
	s := stack{id: aws.ToString(found.StackId), status: found.StackStatus, parameters: map[string]string{}, outputs: map[string]string{}}
	for _, p := range found.Parameters {
		s.parameters[aws.ToString(p.ParameterKey)] = aws.ToString(p.ParameterValue)
	}
	for _, o := range found.Outputs {
		s.outputs[aws.ToString(o.OutputKey)] = aws.ToString(o.OutputValue)
	}
	return s, nil
}

// settled waits until nothing changes the stack.
func settled(ctx context.Context, api Stacks, progress image.Progress, name string) (stack, error) {
	s, err := fetchStack(ctx, api, name)
	if err != nil || !s.changing() {
		return s, err
	}
	name = s.id // it may be deleted meanwhile
	err = poll(ctx, progress, "wait for "+name, stackPause, func(ctx context.Context) (bool, string, error) {
		s, err = fetchStack(ctx, api, name)
		return !s.changing(), string(s.status), err
	})
	return s, err
}

// ready brings a stack to where it can be deployed: nothing changes it, and what
// a failed creation has left is gone, since CloudFormation never updates that.
func ready(ctx context.Context, api Stacks, progress image.Progress, name string) error {
	s, err := settled(ctx, api, progress, name)
	if err != nil {
		return err
	}
	switch s.status {
	case types.StackStatusRollbackComplete, types.StackStatusCreateFailed, types.StackStatusRollbackFailed:
		fmt.Fprintf(progress.W, "the stack %s was never whole (%s): it is deleted first\n", name, s.status)
		return deleteStack(ctx, api, progress, name)
	case types.StackStatusDeleteFailed:
		return fmt.Errorf("the stack %s is half deleted; finish that with make undeploy", name)
	case types.StackStatusUpdateRollbackFailed:
		return fmt.Errorf("an update of the stack %[1]s failed, and going back failed too; run\n  aws cloudformation continue-update-rollback --stack-name %[1]s", name)
	}
	return nil
}

// deleteStack deletes a stack and waits for that. One that is not there is fine.
func deleteStack(ctx context.Context, api Stacks, progress image.Progress, name string) error {
	s, err := settled(ctx, api, progress, name)
	if err != nil {
		return err
	}
	if !s.exists() || s.status == types.StackStatusDeleteComplete {
		fmt.Fprintf(progress.W, "there is no stack %s any more\n", name)
		return nil
	}
	if _, err := api.DeleteStack(ctx, &cloudformation.DeleteStackInput{StackName: &s.id}); err != nil {
		return fmt.Errorf("delete the stack %s: %w", name, err)
	}
	err = poll(ctx, progress, "delete the stack "+name, stackPause, func(ctx context.Context) (bool, string, error) {
		s, err = fetchStack(ctx, api, s.id)
		return s.status == types.StackStatusDeleteComplete || s.status == types.StackStatusDeleteFailed, string(s.status), err
	})
	if err == nil && s.status == types.StackStatusDeleteFailed {
		err = fmt.Errorf("delete the stack %s: %s", name, reasons(ctx, api, s.id))
	}
	return err
}

// reasons says what failed in a stack most recently.
func reasons(ctx context.Context, api Stacks, id string) string {
	answer, err := api.DescribeStackEvents(ctx, &cloudformation.DescribeStackEventsInput{StackName: &id})
	if err != nil {
		return fmt.Sprintf("it failed, and so did asking why: %v", err)
	}
	var lines []string
	for _, event := range answer.StackEvents { // the newest come first
		if strings.HasSuffix(string(event.ResourceStatus), "_FAILED") {
			lines = append(lines, fmt.Sprintf("%s: %s", aws.ToString(event.LogicalResourceId), aws.ToString(event.ResourceStatusReason)))
		}
	}
	if len(lines) == 0 {
		return "it failed, and its events do not say why"
	}
	return strings.Join(lines, "\n  ")
}

// resource is one of a stack's.
type resource struct {
	logical, physical, kind string
	retained                bool // the stack is deleted, and this was left
}

func resources(ctx context.Context, api Stacks, id string) ([]resource, error) {
	var all []resource
	pages := cloudformation.NewListStackResourcesPaginator(api, &cloudformation.ListStackResourcesInput{StackName: &id})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list what is in the stack %s: %w", id, err)
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
