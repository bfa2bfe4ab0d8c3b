// Package system tests the whole system, built from its compiled programs. The tests
// have the build tag conformance and run in `make conformance`.
//
// # Real parts
//
//   - The functions' bootstraps, each in Lambda's Runtime Interface Emulator. Each
//     alias by which functions call each other has an emulator of its own.
//   - DynamoDB Local, with the stream of the lease table.
//   - moto, as EC2, ECS and Parameter Store.
//   - bastiond, one process for each task.
//   - curl, ssh and ssh-keygen.
//
// The environment of functions and tasks comes from template.yaml, which package template
// evaluates for the parameters of the test and the IDs that moto chose.
//
// # Parts that the test plays
//
//   - API Gateway, with the routes of template.yaml and events of payload format 2.0.
//     The IAM caller is the user name of HTTP basic authentication.
//   - Lambda's Invoke. An asynchronous event is accepted at once and tried three times.
//   - EventBridge: state changes of tasks, and the schedules, which run more often than
//     on AWS.
//   - The event source mapping from the stream to the observer.
//   - Fargate: a task's states, environment, metadata, credentials, SIGTERM and SIGKILL.
//   - Slack. It signs commands and button presses, and receives messages: at a
//     response_url, by chat.postMessage and by chat.update. The Slack function reaches
//     https://hooks.slack.com and https://slack.com through an HTTP proxy and with a
//     certificate from its environment, both of which net/http reads. The product has
//     no code for this. The test's Slack enforces the limits of a response_url, limits
//     the rate of direct messages, and rejects an edit of an unknown message.
//
// Of each kind of asynchronous event, the test loses the first two attempts: one before
// the function runs, one after it has run. It also rejects some events with an error of
// Lambda. The messages in Slack must be the same.
//
// # The proxy in front of moto
//
// The functions reach EC2 and ECS through motoProxy. moto holds all state: the VPC,
// subnets, groups and rules, the cluster, the task definition, each task with its ARN,
// tags, startedBy and desired status, its network interface and public address. motoProxy
// passes these calls on unchanged:
//
//	CreateSecurityGroup, DescribeSecurityGroups, DescribeSecurityGroupRules,
//	AuthorizeSecurityGroupIngress, RevokeSecurityGroupIngress,
//	RevokeSecurityGroupEgress, DescribeNetworkInterfaces, ListTasks
//
// It adds behaviour of AWS that moto does not have:
//
//   - DeleteSecurityGroup returns DependencyViolation while an interface uses the group.
//     moto deletes the group.
//   - RunTask fails if a group does not exist; moto creates the group. A repeated
//     RunTask with the same clientToken returns the first response, or a conflict if the
//     request differs; moto starts a second task.
//   - RunTask, DescribeTasks and StopTask show the task's life: lastStatus, createdAt,
//     stopCode, stoppedReason, the container's exit code, and the attachment once it
//     exists. Tasks in moto do not run.
//   - StopTask and DescribeTasks report a missing task as ECS does.
//   - For a short time, a new group is not found and a task shows its previous state.
//     moto is always consistent. Rules, ListTasks and addresses are always current here;
//     packages awscloud and cloudtest test that these may lag.
//
// The test's Fargate does in moto what AWS does without a call of the product: it
// associates an address with a task's interface, stops a task whose process has exited,
// and deletes the interface of a stopped task after a while.
//
// The suites of package cloudtest run through motoProxy too, without the exceptions that
// package awscloud makes for moto.
//
// # Privileges
//
// A recorder of package privilege stands before every service. It identifies each
// function and task by the endpoint URL that it was given, and rejects calls that the
// caller's role in template.yaml does not grant. One step uses the Slack function's role
// directly and tries calls that the function never makes. In the last steps no events are
// delivered, so that each function must take every step that it is allowed to take. At
// the end, each role must grant exactly the recorded calls.
//
// # make deploy
//
// TestMakeDeploy runs the whole of make deploy with these parts. CloudFormation is played
// at the interface that package deploy calls: when a change set creates the stack of the
// service, the functions start with the environment that the evaluated template gives them.
// The VPC, the role of ECS, the bucket, the repository and the secrets are in moto. The
// image is pushed to a registry in the test's process. The functions that make deploy
// compiles and uploads are for arm64; the test checks what it uploaded, and runs the same
// functions compiled for this machine. Service Quotas and three calls of EC2 and Lambda,
// which moto does not have, are played at the interface, too.
//
// # Upgrades
//
// TestUpgrade deploys an earlier commit, which scripts/earlier compiles, starts bastions,
// and then updates functions and parameters to this version. The roles are those of this
// version from the beginning, as in an update, where CloudFormation changes them first.
//
// # Network
//
// Each task has an address on loopback. A TCP proxy listens there and enforces the task's
// security groups: for each connection, it reads the groups of the task's interface and
// their rules from moto. Because everything runs on one machine, two settings differ from
// Fargate: bastiond listens on an address of its own instead of 0.0.0.0, and it may
// connect to the part of loopback where the private host listens.
package system
