// Package config reads and validates the configuration of a function on AWS from its
// environment variables, which template.yaml sets. It is the only place that validates
// them. An error lists everything that is wrong, so that one deployment corrects all of
// it. An unknown variable with our prefix is an error too: it would be a setting
// without an effect.
package config

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Config is the configuration of every function except Slack's.
type Config struct {
	Bastion bastion.Config
	Cloud   Cloud
	Access  Access
	// Slack is the ARN of the Slack function's alias that receives notices. It is empty
	// in a stack without Slack, and for functions that send no notices.
	Slack string
	// ReaperPeriod is the time between two runs of the reaper.
	ReaperPeriod time.Duration
	// If Draining is true, every POST, which creates or renews a bastion, is refused, so
	// that the stack can be deleted.
	Draining bool
}

// Cloud names the stack's resources.
type Cloud struct {
	StackID     string // of CloudFormation; the tag on every security group and task
	Table       string // of records
	LeaseTable  string
	ClusterARN  string
	VPCID       string
	MemberGroup string // the ID of the security group that targets admit
	SSHPort     uint16
	// PublicAddress gives tasks a public IPv4 address.
	PublicAddress bool
	Spot          bool
	Container     string // the name of bastiond's container in the task definition
	TaskRoleID    string // AROA…; the first half of a lease item's key
}

// Access has the settings that decide which owner a caller is, and which callers are
// admins.
type Access struct {
	// TrustedRoles are names of IAM roles whose session names identify people. A name
	// may end in * as a wildcard.
	TrustedRoles []string
	// Admins are users or roles, never sessions: iam:ACCOUNT:AIDA…, ARNs, or
	// jwt:ISSUER#SUBJECT.
	Admins []string
	// JWTIssuer is the issuer of the callers' tokens. It is empty when requests are
	// signed with IAM credentials instead.
	JWTIssuer string
}

// Load reads the environment, in the form of os.Environ, and the long settings, which are
// in Parameter Store because an environment has at most 4 KB. A function that writes no
// lease has no destinations, and one that starts no task has no tags. The error lists
// everything that is missing, malformed or unknown, and, if every value could be read,
// everything that is contradictory.
func Load(environ []string, read ReadParameters) (Config, error) {
	r := newReader(prefix, environ)
	r.fetch(read, "ALLOWED_PARAMETER", "TAGS_PARAMETER")
	cfg := Config{
		Bastion: bastion.Config{
			DefaultTTL:          r.duration("DEFAULT_TTL"),
			MaxTTL:              r.duration("MAX_TTL"),
			IdleTimeout:         r.duration("IDLE"),
			WarnBefore:          r.duration("WARN"),
			AllowedDestinations: r.destinations("ALLOWED_PARAMETER"),
			SourceOverride:      r.sources("SOURCES"),
			WidestIPv4:          r.number("WIDEST_IPV4"),
			WidestIPv6:          r.number("WIDEST_IPV6"),
			Quota:               bastion.Quota{PerOwner: r.number("QUOTA_OWNER"), Total: r.number("QUOTA_TOTAL")},
			Subnets:             r.list("SUBNETS", SubnetID),
			TaskDefinition:      r.text("TASK_DEFINITION", taskDefinitionARN),
			Tags:                r.tags("TAGS_PARAMETER"),
			MaxAttempts:         maxAttempts,
		},
		Cloud: Cloud{
			StackID:       r.text("STACK_ID", stackID),
			Table:         r.text("TABLE", tableName),
			LeaseTable:    r.text("LEASE_TABLE", tableName),
			ClusterARN:    r.text("CLUSTER", clusterARN),
			VPCID:         r.text("VPC", VPCID),
			MemberGroup:   r.text("MEMBER_GROUP", groupID),
			SSHPort:       r.port("SSH_PORT"),
			PublicAddress: r.flag("PUBLIC_ADDRESS"),
			Spot:          r.flag("SPOT"),
			Container:     r.text("CONTAINER", containerName),
			TaskRoleID:    r.text("TASK_ROLE_ID", roleID),
		},
		Access: Access{
			TrustedRoles: r.list("TRUSTED_ROLES", trustedRole),
			Admins:       r.list("ADMINS", admin),
			JWTIssuer:    r.optional("JWT_ISSUER", issuer),
		},
		Slack:        r.optional("SLACK", slackQueue),
		ReaperPeriod: r.duration("REAPER_PERIOD"),
		Draining:     r.flag("DRAINING"),
	}
	cfg.Bastion.Timing = timing(cfg.ReaperPeriod)
	cfg.Bastion.IPv4, cfg.Bastion.IPv6 = r.families("FAMILIES")
	cfg.Bastion.RequireSource = !cfg.Cloud.PublicAddress
	if len(r.wrong) == 0 { // values that could not be read are zero, and cannot be compared
		r.wrong = append(r.wrong, cfg.contradictions()...)
	}
	r.unknown()
	if err := errors.Join(r.wrong...); err != nil {
		return Config{}, fmt.Errorf("invalid configuration:\n%w", err)
	}
	return cfg, nil
}

// contradictions returns an error for each value that is well-formed but cannot be used,
// alone or together with another value.
func (c Config) contradictions() (wrong []error) {
	if c.ReaperPeriod <= LongestFunction {
		return []error{fmt.Errorf("%sREAPER_PERIOD is %s: one run may take %s, so use a minute or more", prefix, c.ReaperPeriod, LongestFunction)}
	}
	if err := c.Bastion.Validate(); err != nil {
		wrong = append(wrong, err)
	}
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	b := c.Bastion
	refuse(c.Cloud.Table == c.Cloud.LeaseTable, "%sTABLE and %[1]sLEASE_TABLE are both %s: tasks may write to the table of leases and to no other", prefix, c.Cloud.Table)
	refuse(c.Cloud.PublicAddress && !b.IPv4, "%sPUBLIC_ADDRESS is true and %[1]sFAMILIES has no IPv4: public addresses are IPv4", prefix)
	refuse(b.IdleTimeout > 0 && b.IdleTimeout < time.Minute, "%sIDLE is %s: a bastion would end before its owner can connect; use a minute or more", prefix, b.IdleTimeout)
	refuse(b.WarnBefore > 0 && b.WarnBefore < c.ReaperPeriod, "%sWARN is %s: the reaper sends warnings and runs every %s, so the warning could come after the end; use %[3]s or more", prefix, b.WarnBefore, c.ReaperPeriod)
	for _, a := range c.Access.Admins {
		refuse(strings.HasPrefix(a, "jwt:") != (c.Access.JWTIssuer != ""), "%sADMINS has %s, which no caller can be: requests are authorized by %s", prefix, a, c.authorizer())
	}
	return wrong
}

func (c Config) authorizer() string {
	if c.Access.JWTIssuer != "" {
		return "the tokens of " + c.Access.JWTIssuer
	}
	return "IAM"
}
