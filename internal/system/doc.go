// Package system is a test of the whole system, from its compiled parts, in one
// story. It runs in `make conformance`.
//
// Real are: the functions' bootstraps, each under Lambda's Runtime Interface
// Emulator; DynamoDB Local, with the stream of the leases' table; bastiond, a
// process for each task; curl and ssh.
//
// The test itself is what AWS has between them: an API Gateway (events of payload
// format 2.0, the IAM caller taken from the user name of HTTP basic
// authentication, the routes of template.yaml), EventBridge (states of tasks, the
// schedules, faster than by the minute), the mapping from the stream to the
// observer, and Fargate (environment, metadata and credentials of a task, SIGTERM
// and SIGKILL).
//
// EC2 and ECS are package wiretest's server, which has the local cloud under it:
// the functions reach it over HTTP with the real SDK. moto is not used here. Its
// tasks are RUNNING at once and run nothing, its interfaces have no public
// address, it does not know a clientToken again and deletes groups that are in
// use; so no bastiond could be started, reached, killed or started again by it.
// What its formats and error codes show is shown in package awscloud.
//
// Between all of these and what they call stands a recorder of package privilege,
// which knows each function and task by the URL that it was given for all of AWS.
// When the story is told and no event is delivered any more, each function has to
// take by itself every step that it may; then each role of template.yaml must
// grant what was called, and nothing else.
//
// A security group is enforced in front of each bastiond, by a proxy that stands
// at the task's address and takes what the local cloud's listener admits. Two
// things differ from a task on Fargate, because all of this happens on one
// machine: bastiond listens on an address of the test's instead of 0.0.0.0, and
// it may connect to a part of loopback, where the private host is.
package system
