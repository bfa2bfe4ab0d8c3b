package privilege

// The pages of AWS's Service Authorization Reference that rows come from, below
// https://docs.aws.amazon.com/service-authorization/latest/reference/
const (
	dynamodb = "list_amazondynamodb.html"
	ec2      = "list_amazonec2.html"
	ecs      = "list_amazonelasticcontainerservice.html"
)

// sameAsCall stands for what the call itself was done to.
const sameAsCall = ""

type row struct {
	Needs  []Permission
	Source string
	Why    string // of "*": why there is nothing narrower
}

func plain(source, action, on string) row {
	return row{Needs: []Permission{{action, on}}, Source: source}
}

func everything(source, action, why string) row {
	return row{Needs: []Permission{{action, "*"}}, Source: source, Why: why}
}

const describes = "EC2 takes no narrower resource for what describes"

// table has a row for each call that the functions and the task make.
var table = map[string]row{
	"dynamodb:GetItem":      plain(dynamodb, "dynamodb:GetItem", sameAsCall),
	"dynamodb:PutItem":      plain(dynamodb, "dynamodb:PutItem", sameAsCall),
	"dynamodb:UpdateItem":   plain(dynamodb, "dynamodb:UpdateItem", sameAsCall),
	"dynamodb:DeleteItem":   plain(dynamodb, "dynamodb:DeleteItem", sameAsCall),
	"dynamodb:BatchGetItem": plain(dynamodb, "dynamodb:BatchGetItem", sameAsCall),
	"dynamodb:Query":        plain(dynamodb, "dynamodb:Query", sameAsCall),
	"dynamodb:Scan":         plain(dynamodb, "dynamodb:Scan", sameAsCall),
	// A transaction has no permission of its own: each part needs its own.
	"dynamodb:TransactWriteItems/Put":            plain(dynamodb, "dynamodb:PutItem", sameAsCall),
	"dynamodb:TransactWriteItems/Update":         plain(dynamodb, "dynamodb:UpdateItem", sameAsCall),
	"dynamodb:TransactWriteItems/Delete":         plain(dynamodb, "dynamodb:DeleteItem", sameAsCall),
	"dynamodb:TransactWriteItems/ConditionCheck": plain(dynamodb, "dynamodb:ConditionCheckItem", sameAsCall),

	// With tags in the request, as ours always are.
	"ecs:RunTask": {Source: ecs, Needs: []Permission{
		{"ecs:RunTask", "task-definition"}, {"ecs:TagResource", "task"},
		{"iam:PassRole", "task role"}, {"iam:PassRole", "execution role"},
	}},
	"ecs:StopTask":      plain(ecs, "ecs:StopTask", "task"),
	"ecs:DescribeTasks": plain(ecs, "ecs:DescribeTasks", "task"),
	"ecs:ListTasks":     everything(ecs, "ecs:ListTasks", "its only resource is a container instance, and Fargate has none"),

	"ec2:CreateSecurityGroup": {Source: ec2, Needs: []Permission{
		{"ec2:CreateSecurityGroup", "security-group"}, {"ec2:CreateSecurityGroup", "vpc"},
		{"ec2:CreateTags", "security-group"},
	}},
	"ec2:AuthorizeSecurityGroupIngress": {Source: ec2, Needs: []Permission{
		{"ec2:AuthorizeSecurityGroupIngress", "security-group"},
		{"ec2:AuthorizeSecurityGroupIngress", "security-group-rule"},
	}},
	"ec2:RevokeSecurityGroupIngress": plain(ec2, "ec2:RevokeSecurityGroupIngress", "security-group"),
	"ec2:RevokeSecurityGroupEgress":  plain(ec2, "ec2:RevokeSecurityGroupEgress", "security-group"),
	"ec2:DeleteSecurityGroup":        plain(ec2, "ec2:DeleteSecurityGroup", "security-group"),
	"ec2:DescribeSecurityGroups":     everything(ec2, "ec2:DescribeSecurityGroups", describes),
	"ec2:DescribeSecurityGroupRules": everything(ec2, "ec2:DescribeSecurityGroupRules", describes),
	"ec2:DescribeNetworkInterfaces":  everything(ec2, "ec2:DescribeNetworkInterfaces", describes),
}
