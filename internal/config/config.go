package config

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Config is all that a function on AWS is told.
type Config struct {
	Bastion bastion.Config
	Cloud   Cloud
	Access  Access
	// Slack is the ARN of the Slack function's alias that takes notices; empty where
	// nobody is told anything: no Slack, or a function that does not tell.
	Slack string
	// Draining refuses new bastions, so that the stack can be taken away.
	Draining bool
}

// Cloud says which things of AWS are ours.
type Cloud struct {
	StackID     string // of CloudFormation; the tag on everything that a bastion makes
	Table       string // of records
	LeaseTable  string
	ClusterARN  string
	VPCID       string
	MemberGroup string // the id of the group that targets admit
	SSHPort     uint16
	// PublicAddress gives tasks a public IPv4 address.
	PublicAddress bool
	Spot          bool
	Container     string // the name of bastiond's container in the task definition
	TaskRoleID    string // AROA…; the first half of a lease item's key
}

// Access says who callers are taken for.
type Access struct {
	// TrustedRoles are names of IAM roles whose session names tell people apart;
	// one may end in * for any rest.
	TrustedRoles []string
	// Admins are users or roles, never sessions: unique ids behind the account
	// (iam:ACCOUNT:AIDA…), ARNs, or jwt:ISSUER#SUBJECT.
	Admins []string
	// JWTIssuer is the one whose tokens are taken; empty when requests are signed
	// with IAM credentials instead.
	JWTIssuer string
}

// Load reads the environment, given as os.Environ answers it. Its error lists all
// that is missing, malformed or unknown, and all that is contradictory once every
// value could be read.
func Load(environ []string) (Config, error) {
	r := newReader(prefix, environ)
	cfg := Config{
		Bastion: bastion.Config{
			DefaultTTL:          r.duration("DEFAULT_TTL"),
			MaxTTL:              r.duration("MAX_TTL"),
			IdleTimeout:         r.duration("IDLE"),
			WarnBefore:          r.duration("WARN"),
			AllowedDestinations: r.prefixes("ALLOWED"),
			SourceOverride:      r.prefixes("SOURCES"),
			Quota:               bastion.Quota{PerOwner: r.number("QUOTA_OWNER"), Total: r.number("QUOTA_TOTAL")},
			Subnets:             r.list("SUBNETS", subnetID),
			TaskDefinition:      r.text("TASK_DEFINITION", taskDefinitionARN),
			MaxAttempts:         maxAttempts,
			Timing:              timing,
		},
		Cloud: Cloud{
			StackID:       r.text("STACK_ID", stackID),
			Table:         r.text("TABLE", tableName),
			LeaseTable:    r.text("LEASE_TABLE", tableName),
			ClusterARN:    r.text("CLUSTER", clusterARN),
			VPCID:         r.text("VPC", vpcID),
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
		Slack:    r.optional("SLACK", slackAlias),
		Draining: r.flag("DRAINING"),
	}
	cfg.Bastion.IPv4, cfg.Bastion.IPv6 = r.families("FAMILIES")
	cfg.Bastion.RequireSource = !cfg.Cloud.PublicAddress
	if len(r.wrong) == 0 { // else it would complain of values that were never read
		r.wrong = append(r.wrong, cfg.contradictions()...)
	}
	r.unknown()
	if err := errors.Join(r.wrong...); err != nil {
		return Config{}, fmt.Errorf("the configuration of this function is wrong:\n%w", err)
	}
	return cfg, nil
}

// contradictions are values that are right by themselves and wrong together.
func (c Config) contradictions() (wrong []error) {
	if err := c.Bastion.Validate(); err != nil {
		wrong = append(wrong, err)
	}
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	refuse(len(c.Bastion.AllowedDestinations) == 0, "%sALLOWED is empty: bastions could connect to nothing", prefix)
	refuse(c.Cloud.Table == c.Cloud.LeaseTable, "%sTABLE and %[1]sLEASE_TABLE are both %s: tasks may write to the table of leases, and to no other", prefix, c.Cloud.Table)
	refuse(c.Cloud.PublicAddress && !c.Bastion.IPv4, "%sPUBLIC_ADDRESS is true and %[1]sFAMILIES has no IPv4: public addresses are IPv4", prefix)
	refuse(c.Bastion.IdleTimeout > 0 && c.Bastion.IdleTimeout < time.Minute, "%sIDLE is %s: a bastion would end before anybody can have connected; take a minute or more", prefix, c.Bastion.IdleTimeout)
	refuse(c.Bastion.WarnBefore > 0 && c.Bastion.WarnBefore < time.Minute, "%sWARN is %s: the reaper, which warns, comes once a minute, so the warning could come after the end; take a minute or more", prefix, c.Bastion.WarnBefore)
	for _, p := range c.Bastion.SourceOverride {
		refuse(p.Bits() == 0, "%sSOURCES holds %s: then anybody may open a bastion to any address; name the prefixes that people connect from", prefix, p)
	}
	for _, a := range c.Access.Admins {
		refuse(isJWT(a) != (c.Access.JWTIssuer != ""), "%sADMINS names %s, but nobody can call as that: requests are authorized by %s", prefix, a, c.authorizer())
	}
	return wrong
}

func (c Config) authorizer() string {
	if c.Access.JWTIssuer != "" {
		return "the tokens of " + c.Access.JWTIssuer
	}
	return "IAM"
}

// prefixOf is netip.ParsePrefix, without the forms that would be compared wrong.
func prefixOf(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err == nil && p.Addr().Is4In6() {
		err = errors.New("an IPv4 address in IPv6's clothes")
	}
	return p, err
}
