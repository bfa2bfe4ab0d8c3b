package awscloud

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Stack says where a stack's bastions are made and what of. All of it is known
// when the stack is deployed.
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

var (
	clusterARN = regexp.MustCompile(`^arn:[a-z-]+:ecs:[a-z0-9-]+:[0-9]+:cluster/[A-Za-z0-9_-]+$`)
	vpcID      = regexp.MustCompile(`^vpc-[0-9a-f]+$`)
	groupID    = regexp.MustCompile(`^sg-[0-9a-f]+$`)
	tagValue   = regexp.MustCompile(`^[A-Za-z0-9 _.:/=+@-]{1,256}$`)
)

// Validate names everything that is wrong with the stack, joined into one error.
func (s Stack) Validate() error {
	var wrong []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	refuse(!tagValue.MatchString(s.ID), "the stack's id %q cannot be the value of a tag", s.ID)
	refuse(!vpcID.MatchString(s.VPC), "%q is not the id of a VPC", s.VPC)
	refuse(!groupID.MatchString(s.MemberGroup), "the member group %q is not the id of a security group", s.MemberGroup)
	refuse(!clusterARN.MatchString(s.Cluster), "%q is not the ARN of an ECS cluster", s.Cluster)
	refuse(s.Container == "", "the task's container must have a name")
	refuse(s.Port == 0, "the SSH port must be from 1 to 65535")
	refuse(!s.IPv4 && !s.IPv6, "tasks must have an address in at least one family")
	refuse(s.Public && !s.IPv4, "public addresses are IPv4, which is switched off")
	return errors.Join(wrong...)
}

// taskARN is the ARN of a task in the stack's cluster.
func (s Stack) taskARN(taskID string) string {
	return strings.Replace(s.Cluster, ":cluster/", ":task/", 1) + "/" + taskID
}

var (
	_ bastion.Groups = (*Groups)(nil)
	_ bastion.Tasks  = (*Tasks)(nil)
)
