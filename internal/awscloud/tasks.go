package awscloud

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// ECSTasks has the calls of ECS that [Tasks] makes.
type ECSTasks interface {
	RunTask(context.Context, *ecs.RunTaskInput, ...func(*ecs.Options)) (*ecs.RunTaskOutput, error)
	ListTasks(context.Context, *ecs.ListTasksInput, ...func(*ecs.Options)) (*ecs.ListTasksOutput, error)
	DescribeTasks(context.Context, *ecs.DescribeTasksInput, ...func(*ecs.Options)) (*ecs.DescribeTasksOutput, error)
	StopTask(context.Context, *ecs.StopTaskInput, ...func(*ecs.Options)) (*ecs.StopTaskOutput, error)
}

// Tasks implements [bastion.Tasks] on ECS. The addresses of tasks come from EC2.
type Tasks struct {
	ecs   ECSTasks
	ec2   EC2Interfaces
	stack Stack
	now   func() time.Time
}

var _ bastion.Tasks = (*Tasks)(nil)

// NewTasks returns Tasks for the tasks of the stack's bastions.
func NewTasks(ecs ECSTasks, ec2 EC2Interfaces, stack Stack, now func() time.Time) *Tasks {
	return &Tasks{ecs: ecs, ec2: ec2, stack: stack, now: now}
}

// Run starts the task of an attempt.
func (t *Tasks) Run(ctx context.Context, spec bastion.TaskSpec) (bastion.Task, error) {
	if age := t.now().Sub(spec.AttemptCreatedAt); age > bastion.RunTaskReplayWindow {
		return bastion.Task{}, fmt.Errorf("run task for attempt %d of %s: the attempt is %s old, and ECS may have forgotten its clientToken", spec.Attempt, spec.BastionID, age.Round(time.Second))
	}
	out, err := t.ecs.RunTask(ctx, t.stack.runTaskInput(spec))
	if err != nil {
		return bastion.Task{}, t.stack.runTaskError(spec, err)
	}
	if len(out.Failures) > 0 {
		return bastion.Task{}, refusedBy(out.Failures[0])
	}
	if len(out.Tasks) != 1 {
		return bastion.Task{}, fmt.Errorf("run task for attempt %d of %s: response has %d tasks and no failure", spec.Attempt, spec.BastionID, len(out.Tasks))
	}
	// If this is a repeat and the task has stopped since, the response has only the
	// task's ARN and status.
	task := t.stack.task(out.Tasks[0])
	task.BastionID, task.Attempt = spec.BastionID, spec.Attempt
	return task, nil
}

// runTaskInput returns the request for RunTask. The request depends only on the stack
// and the spec, because ECS refuses a known clientToken with other parameters
// (ConflictException). Of bastiond's configuration, the request contains the bastion's
// id only; the rest is in the task definition. Everything that changes while the bastion
// is open is in its lease.
//
// The request names a capacity provider instead of a launch type, because Fargate Spot
// has no launch type, and a request can have only one of the two. The request contains
// all tags of the task: without propagateTags, ECS copies no tags from the task
// definition.
func (s Stack) runTaskInput(spec bastion.TaskSpec) *ecs.RunTaskInput {
	provider, public := "FARGATE", types.AssignPublicIpDisabled
	if s.Spot {
		provider = "FARGATE_SPOT"
	}
	if s.Public {
		public = types.AssignPublicIpEnabled
	}
	tags := []types.Tag{
		{Key: aws.String(TagStack), Value: aws.String(s.ID)},
		{Key: aws.String(TagID), Value: aws.String(spec.BastionID)},
		{Key: aws.String(TagAttempt), Value: aws.String(strconv.Itoa(spec.Attempt))},
	}
	for _, tag := range spec.Tags {
		tags = append(tags, types.Tag{Key: aws.String(tag.Key), Value: aws.String(tag.Value)})
	}
	return &ecs.RunTaskInput{
		Cluster:        aws.String(s.Cluster),
		TaskDefinition: aws.String(spec.TaskDefinition),
		Count:          aws.Int32(1),
		ClientToken:    aws.String(ClientToken(spec.BastionID, spec.Attempt)),
		StartedBy:      aws.String(StartedBy(spec.BastionID)),
		CapacityProviderStrategy: []types.CapacityProviderStrategyItem{
			{CapacityProvider: aws.String(provider), Weight: 1},
		},
		NetworkConfiguration: &types.NetworkConfiguration{
			AwsvpcConfiguration: &types.AwsVpcConfiguration{
				Subnets:        []string{spec.Subnet},
				SecurityGroups: []string{spec.GroupID, s.MemberGroup},
				AssignPublicIp: public,
			},
		},
		Overrides: &types.TaskOverride{
			ContainerOverrides: []types.ContainerOverride{{
				Name:        aws.String(s.Container),
				Environment: []types.KeyValuePair{{Name: aws.String(EnvBastionID), Value: aws.String(spec.BastionID)}},
			}},
		},
		Tags: tags,
	}
}

// maxStopReason is the longest reason that StopTask accepts.
const maxStopReason = 255

// Stop asks ECS to stop a task.
func (t *Tasks) Stop(ctx context.Context, taskID, reason string) error {
	if len(reason) > maxStopReason {
		reason = strings.ToValidUTF8(reason[:maxStopReason], "")
	}
	_, err := t.ecs.StopTask(ctx, &ecs.StopTaskInput{
		Cluster: aws.String(t.stack.Cluster),
		Task:    aws.String(t.stack.taskARN(taskID)),
		Reason:  aws.String(reason),
	})
	if err != nil && !isTaskNotFound(err) {
		return fmt.Errorf("stop task %s: %w", taskID, opaque(err))
	}
	return nil
}

// isTaskNotFound reports whether StopTask did not find the task. ECS has no error
// code of its own for that.
func isTaskNotFound(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == "InvalidParameterException" &&
		strings.Contains(api.ErrorMessage(), "task was not found")
}

// The failures that a person reads if ECS refuses to start a task, besides
// bastion.CapacityFailure.
var (
	quotaFailure = bastion.Failure{Code: bastion.FailureCapacity,
		Message: "This AWS account has reached its quota of Fargate tasks. Close a bastion that you no longer need, or ask your operator to raise the account's Fargate vCPU quota."}
	interfaceFailure = bastion.Failure{Code: bastion.FailureNetwork,
		Message: "The subnet has no room for the bastion's network interface. Try again. If it keeps happening, ask your operator to check the subnet's free addresses and the account's network interface quota."}
	configFailure = bastion.Failure{Code: bastion.FailureConfig,
		Message: "AWS refused to start the bastion because of its configuration. Ask your operator to check the stack's cluster, task definition, subnets and roles. The function's log has the cause."}
	otherFailure = bastion.Failure{Code: bastion.FailureStart,
		Message: "AWS did not start the bastion. Request it again. If it keeps happening, ask your operator: the function's log has the cause."}
)

// refusals maps parts of ECS's messages to failures. The parts are in lower case; the case
// of the message does not matter. If a message contains several parts, the first entry
// counts. A message is the reason of a failure in a response, or the message of an error.
// The messages are from the ECS developer guide ("API failures messages", "Service event
// messages").
var refusals = []struct {
	part    string
	failure bastion.Failure
}{
	{"capacity is unavailable", bastion.CapacityFailure},
	{"reached the limit on the number of", quotaFailure},
	{"resource:eni", interfaceFailure},
	{"resource:", bastion.CapacityFailure},
}

// refusalCodes are error codes of RunTask. After an error with such a code, there is
// certainly no task, and a retry cannot succeed until the configuration is changed.
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

// temporaryMessages are parts of the messages of temporary errors. Such an error is not
// a refusal, even if refusalCodes has its code.
var temporaryMessages = []string{"Rate exceeded", "Too many concurrent"}

// refusedBy converts a failure in a response of RunTask.
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

// refusalOf returns the failure for a message of ECS, and false if refusals has none.
func refusalOf(message string) (bastion.Failure, bool) {
	message = strings.ToLower(message)
	for _, r := range refusals {
		if strings.Contains(message, r.part) {
			return r.failure, true
		}
	}
	return bastion.Failure{}, false
}

// runTaskError converts an error of RunTask.
//
// An unknown security group is ErrNotFound, because ECS may not see a new group yet.
// This does not apply to the stack's member group, which is not new. A
// ConflictException means that the attempt's task was started with the parameters of
// an earlier deployment. It is not a refusal: the domain finds that task by its
// startedBy, or ends the attempt when RunTask can no longer be repeated. Throttling
// and failures of the service are not refusals either, and the domain retries.
func (s Stack) runTaskError(spec bastion.TaskSpec, err error) error {
	call := fmt.Sprintf("run task for attempt %d of %s", spec.Attempt, spec.BastionID)
	var api smithy.APIError
	if !errors.As(err, &api) {
		return fmt.Errorf("%s: %w", call, opaque(err))
	}
	message := api.ErrorMessage()
	if strings.Contains(message, "InvalidGroup.NotFound") && !strings.Contains(message, "'"+s.MemberGroup+"'") {
		return fmt.Errorf("%s in the security group %s: %s: %w", call, spec.GroupID, message, bastion.ErrNotFound)
	}
	if known, ok := refusalOf(message); ok {
		return &bastion.RefusedError{Failure: known, Detail: logText(err)}
	}
	if refusalCodes[api.ErrorCode()] && !isTemporary(message) {
		return &bastion.RefusedError{Failure: configFailure, Detail: logText(err)}
	}
	var conflict *types.ConflictException
	if errors.As(err, &conflict) {
		return fmt.Errorf("%s: clientToken was used with other parameters, for task %q: %w", call, conflict.ResourceIds, opaque(err))
	}
	return fmt.Errorf("%s: %w", call, opaque(err))
}

func isTemporary(message string) bool {
	return slices.ContainsFunc(temporaryMessages, func(part string) bool { return strings.Contains(message, part) })
}
