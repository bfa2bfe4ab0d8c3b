package privilege

import "strings"

// The pages that rows come from. Those of AWS's Service Authorization Reference
// list, of each action, the resources and conditions that it takes.
const (
	reference = "https://docs.aws.amazon.com/service-authorization/latest/reference/"

	aboutDynamoDB     = reference + "list_amazondynamodb.html"
	aboutTransactions = "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html"
	aboutEC2          = reference + "list_amazonec2.html"
	aboutECS          = reference + "list_amazonelasticcontainerservice.html"
	// That a call with tags is authorized a second time, and RunTask for each role
	// that it hands on, the references only hint at.
	aboutEC2Tags  = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/supported-iam-actions-tagging.html"
	aboutECSTags  = "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/supported-iam-actions-tagging.html"
	aboutPassRole = "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html"

	aboutLambda = reference + "list_awslambda.html"
	// That an alias is a resource of its own, and what a name without one is.
	aboutAliases = "https://docs.aws.amazon.com/lambda/latest/dg/lambda-api-permissions-ref.html"
	aboutSSM     = reference + "list_awssystemsmanager.html"
	// That SecureStrings under the account's own key need no permission of KMS.
	aboutSecureStrings = "https://docs.aws.amazon.com/kms/latest/developerguide/services-parameter-store.html"
)

// The conditions that bind a role to this stack.
const (
	taggedOurs = "StringEquals aws:RequestTag/bastion:stack ${AWS::StackId}"  // what is made is tagged as ours
	isOurs     = "StringEquals aws:ResourceTag/bastion:stack ${AWS::StackId}" // what is changed is
	inCluster  = "ArnEquals ecs:cluster Cluster"
	ownItem    = "ForAllValues:StringEquals dynamodb:LeadingKeys ${aws:userid}"
	ownFields  = "ForAllValues:StringEquals dynamodb:Attributes task, report, in_hand, ending, by"
)

// itsTarget stands for what the call itself was made on.
const itsTarget = ""

// row says what one call needs.
type row struct {
	API     string
	Needs   []Permission
	Sources []string
	Why     string // of "*": why there is nothing narrower
}

// p is a permission under conditions, in the order in which a template's are read.
func p(action, on string, conditions ...string) Permission {
	return Permission{action, on, strings.Join(conditions, " and ")}
}

const describes = "EC2 takes no narrower resource for what describes."

// table has a row for each call that functions and tasks make, and for no other.
var table = []row{
	// DynamoDB. An index is a resource of its own. A transaction has no permission
	// of its own: each part needs its own, and a condition on a part none.
	{"dynamodb:GetItem", []Permission{p("dynamodb:GetItem", itsTarget)}, []string{aboutDynamoDB}, ""},
	{"dynamodb:PutItem", []Permission{p("dynamodb:PutItem", itsTarget)}, []string{aboutDynamoDB}, ""},
	{"dynamodb:UpdateItem", []Permission{p("dynamodb:UpdateItem", itsTarget)}, []string{aboutDynamoDB}, ""},
	{"dynamodb:DeleteItem", []Permission{p("dynamodb:DeleteItem", itsTarget)}, []string{aboutDynamoDB}, ""},
	{"dynamodb:BatchGetItem", []Permission{p("dynamodb:BatchGetItem", itsTarget)}, []string{aboutDynamoDB}, ""},
	{"dynamodb:Query", []Permission{p("dynamodb:Query", itsTarget)}, []string{aboutDynamoDB}, ""},
	{"dynamodb:Scan", []Permission{p("dynamodb:Scan", itsTarget)}, []string{aboutDynamoDB}, ""},
	{"dynamodb:TransactWriteItems Put", []Permission{p("dynamodb:PutItem", itsTarget)}, []string{aboutTransactions}, ""},
	{"dynamodb:TransactWriteItems Update", []Permission{p("dynamodb:UpdateItem", itsTarget)}, []string{aboutTransactions}, ""},
	{"dynamodb:TransactWriteItems Delete", []Permission{p("dynamodb:DeleteItem", itsTarget)}, []string{aboutTransactions}, ""},
	// Of a task on the item whose key it is itself. That it names no attribute but
	// these is held by package awscloud's tests.
	{"dynamodb:GetItem own", []Permission{p("dynamodb:GetItem", itsTarget, ownItem)}, []string{aboutDynamoDB}, ""},
	{"dynamodb:UpdateItem own", []Permission{p("dynamodb:UpdateItem", itsTarget, ownFields, ownItem)}, []string{aboutDynamoDB}, ""},

	// ECS. With tags in the request, RunTask also tags; and it hands two roles on.
	{"ecs:RunTask tagged", []Permission{
		p("ecs:RunTask", "task-definition/${AWS::StackName}:*", inCluster, taggedOurs),
		p("ecs:TagResource", "task/${Cluster}/*", taggedOurs, "StringEquals ecs:CreateAction RunTask"),
		p("iam:PassRole", "TaskRole", "StringEquals iam:PassedToService ecs-tasks.amazonaws.com"),
		p("iam:PassRole", "ExecutionRole", "StringEquals iam:PassedToService ecs-tasks.amazonaws.com"),
	}, []string{aboutECS, aboutECSTags, aboutPassRole}, ""},
	{"ecs:StopTask", []Permission{p("ecs:StopTask", "task/${Cluster}/*", inCluster, isOurs)}, []string{aboutECS}, ""},
	{"ecs:DescribeTasks", []Permission{p("ecs:DescribeTasks", "task/${Cluster}/*", inCluster)}, []string{aboutECS}, ""},
	{"ecs:ListTasks", []Permission{p("ecs:ListTasks", "*", inCluster)}, []string{aboutECS},
		"Its only resource is a container instance, and Fargate has none; the condition binds it to the cluster."},

	// EC2. A group is made in a VPC, which has no tag of ours, and is tagged by the
	// same call. A rule does not exist before it is authorized, so that it can have
	// no condition; the group beside it has.
	{"ec2:CreateSecurityGroup tagged", []Permission{
		p("ec2:CreateSecurityGroup", "security-group/*", taggedOurs),
		p("ec2:CreateSecurityGroup", "vpc/${VpcId}"),
		p("ec2:CreateTags", "security-group/*", taggedOurs, "StringEquals ec2:CreateAction CreateSecurityGroup"),
	}, []string{aboutEC2, aboutEC2Tags}, ""},
	{"ec2:AuthorizeSecurityGroupIngress", []Permission{
		p("ec2:AuthorizeSecurityGroupIngress", "security-group/*", isOurs),
		p("ec2:AuthorizeSecurityGroupIngress", "security-group-rule/*"),
	}, []string{aboutEC2}, ""},
	{"ec2:RevokeSecurityGroupIngress", []Permission{p("ec2:RevokeSecurityGroupIngress", "security-group/*", isOurs)}, []string{aboutEC2}, ""},
	{"ec2:RevokeSecurityGroupEgress", []Permission{p("ec2:RevokeSecurityGroupEgress", "security-group/*", isOurs)}, []string{aboutEC2}, ""},
	{"ec2:DeleteSecurityGroup", []Permission{p("ec2:DeleteSecurityGroup", "security-group/*", isOurs)}, []string{aboutEC2}, ""},
	{"ec2:DescribeSecurityGroups", []Permission{p("ec2:DescribeSecurityGroups", "*")}, []string{aboutEC2}, describes},
	{"ec2:DescribeSecurityGroupRules", []Permission{p("ec2:DescribeSecurityGroupRules", "*")}, []string{aboutEC2}, describes},
	{"ec2:DescribeNetworkInterfaces", []Permission{p("ec2:DescribeNetworkInterfaces", "*")}, []string{aboutEC2}, describes},

	// Slack. An alias needs a permission of its own, which is none for the function.
	{"lambda:Invoke", []Permission{p("lambda:InvokeFunction", itsTarget)}, []string{aboutLambda, aboutAliases}, ""},
	{"ssm:GetParameters", []Permission{p("ssm:GetParameters", itsTarget)}, []string{aboutSSM, aboutSecureStrings}, ""},
}
