// Package system is a test of the whole system, from its compiled parts, in one
// story. It runs in `make conformance`.
//
// Real are: the functions' bootstraps, each under Lambda's Runtime Interface
// Emulator, once more for each alias by which functions call each other; DynamoDB
// Local, with the stream of the leases' table; moto, as EC2, ECS and Parameter Store;
// bastiond, a process for each task; curl and ssh.
//
// The test itself is what AWS has between them: an API Gateway (events of payload
// format 2.0, the IAM caller taken from the user name of HTTP basic
// authentication, the routes of template.yaml), Lambda's Invoke (answered at once for
// an event, which is tried three times), EventBridge (states of tasks, the
// schedules, faster than by the minute), the mapping from the stream to the
// observer, and Fargate (environment, metadata and credentials of a task, SIGTERM
// and SIGKILL).
//
// # Slack
//
// The test is Slack, too: it signs commands and presses of buttons, and takes
// messages. The Slack function comes to https://hooks.slack.com and https://slack.com
// by a proxy and with a certificate that its environment names, as net/http reads
// it; nothing in the product knows of that. Of each kind of event that functions
// hand over, the first is lost after Lambda has taken it, once before it is done and
// once after, and some are not taken at all: nobody in Slack is to notice.
//
// # Who answers a call of EC2 or ECS
//
// The functions reach moto through a front, which passes every call on. What
// there is, moto has, and it alone: the VPC, subnets and groups with their rules,
// the cluster, the task definition, each task with its ARN, tags, startedBy and
// desired status, its interface, and the public address of that. The answers of
// these calls are moto's, as they come:
//
//	CreateSecurityGroup, DescribeSecurityGroups, DescribeSecurityGroupRules,
//	AuthorizeSecurityGroupIngress, RevokeSecurityGroupIngress,
//	RevokeSecurityGroupEgress, DescribeNetworkInterfaces, ListTasks
//
// In the others the front does what moto does not:
//
//   - DeleteSecurityGroup of a group that an interface in moto carries is a
//     DependencyViolation: moto would delete it.
//   - RunTask is refused if a group is not there: moto would make it. Sent again
//     with the same clientToken, it is answered as the first time, or refused if
//     anything else in it differs: moto would make a second task.
//   - RunTask, DescribeTasks and StopTask show a life in moto's task: lastStatus,
//     createdAt, stopCode, stoppedReason, the container's exit code, and the
//     attachment once it is there. moto's tasks run nothing.
//   - StopTask and DescribeTasks of a task that there is not say so: moto's
//     StopTask fails, its DescribeTasks names no failure.
//   - For a moment, a new group is not found and a task is as it was before: moto
//     is never stale. Rules are not, and neither are ListTasks and addresses; that
//     these may lag is shown in packages awscloud and cloudtest.
//
// Fargate, in turn, does in moto what AWS does behind the callers' backs: it
// associates an address with the task's interface, stops a task whose process
// ended, and deletes the interface of a stopped one after a while.
//
// Package cloudtest's suites run through the front as well, without the exceptions
// that moto alone needs in package awscloud.
//
// Between all of these and what they call stands a recorder of package privilege,
// which knows each function and task by the URL that it was given for all of AWS,
// and lets through what its role in template.yaml grants. In one chapter the test
// itself has the Slack function's role, and tries what it is good for beside that.
// When the story is told and no event is delivered any more, each function has to
// take by itself every step that it may; then each role of template.yaml must
// grant what was called, and nothing else.
//
// A security group is enforced in front of each bastiond, by a proxy that stands
// at the task's address: at each connection it asks moto which groups the task's
// interface carries, and which rules these have. Two things differ from a task on
// Fargate, because all of this happens on one machine: bastiond listens on an
// address of the test's instead of 0.0.0.0, and it may connect to a part of
// loopback, where the private host is.
package system
