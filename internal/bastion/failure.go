package bastion

import (
	"fmt"
	"strings"
)

// The codes of a failed start.
const (
	FailureCapacity FailureCode = "capacity_unavailable" // Fargate has no room for the task
	FailureImage    FailureCode = "image_unavailable"    // the image cannot be pulled
	FailureNetwork  FailureCode = "network_unavailable"  // the task cannot reach what it needs to start
	FailureLease    FailureCode = "lease_unavailable"    // the task never got its lease
	FailureCrash    FailureCode = "task_crashed"         // bastiond, or the machine under it, died
	FailureSpot     FailureCode = "spot_interrupted"     // Fargate Spot took the capacity back
	FailureStopped  FailureCode = "task_stopped"         // somebody or something stopped it from outside
	FailureStart    FailureCode = "task_not_started"     // ECS gave a reason that is none of the above
	FailureTaskLost FailureCode = "task_lost"            // the task disappeared
	FailureConfig   FailureCode = "misconfigured"        // ECS will not take what the operator configured
)

var failureEndedEarly = Failure{FailureCrash,
	"The bastion's server ended by itself before anybody could use it. Ask your operator to check which image the task definition names, and the server's log."}

var failureTaskLost = Failure{FailureTaskLost, "The bastion's task disappeared. Ask for the bastion again."}

// CapacityFailure is what a person reads when Fargate has no room.
var CapacityFailure = Failure{FailureCapacity,
	"AWS Fargate has no capacity for the bastion in the configured subnets right now. Try again in a few minutes; if it goes on, ask your operator for subnets in another Availability Zone."}

// stopReasons reads ECS's stoppedReason; the words are those of the ECS
// developer guide, "Stopped task error messages".
var stopReasons = []struct {
	part    string
	failure Failure
}{
	{"Capacity is unavailable", CapacityFailure},
	{"CannotPull", Failure{FailureImage,
		"The bastion's image could not be pulled. Ask your operator to check that the image is in the registry and that the subnet can reach it."}},
	{"ResourceInitializationError", Failure{FailureNetwork,
		"The bastion could not reach what it needs to start (registry, logs or table). Ask your operator to check the subnet's route and the egress of the member group."}},
	{"Timeout waiting for network interface", Failure{FailureNetwork,
		"The bastion's network interface could not be attached. Try again; if it goes on, ask your operator to check the subnet's free addresses."}},
}

// explain says why a task that did not end on purpose has stopped.
func explain(task Task) Failure {
	for _, known := range stopReasons {
		if strings.Contains(task.StopReason, known.part) {
			return known.failure
		}
	}
	switch {
	case task.StopCode == "SpotInterruption" || task.StopCode == "TerminationNotice":
		return Failure{FailureSpot, "AWS took back the Spot capacity under the bastion. Ask for the bastion again."}
	case task.StopCode == "UserInitiated":
		return Failure{FailureStopped, "The bastion's task was stopped from outside. Ask for the bastion again; if it goes on, ask your operator who stops tasks in its cluster."}
	case task.ExitCode != nil && *task.ExitCode == ExitNoLease:
		return Failure{FailureLease, "The bastion started but never got its lease. Ask your operator to check that its subnet reaches DynamoDB."}
	case task.ExitCode != nil:
		return Failure{FailureCrash, fmt.Sprintf("The bastion's server died with exit code %d. Ask for the bastion again; your operator finds the cause in its log.", *task.ExitCode)}
	}
	return Failure{FailureStart, "The bastion's task did not start. Ask for the bastion again; your operator finds the cause in the task's stopped reason."}
}
