package awscloud

import (
	"strconv"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Stack describes where a stack's bastions run. Package config has validated it.
type Stack struct {
	ID          string // the stack's id, the value of TagStack on everything made
	VPC         string
	MemberGroup string // the security group that targets name in their rules
	Cluster     string // its ARN
	Container   string // the name of bastiond's container in the task definition
	Port        uint16 // where bastiond listens for SSH
	Public      bool   // tasks get a public IPv4 address; without, the private one is theirs
	IPv4, IPv6  bool   // the families in which tasks have an address that callers use
	Spot        bool   // run on Fargate Spot
}

// The tags of what is made at run time. Roles and the sweep demand TagStack.
const (
	TagStack   = "bastion:stack"
	TagID      = "bastion:id"
	TagAttempt = "bastion:attempt" // on tasks only
)

// EnvBastionID is what a task's environment gets beside what the task
// definition holds: the one thing in which a stack's tasks differ.
const EnvBastionID = "BASTION_ID"

// startedByPrefix makes a task's startedBy, which events carry too.
const startedByPrefix = "bastion/"

// StartedBy is what the tasks of a bastion are found by. ECS takes letters,
// digits and -_/ in it, 128 at most.
func StartedBy(bastionID string) string { return startedByPrefix + bastionID }

// BastionID is the bastion that a task's startedBy names; false for a task that
// no bastion was the reason of.
func BastionID(startedBy string) (string, bool) {
	if id, ours := strings.CutPrefix(startedBy, startedByPrefix); ours && id != "" {
		return id, true
	}
	return "", false
}

// TaskID is the last part of a task's ARN, which names it within its cluster.
func TaskID(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// ClientToken names an attempt to ECS: the same attempt is at most one task. ECS
// takes 64 characters of ASCII 33 to 126.
func ClientToken(bastionID string, attempt int) string {
	return "bastion-" + bastionID + "-" + strconv.Itoa(attempt)
}

// GroupName is the name of a bastion's security group.
func GroupName(bastionID string) string { return "bastion-" + bastionID }

// taskARN is the ARN of a task in the stack's cluster.
func (s Stack) taskARN(taskID string) string {
	return strings.Replace(s.Cluster, ":cluster/", ":task/", 1) + "/" + taskID
}

var (
	_ bastion.Groups = (*Groups)(nil)
	_ bastion.Tasks  = (*Tasks)(nil)
)
