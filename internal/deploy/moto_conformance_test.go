//go:build conformance

package deploy

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// motoEC2 is moto's EC2 with the calls that moto does not have.
type motoEC2 struct {
	*ec2.Client
	world *world
}

func (m motoEC2) DescribeVpcBlockPublicAccessOptions(ctx context.Context, in *ec2.DescribeVpcBlockPublicAccessOptionsInput, _ ...func(*ec2.Options)) (*ec2.DescribeVpcBlockPublicAccessOptionsOutput, error) {
	return m.world.DescribeVpcBlockPublicAccessOptions(ctx, in)
}

func (m motoEC2) DescribeVpcBlockPublicAccessExclusions(ctx context.Context, in *ec2.DescribeVpcBlockPublicAccessExclusionsInput, _ ...func(*ec2.Options)) (*ec2.DescribeVpcBlockPublicAccessExclusionsOutput, error) {
	return m.world.DescribeVpcBlockPublicAccessExclusions(ctx, in)
}

// motoAccount is an account in moto. The world answers for quotas and for the calls of
// EC2 and Lambda that moto does not have.
type motoAccount struct {
	t     *testing.T
	world *world
	d     *Deployment
	ec2   *ec2.Client
	ecs   *ecs.Client
	iam   *iam.Client
	ssm   *ssm.Client
	table string // the subnet's route table
}

// newMotoAccount creates a VPC with a public subnet, and the role of ECS.
func newMotoAccount(t *testing.T) *motoAccount {
	url := emulator.Moto(t) // first, because it does not start in a cleaned environment
	cleanEnvironment(t)
	t.Setenv("AWS_ENDPOINT_URL", url)
	const region = "us-west-1" // its two zones in moto have Fargate
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion(region), config.WithHTTPClient(client))
	if err != nil {
		t.Fatal(err)
	}
	a := &motoAccount{t: t, world: newWorld(), ec2: ec2.NewFromConfig(cfg), ecs: ecs.NewFromConfig(cfg), iam: iam.NewFromConfig(cfg), ssm: ssm.NewFromConfig(cfg)}
	a.d = a.world.deployment()
	if a.d.Cloud, err = Connect(t.Context(), region, client); err != nil {
		t.Fatal(err)
	}
	a.d.Cloud.EC2, a.d.Cloud.Quotas, a.d.Cloud.Functions = motoEC2{a.ec2, a.world}, a.world, a.world
	a.createNetwork()
	_, err = a.iam.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String(serviceRole), AssumeRolePolicyDocument: aws.String("{}")})
	a.must(err)
	return a
}

func (a *motoAccount) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *motoAccount) createNetwork() {
	ctx := a.t.Context()
	vpc, err := a.ec2.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.0.0.0/16")})
	a.must(err)
	a.d.Settings.VPC = *vpc.Vpc.VpcId
	a.setDNSNames(true)
	subnet, err := a.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: &a.d.Settings.VPC, CidrBlock: aws.String("10.0.0.0/24")})
	a.must(err)
	a.d.Settings.Subnets = []string{*subnet.Subnet.SubnetId}
	table, err := a.ec2.CreateRouteTable(ctx, &ec2.CreateRouteTableInput{VpcId: &a.d.Settings.VPC})
	a.must(err)
	a.table = *table.RouteTable.RouteTableId
	_, err = a.ec2.AssociateRouteTable(ctx, &ec2.AssociateRouteTableInput{RouteTableId: &a.table, SubnetId: subnet.Subnet.SubnetId})
	a.must(err)
	gateway, err := a.ec2.CreateInternetGateway(ctx, &ec2.CreateInternetGatewayInput{})
	a.must(err)
	_, err = a.ec2.AttachInternetGateway(ctx, &ec2.AttachInternetGatewayInput{InternetGatewayId: gateway.InternetGateway.InternetGatewayId, VpcId: &a.d.Settings.VPC})
	a.must(err)
	_, err = a.ec2.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: &a.table, DestinationCidrBlock: aws.String("0.0.0.0/0"), GatewayId: gateway.InternetGateway.InternetGatewayId})
	a.must(err)
}

func (a *motoAccount) setDNSNames(on bool) {
	_, err := a.ec2.ModifyVpcAttribute(a.t.Context(), &ec2.ModifyVpcAttributeInput{VpcId: &a.d.Settings.VPC, EnableDnsHostnames: &ec2types.AttributeBooleanValue{Value: &on}})
	a.must(err)
}

// createEndpoints creates the endpoints by which tasks start without NAT.
func (a *motoAccount) createEndpoints() {
	for _, e := range allEndpoints() {
		in := &ec2.CreateVpcEndpointInput{
			VpcId: &a.d.Settings.VPC, VpcEndpointType: e.VpcEndpointType, PrivateDnsEnabled: e.PrivateDnsEnabled,
			ServiceName: aws.String("com.amazonaws." + a.d.Cloud.Region + (*e.ServiceName)[len("com.amazonaws.eu-west-1"):]),
		}
		if e.VpcEndpointType == ec2types.VpcEndpointTypeGateway {
			in.RouteTableIds = []string{a.table}
		} else {
			in.SubnetIds = a.d.Settings.Subnets
		}
		_, err := a.ec2.CreateVpcEndpoint(a.t.Context(), in)
		a.must(err)
	}
}

// finds does all checks and compares what they find.
func (a *motoAccount) finds(when string, failed, warnings []string) {
	a.t.Helper()
	var r report
	if err := a.d.checkAll(a.t.Context(), serviceTemplate(a.t), &r); err != nil {
		a.t.Fatalf("%s: %v", when, err)
	}
	if problem := compare(r.failed, failed); problem != "" {
		a.t.Errorf("%s: failures: %s", when, problem)
	}
	if problem := compare(r.warnings, warnings); problem != "" {
		a.t.Errorf("%s: warnings: %s", when, problem)
	}
}

// The checks read what EC2, ECS, IAM and Parameter Store of moto return.
func TestChecksOnMoto(t *testing.T) {
	a := newMotoAccount(t)
	parameters := a.d.Settings.Parameters
	a.finds("a good account", nil, nil)

	a.setDNSNames(false)
	a.finds("public, no DNS names", nil, []string{"--enable-dns-hostnames"})
	_, err := a.ec2.DeleteRoute(t.Context(), &ec2.DeleteRouteInput{RouteTableId: &a.table, DestinationCidrBlock: aws.String("0.0.0.0/0")})
	a.must(err)
	a.finds("public, no route", []string{"use a public subnet"}, []string{"--enable-dns-hostnames"})
	parameters["PublicAddress"], parameters["AllowedSources"] = "false", "10.8.0.0/16"
	a.finds("private, no route", []string{"no interface endpoint for ecr.api", "enableDnsHostnames is off in the VPC, so its endpoints"}, nil)
	a.setDNSNames(true)
	a.createEndpoints()
	a.finds("private, endpoints", nil, nil)

	parameters["AddressFamilies"] = "ipv6"
	a.finds("private, no IPv6", []string{"has no IPv6 prefix", "--name dualStackIPv6"}, nil)
	_, err = a.ecs.PutAccountSetting(t.Context(), &ecs.PutAccountSettingInput{Name: dualStack, Value: aws.String("enabled")})
	a.must(err)
	a.finds("private, IPv6 for tasks", []string{"has no IPv6 prefix"}, nil)
	parameters["AddressFamilies"] = "ipv4"

	slackNeeds(a.world)
	for name, kind := range map[string]ssmtypes.ParameterType{"/bastion/signing-secret": ssmtypes.ParameterTypeSecureString, "/bastion/tokens/T0123ABCD": ssmtypes.ParameterTypeString} {
		_, err := a.ssm.PutParameter(t.Context(), &ssm.PutParameterInput{Name: &name, Value: aws.String("secret"), Type: kind})
		a.must(err)
	}
	a.finds("Slack", []string{"no parameter /bastion/tokens/T4567EFGH", "/bastion/tokens/T0123ABCD has the type String"}, nil)
	for _, name := range []string{"SlackTeams", "SlackSigningSecretParameter", "SlackBotTokenParameter"} {
		delete(parameters, name)
	}

	_, err = a.iam.DeleteRole(t.Context(), &iam.DeleteRoleInput{RoleName: aws.String(serviceRole)})
	a.must(err)
	a.finds("no role", []string{"aws iam create-service-linked-role"}, nil)
	a.d.Settings.VPC, a.d.Settings.Subnets = testVPC, []string{testSubnet}
	a.finds("another VPC", []string{"aws ec2 describe-subnets", "aws ec2 describe-vpcs", "aws iam create-service-linked-role"}, nil)
}
