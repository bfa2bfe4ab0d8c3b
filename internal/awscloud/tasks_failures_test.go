package awscloud

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// describedECS is an ECS with these responses to ListTasks and DescribeTasks.
type describedECS struct {
	ECSTasks // the other calls panic
	listed   []string
	describe func(*ecs.DescribeTasksInput) (*ecs.DescribeTasksOutput, error)
}

func (d describedECS) ListTasks(context.Context, *ecs.ListTasksInput, ...func(*ecs.Options)) (*ecs.ListTasksOutput, error) {
	return &ecs.ListTasksOutput{TaskArns: d.listed}, nil
}

func (d describedECS) DescribeTasks(_ context.Context, in *ecs.DescribeTasksInput, _ ...func(*ecs.Options)) (*ecs.DescribeTasksOutput, error) {
	return d.describe(in)
}

// DescribeTasks has a failure for each task that it does not describe. Only MISSING, in
// the "Amazon ECS API failure reasons" of the ECS developer guide, means that ECS does
// not know the task. After any other failure the task may exist, so it must not be
// taken for lost.
func TestOnlyMissingMeansThatThereIsNoTask(t *testing.T) {
	failure := func(reason, detail *string) types.Failure {
		return types.Failure{Arn: aws.String(testStack.taskARN("1")), Reason: reason, Detail: detail}
	}
	missing := failure(aws.String("MISSING"), nil)
	for name, c := range map[string]struct {
		failures []types.Failure
		err      error
		noTask   bool
	}{
		"missing":                      {[]types.Failure{missing}, nil, true},
		"missing, with a detail":       {[]types.Failure{failure(aws.String("MISSING"), aws.String("gone"))}, nil, true},
		"two are missing":              {[]types.Failure{missing, missing}, nil, true},
		"no reason":                    {[]types.Failure{failure(nil, nil)}, nil, false},
		"empty reason":                 {[]types.Failure{failure(aws.String(""), nil)}, nil, false},
		"empty reason, and MISSING":    {[]types.Failure{failure(aws.String(""), aws.String("MISSING"))}, nil, false},
		"lower case":                   {[]types.Failure{failure(aws.String("missing"), nil)}, nil, false},
		"longer reason":                {[]types.Failure{failure(aws.String("MISSING_CLUSTER"), nil)}, nil, false},
		"access denied":                {[]types.Failure{failure(aws.String("ACCESS_DENIED"), nil)}, nil, false},
		"internal error":               {[]types.Failure{failure(aws.String("INTERNAL_ERROR"), aws.String("try again"))}, nil, false},
		"missing, and an error":        {[]types.Failure{missing, failure(aws.String("INTERNAL_ERROR"), nil)}, nil, false},
		"an error, and missing":        {[]types.Failure{failure(aws.String("INTERNAL_ERROR"), nil), missing}, nil, false},
		"failed call":                  {nil, &smithy.GenericAPIError{Code: "ServerException"}, false},
		"failed call, task not found":  {nil, &types.ResourceNotFoundException{Message: aws.String("The referenced task was not found.")}, false},
		"failed call, unknown cluster": {nil, &types.ClusterNotFoundException{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			api := describedECS{listed: []string{testStack.taskARN("1")}, describe: func(*ecs.DescribeTasksInput) (*ecs.DescribeTasksOutput, error) {
				return &ecs.DescribeTasksOutput{Failures: c.failures}, c.err
			}}
			tasks := NewTasks(api, nil, testStack, time.Now)
			described, err := tasks.Describe(t.Context(), testID, "1")
			if (err == nil) != c.noTask || len(described) > 0 || errors.Is(err, bastion.ErrNotFound) {
				t.Errorf("Describe: %+v, %v", described, err)
			}
			listed, err := tasks.List(t.Context())
			if (err == nil) != c.noTask || len(listed) > 0 {
				t.Errorf("List: %+v, %v", listed, err)
			}
			_, err = tasks.Fetch(t.Context(), "1")
			if err == nil || errors.Is(err, bastion.ErrNotFound) != c.noTask {
				t.Errorf("Fetch: %v", err)
			}
			for _, f := range c.failures {
				if reason := aws.ToString(f.Reason); !c.noTask && reason != "MISSING" && !strings.Contains(err.Error(), testStack.taskARN("1")+": "+reason+" "+aws.ToString(f.Detail)) {
					t.Errorf("%v does not contain the failure", err)
				}
			}
		})
	}
}

// If one batch has a failure, List returns an error and not the tasks of the other batch.
func TestFailureInAnyBatchIsError(t *testing.T) {
	var listed []string
	for i := range 2 * tasksPerDescribe {
		listed = append(listed, testStack.taskARN(strconv.Itoa(i)))
	}
	for failing := range 2 {
		calls := 0
		api := describedECS{listed: listed, describe: func(in *ecs.DescribeTasksInput) (*ecs.DescribeTasksOutput, error) {
			out := &ecs.DescribeTasksOutput{}
			if calls == failing {
				out.Failures = []types.Failure{{Arn: &in.Tasks[0], Reason: aws.String("INTERNAL_ERROR")}}
			}
			calls++
			return out, nil
		}}
		if tasks, err := NewTasks(api, nil, testStack, time.Now).List(t.Context()); err == nil {
			t.Errorf("batch %d failed, but List returns %+v after %d calls", failing, tasks, calls)
		}
	}
}

// respondingECS is an ECS with this response to RunTask.
type respondingECS struct {
	ECSTasks // the other calls panic
	out      *ecs.RunTaskOutput
}

func (a respondingECS) RunTask(context.Context, *ecs.RunTaskInput, ...func(*ecs.Options)) (*ecs.RunTaskOutput, error) {
	return a.out, nil
}

// If the response has no failure and not exactly one task, ECS may have started a task, so
// the attempt must not end.
func TestRunTaskWithoutTaskAndFailureIsNoRefusal(t *testing.T) {
	for _, n := range []int{0, 2} {
		api := respondingECS{out: &ecs.RunTaskOutput{Tasks: make([]types.Task, n)}}
		task, err := NewTasks(api, nil, testStack, time.Now).Run(t.Context(), specIn("sg-1", testID, 1))
		checkRefusal(t, err, "")
		if err == nil || errors.Is(err, bastion.ErrNotFound) {
			t.Errorf("%d tasks: %+v, %v", n, task, err)
		}
	}
}

// A person reads the message, and clients depend on the code.
func TestFailuresOfRunTaskHaveCodesAndMessages(t *testing.T) {
	for reason, want := range map[string]bastion.FailureCode{
		"RESOURCE:ENI": bastion.FailureNetwork, "RESOURCE:CPU": bastion.FailureCapacity, "Another reason": bastion.FailureStart,
		"You've reached the limit on the number of vCPUs you can run concurrently": bastion.FailureCapacity,
	} {
		api := respondingECS{out: &ecs.RunTaskOutput{Failures: []types.Failure{{Reason: &reason, Detail: aws.String("the detail")}}}}
		_, err := NewTasks(api, nil, testStack, time.Now).Run(t.Context(), specIn("sg-1", testID, 1))
		checkRefusal(t, err, want)
		var refused *bastion.RefusedError
		if errors.As(err, &refused) && refused.Detail != reason+": the detail" {
			t.Errorf("the detail is %q", refused.Detail)
		}
	}
}
