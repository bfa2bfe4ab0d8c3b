package config

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// prefix begins the names of all variables of the service's own functions, and
// slackPrefix those of the Slack function.
const (
	prefix      = "BASTION_"
	slackPrefix = "SLACK_"
)

// form is what a value must look like, and how to say so.
type form struct {
	*regexp.Regexp
	want string
}

func formOf(pattern, want string) form {
	return form{regexp.MustCompile(`^(?:` + pattern + `)$`), want}
}

// The forms of AWS's names, as its API reference has them.
var (
	subnetID            = formOf(`subnet-[0-9a-f]{8,17}`, "the id of a subnet, as subnet-0123456789abcdef0")
	vpcID               = formOf(`vpc-[0-9a-f]{8,17}`, "the id of a VPC, as vpc-0123456789abcdef0")
	groupID             = formOf(`sg-[0-9a-f]{8,17}`, "the id of a security group, as sg-0123456789abcdef0")
	tableName           = formOf(`[a-zA-Z0-9_.-]{3,255}`, "the name of a DynamoDB table")
	clusterARN          = formOf(`arn:[\w-]+:ecs:[\w-]+:\d{12}:cluster/[\w-]{1,255}`, "the ARN of an ECS cluster")
	taskDefinitionARN   = formOf(`arn:[\w-]+:ecs:[\w-]+:\d{12}:task-definition/[\w-]{1,255}:\d+`, "the ARN of a task definition with its revision")
	stackID             = formOf(`arn:[\w-]+:cloudformation:[\w-]+:\d{12}:stack/[\w/-]+`, "the id of a CloudFormation stack")
	containerName       = formOf(`[\w-]{1,255}`, "the name of a container")
	parameterName       = formOf(`[\w./-]{0,899}[\w.-]`, "the name of a parameter of Parameter Store, as /bastion/slack/signing-secret")
	parameterNameOrPath = formOf(`[\w./-]{1,900}`, "the name of a parameter of Parameter Store, as /bastion/slack/bot-token, or a path with one for each team id, as /bastion/slack/tokens/")
	slackDoor           = formOf(`arn:[\w-]+:lambda:[\w-]+:\d{12}:function:[\w-]{1,64}:slack`, "the ARN of a function's alias slack")
	slackTeam           = formOf(`[TE][A-Z0-9]{2,31}`, "the id of a Slack workspace, as T0123ABCD")
	slackChannel        = formOf(`[CDG][A-Z0-9]{2,31}`, "the id of a Slack channel, as C0123ABCD")
	slackUser           = formOf(`[UW][A-Z0-9]{2,31}`, "the id of a Slack user, as U0123ABCD")
	roleID              = formOf(`AROA[A-Z0-9]{12,124}`, "the unique id of an IAM role, as AROA…")
	trustedRole         = formOf(`[\w+=.@-]{1,64}|[\w+=.@-]{1,63}\*`, "the name of an IAM role, perhaps with a * at its end (a * alone would trust every session name there is)")
	slackAlias          = formOf(`arn:[\w-]+:lambda:[\w-]+:\d{12}:function:[\w-]{1,64}:work`, "the ARN of the Slack function's alias \"work\"")
	issuer              = formOf(`https://[^\s#]{1,500}`, "the https URL of a token issuer")
	admin               = formOf(`iam:\d{12}:(?:AIDA|AROA)[A-Z0-9]{12,124}|`+
		`arn:[\w-]+:iam::\d{12}:(?:user|role)/[\w+=.@/-]{1,576}|`+
		`jwt:https://[^\s#]{1,500}#[^\s]{1,255}`,
		"a user or role (iam:ACCOUNT:AIDA…, iam:ACCOUNT:AROA…, or its ARN) or jwt:ISSUER#SUBJECT; a session is no admin")
)

func isJWT(admin string) bool { return strings.HasPrefix(admin, "jwt:") }

// reader takes the variables one by one, and keeps what is wrong with them.
type reader struct {
	prefix string
	values map[string]string // by name without prefix; taken ones are gone
	wrong  []error
}

func newReader(prefix string, environ []string) *reader {
	r := &reader{prefix: prefix, values: map[string]string{}}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if ours, ok := strings.CutPrefix(name, prefix); ok {
			r.values[ours] = value
		}
	}
	return r
}

func (r *reader) refuse(name, value, want string) {
	r.wrong = append(r.wrong, fmt.Errorf("%s%s is %q: want %s", r.prefix, name, value, want))
}

// take answers a value that must be there; one that may be empty must be set
// nevertheless, so that a variable somebody forgot is no silent default.
func (r *reader) take(name string) (string, bool) {
	value, ok := r.values[name]
	if !ok {
		r.wrong = append(r.wrong, fmt.Errorf("%s%s is missing", r.prefix, name))
	}
	delete(r.values, name)
	return strings.TrimSpace(value), ok
}

func (r *reader) text(name string, f form) string {
	value, ok := r.take(name)
	if ok && !f.MatchString(value) {
		r.refuse(name, value, f.want)
	}
	return value
}

func (r *reader) optional(name string, f form) string {
	value, ok := r.take(name)
	if ok && value != "" && !f.MatchString(value) {
		r.refuse(name, value, f.want+", or nothing")
	}
	return value
}

// list reads values with commas between them; nothing is an empty list.
func (r *reader) list(name string, f form) (items []string) {
	value, ok := r.take(name)
	if !ok || value == "" {
		return nil
	}
	for item := range strings.SplitSeq(value, ",") {
		item = strings.TrimSpace(item)
		switch {
		case !f.MatchString(item):
			r.refuse(name, item, f.want)
		case slices.Contains(items, item):
			r.wrong = append(r.wrong, fmt.Errorf("%s%s names %s twice", r.prefix, name, item))
		}
		items = append(items, item)
	}
	return items
}

func (r *reader) prefixes(name string) (all []netip.Prefix) {
	value, ok := r.take(name)
	if !ok || value == "" {
		return nil
	}
	for item := range strings.SplitSeq(value, ",") {
		p, err := prefixOf(strings.TrimSpace(item))
		if err != nil {
			r.refuse(name, item, "a CIDR, as 10.0.0.0/8 or fd00::/8")
			continue
		}
		all = append(all, p)
	}
	return all
}

// duration reads Go's notation, the one that people use in requests too.
func (r *reader) duration(name string) time.Duration {
	value, ok := r.take(name)
	d, err := time.ParseDuration(value)
	if ok && err != nil {
		r.refuse(name, value, "a time, as 30m, 8h or 1h30m")
	}
	return d
}

func (r *reader) number(name string) int {
	value, ok := r.take(name)
	n, err := strconv.Atoi(value)
	if ok && err != nil {
		r.refuse(name, value, "a whole number")
	}
	return n
}

// port reads where bastiond listens: as it is not root, not below 1024.
func (r *reader) port(name string) uint16 {
	value, ok := r.take(name)
	n, err := strconv.ParseUint(value, 10, 16)
	if ok && (err != nil || n < 1024) {
		r.refuse(name, value, "a port from 1024 to 65535")
	}
	return uint16(n)
}

func (r *reader) flag(name string) bool {
	value, ok := r.take(name)
	if ok && value != "true" && value != "false" {
		r.refuse(name, value, "true or false")
	}
	return value == "true"
}

// families reads in which families bastions have an address.
func (r *reader) families(name string) (v4, v6 bool) {
	value, ok := r.take(name)
	switch {
	case value == "ipv4":
		return true, false
	case value == "ipv6":
		return false, true
	case value == "dualstack":
		return true, true
	case ok:
		r.refuse(name, value, "ipv4, ipv6 or dualstack")
	}
	return false, false
}

// unknown refuses what nobody took.
func (r *reader) unknown() {
	for _, name := range slices.Sorted(maps.Keys(r.values)) {
		r.wrong = append(r.wrong, fmt.Errorf("%s%s is not a setting: remove it, or mend its name", r.prefix, name))
	}
}
