package config

import "regexp"

// Form is a pattern for a value, with a description for the person who has to
// correct a value that does not match.
type Form struct {
	pattern *regexp.Regexp
	Want    string // completes "want …"
}

// Match reports whether the whole text has the form.
func (f Form) Match(text string) bool { return f.pattern.MatchString(text) }

func form(pattern, want string) Form {
	return Form{regexp.MustCompile(`^(?:` + pattern + `)$`), want}
}

// The forms of names and IDs that a configuration holds, as the API references of
// AWS and Slack define them.
var (
	StackName = form(`[A-Za-z][A-Za-z0-9-]{0,127}`, "the name of a CloudFormation stack: letters, digits and hyphens, a letter first")
	VPCID     = form(`vpc-[0-9a-f]{8,17}`, "the ID of a VPC, such as vpc-0123456789abcdef0")
	SubnetID  = form(`subnet-[0-9a-f]{8,17}`, "the ID of a subnet, such as subnet-0123456789abcdef0")

	groupID           = form(`sg-[0-9a-f]{8,17}`, "the ID of a security group, such as sg-0123456789abcdef0")
	tableName         = form(`[a-zA-Z0-9_.-]{3,255}`, "the name of a DynamoDB table")
	clusterARN        = form(`arn:[\w-]+:ecs:[\w-]+:\d{12}:cluster/[\w-]{1,255}`, "the ARN of an ECS cluster")
	taskDefinitionARN = form(`arn:[\w-]+:ecs:[\w-]+:\d{12}:task-definition/[\w-]{1,255}:\d+`, "the ARN of a task definition with its revision")
	stackID           = form(`arn:[\w-]+:cloudformation:[\w-]+:\d{12}:stack/[\w/-]{1,180}`, "the ID of a CloudFormation stack")
	containerName     = form(`[\w-]{1,255}`, "the name of a container")
	roleID            = form(`AROA[A-Z0-9]{12,124}`, "the unique ID of an IAM role, such as AROA…")
	trustedRole       = form(`[\w+=.@-]{1,64}|[\w+=.@-]{1,63}\*`, "the name of an IAM role, which may end in * (a * alone would trust every session name)")
	admin             = form(`iam:\d{12}:(?:AIDA|AROA)[A-Z0-9]{12,124}|`+
		`arn:[\w-]+:iam::\d{12}:(?:user|role)/[\w+=.@/-]{1,576}|`+
		`jwt:https://[^\s#]{1,500}#[^\s]{1,255}`,
		"a user or role (iam:ACCOUNT:AIDA…, iam:ACCOUNT:AROA…, or its ARN) or jwt:ISSUER#SUBJECT; a session cannot be an admin")
	issuer = form(`https://[^\s#]{1,500}`, "the https URL of a token issuer")

	parameterName       = form(`[\w./-]{0,899}[\w.-]`, "the name of a parameter in Parameter Store, such as /bastion/slack/signing-secret")
	parameterNameOrPath = form(`[\w./-]{1,900}`, "the name of a parameter in Parameter Store, such as /bastion/slack/bot-token, or a path with one parameter for each team ID, such as /bastion/slack/tokens/")
	slackTeam           = form(`[TE][A-Z0-9]{2,31}`, "the ID of a Slack workspace, such as T0123ABCD")
	slackChannel        = form(`[CDG][A-Z0-9]{2,31}`, "the ID of a Slack channel, such as C0123ABCD")
	slackUser           = form(`[UW][A-Z0-9]{2,31}`, "the ID of a Slack user, such as U0123ABCD")
	internalAPI         = form(`arn:[\w-]+:lambda:[\w-]+:\d{12}:function:[\w-]{1,64}:slack`, `the ARN of a function's alias "slack"`)
	slackQueue          = form(`arn:[\w-]+:lambda:[\w-]+:\d{12}:function:[\w-]{1,64}:`+QueueAlias, `the ARN of the Slack function's alias "`+QueueAlias+`"`)
)
