// Package awscloud is the ports of package bastion on AWS: records and leases in
// DynamoDB, groups in EC2, tasks in ECS. It is the only package that calls the
// AWS SDK, and no error of the SDK's own types leaves it.
//
// Nothing here waits for the cloud to catch up: what a call finds is answered,
// and the domain looks again. Calls that are throttled, time out or meet a
// conflict that will pass are repeated within the caller's context.
//
// Each adapter names, as an interface, the calls that it makes. The functions'
// and the task's permissions follow from those interfaces.
package awscloud
