package awscloud

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
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
func (t *Tasks) Run(ctx context.Context, launch bastion.Launch) (bastion.Task, error) {
	if age := t.now().Sub(launch.AnnouncedAt); age > bastion.RunTaskReplayWindow {
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
