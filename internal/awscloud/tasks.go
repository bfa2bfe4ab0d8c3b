package awscloud

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// ECSTasks is what Tasks calls of ECS.
type ECSTasks interface {
	RunTask(context.Context, *ecs.RunTaskInput, ...func(*ecs.Options)) (*ecs.RunTaskOutput, error)
	ListTasks(context.Context, *ecs.ListTasksInput, ...func(*ecs.Options)) (*ecs.ListTasksOutput, error)
	DescribeTasks(context.Context, *ecs.DescribeTasksInput, ...func(*ecs.Options)) (*ecs.DescribeTasksOutput, error)
	StopTask(context.Context, *ecs.StopTaskInput, ...func(*ecs.Options)) (*ecs.StopTaskOutput, error)
}

// Tasks is bastion.Tasks on ECS; addresses come from EC2.
type Tasks struct {
	ecs   ECSTasks
	ec2   EC2Interfaces
	stack Stack
	now   func() time.Time
}

// NewTasks makes the port. The stack must be valid.
func NewTasks(ecs ECSTasks, ec2 EC2Interfaces, stack Stack, now func() time.Time) *Tasks {
	return &Tasks{ecs: ecs, ec2: ec2, stack: stack, now: now}
}

// Run starts the task of an attempt; see bastion.Tasks.
func (t *Tasks) Run(ctx context.Context, launch bastion.TaskSpec) (bastion.Task, error) {
	if age := t.now().Sub(launch.AttemptCreatedAt); age > bastion.RunTaskReplayWindow {
		return bastion.Task{}, fmt.Errorf("attempt %d of %s was announced %s ago, and ECS may have forgotten its clientToken: not sent", launch.Attempt, launch.BastionID, age.Round(time.Second))
	}
	out, err := t.ecs.RunTask(ctx, t.stack.runTaskInput(launch))
	if err != nil {
		return bastion.Task{}, t.stack.runTaskError(launch, err)
	}
	if len(out.Failures) > 0 {
		return bastion.Task{}, refusedBy(out.Failures[0])
	}
	if len(out.Tasks) != 1 {
		return bastion.Task{}, fmt.Errorf("RunTask for attempt %d of %s answered %d tasks and no failure", launch.Attempt, launch.BastionID, len(out.Tasks))
	}
	// The replay for a task that has stopped holds no more than ARN and status.
	task := t.stack.task(out.Tasks[0])
	task.BastionID, task.Attempt = launch.BastionID, launch.Attempt
	return task, nil
}

// longestReason is how much of a StopTask's reason ECS is given.
const longestReason = 255

// Stop asks a task to end; see bastion.Tasks.
func (t *Tasks) Stop(ctx context.Context, taskID, reason string) error {
	if len(reason) > longestReason {
		reason = strings.ToValidUTF8(reason[:longestReason], "")
	}
	_, err := t.ecs.StopTask(ctx, &ecs.StopTaskInput{
		Cluster: aws.String(t.stack.Cluster),
		Task:    aws.String(t.stack.taskARN(taskID)),
		Reason:  aws.String(reason),
	})
	if err != nil && !taskNotFound(err) {
		return fmt.Errorf("StopTask %s: %w", taskID, opaque(err))
	}
	return nil
}

// taskNotFound reports whether StopTask did not know the task. ECS has no code
// of its own for that.
func taskNotFound(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == "InvalidParameterException" &&
		strings.Contains(api.ErrorMessage(), "task was not found")
}

// runTaskInput is all that RunTask is sent. It follows from the stack and the
// launch alone, because a clientToken that comes with other parameters is a
// ConflictException. What bastiond needs beyond its bastion's id is in the task
// definition, and what changes during a bastion's life is in its lease.
//
// It names a capacity provider and no launch type: they exclude each other, and
// Spot can be had by provider only. Nothing is propagated, so that a task's tags
// are these and no others.
func (s Stack) runTaskInput(launch bastion.TaskSpec) *ecs.RunTaskInput {
	provider, public := "FARGATE", types.AssignPublicIpDisabled
	if s.Spot {
		provider = "FARGATE_SPOT"
	}
	if s.Public {
		public = types.AssignPublicIpEnabled
	}
	return &ecs.RunTaskInput{
		Cluster:        aws.String(s.Cluster),
		TaskDefinition: aws.String(launch.TaskDefinition),
		Count:          aws.Int32(1),
		ClientToken:    aws.String(ClientToken(launch.BastionID, launch.Attempt)),
		StartedBy:      aws.String(StartedBy(launch.BastionID)),
		CapacityProviderStrategy: []types.CapacityProviderStrategyItem{
			{CapacityProvider: aws.String(provider), Weight: 1},
		},
		NetworkConfiguration: &types.NetworkConfiguration{
			AwsvpcConfiguration: &types.AwsVpcConfiguration{
				Subnets:        []string{launch.Subnet},
				SecurityGroups: []string{launch.GroupID, s.MemberGroup},
				AssignPublicIp: public,
			},
		},
		Overrides: &types.TaskOverride{
			ContainerOverrides: []types.ContainerOverride{{
				Name:        aws.String(s.Container),
				Environment: []types.KeyValuePair{{Name: aws.String(EnvBastionID), Value: aws.String(launch.BastionID)}},
			}},
		},
		Tags: []types.Tag{
			{Key: aws.String(TagStack), Value: aws.String(s.ID)},
			{Key: aws.String(TagID), Value: aws.String(launch.BastionID)},
			{Key: aws.String(TagAttempt), Value: aws.String(strconv.Itoa(launch.Attempt))},
		},
	}
}

// What a person reads of a refused task, beside bastion.CapacityFailure.
var (
	quotaFailure = bastion.Failure{Code: bastion.FailureCapacity,
		Message: "This AWS account may not run more Fargate tasks at once. Close a bastion that nobody needs, or ask your operator to raise the account's Fargate vCPU quota."}
	interfaceFailure = bastion.Failure{Code: bastion.FailureNetwork,
		Message: "The subnet has no room for the bastion's network interface. Try again; if it goes on, ask your operator to check the subnet's free addresses and the account's network interface quota."}
	configFailure = bastion.Failure{Code: bastion.FailureConfig,
		Message: "AWS will not start the bastion as it is configured. Ask your operator to check the stack's cluster, task definition, subnets and roles; the cause is in the function's log."}
	otherFailure = bastion.Failure{Code: bastion.FailureStart,
		Message: "AWS did not start the bastion. Ask for the bastion again; your operator finds the cause in the function's log."}
)

// refusals reads what ECS says when it makes no task. The words are those of the
// ECS developer guide ("API failures messages", "Service event messages"); they
// come as the reason of a failure or as the message of an error.
var refusals = []struct {
	part    string
	failure bastion.Failure
}{
	{"apacity is unavailable", bastion.CapacityFailure},
	{"reached the limit on the number of", quotaFailure},
	{"RESOURCE:ENI", interfaceFailure},
	{"RESOURCE:", bastion.CapacityFailure},
}

// refusalCodes are errors by which RunTask says for certain that it made no task
// and will make none when it is asked again: somebody has to change something.
var refusalCodes = map[string]bool{
	"AccessDeniedException":                          true,
	"BlockedException":                               true,
	"ClientException":                                true,
	"ClusterNotFoundException":                       true,
	"InvalidParameterException":                      true,
	"PlatformTaskDefinitionIncompatibilityException": true,
	"PlatformUnknownException":                       true,
	"UnsupportedFeatureException":                    true,
}

// passingWords are the words of errors that are over in a moment, whatever their code.
var passingWords = []string{"Rate exceeded", "Too many concurrent"}

// refusedBy translates failures[] of a RunTask.
func refusedBy(failure types.Failure) *bastion.RefusedError {
	detail := aws.ToString(failure.Reason)
	if failure.Detail != nil {
		detail += ": " + *failure.Detail
	}
	if known, ok := refusalOf(detail); ok {
		return &bastion.RefusedError{Failure: known, Detail: detail}
	}
	return &bastion.RefusedError{Failure: otherFailure, Detail: detail}
}

func refusalOf(words string) (bastion.Failure, bool) {
	for _, r := range refusals {
		if strings.Contains(words, r.part) {
			return r.failure, true
		}
	}
	return bastion.Failure{}, false
}

// runTaskError translates an error of RunTask.
//
// A group that ECS does not see is ErrNotFound, because a new one may not show to
// ECS yet; the stack's own member group is not new. A ConflictException stays an
// error: the token's task, made with parameters from before a deployment, is
// found by startedBy, and if there is none the attempt is given up when it is
// too old to be sent. Throttling and failures of the service are errors to try
// again after.
func (s Stack) runTaskError(launch bastion.TaskSpec, err error) error {
	what := fmt.Sprintf("RunTask for attempt %d of %s", launch.Attempt, launch.BastionID)
	var api smithy.APIError
	if !errors.As(err, &api) {
		return fmt.Errorf("%s: %w", what, opaque(err))
	}
	words := api.ErrorMessage()
	if strings.Contains(words, "InvalidGroup.NotFound") && !strings.Contains(words, "'"+s.MemberGroup+"'") {
		return fmt.Errorf("%s in the security group %s: %s: %w", what, launch.GroupID, words, bastion.ErrNotFound)
	}
	if known, ok := refusalOf(words); ok {
		return &bastion.RefusedError{Failure: known, Detail: api.ErrorCode() + ": " + words}
	}
	if refusalCodes[api.ErrorCode()] && !passes(words) {
		return &bastion.RefusedError{Failure: configFailure, Detail: api.ErrorCode() + ": " + words}
	}
	var conflict *types.ConflictException
	if errors.As(err, &conflict) {
		return fmt.Errorf("%s: its clientToken was used with other parameters, for %q: %w", what, conflict.ResourceIds, opaque(err))
	}
	return fmt.Errorf("%s: %w", what, opaque(err))
}

func passes(words string) bool {
	for _, part := range passingWords {
		if strings.Contains(words, part) {
			return true
		}
	}
	return false
}
