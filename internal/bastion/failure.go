package bastion

import (
	"fmt"
	"strings"
)

// The codes of failures.
const (
	FailureCapacity FailureCode = "capacity_unavailable" // no capacity in Fargate, or a quota of the account is used up
	FailureImage    FailureCode = "image_unavailable"    // the image could not be pulled
	FailureNetwork  FailureCode = "network_unavailable"  // no network interface, or no route to the registry, the logs or DynamoDB
	FailureLease    FailureCode = "lease_unavailable"    // the task did not get its lease
	FailureCrash    FailureCode = "task_crashed"         // bastiond exited with an error
	FailureSpot     FailureCode = "spot_interrupted"     // Fargate Spot reclaimed the capacity
	FailureStopped  FailureCode = "task_stopped"         // someone called StopTask
	FailureStart    FailureCode = "task_not_started"     // any other reason that ECS gives
	FailureTaskLost FailureCode = "task_lost"            // the task disappeared
	FailureConfig   FailureCode = "misconfigured"        // AWS refused what the operator configured

	FailureUnavailable FailureCode = "aws_unavailable" // AWS did not carry out the steps of the start for Timing.GiveUpAfter
)

var failureEndedEarly = Failure{FailureCrash,
	"The bastion's server exited soon after it started. Ask your operator to check the image in the task definition and the server's log."}

var failureUnavailable = Failure{FailureUnavailable,
	"AWS did not carry out the steps that start the bastion, and the service has stopped trying. Request the bastion again in a few minutes. If it keeps happening, ask your operator: the reaper's log names the failed call."}

var failureTaskLost = Failure{FailureTaskLost, "The bastion's task disappeared. Request the bastion again."}

// CapacityFailure is the failure of a task for which Fargate has no capacity.
var CapacityFailure = Failure{FailureCapacity,
	"AWS Fargate has no capacity for the bastion in the configured subnets right now. Try again in a few minutes. If it keeps happening, ask your operator to add subnets in another Availability Zone."}

// stopReasons maps texts in ECS's stoppedReason to failures. If the stoppedReason
// contains several of the texts, the first in this list decides. The texts are from
// the ECS developer guide, "Stopped task error messages", and from its page on
// TaskFailedToStart.
var stopReasons = []struct {
	part    string
	failure Failure
}{
	{"Capacity is unavailable", CapacityFailure},
	{"CannotPull", Failure{FailureImage,
		"The bastion's image could not be pulled. Ask your operator to check that the image is in the registry and that the subnet can reach the registry."}},
	{"Create Network Interface", failureInterface},
	{"Timeout waiting for network interface", failureInterface},
	{"AccessDenied", failurePermission},
	{"not authorized", failurePermission},
	{"log group", Failure{FailureConfig,
		"The bastion's log group does not exist. Ask your operator to deploy the service again."}},
	{"ResourceInitializationError", Failure{FailureNetwork,
		"The bastion could not reach the registry, the logs or DynamoDB. Ask your operator to check the subnet's route and the egress rules of the member group (output MemberGroupId of the stack)."}},
}

var (
	failureInterface = Failure{FailureNetwork,
		"The bastion got no network interface. Try again. If it keeps happening, ask your operator to check the subnet's free addresses and the account's limit of network interfaces."}
	failurePermission = Failure{FailureConfig,
		"AWS denied the bastion's task a permission that it needs to start. Ask your operator to check the task's execution role; the task's stopped reason names the permission."}
)

// explain returns the failure for a task that did not end on purpose.
func explain(task Task) Failure {
	for _, known := range stopReasons {
		if strings.Contains(task.StopReason, known.part) {
			return known.failure
		}
	}
	switch {
	case task.StopCode == "SpotInterruption" || task.StopCode == "TerminationNotice":
		return Failure{FailureSpot, "AWS reclaimed the Spot capacity that the bastion ran on. Request the bastion again."}
	case task.StopCode == "UserInitiated":
		return Failure{FailureStopped, "Someone stopped the bastion's task in AWS. Request the bastion again. If it keeps happening, ask your operator what stops tasks in the cluster."}
	case task.ExitCode != nil && *task.ExitCode == ExitNoLease:
		return Failure{FailureLease, "The bastion started but did not receive its lease. Ask your operator to check that its subnet can reach DynamoDB."}
	case task.ExitCode != nil:
		return Failure{FailureCrash, fmt.Sprintf("The bastion's server exited with code %d. Request the bastion again; its log shows your operator the cause.", *task.ExitCode)}
	}
	return Failure{FailureStart, "The bastion's task did not start. Request the bastion again; the task's stopped reason shows your operator the cause."}
}
