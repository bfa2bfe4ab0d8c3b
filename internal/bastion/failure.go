package bastion

import (
	"fmt"
	"slices"
	"strings"
)

// The codes of failures.
const (
	FailureCapacity FailureCode = "capacity_unavailable" // no capacity in Fargate, or a quota of the account is used up
	FailureImage    FailureCode = "image_unavailable"    // the image is missing, cannot be pulled now, or cannot run
	FailureNetwork  FailureCode = "network_unavailable"  // no network interface, or no route to the registry or the logs
	FailureLease    FailureCode = "lease_unavailable"    // the task did not get its lease
	FailureCrash    FailureCode = "task_crashed"         // bastiond exited with an error
	FailureSpot     FailureCode = "spot_interrupted"     // Fargate Spot reclaimed the capacity
	FailureStopped  FailureCode = "task_stopped"         // someone called StopTask, or AWS replaced the host
	FailureStart    FailureCode = "task_not_started"     // any other reason that ECS gives
	FailureTaskLost FailureCode = "task_lost"            // the task disappeared
	FailureConfig   FailureCode = "misconfigured"        // AWS refused what the operator configured, or denied a permission

	FailureUnavailable FailureCode = "aws_unavailable" // during Timing.GiveUpAfter, AWS did not carry out the steps of the start
)

var failureEndedEarly = Failure{FailureCrash,
	"The bastion's server exited soon after it started. Ask your operator to check the image in the task definition and the server's log."}

var failureUnavailable = Failure{FailureUnavailable,
	"AWS did not carry out the steps that start the bastion, and the service has stopped trying. Request the bastion again in a few minutes. If it keeps happening, ask your operator: the reaper's log names the failed call."}

var failureTaskLost = Failure{FailureTaskLost, "The bastion's task disappeared. Request the bastion again."}

// CapacityFailure is the failure of a task for which Fargate has no capacity.
var CapacityFailure = Failure{FailureCapacity,
	"AWS Fargate has no capacity for the bastion in the configured subnets right now. Try again in a few minutes. If it keeps happening, ask your operator to add subnets in another Availability Zone."}

// The failures of images.
var (
	failureImage = Failure{FailureImage,
		"The bastion's image could not be pulled. Request the bastion again. If it keeps happening, ask your operator: the task's stopped reason has the cause."}
	failureImageAbsent = Failure{FailureImage,
		"The bastion's image is not in the registry. Ask your operator to deploy the service again, which pushes the image."}
	failureImageRate = Failure{FailureImage,
		"The registry limits how often images can be pulled, and refused the bastion's image for now. Try again in a few minutes. If it keeps happening, ask your operator what else pulls images in this account."}
	failureImagePlatform = Failure{FailureImage,
		"The bastion's image was built for another processor architecture. Ask your operator to build the image for the architecture in the task definition, and to deploy the service again."}
	failureImageSpace = Failure{FailureImage,
		"The bastion's image does not fit on the task's disk. Ask your operator to check the size of the image in the task definition."}
	failureImageBroken = Failure{FailureImage,
		"The bastion's image has no program that can run. Ask your operator to build the image and deploy the service again."}
	failureImageDenied = Failure{FailureConfig,
		"AWS denied the bastion's task access to its image. Ask your operator to check that the image exists, the policies of the task's execution role, the repository and the endpoints of ECR and S3, and the organization's service control policies."}
	failureImageRoute = Failure{FailureNetwork,
		"The bastion's task could not reach the registry of its image. Ask your operator to check the subnet's route to ECR and S3, the endpoints of both, and the egress rules of the member group (output MemberGroupId of the stack)."}
)

// The other failures that ECS reports.
var (
	failureInterface = Failure{FailureNetwork,
		"The bastion got no network interface. Try again. If it keeps happening, ask your operator to check the subnet's free addresses and the account's limit of network interfaces."}
	failureInterfaceDenied = Failure{FailureConfig,
		"AWS denied the bastion's network interface. Ask your operator to check the organization's tag policies and service control policies; the task's stopped reason names the policy's kind."}
	failureRole = Failure{FailureConfig,
		"ECS could not use a role of the bastion's task. Ask your operator to check that the task's two roles exist and trust ecs-tasks.amazonaws.com."}
	failurePermission = Failure{FailureConfig,
		"AWS denied the bastion's task a permission that it needs to start. Ask your operator to check the policy of the task's execution role and the organization's service control policies; the task's stopped reason names the permission."}
	failureLogGroup = Failure{FailureConfig,
		"The bastion's log group does not exist. Ask your operator to deploy the service again."}
	failureDefinition = Failure{FailureConfig,
		"AWS could not run the bastion's task as its task definition says. Ask your operator to deploy the service again; the task's stopped reason names the wrong part."}
	failureRoute = Failure{FailureNetwork,
		"The bastion's task could not reach the registry or the logs. Ask your operator to check the subnet's route, the endpoints of ECR and CloudWatch Logs, and the egress rules of the member group (output MemberGroupId of the stack)."}
	failureMemory = Failure{FailureCrash,
		"The bastion's server used more memory than its task has, and was killed. Request the bastion again, and use fewer connections at a time. If it keeps happening, ask your operator to give the task more memory."}
	failureRuntime = Failure{FailureStart,
		"AWS could not run the bastion's container because of an error in Fargate. Request the bastion again. If it keeps happening, ask your operator: the task's stopped reason has the cause."}
	failureHost = Failure{FailureStopped,
		"AWS stopped the bastion's task to maintain or replace its host. Request the bastion again."}
	failureStopped = Failure{FailureStopped,
		"Someone stopped the bastion's task in AWS. Request the bastion again. If it keeps happening, ask your operator what stops tasks in the cluster."}
	failureSpot = Failure{FailureSpot,
		"AWS reclaimed the Spot capacity that the bastion ran on. Request the bastion again."}
	failureStart = Failure{FailureStart,
		"The bastion's task did not start. Request the bastion again; the task's stopped reason shows your operator the cause."}
)

// leaseFailures are the failures for the exit codes of a task that had no lease.
var leaseFailures = map[int]Failure{
	ExitNoLease: {FailureLease,
		"The bastion started, but the table of leases had no lease for it in time. Request the bastion again. If it keeps happening, ask your operator to check the logs of the observer and the reaper."},
	ExitUnreachable: {FailureLease,
		"The bastion started, but could not reach DynamoDB for its lease. Ask your operator to check the subnet's route to DynamoDB (gateway endpoint or NAT) and the egress rules of the member group (output MemberGroupId of the stack)."},
	ExitDenied: {FailureLease,
		"The bastion started, but AWS denied it the read of its lease. Ask your operator to check the policies of the task role and of the DynamoDB endpoint, and the organization's service control policies."},
	ExitNoTable: {FailureLease,
		"The bastion started, but the table of leases does not exist. Ask your operator to check the table's name and the region in the task definition, and to deploy the service again."},
}

// Parts of the texts of several errors.
var (
	deniedParts  = []string{"accessdenied", "access denied", "not authorized", "unauthorized", "explicit deny", "forbidden", "no basic auth credentials"}
	networkParts = []string{
		"connection issue", "network configuration", "network connection", "dial tcp", "i/o timeout", "client.timeout", "tls handshake",
		"connection timed out", "connection refused", "connection reset", "no such host", "send request failed", "request send failed",
		"request canceled", "requestcanceled", "context canceled", "context deadline exceeded", "signal: killed", "unexpected eof",
	}
)

// stopReasons maps texts in ECS's stoppedReason and in the reason of the container to
// failures. An entry matches a text that contains `in` and one of the parts, in any case
// and order; without parts, `in` alone. The first entry that matches decides. One text
// can have words of several causes. For example, "The task cannot find the Amazon
// CloudWatch log group … There is a connection issue" says that the network is broken,
// and not that the log group is missing. TestStopReasons has the texts and their sources.
var stopReasons = []struct {
	in      string
	parts   []string
	failure Failure
}{
	{"capacity is unavailable", nil, CapacityFailure},

	{"cannotpull", []string{"toomanyrequests", "too many requests", "rate limit", "rate exceeded"}, failureImageRate},
	{"cannotpull", []string{"matching platform", "for platform", "no matching manifest"}, failureImagePlatform},
	{"cannotpull", append([]string{"permission"}, deniedParts...), failureImageDenied},
	// The text of a panic is what ECS reports if the task does not reach S3.
	{"cannotpull", append([]string{"invalid memory address"}, networkParts...), failureImageRoute},
	{"cannotpull", []string{"not found", "notfound", "does not exist", "manifest unknown"}, failureImageAbsent},
	{"cannotpull", []string{"no space left"}, failureImageSpace},
	{"cannotpull", nil, failureImage},

	{"network interface", append([]string{"tagpolicyviolation"}, deniedParts...), failureInterfaceDenied},
	{"network interface", nil, failureInterface},
	{"insufficientfreeaddresses", nil, failureInterface},
	{"configure eni", nil, failureInterface},

	{"outofmemory", nil, failureMemory},
	{"oom-killed", nil, failureMemory},
	{"cannotstart", []string{"exec: ", "exec format error", "executable file not found"}, failureImageBroken},

	{"unable to assume", []string{"role"}, failureRole},
	{"", deniedParts, failurePermission},
	{"resourceinitializationerror", networkParts, failureRoute},
	{"log group", nil, failureLogGroup},
	{"", []string{
		"secret from asm", "secrets from ssm", "registry auth from asm", "the secret with arn", "specified secret", "from secrets manager",
		"env files", "efs utils", "cannotcreatevolume", "awslogs-region", "not compatible with the selected compute strategy",
	}, failureDefinition},
	{"resourceinitializationerror", []string{"registry auth", "logger args", "logging driver"}, failureRoute},
	{"", []string{
		"resourceinitializationerror", "cannotstart", "cannotcreate", "cannotinspect", "cannotstop", "containerruntime", "dockertimeout", "internalerror",
	}, failureRuntime},

	{"", []string{"performing maintenance", "host ec2", "container instance deregistration"}, failureHost},
}

// explain returns the failure for a task that did not end on purpose. A caller
// of StopTask can write any stoppedReason, so for UserInitiated only the code counts.
func explain(task Task) Failure {
	if task.StopCode == "UserInitiated" {
		return failureStopped
	}
	if failure, known := explainText(task.StopReason); known {
		return failure
	}
	switch {
	case task.StopCode == "SpotInterruption" || task.StopCode == "TerminationNotice":
		return failureSpot
	case task.StopCode == "ServiceSchedulerInitiated":
		return failureStopped
	case task.ExitCode == nil:
		return failureStart
	}
	if failure, known := leaseFailures[*task.ExitCode]; known {
		return failure
	}
	return Failure{FailureCrash, fmt.Sprintf("The bastion's server exited with code %d. Request the bastion again; its log shows your operator the cause.", *task.ExitCode)}
}

// explainText returns the failure for a text of ECS, and false if stopReasons has none.
func explainText(text string) (Failure, bool) {
	text = strings.ToLower(text)
	contained := func(part string) bool { return strings.Contains(text, part) }
	for _, known := range stopReasons {
		if contained(known.in) && (known.parts == nil || slices.ContainsFunc(known.parts, contained)) {
			return known.failure, true
		}
	}
	return Failure{}, false
}
