package awscloud

import (
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
)

// What RunTask may err with, and what the port makes of it: a refusal with a
// code, ErrNotFound, or an error that only means "try again".
var runTaskErrors = []struct {
	code, message string
	refused       bastion.FailureCode
	notFound      bool
}{
	{"InvalidParameterException", "Error retrieving security group information for [sg-1, " + testStack.MemberGroup + "]: The security group 'sg-1' does not exist (ErrorCode: InvalidGroup.NotFound)", "", true},
	{"InvalidParameterException", "Error retrieving security group information for [sg-1, " + testStack.MemberGroup + "]: The security group '" + testStack.MemberGroup + "' does not exist (ErrorCode: InvalidGroup.NotFound)", bastion.FailureConfig, false},
	{"InvalidParameterException", "Error retrieving subnet information for [subnet-1]: The subnet ID 'subnet-1' does not exist (ErrorCode: InvalidSubnetID.NotFound)", bastion.FailureConfig, false},
	{"InvalidParameterException", "Unable to assume the service linked role. Please verify that the ECS service linked role exists.", bastion.FailureConfig, false},
	{"ClientException", "TaskDefinition is inactive", bastion.FailureConfig, false},
	{"ClientException", "Capacity is unavailable at this time. Please try again later or in a different availability zone", bastion.FailureCapacity, false},
	{"ClientException", "You've reached the limit on the number of vCPUs you can run concurrently", bastion.FailureCapacity, false},
	{"ClientException", "Too many concurrent attempts", "", false},
	{"AccessDeniedException", "not authorized to perform: iam:PassRole", bastion.FailureConfig, false},
	{"BlockedException", "Your account has been blocked.", bastion.FailureConfig, false},
	{"ClusterNotFoundException", "Cluster not found.", bastion.FailureConfig, false},
	{"PlatformUnknownException", "no such platform version", bastion.FailureConfig, false},
	{"PlatformTaskDefinitionIncompatibilityException", "not on this platform", bastion.FailureConfig, false},
	{"UnsupportedFeatureException", "not in this region", bastion.FailureConfig, false},
	{"ConflictException", "The provided clientToken is already in use with a different RunTask request.", "", false},
	{"ThrottlingException", "Rate exceeded", "", false},
	{"ServerException", "Service Unavailable. Please try again later.", "", false},
	{"ExpiredTokenException", "The security token included in the request is expired", "", false},
}

func TestRunTaskErrors(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	launch := w.launch(t, testID, 1)
	for _, c := range runTaskErrors {
		t.Run(c.code+" "+c.message, func(t *testing.T) {
			w.server.Fail("RunTask", c.code, c.message)
			_, err := w.tasks.Run(t.Context(), launch)
			wantRefusal(t, err, c.refused)
			if errors.Is(err, bastion.ErrNotFound) != c.notFound {
				t.Errorf("not found: %t, of %v", !c.notFound, err)
			}
			if err == nil || !strings.Contains(err.Error(), c.message) {
				t.Errorf("%v does not have ECS's words", err)
			}
			wantNoneOfTheSDK(t, err)
		})
	}
}

// wantRefusal checks that an error refuses the task for this reason; empty: that
// it is no refusal.
func wantRefusal(t *testing.T, err error, code bastion.FailureCode) {
	t.Helper()
	var refused *bastion.RefusedError
	switch errors.As(err, &refused); {
	case refused == nil && code != "":
		t.Errorf("%v does not refuse", err)
	case refused != nil && refused.Failure.Code != code:
		t.Errorf("refused as %s, not as %q", refused.Failure.Code, code)
	case refused != nil && (refused.Failure.Message == "" || refused.Detail == ""):
		t.Errorf("the refusal %+v leaves something unsaid", refused)
	}
}

// wantNoneOfTheSDK checks that the SDK's own types stay inside.
func wantNoneOfTheSDK(t *testing.T, err error) {
	t.Helper()
	var api smithy.APIError
	if errors.As(err, &api) {
		t.Errorf("%T comes out of the adapter", api)
	}
}

func TestFailuresOfRunTask(t *testing.T) {
	for _, c := range []struct {
		reason, detail string
		want           bastion.Failure
	}{
		{"Capacity is unavailable at this time. Please try again later or in a different availability zone", "", bastion.CapacityFailure},
		{"RESOURCE:MEMORY", "", bastion.CapacityFailure},
		{"RESOURCE:ENI", "", interfaceFailure},
		{"You've reached the limit on the number of Fargate Spot vCPUs you can run concurrently", "", quotaFailure},
		{"MISSING", "what is missing", otherFailure},
	} {
		failure := types.Failure{Reason: aws.String(c.reason)}
		if c.detail != "" {
			failure.Detail = aws.String(c.detail)
		}
		got := refusedBy(failure)
		if got.Failure != c.want || !strings.Contains(got.Detail, c.reason) || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%s is %+v", c.reason, got)
		}
	}
}

func TestNoCapacityEndsTheAttemptForGood(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	launch := w.launch(t, testID, 1)
	w.cloud.RefuseCapacity(1)
	for range 2 { // the second time it is the token's old answer
		_, err := w.tasks.Run(t.Context(), launch)
		wantRefusal(t, err, bastion.FailureCapacity)
	}
	launch.Attempt = 2
	if _, err := w.tasks.Run(t.Context(), launch); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}

func TestAConflictNamesTheTaskThatThereIs(t *testing.T) {
	w := newWire(t, localcloud.Config{}, nil)
	launch := w.launch(t, testID, 1)
	task, err := w.tasks.Run(t.Context(), launch)
	if err != nil {
		t.Fatal(err)
	}
	w.tasks.stack.Public = false // as after a deployment
	_, err = w.tasks.Run(t.Context(), launch)
	wantRefusal(t, err, "")
	if err == nil || !strings.Contains(err.Error(), testStack.taskARN(task.ID)) {
		t.Errorf("%v does not name task %s", err, task.ID)
	}
	if tasks, err := w.tasks.Describe(t.Context(), testID); err != nil || len(tasks) != 1 || tasks[0].Attempt != 1 {
		t.Errorf("found %+v, %v", tasks, err)
	}
}
