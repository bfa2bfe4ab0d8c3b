package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
)

func private(w *world) {
	w.settings.Parameters["PublicAddress"] = "false"
	w.settings.Parameters["AllowedSources"] = "10.8.0.0/16"
	w.routes = nil
}

func endpoint(service string, kind ec2types.VpcEndpointType) ec2types.VpcEndpoint {
	e := ec2types.VpcEndpoint{
		ServiceName: aws.String("com.amazonaws.eu-west-1." + service), VpcEndpointType: kind, State: "available",
		PrivateDnsEnabled: aws.Bool(true),
	}
	if kind == ec2types.VpcEndpointTypeGateway {
		e.PrivateDnsEnabled, e.RouteTableIds = nil, []string{"rtb-own"}
	}
	return e
}

func allEndpoints() []ec2types.VpcEndpoint {
	return []ec2types.VpcEndpoint{
		endpoint("ecr.api", ec2types.VpcEndpointTypeInterface), endpoint("ecr.dkr", ec2types.VpcEndpointTypeInterface),
		endpoint("logs", ec2types.VpcEndpointTypeInterface), endpoint("s3", ec2types.VpcEndpointTypeGateway),
		endpoint("dynamodb", ec2types.VpcEndpointTypeGateway),
	}
}

func ipv6(w *world) {
	w.settings.Parameters["AddressFamilies"] = "dualstack"
	w.subnet.Ipv6CidrBlockAssociationSet = []ec2types.SubnetIpv6CidrBlockAssociation{{
		Ipv6CidrBlockState: &ec2types.SubnetCidrBlockState{State: ec2types.SubnetCidrBlockStateCodeAssociated},
	}}
	w.routes = append(w.routes, ec2types.Route{DestinationIpv6CidrBlock: aws.String("::/0"), GatewayId: aws.String("igw-1"), State: ec2types.RouteStateActive})
}

// blockPublicAccess turns VPC Block Public Access on, without exclusions.
func blockPublicAccess(w *world) {
	w.publicAccess.InternetGatewayBlockMode = ec2types.InternetGatewayBlockModeBlockIngress
}

func exclude(w *world, resource string, mode ec2types.InternetGatewayExclusionMode, state ec2types.VpcBlockPublicAccessExclusionState) {
	w.exclusions = append(w.exclusions, ec2types.VpcBlockPublicAccessExclusion{
		ResourceArn: aws.String("arn:aws:ec2:eu-west-1:111122223333:" + resource), InternetGatewayExclusionMode: mode, State: state,
	})
}

func groups(n int, tag ...ec2types.Tag) []ec2types.SecurityGroup {
	return slices.Repeat([]ec2types.SecurityGroup{{Tags: tag}}, n)
}

// slackNeeds sets the parameters of a stack with Slack, and creates two of three secrets.
func slackNeeds(w *world) {
	w.settings.Parameters["SlackTeams"] = "T0123ABCD,T4567EFGH"
	w.settings.Parameters["SlackSigningSecretParameter"] = "/bastion/signing-secret"
	w.settings.Parameters["SlackBotTokenParameter"] = "/bastion/tokens/"
	w.secrets["/bastion/signing-secret"] = ssmtypes.ParameterTypeSecureString
	w.secrets["/bastion/tokens/T0123ABCD"] = ssmtypes.ParameterTypeSecureString
}

// The limits of each parameter can be checked, and have a sentence.
func TestParametersHaveLimitsWithASentence(t *testing.T) {
	for name, p := range serviceTemplate(t).parameters {
		if _, err := regexp.Compile(p.AllowedPattern); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if p.AllowedPattern != "" && !strings.HasPrefix(p.ConstraintDescription, "must be ") {
			t.Errorf("%s: the description of the pattern is %q", name, p.ConstraintDescription)
		}
		if (p.MinValue == nil) != (p.MaxValue == nil) {
			t.Errorf("%s has one limit only", name)
		}
		if p.Default != nil && p.refuses(fmt.Sprint(p.Default)) != "" {
			t.Errorf("%s does not accept its default: it %s", name, p.refuses(fmt.Sprint(p.Default)))
		}
	}
}

// What the checks compute with is what the template has.
func TestChecksKnowTheTemplatesNumbers(t *testing.T) {
	resources := field(serviceTemplate(t).root, "Resources")
	cpu := field(resources, "TaskDefinition", "Properties", "Cpu")
	if cpu == nil || cpu.Value != fmt.Sprint(taskVCPU*1024) {
		t.Errorf("Cpu is %+v, and taskVCPU is %g", cpu, taskVCPU)
	}
	reserved := 0
	for i := 1; i < len(resources.Content); i += 2 {
		if field(resources.Content[i], "Properties", "ReservedConcurrentExecutions") != nil {
			reserved++
		}
	}
	if reserved != requestFunctions {
		t.Errorf("%d functions have a reservation, and requestFunctions is %d", reserved, requestFunctions)
	}
}

// The table has, for each check, what is wrong, and the next step in its sentence.
func TestFailedCheckSaysTheNextStep(t *testing.T) {
	for name, test := range map[string]struct {
		wrong func(*world)
		want  []string // one for each sentence
	}{
		"nothing wrong": {func(*world) {}, nil},
		"no go":         {func(w *world) { w.missingTools = []string{"go"} }, []string{"https://go.dev/dl"}},
		"limits of the template": {func(w *world) {
			for name, value := range map[string]string{
				"SshPort": "80", "IdleTime": "15 m", "UseSpot": "yes", "LogRetentionDays": "10", "QuotaPerOwner": "101", "JwtIssuer": "https://" + strings.Repeat("a", 250),
				"PermissionsBoundary": "Boundary",
			} {
				w.settings.Parameters[name] = value
			}
		}, []string{
			`IdleTime is "15 m": it must be a duration, such as 45m, 2h or 1h30m.`, "it must have at most 250 characters", `LogRetentionDays is "10": it must be one of 1, 3, 5,`,
			`PermissionsBoundary is "Boundary": it must be the ARN of a managed policy`, `QuotaPerOwner is "101": it must be a number from 1 to 100.`,
			`SshPort is "80": it must be 22, 443, or a port from 1024 to 65535.`, `UseSpot is "yes": it must be one of true, false.`,
		}},
		"a misspelling":          {func(w *world) { w.settings.Parameters["QuotaTotl"] = "1" }, []string{"no parameter QuotaTotl"}},
		"no whole number":        {func(w *world) { w.settings.Parameters["QuotaPerOwner"] = "2.5" }, []string{`QuotaPerOwner is "2.5": it must be a whole number.`}},
		"a quota of zero":        {func(w *world) { w.settings.Parameters["QuotaTotal"] = "0" }, []string{`QuotaTotal is "0": it must be a number from 1 to 1000.`}},
		"a negative concurrency": {func(w *world) { w.settings.Parameters["RequestConcurrency"] = "-1" }, []string{`RequestConcurrency is "-1": it must be a number from 0 to 1000.`}},
		"quotas that contradict": {func(w *world) { w.settings.Parameters["QuotaTotal"] = "2" }, []string{"The functions do not start with these parameters: the total quota (2) must not be less than the quota of one owner (3): change PARAMETERS."}},
		"parameters that the functions refuse": {func(w *world) {
			for name, value := range map[string]string{
				"IdleTime": "30s", "WarningTime": "8h", "Admins": "arn:aws:sts::111122223333:assumed-role/Operator/me,jwt:https://issuer.example#me", "DefaultLifetime": "99999999999h",
				"PublicAddress": "false",
			} {
				w.settings.Parameters[name] = value
			}
			w.routes = []ec2types.Route{route("0.0.0.0/0", "nat-1")}
		}, []string{`DefaultLifetime is "99999999999h": want a duration`, `Admins is "arn:aws:sts::111122223333:assumed-role/Operator/me": want a user or role`}},
		"parameters that contradict": {func(w *world) {
			for name, value := range map[string]string{
				"IdleTime": "30s", "WarningTime": "8h", "Admins": "jwt:https://issuer.example#me", "PublicAddress": "false",
			} {
				w.settings.Parameters[name] = value
			}
			w.routes = []ec2types.Route{route("0.0.0.0/0", "nat-1")}
		}, []string{
			"the warning time before a deadline (8h) must be shorter", "requests must name their source", "IdleTime is 30s",
			"Admins has jwt:https://issuer.example#me, which no caller can be: requests are authorized by IAM",
		}},
		"a quota of words":       {func(w *world) { w.settings.Parameters["QuotaTotal"] = "many" }, []string{"set a whole number"}},
		"a concurrency of words": {func(w *world) { w.settings.Parameters["RequestConcurrency"] = "some" }, []string{`RequestConcurrency is "some": set a whole number`}},
		"a reservation":          {func(w *world) { w.settings.Parameters["RequestConcurrency"] = "226" }, []string{"RequestConcurrency=226 reserves"}},
		"the stack's own reservation": {func(w *world) {
			w.unreserved = 104
			w.settings.Parameters["RequestConcurrency"] = "2"
			w.add("bastion", types.StackStatusCreateComplete).params["RequestConcurrency"] = "1"
		}, nil},
		"destinations, all kinds": {func(w *world) {
			w.settings.Parameters["AllowedDestinations"] = "10.0.0.0/8,10.0.0.0/8:53,0.0.0.0/0:444"
			w.settings.Parameters["AllowedDestinationsIpv6"] = "fd00::/8,2001:db8::/32:5432"
			w.settings.Parameters["DnsServers"] = "10.0.0.10,10.0.0.11"
		}, nil},
		"destinations, twice and with host bits": {func(w *world) {
			w.settings.Parameters["AllowedDestinations"] = "10.0.0.0/8,10.0.0.0/8,10.1.2.3/8"
			w.settings.Parameters["AllowedDestinationsIpv6"] = "fd00::/8,fd00:0::/8,fd00::1/8"
		}, []string{
			"AllowedDestinations: 10.0.0.0/8 is in the list twice: remove one",
			"AllowedDestinations: 10.1.2.3/8 has bits set after the prefix length: write 10.0.0.0/8",
			"AllowedDestinationsIpv6: fd00::/8 and fd00:0::/8 are the same rule: remove one",
			"AllowedDestinationsIpv6: fd00::1/8 has bits set after the prefix length: write fd00::/8",
		}},
		"destinations, not addresses": {func(w *world) { w.settings.Parameters["AllowedDestinations"] = "10.0.0.0/33,300.0.0.0/8" },
			[]string{`AllowedDestinations: "10.0.0.0/33" is not CIDR`, `AllowedDestinations: "300.0.0.0/8" is not CIDR`}},
		"destinations, one too many": {func(w *world) {
			w.settings.Parameters["AllowedDestinations"] = "10.0.0.0/8,10.0.0.0/8:1"
			for port := range 19 {
				w.settings.Parameters["AllowedDestinations"] += fmt.Sprint(",10.0.0.0/8:", port+2)
			}
			w.settings.Parameters["DnsServers"] = "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4"
		}, []string{"DnsServers: it must be at most three IPv4 addresses", "AllowedDestinations: it must be one to twenty entries"}},
		"destinations, none, and of the other family": {func(w *world) {
			w.settings.Parameters["AllowedDestinations"] = ""
			w.settings.Parameters["AllowedDestinationsIpv6"] = "10.0.0.0/8"
		}, []string{"AllowedDestinations: it must be one to twenty entries", "AllowedDestinationsIpv6: it must be at most four entries of the form CIDR, CIDR:PORT or CIDR:FROM-TO, such as fd00::/8"}},
		"tags, too long": {func(w *world) {
			w.settings.Parameters["ResourceTags"] = "K0=v"
			for i := range 20 {
				w.settings.Parameters["ResourceTags"] += fmt.Sprintf(",K%d=%s", i+1, strings.Repeat("v", 250))
			}
		}, []string{"ResourceTags: it must have at most 4000 characters"}},
		"destinations, built-in rules": {func(w *world) {
			w.settings.Parameters["AllowedDestinations"] = "0.0.0.0/0:443,10.0.0.10/32:53"
			w.settings.Parameters["AllowedDestinationsIpv6"] = "::/0:443"
			w.settings.Parameters["DnsServers"] = "10.0.0.10"
		}, []string{"AllowedDestinations: 0.0.0.0/0:443 is a rule", "AllowedDestinations: 10.0.0.10/32:53 is a rule", "AllowedDestinationsIpv6: ::/0:443 is a rule"}},
		"tags": {func(w *world) { w.settings.Parameters["ResourceTags"] = "CostCenter=1,Bastion:stack=mine,CostCenter=2" },
			[]string{`ResourceTags: the key "Bastion:stack" has the prefix bastion:`, "ResourceTags: there are two tags with the key CostCenter"}},
		"sources": {func(w *world) {
			w.settings.Parameters["AllowedSources"] = "10.8.0.0/16,10.8.0.0/16,10.8.0.1/16,0.0.0.0/0"
		}, []string{
			"AllowedSources: 10.8.0.0/16 is in the list twice", "AllowedSources: 10.8.0.1/16 has bits set after the prefix length: write 10.8.0.0/16",
			"AllowedSources: a caller could open the security group to any source address by 0.0.0.0/0",
		}},
		"DNS servers, twice and none": {func(w *world) { w.settings.Parameters["DnsServers"] = "10.0.0.10,10.0.0.10,300.0.0.1" },
			[]string{"DnsServers: 10.0.0.10 is in the list twice", `DnsServers: "300.0.0.1" is not an IPv4 address`}},
		"no credentials":   {func(w *world) { w.fail["GetCallerIdentity"] = errTest }, []string{"aws sso login", "not checked"}},
		"no such VPC":      {func(w *world) { w.fail["DescribeVpcAttribute"] = refusal("InvalidVpcID.NotFound", "no") }, []string{"aws ec2 describe-vpcs"}},
		"VPC not readable": {func(w *world) { w.fail["DescribeVpcAttribute"] = errTest }, []string{"not possible to check the VPC's DNS settings"}},
		"no DNS":           {func(w *world) { w.dns[ec2types.VpcAttributeNameEnableDnsSupport] = false }, []string{"--enable-dns-support"}},
		"no DNS names for endpoints": {func(w *world) {
			private(w)
			w.endpoints = allEndpoints()
			w.dns[ec2types.VpcAttributeNameEnableDnsHostnames] = false
		}, []string{"--enable-dns-hostnames"}},
		"a zone without Fargate": {func(w *world) { w.subnet.AvailabilityZoneId = aws.String("usw1-az2"); w.region = "us-west-1" },
			[]string{"in the zone usw1-az2, which has no Fargate: use subnets in usw1-az1, usw1-az3"}},
		"a zone with Fargate": {func(w *world) { w.subnet.AvailabilityZoneId = aws.String("usw1-az3"); w.region = "us-west-1" }, nil},
		"Tokyo, no Fargate": {func(w *world) { w.subnet.AvailabilityZoneId = aws.String("apne1-az3"); w.region = "ap-northeast-1" },
			[]string{"use subnets in apne1-az1, apne1-az2, apne1-az4"}},
		"Beijing, no Fargate": {func(w *world) { w.subnet.AvailabilityZoneId = aws.String("cnn1-az4"); w.region = "cn-north-1" },
			[]string{"use subnets in cnn1-az1, cnn1-az2"}},
		"a Local Zone": {func(w *world) { w.zones["euw1-az1"] = "local-zone" },
			[]string{"in the zone euw1-az1, a local-zone, where Fargate does not run: use a subnet in an Availability Zone"}},
		"a Wavelength Zone": {func(w *world) { w.zones["euw1-az1"] = "wavelength-zone" }, []string{"a wavelength-zone"}},
		"an Outpost": {func(w *world) {
			w.subnet.OutpostArn = aws.String("arn:aws:outposts:eu-west-1:111122223333:outpost/op-1")
		},
			[]string{"on the Outpost arn:aws:outposts:eu-west-1:111122223333:outpost/op-1, where Fargate does not run"}},
		"zones not readable": {func(w *world) { w.fail["DescribeAvailabilityZones"] = errTest }, []string{"not possible to check the subnets, their zones and routes"}},
		"public access blocked": {blockPublicAccess,
			[]string{"(block-ingress) lets no traffic from the internet into " + testSubnet + ": exclude each with aws ec2 create-vpc-block-public-access-exclusion --region eu-west-1 --internet-gateway-exclusion-mode allow-bidirectional --subnet-id " + testSubnet + ", or set PublicAddress=false"}},
		"no exclusions allowed": {func(w *world) {
			blockPublicAccess(w)
			w.publicAccess.ExclusionsAllowed = ec2types.VpcBlockPublicAccessExclusionsAllowedNotAllowed
		}, []string{"ask the administrators of your organization"}},
		"the subnet excluded": {func(w *world) {
			blockPublicAccess(w)
			exclude(w, "subnet/"+testSubnet, ec2types.InternetGatewayExclusionModeAllowBidirectional, ec2types.VpcBlockPublicAccessExclusionStateCreateComplete)
		}, nil},
		"the VPC excluded, on the second page": {func(w *world) {
			blockPublicAccess(w)
			exclude(w, "vpc/vpc-other", ec2types.InternetGatewayExclusionModeAllowBidirectional, ec2types.VpcBlockPublicAccessExclusionStateCreateComplete)
			exclude(w, "vpc/"+testVPC, ec2types.InternetGatewayExclusionModeAllowBidirectional, ec2types.VpcBlockPublicAccessExclusionStateUpdateComplete)
		}, nil},
		"excluded for egress": {func(w *world) {
			blockPublicAccess(w)
			exclude(w, "vpc/"+testVPC, ec2types.InternetGatewayExclusionModeAllowEgress, ec2types.VpcBlockPublicAccessExclusionStateCreateComplete)
		}, []string{"lets no traffic from the internet"}},
		"excluded before": {func(w *world) {
			blockPublicAccess(w)
			exclude(w, "vpc/"+testVPC, ec2types.InternetGatewayExclusionModeAllowBidirectional, ec2types.VpcBlockPublicAccessExclusionStateDeleteComplete)
		}, []string{"lets no traffic from the internet"}},
		"public access blocked, private bastions": {func(w *world) {
			blockPublicAccess(w)
			private(w)
			w.routes = []ec2types.Route{route("0.0.0.0/0", "nat-1")}
		}, nil},
		"public access not readable": {func(w *world) { w.fail["DescribeVpcBlockPublicAccessOptions"] = errTest }, []string{"not possible to check VPC Block Public Access"}},
		"exclusions not readable": {func(w *world) { blockPublicAccess(w); w.fail["DescribeVpcBlockPublicAccessExclusions"] = errTest },
			[]string{"list exclusions"}},
		"concurrency not readable": {func(w *world) { w.fail["GetAccountSettings"] = errTest }, []string{"not possible to check the Lambda concurrency"}},
		"no such subnet":           {func(w *world) { w.fail["DescribeSubnets"] = refusal("InvalidSubnetID.NotFound", "no") }, []string{"aws ec2 describe-subnets"}},
		"another VPC's":            {func(w *world) { w.subnet.VpcId = aws.String("vpc-other") }, []string{"is in vpc-other"}},
		"a full subnet":            {func(w *world) { w.subnet.AvailableIpAddressCount = aws.Int32(0) }, []string{"no free address"}},
		"no public route":          {func(w *world) { w.routes = nil }, []string{"use a public subnet"}},
		"NAT, and public":          {func(w *world) { w.routes = []ec2types.Route{route("0.0.0.0/0", "nat-1")} }, []string{"use a public subnet"}},
		"a dead route":             {func(w *world) { w.routes[0].State = ec2types.RouteStateBlackhole }, []string{"use a public subnet"}},
		"private, no way":          {private, []string{"no interface endpoint for ecr.api, no interface endpoint for ecr.dkr, no interface endpoint for logs, no gateway endpoint for s3, no gateway endpoint for dynamodb: add a NAT"}},
		"private, NAT":             {func(w *world) { private(w); w.routes = []ec2types.Route{route("0.0.0.0/0", "nat-1")} }, nil},
		"private, public route": {func(w *world) { private(w); w.routes = []ec2types.Route{route("0.0.0.0/0", "igw-1")} },
			[]string{"add a NAT gateway"}},
		"private, endpoints": {func(w *world) { private(w); w.endpoints = allEndpoints() }, nil},
		"one endpoint missing": {func(w *world) { private(w); w.endpoints = allEndpoints()[1:] },
			[]string{"the VPC has no interface endpoint for ecr.api: add"}},
		"an endpoint without DNS": {func(w *world) {
			private(w)
			w.endpoints = allEndpoints()
			w.endpoints[2].PrivateDnsEnabled = aws.Bool(false)
		},
			[]string{"the VPC has no interface endpoint for logs: add"}},
		"an endpoint elsewhere": {func(w *world) {
			private(w)
			w.endpoints = allEndpoints()
			w.endpoints[3].RouteTableIds = []string{"rtb-main"}
		},
			[]string{"the VPC has no gateway endpoint for s3: add"}},
		"an endpoint to be": {func(w *world) { private(w); w.endpoints = allEndpoints(); w.endpoints[4].State = "pendingAcceptance" },
			[]string{"the VPC has no gateway endpoint for dynamodb: add"}},
		"no role":           {func(w *world) { w.noRole = true }, []string{"aws iam create-service-linked-role"}},
		"IPv6":              {ipv6, nil},
		"no IPv6 for tasks": {func(w *world) { ipv6(w); w.dualStack = "disabled" }, []string{"--name dualStackIPv6"}},
		"no IPv6, by the root user": {func(w *world) { ipv6(w); w.dualStack, w.ownDualStack, w.isRoot = "disabled", "enabled", true },
			[]string{"--name dualStackIPv6"}},
		"IPv6, by the root user": {func(w *world) { ipv6(w); w.ownDualStack, w.isRoot = "disabled", true }, nil},
		"settings not readable":  {func(w *world) { ipv6(w); w.fail["ListAccountSettings"] = refusal("AccessDeniedException", "no") }, []string{"not possible to check the ECS setting dualStackIPv6"}},
		"no IPv6 needed":         {func(w *world) { w.dualStack = "disabled" }, nil},
		"no IPv6 prefix":         {func(w *world) { ipv6(w); w.subnet.Ipv6CidrBlockAssociationSet = nil }, []string{"no IPv6 prefix"}},
		"no IPv6 route":          {func(w *world) { ipv6(w); w.routes = w.routes[:1] }, []string{"no route for ::/0"}},
		"few vCPU":               {func(w *world) { w.quotas[quotaOnDemand] = 6 }, []string{"6 vCPU, enough for 24 bastions, but QuotaTotal is 50: set QuotaTotal=24 or less in PARAMETERS, or run aws service-quotas request-service-quota-increase --region eu-west-1 --service-code fargate --quota-code L-3032A538 --desired-value 13"}},
		"no vCPU":                {func(w *world) { w.quotas[quotaOnDemand] = 0 }, []string{"enough for 0 bastions, but QuotaTotal is 50: run aws service-quotas"}},
		"no quota value":         {func(w *world) { delete(w.quotas, quotaOnDemand) }, []string{"not possible to check the Fargate vCPU quota (the response has no value)"}},
		"few, but enough":        {func(w *world) { w.quotas[quotaOnDemand] = 6; w.settings.Parameters["QuotaTotal"] = "24" }, nil},
		"few of Spot":            {func(w *world) { w.quotas[quotaSpot] = 6; w.settings.Parameters["UseSpot"] = "true" }, []string{"Fargate Spot quota is 6"}},
		"Spot not used":          {func(w *world) { w.quotas[quotaSpot] = 0 }, nil},
		"quota not readable":     {func(w *world) { w.fail["GetServiceQuota "+quotaGroups] = errTest }, []string{"not possible to check the security group quota"}},
		"the default quota": {func(w *world) {
			w.fail["GetServiceQuota "+quotaOnDemand] = refusal("NoSuchResourceException", "never applied")
			w.quotas[quotaOnDemand] = 6
		}, []string{"6 vCPU"}},
		"just enough groups": {func(w *world) { w.groups = groups(2449) }, nil},
		"few groups":         {func(w *world) { w.groups = groups(2450) }, []string{"--quota-code L-E79EC296 --desired-value 2501"}},
		"our own groups": {func(w *world) {
			w.groups = groups(2490, ec2types.Tag{Key: aws.String(awscloud.TagStack), Value: &w.add("bastion", types.StackStatusCreateComplete).id})
		}, nil},
		"Slack, all secrets": {func(w *world) {
			slackNeeds(w)
			w.secrets["/bastion/tokens/T4567EFGH"] = ssmtypes.ParameterTypeSecureString
		}, nil},
		"Slack, a team without token": {slackNeeds, []string{"no parameter /bastion/tokens/T4567EFGH in eu-west-1: run aws ssm put-parameter --region eu-west-1 --type SecureString --name /bastion/tokens/T4567EFGH"}},
		"Slack, one token": {func(w *world) {
			slackNeeds(w)
			w.settings.Parameters["SlackBotTokenParameter"] = "/bastion/token"
			delete(w.secrets, "/bastion/signing-secret")
		}, []string{"no parameter /bastion/signing-secret", "no parameter /bastion/token"}},
		"Slack, not encrypted": {func(w *world) {
			slackNeeds(w)
			w.secrets["/bastion/tokens/T4567EFGH"] = ssmtypes.ParameterTypeString
		}, []string{"/bastion/tokens/T4567EFGH has the type String"}},
		"Slack without a token": {func(w *world) { slackNeeds(w); delete(w.settings.Parameters, "SlackBotTokenParameter") }, []string{"set all three"}},
		"Slack without teams":   {func(w *world) { slackNeeds(w); delete(w.settings.Parameters, "SlackTeams") }, []string{"set all three"}},
		"Slack's not readable":  {func(w *world) { slackNeeds(w); w.fail["GetParameters"] = errTest }, []string{"not possible to check the parameters with Slack's secrets"}},
		"as a stack in review has it": {func(w *world) {
			w.quotas[quotaOnDemand] = 6
			w.add("bastion", types.StackStatusReviewInProgress).params["QuotaTotal"] = "24"
		}, []string{"QuotaTotal is 50"}},
		"as a failed creation had it": {func(w *world) {
			w.unreserved = 104
			w.settings.Parameters["RequestConcurrency"] = "2"
			w.add("bastion", types.StackStatusRollbackComplete).params["RequestConcurrency"] = "1"
		}, []string{"RequestConcurrency in PARAMETERS to 1 at most"}},
		"as the stack has it": {func(w *world) {
			w.quotas[quotaOnDemand] = 6
			w.add("bastion", types.StackStatusCreateComplete).params["QuotaTotal"] = "24"
		}, nil},
	} {
		w := newWorld()
		test.wrong(w)
		err := w.deployment().check(t.Context(), serviceTemplate(t))
		var failed Failed
		if err != nil && !errors.As(err, &failed) {
			t.Errorf("%s: %v", name, err)
		}
		if problem := compare(failed, test.want); problem != "" {
			t.Errorf("%s: %s", name, problem)
		}
	}
}

func compare(got, want []string) string {
	if len(got) != len(want) {
		return fmt.Sprintf("%d sentences, want %d: %q", len(got), len(want), got)
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			return fmt.Sprintf("%q has no %q", got[i], want[i])
		}
	}
	return ""
}

// A warning is printed with its check and again after all checks, and stops nothing.
func TestWarningSaysTheNextStepAndStopsNothing(t *testing.T) {
	for name, test := range map[string]struct {
		wrong func(*world)
		want  []string
	}{
		"nothing": {func(*world) {}, nil},
		"public, no DNS names": {func(w *world) { w.dns[ec2types.VpcAttributeNameEnableDnsHostnames] = false },
			[]string{"--enable-dns-hostnames"}},
		"private, NAT, no DNS names": {func(w *world) {
			private(w)
			w.routes = []ec2types.Route{route("0.0.0.0/0", "nat-1")}
			w.dns[ec2types.VpcAttributeNameEnableDnsHostnames] = false
		}, []string{"--enable-dns-hostnames"}},
		"IPv6, a setting of one's own": {func(w *world) { ipv6(w); w.dualStack, w.ownDualStack = "disabled", "enabled" },
			[]string{"run aws ecs put-account-setting-default --region eu-west-1 --name dualStackIPv6 --value enabled"}},
		"a shared subnet": {func(w *world) { w.subnet.OwnerId = aws.String("444455556666"); blockPublicAccess(w) },
			[]string{"belongs to the account 444455556666"}},
		"a new account": {func(w *world) { w.concurrency, w.unreserved = 10, 10 },
			[]string{"at most 10 executions at a time in this account and region, for all functions together. A request with Prefer: wait is one execution for up to 25 seconds, so 10 people who wait block all other functions, also the reaper: run aws service-quotas request-service-quota-increase --region eu-west-1 --service-code lambda --quota-code L-B99A9384 --desired-value 1000"}},
		"just not enough concurrency": {func(w *world) { w.concurrency, w.unreserved = 99, 99 }, []string{"at most 99 executions"}},
		"just enough concurrency":     {func(w *world) { w.concurrency, w.unreserved = 100, 100 }, nil},
	} {
		w := newWorld()
		test.wrong(w)
		if err := w.deployment().check(t.Context(), serviceTemplate(t)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		checks, summary, _ := strings.Cut(w.out.String(), "\n\n")
		if problem := compare(linesWith(checks, "warning: "), test.want); problem != "" {
			t.Errorf("%s, with its check: %s", name, problem)
		}
		if problem := compare(linesWith(summary, "  - "), test.want); problem != "" {
			t.Errorf("%s, after all checks: %s", name, problem)
		}
	}
}

// linesWith returns the lines of a text that begin with prefix.
func linesWith(text, prefix string) (found []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			found = append(found, line)
		}
	}
	return found
}

func TestWarningsAreListedBesideFailures(t *testing.T) {
	w := newWorld()
	w.dns[ec2types.VpcAttributeNameEnableDnsHostnames] = false
	w.concurrency, w.unreserved = 10, 10
	w.routes = nil
	err := w.deployment().check(t.Context(), serviceTemplate(t))
	if err == nil || !strings.Contains(err.Error(), "1 of the checks failed") {
		t.Errorf("%v", err)
	}
	if out := w.out.String(); !strings.Contains(out, "Warnings, which do not stop the deployment:\n  - enableDnsHostnames") {
		t.Errorf("no warnings in\n%s", out)
	}
}

func TestReservationsMustLeaveConcurrency(t *testing.T) {
	for name, test := range map[string]struct {
		limit, unreserved int32
		reserved, now     int
		want              []string
	}{
		"leaves enough":           {1000, 1000, 225, 0, nil},
		"leaves one too few":      {1000, 1000, 226, 0, []string{"RequestConcurrency=226 reserves that many executions for each of 4 functions. That leaves 96 of the region's 1000 to functions without a reservation, and Lambda requires 100: set RequestConcurrency in PARAMETERS to 225 at most, or run aws service-quotas request-service-quota-increase --region eu-west-1 --service-code lambda --quota-code L-B99A9384 --desired-value 1004"}},
		"others reserve, too":     {1000, 120, 5, 0, nil},
		"others reserve too much": {1000, 120, 6, 0, []string{"RequestConcurrency in PARAMETERS to 5 at most"}},
		"as it is":                {1000, 100, 225, 225, nil},
		"more than it is":         {1000, 100, 226, 225, []string{"RequestConcurrency in PARAMETERS to 225 at most"}},
		"a new account":           {10, 10, 1, 0, []string{"That leaves 6 of the region's 10 to functions without a reservation, and Lambda requires 100: set RequestConcurrency in PARAMETERS to 0 at most, or run aws service-quotas request-service-quota-increase --region eu-west-1 --service-code lambda --quota-code L-B99A9384 --desired-value 1000"}},
	} {
		w := newWorld()
		w.concurrency, w.unreserved = test.limit, test.unreserved
		var r report
		if err := w.deployment().checkConcurrency(t.Context(), &facts{reserved: test.reserved, reservedNow: test.now}, &r); err != nil || len(r.warnings) > 0 {
			t.Errorf("%s: %v; warnings %q", name, err, r.warnings)
		}
		if problem := compare(r.failed, test.want); problem != "" {
			t.Errorf("%s: %s", name, problem)
		}
	}
}

func TestInterruptedChecksFindNothing(t *testing.T) {
	w := newWorld()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.fail["DescribeSubnets"] = ctx.Err()
	if err := w.deployment().check(ctx, serviceTemplate(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if later := w.takeCalls("GetRole", "GetServiceQuota"); len(later) > 0 {
		t.Errorf("the calls are %q", later)
	}
}

// The worlds of this test make every call that a check can make.
func TestOperationsNamesThePermissionsOfTheChecks(t *testing.T) {
	var calls []string
	for _, change := range []func(*world){
		func(w *world) { ipv6(w); slackNeeds(w) },
		blockPublicAccess,
		func(w *world) {
			w.fail["GetServiceQuota "+quotaGroups] = refusal("NoSuchResourceException", "never applied")
		},
	} {
		w := newWorld()
		change(w)
		_ = w.deployment().check(t.Context(), serviceTemplate(t))
		for _, call := range w.calls {
			name, _, _ := strings.Cut(call, " ")
			calls = append(calls, name)
		}
	}
	slices.Sort(calls)
	text, err := os.ReadFile("../../OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "### What is checked\n")
	section, _, _ = strings.Cut(section, "\n#")
	var documented []string
	for _, name := range regexp.MustCompile("`[a-z0-9]+:([A-Za-z]+)`").FindAllStringSubmatch(section, -1) {
		documented = append(documented, name[1])
	}
	slices.Sort(documented)
	if calls, documented := slices.Compact(calls), slices.Compact(documented); !slices.Equal(calls, documented) {
		t.Errorf("the calls are\n%q\nOPERATIONS.md has\n%q", calls, documented)
	}
}

func TestFailedChecksAreListedTogetherBeforeAnyChange(t *testing.T) {
	w := newWorld()
	w.missingTools = []string{"make"}
	w.dns = nil
	w.routes = nil
	w.noRole = true
	w.quotas = map[string]float64{quotaOnDemand: 0, quotaGroups: 0}
	err := w.deployment().Deploy(t.Context())
	if err == nil {
		t.Fatal("the deployment succeeded")
	}
	for _, want := range []string{"6 of the checks failed", "make is not installed", "--enable-dns-support", "public subnet", "service-linked", quotaOnDemand, quotaGroups} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
	if did := w.takeCalls(effects[1:]...); len(did) > 0 {
		t.Errorf("the calls are %q", did)
	}
}

func TestMissingRegionIsAFailure(t *testing.T) {
	w := newWorld()
	d := w.deployment()
	d.Cloud.Region = ""
	if err := d.Deploy(t.Context()); err == nil || !strings.Contains(err.Error(), "REGION=") || len(w.calls) > 0 {
		t.Errorf("%v; calls %q", err, w.calls)
	}
	if err := d.Undeploy(t.Context()); err == nil || !strings.Contains(err.Error(), "REGION=") || len(w.calls) > 0 {
		t.Errorf("%v; calls %q", err, w.calls)
	}
}

func TestInvalidSettingsAreRefused(t *testing.T) {
	for _, test := range []struct {
		change func(*Settings)
		want   string
	}{
		{func(*Settings) {}, ""},
		{func(s *Settings) { s.Stack = "" }, "STACK=bastion"},
		{func(s *Settings) { s.Stack = "it's" }, "STACK is"},
		{func(s *Settings) { s.VPC = "10.0.0.0/8" }, "set VPC to"},
		{func(s *Settings) { s.Subnets = nil }, "SUBNETS is empty"},
		{func(s *Settings) { s.Subnets = []string{testSubnet, testSubnet} }, "listed twice"},
		{func(s *Settings) { s.Subnets = []string{"subnet-x"} }, `"subnet-x"`},
		{func(s *Settings) { s.Parameters["VpcId"] = testVPC }, "VpcId cannot be set here: set VPC="},
		{func(s *Settings) { s.Parameters["ImageUri"] = "x" }, "builds the image"},
	} {
		w := newWorld()
		test.change(&w.settings)
		err := w.settings.Validate()
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("want %q: %v", test.want, err)
		}
		if test.want != "" && (w.deployment().Deploy(t.Context()) == nil || len(w.calls) > 0) {
			t.Errorf("%q: the calls are %q", test.want, w.calls)
		}
	}
	err := Settings{}.Validate()
	for _, want := range []string{"STACK", "VPC", "SUBNETS"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %s in %v", want, err)
		}
	}
}

func TestParseParameters(t *testing.T) {
	got, err := ParseParameters("  Admins=arn:aws:iam::111122223333:role/Operator,iam:1:AROA  TrustedSessionRoles=AWS*\n JwtIssuer=")
	if err != nil || len(got) != 3 || got["TrustedSessionRoles"] != "AWS*" || got["JwtIssuer"] != "" || !strings.HasSuffix(got["Admins"], "Operator,iam:1:AROA") {
		t.Errorf("%q, %v", got, err)
	}
	for words, want := range map[string]string{
		"Admins": "not of the form", `A="b"`: "without quotes", "A='b'": "without quotes", `A=b\c`: "without quotes", "A=1 A=2": "set twice", "=1": "not of the form",
	} {
		if _, err := ParseParameters(words); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", words, err)
		}
	}
}
