package privilege

import "strings"

// The sources of the rows. AWS's Service Authorization Reference lists the resources and
// conditions of each action.
const (
	reference = "https://docs.aws.amazon.com/service-authorization/latest/reference/"

	aboutDynamoDB     = reference + "list_amazondynamodb.html"
	aboutTransactions = "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html"
	aboutEC2          = reference + "list_amazonec2.html"
	aboutECS          = reference + "list_amazonelasticcontainerservice.html"
	// The reference only mentions that a call with tags needs a second permission, and
	// that RunTask needs one for each role that it passes.
	aboutEC2Tags  = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/supported-iam-actions-tagging.html"
	aboutECSTags  = "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/supported-iam-actions-tagging.html"
	aboutPassRole = "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html"

	aboutLambda = reference + "list_awslambda.html"
	// An alias is a separate resource.
	aboutAliases = "https://docs.aws.amazon.com/lambda/latest/dg/lambda-api-permissions-ref.html"
	aboutSSM     = reference + "list_awssystemsmanager.html"
	// SecureStrings under the default key need no KMS permission.
	aboutSecureStrings = "https://docs.aws.amazon.com/kms/latest/developerguide/services-parameter-store.html"
)

// The conditions that bind a role to this stack.
const (
	taggedOurs = "StringEquals aws:RequestTag/bastion:stack ${AWS::StackId}"  // a new resource has the stack's tag
	isOurs     = "StringEquals aws:ResourceTag/bastion:stack ${AWS::StackId}" // an existing resource has it
	inCluster  = "ArnEquals ecs:cluster Cluster"
	ownItem    = "ForAllValues:StringEquals dynamodb:LeadingKeys ${aws:userid}"
	ownFields  = "ForAllValues:StringEquals dynamodb:Attributes task, report, in_hand, ending, by"
)

// itsTarget stands for the target of the call.
const itsTarget = ""

// row has the permissions for one call.
type row struct {
	API     string
	Needs   []Permission
	Sources []string
	Why     string // for "*": why there is nothing narrower
}

// p returns a permission under conditions, which are in alphabetical order.
func p(action, on string, conditions ...string) Permission {
	return Permission{action, on, strings.Join(conditions, " and ")}
}

const describes = "EC2 accepts no narrower resource for its Describe actions."

// table has a row for each call that functions and tasks make.
var table = []row{
	// DynamoDB. An index is a separate resource. A transaction has no permission of its
	// own: each part needs one. A condition on a part needs none.
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
	// For a task, on the item whose key is its user ID. Tests of package awscloud check
	// that it names only these attributes.
	{"dynamodb:GetItem own", []Permission{p("dynamodb:GetItem", itsTarget, ownItem)}, []string{aboutDynamoDB}, ""},
	{"dynamodb:UpdateItem own", []Permission{p("dynamodb:UpdateItem", itsTarget, ownFields, ownItem)}, []string{aboutDynamoDB}, ""},

	// ECS. With tags in the request, RunTask also tags the task. It passes two roles.
	{"ecs:RunTask tagged", []Permission{
		p("ecs:RunTask", "task-definition/${AWS::StackName}:*", inCluster, taggedOurs),
		p("ecs:TagResource", "task/${Cluster}/*", taggedOurs, "StringEquals ecs:CreateAction RunTask"),
		p("iam:PassRole", "TaskRole", "StringEquals iam:PassedToService ecs-tasks.amazonaws.com"),
		p("iam:PassRole", "ExecutionRole", "StringEquals iam:PassedToService ecs-tasks.amazonaws.com"),
	}, []string{aboutECS, aboutECSTags, aboutPassRole}, ""},
	{"ecs:StopTask", []Permission{p("ecs:StopTask", "task/${Cluster}/*", inCluster, isOurs)}, []string{aboutECS}, ""},
	{"ecs:DescribeTasks", []Permission{p("ecs:DescribeTasks", "task/${Cluster}/*", inCluster)}, []string{aboutECS}, ""},
	{"ecs:ListTasks", []Permission{p("ecs:ListTasks", "*", inCluster)}, []string{aboutECS},
		"Its only resource type is a container instance, which Fargate does not have; the condition limits it to the cluster."},

	// EC2. CreateSecurityGroup also needs the VPC, which does not have the stack's tag, and
	// tags the group. A new rule has no tag, so its permission has no condition; that of
	// its group has.
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

	// Slack. The permission for an alias does not include the function.
	{"lambda:Invoke", []Permission{p("lambda:InvokeFunction", itsTarget)}, []string{aboutLambda, aboutAliases}, ""},
	{"ssm:GetParameters", []Permission{p("ssm:GetParameters", itsTarget)}, []string{aboutSSM, aboutSecureStrings}, ""},
}
