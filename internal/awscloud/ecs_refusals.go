package awscloud

import (
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

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
func (s Stack) runTaskError(launch bastion.Launch, err error) error {
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
