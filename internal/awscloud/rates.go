package awscloud

// Rate is how often AWS lets an account make a call in one region: Burst at once
// out of a full bucket, which fills again by PerSecond.
type Rate struct {
	Bucket           string // calls that share a bucket name it here; EC2 gives each call its own
	Burst, PerSecond float64
}

// Rates is what AWS publishes of the calls that Groups and Tasks make. A call
// takes one from each of its buckets.
//
// EC2: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
// ("Request token bucket sizes and refill rates"): non-mutating calls 100 and 20,
// if they have a filter or a page size, as all of ours (else 50 and 10 for
// DescribeSecurityGroups and DescribeNetworkInterfaces); mutating calls 50 and 5,
// and the same for the resource-intensive ones, which are
// AuthorizeSecurityGroupIngress and RevokeSecurityGroupIngress. CreateTags, which
// CreateSecurityGroup brings along, has 100 and 10. Over it: RequestLimitExceeded.
//
// ECS: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/request-throttling.html
// ("cluster resource modify actions" 100 and 40 for StopTask and RunTask together,
// "cluster resource read actions" 100 and 20 for ListTasks and DescribeTasks
// together). On Fargate, RunTask has launches of 100 and 20 besides:
// https://docs.aws.amazon.com/AmazonECS/latest/developerguide/throttling.html.
// Over it: ThrottlingException.
var Rates = map[string][]Rate{
	"CreateSecurityGroup":           {{"CreateSecurityGroup", 50, 5}},
	"AuthorizeSecurityGroupIngress": {{"AuthorizeSecurityGroupIngress", 50, 5}},
	"RevokeSecurityGroupIngress":    {{"RevokeSecurityGroupIngress", 50, 5}},
	"RevokeSecurityGroupEgress":     {{"RevokeSecurityGroupEgress", 50, 5}},
	"DeleteSecurityGroup":           {{"DeleteSecurityGroup", 50, 5}},
	"DescribeSecurityGroups":        {{"DescribeSecurityGroups", 100, 20}},
	"DescribeSecurityGroupRules":    {{"DescribeSecurityGroupRules", 100, 20}},
	"DescribeNetworkInterfaces":     {{"DescribeNetworkInterfaces", 100, 20}},

	"RunTask":       {clusterModify, {"Fargate launches", 100, 20}},
	"StopTask":      {clusterModify},
	"ListTasks":     {clusterRead},
	"DescribeTasks": {clusterRead},
}

var (
	clusterModify = Rate{"cluster resource modify", 100, 40}
	clusterRead   = Rate{"cluster resource read", 100, 20}
)
