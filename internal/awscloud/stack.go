package awscloud

import (
	"strconv"
	"strings"
)

// Stack describes where a stack's bastions run. Package config validates the values.
type Stack struct {
	ID          string // the value of TagStack on every group and task
	VPC         string
	MemberGroup string // the security group of all tasks; private hosts admit it in their rules
	Cluster     string // the cluster's ARN
	Container   string // the name of bastiond's container in the task definition
	Port        uint16 // the SSH port of bastiond
	Public      bool   // tasks get a public IPv4 address; if false, owners connect to the private one
	IPv4, IPv6  bool   // the address families over which owners connect to tasks
	Spot        bool   // tasks run on Fargate Spot
	WidestIPv4  int    // the shortest prefix length of a source; 0 for single addresses only
	WidestIPv6  int    // the same for IPv6
}

// Tags of groups and tasks. The roles of the functions can create, change and delete
// only groups and tasks with TagStack, and the sweep finds only those.
const (
	TagStack   = "bastion:stack"
	TagID      = "bastion:id"
	TagAttempt = "bastion:attempt" // of tasks only
)

// EnvBastionID is the environment variable that contains the bastion's id. RunTask sets
// it. All other variables of the container come from the task definition.
const EnvBastionID = "BASTION_ID"

// startedByPrefix is the prefix of a task's startedBy; the bastion's id follows it. An
// ECS event about a task contains startedBy, so the observer can find the bastion.
const startedByPrefix = "bastion/"

// StartedBy returns the startedBy of a bastion's tasks. ECS accepts at most 128
// characters: letters, digits, "-", "_" and "/".
func StartedBy(bastionID string) string { return startedByPrefix + bastionID }

// BastionID returns the bastion's id from a task's startedBy. It returns false for
// a task that was not started for a bastion.
func BastionID(startedBy string) (string, bool) {
	if id, ok := strings.CutPrefix(startedBy, startedByPrefix); ok && id != "" {
		return id, true
	}
	return "", false
}

// TaskID returns the last part of a task's ARN, which identifies the task in its
// cluster.
func TaskID(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// ClientToken returns the clientToken of an attempt's RunTask. ECS starts at most one
// task for a token. ECS accepts at most 64 characters of ASCII 33 to 126.
func ClientToken(bastionID string, attempt int) string {
	return "bastion-" + bastionID + "-" + strconv.Itoa(attempt)
}

// GroupName returns the name of a bastion's security group.
func GroupName(bastionID string) string { return "bastion-" + bastionID }

// taskARN returns the ARN of a task in the stack's cluster.
func (s Stack) taskARN(taskID string) string {
	return strings.Replace(s.Cluster, ":cluster/", ":task/", 1) + "/" + taskID
}
