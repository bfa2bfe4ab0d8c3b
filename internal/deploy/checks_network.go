package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// isCode reports whether err is an error of AWS with that code.
func isCode(err error, code string) bool {
	refusal := smithy.APIError(nil)
	return errors.As(err, &refusal) && refusal.ErrorCode() == code
}

// network is the part of the VPC that the checks need.
type network struct {
	region    string
	tables    []types.RouteTable
	endpoints []types.VpcEndpoint
	zones     map[string]string // the type of each zone of the region, by its ID
}

// fargateZones are the IDs of the zones that have Fargate, for the regions in which not
// all zones have it: "Supported Regions for Amazon ECS on AWS Fargate", Linux containers,
// in the Amazon ECS Developer Guide.
var fargateZones = map[string][]string{
	"us-west-1":      {"usw1-az1", "usw1-az3"},
	"ap-northeast-1": {"apne1-az1", "apne1-az2", "apne1-az4"},
	"cn-north-1":     {"cnn1-az1", "cnn1-az2"},
}

func (d *Deployment) checkSubnets(ctx context.Context, f *facts, r *report) error {
	out, err := d.Cloud.EC2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: d.Settings.Subnets})
	if isCode(err, "InvalidSubnetID.NotFound") {
		r.fail("Not all of SUBNETS are in %s (%v): list subnets with aws ec2 describe-subnets --region %[1]s.", d.Cloud.Region, err)
		return nil
	}
	if err != nil {
		return err
	}
	known, err := d.network(ctx)
	if err != nil {
		return err
	}
	for _, subnet := range out.Subnets {
		if aws.ToString(subnet.VpcId) != d.Settings.VPC {
			r.fail("The subnet %s is in %s, not in %s: use subnets of that VPC.", aws.ToString(subnet.SubnetId), aws.ToString(subnet.VpcId), d.Settings.VPC)
			continue
		}
		f.subnets = append(f.subnets, subnet)
		known.checkZone(subnet, r)
		known.checkRoutes(subnet, f, r)
	}
	return nil
}

func (d *Deployment) network(ctx context.Context) (network, error) {
	n := network{region: d.Cloud.Region, zones: map[string]string{}}
	zones, err := d.Cloud.EC2.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{AllAvailabilityZones: aws.Bool(true)})
	if err != nil {
		return n, fmt.Errorf("list zones: %w", err)
	}
	for _, zone := range zones.AvailabilityZones {
		n.zones[aws.ToString(zone.ZoneId)] = aws.ToString(zone.ZoneType)
	}
	inVPC := []types.Filter{{Name: aws.String("vpc-id"), Values: []string{d.Settings.VPC}}}
	tables := ec2.NewDescribeRouteTablesPaginator(d.Cloud.EC2, &ec2.DescribeRouteTablesInput{Filters: inVPC})
	for tables.HasMorePages() {
		page, err := tables.NextPage(ctx)
		if err != nil {
			return n, fmt.Errorf("list route tables: %w", err)
		}
		n.tables = append(n.tables, page.RouteTables...)
	}
	endpoints := ec2.NewDescribeVpcEndpointsPaginator(d.Cloud.EC2, &ec2.DescribeVpcEndpointsInput{Filters: inVPC})
	for endpoints.HasMorePages() {
		page, err := endpoints.NextPage(ctx)
		if err != nil {
			return n, fmt.Errorf("list endpoints: %w", err)
		}
		n.endpoints = append(n.endpoints, page.VpcEndpoints...)
	}
	return n, nil
}

// checkZone checks that the subnet is where Fargate is. "Amazon ECS clusters" in the
// Amazon ECS Developer Guide: in Local Zones, in Wavelength Zones and on Outposts,
// clusters have EC2 instances.
func (n network) checkZone(subnet types.Subnet, r *report) {
	id, zone := aws.ToString(subnet.SubnetId), aws.ToString(subnet.AvailabilityZoneId)
	where := ""
	switch {
	case subnet.OutpostArn != nil:
		where = "on the Outpost " + *subnet.OutpostArn
	case n.zones[zone] != "" && n.zones[zone] != "availability-zone":
		where = fmt.Sprintf("in the zone %s, a %s", zone, n.zones[zone])
	}
	with, some := fargateZones[n.region]
	switch {
	case where != "":
		r.fail("The subnet %s is %s, where Fargate does not run: use a subnet in an Availability Zone of the region.", id, where)
	case some && !slices.Contains(with, zone):
		r.fail("The subnet %s is in the zone %s, which has no Fargate: use subnets in %s.", id, zone, strings.Join(with, ", "))
	}
}

// checkRoutes checks that tasks in the subnet can start and be reached.
func (n network) checkRoutes(subnet types.Subnet, f *facts, r *report) {
	id := aws.ToString(subnet.SubnetId)
	if aws.ToInt32(subnet.AvailableIpAddressCount) == 0 {
		r.fail("The subnet %s has no free address: use another.", id)
	}
	if f.ipv6 && !hasIPv6(subnet) {
		r.fail("The subnet %s has no IPv6 prefix: associate one, or set AddressFamilies=ipv4.", id)
	}
	table, found := n.tableOf(id)
	if !found {
		r.fail("The subnet %s has no route table that you are allowed to see: ask the VPC's owner.", id)
		return
	}
	out := defaultRoute(table, "0.0.0.0/0")
	switch {
	case f.public && out != internet:
		r.fail("The subnet %s has no route for 0.0.0.0/0 to an internet gateway, so public addresses in it cannot be reached: use a public subnet, or set PublicAddress=false and AllowedSources.", id)
	case !f.public && out != translated:
		f.endpoints = true
		if missing := n.missing(aws.ToString(table.RouteTableId)); len(missing) > 0 {
			r.fail("The subnet %s has no route for 0.0.0.0/0 that a task without a public address can use, and the VPC has no %s: add a NAT gateway, or these endpoints (interface endpoints with private DNS).", id, strings.Join(missing, ", no "))
		}
	}
	if f.public && f.ipv6 && defaultRoute(table, "::/0") != internet {
		r.fail("The subnet %s has no route for ::/0 to an internet gateway, so its IPv6 addresses cannot be reached: add one, or set AddressFamilies=ipv4.", id)
	}
}

func hasIPv6(subnet types.Subnet) bool {
	return slices.ContainsFunc(subnet.Ipv6CidrBlockAssociationSet, func(a types.SubnetIpv6CidrBlockAssociation) bool {
		return a.Ipv6CidrBlockState != nil && a.Ipv6CidrBlockState.State == types.SubnetCidrBlockStateCodeAssociated
	})
}

// tableOf returns the subnet's own route table, or else the VPC's main one.
func (n network) tableOf(subnet string) (types.RouteTable, bool) {
	var main types.RouteTable
	found := false
	for _, table := range n.tables {
		for _, a := range table.Associations {
			if aws.ToString(a.SubnetId) == subnet {
				return table, true
			}
			if aws.ToBool(a.Main) {
				main, found = table, true
			}
		}
	}
	return main, found
}

// The targets of a default route.
const (
	noRoute    = ""
	internet   = "internet"   // an internet gateway, which only public addresses can use
	translated = "translated" // NAT, or a transit gateway
)

func defaultRoute(table types.RouteTable, to string) string {
	for _, route := range table.Routes {
		if route.State != types.RouteStateActive || aws.ToString(route.DestinationCidrBlock) != to && aws.ToString(route.DestinationIpv6CidrBlock) != to {
			continue
		}
		if strings.HasPrefix(aws.ToString(route.GatewayId), "igw-") {
			return internet
		}
		return translated
	}
	return noRoute
}

// missing returns the endpoints that a task needs to start without a default route, and
// the VPC does not have. Image layers come from S3.
func (n network) missing(table string) (names []string) {
	for _, need := range []struct {
		service string
		gateway bool
	}{{"ecr.api", false}, {"ecr.dkr", false}, {"logs", false}, {"s3", true}, {"dynamodb", true}} {
		if !slices.ContainsFunc(n.endpoints, func(e types.VpcEndpoint) bool {
			return strings.HasSuffix(aws.ToString(e.ServiceName), "."+n.region+"."+need.service) && serves(e, table)
		}) {
			kind := "interface"
			if need.gateway {
				kind = "gateway"
			}
			names = append(names, kind+" endpoint for "+need.service)
		}
	}
	return names
}

func serves(e types.VpcEndpoint, table string) bool {
	if !strings.EqualFold(string(e.State), string(types.StateAvailable)) {
		return false
	}
	if e.VpcEndpointType == types.VpcEndpointTypeGateway {
		return slices.Contains(e.RouteTableIds, table)
	}
	return aws.ToBool(e.PrivateDnsEnabled)
}

// checkDNS: private zones and endpoints with private DNS need both attributes ("DNS
// attributes for your VPC", Amazon VPC User Guide).
func (d *Deployment) checkDNS(ctx context.Context, f *facts, r *report) error {
	support, err := d.Cloud.EC2.DescribeVpcAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: &d.Settings.VPC, Attribute: types.VpcAttributeNameEnableDnsSupport})
	if isCode(err, "InvalidVpcID.NotFound") {
		r.fail("There is no VPC %s in %s: list VPCs with aws ec2 describe-vpcs --region %[2]s.", d.Settings.VPC, d.Cloud.Region)
		return nil
	}
	if err != nil {
		return err
	}
	names, err := d.Cloud.EC2.DescribeVpcAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: &d.Settings.VPC, Attribute: types.VpcAttributeNameEnableDnsHostnames})
	if err != nil {
		return err
	}
	turnOn := "aws ec2 modify-vpc-attribute --region " + d.Cloud.Region + " --vpc-id " + d.Settings.VPC
	if !isOn(support.EnableDnsSupport) {
		r.fail("enableDnsSupport is off in the VPC, so its resolver does not respond, and tasks cannot start: run %s --enable-dns-support.", turnOn)
	}
	switch {
	case isOn(names.EnableDnsHostnames):
	case f.endpoints:
		r.fail("enableDnsHostnames is off in the VPC, so its endpoints have no private DNS, and tasks cannot start without it: run %s --enable-dns-hostnames.", turnOn)
	default:
		r.warn("enableDnsHostnames is off in the VPC, so people can connect to targets by address, but not by names in private zones: to change that, run %s --enable-dns-hostnames.", turnOn)
	}
	return nil
}

func isOn(attribute *types.AttributeBooleanValue) bool {
	return attribute != nil && aws.ToBool(attribute.Value)
}

// checkBlockPublicAccess: where it is on, internet gateways let no traffic in from the
// internet, except to excluded VPCs and subnets ("Block public access to VPCs and
// subnets", Amazon VPC User Guide).
func (d *Deployment) checkBlockPublicAccess(ctx context.Context, f *facts, r *report) error {
	if !f.public {
		return nil
	}
	var blocked []string
	for _, subnet := range f.subnets {
		// The setting of the subnet's owner applies, which others cannot read.
		if owner := aws.ToString(subnet.OwnerId); owner != f.caller.AccountID {
			r.warn("The subnet %s belongs to the account %s, so it was not checked whether VPC Block Public Access is on there. If it is, people cannot connect: ask the owner.", aws.ToString(subnet.SubnetId), owner)
			continue
		}
		blocked = append(blocked, aws.ToString(subnet.SubnetId))
	}
	out, err := d.Cloud.EC2.DescribeVpcBlockPublicAccessOptions(ctx, &ec2.DescribeVpcBlockPublicAccessOptionsInput{})
	if err != nil {
		return err
	}
	options := out.VpcBlockPublicAccessOptions
	if options == nil || options.InternetGatewayBlockMode == "" || options.InternetGatewayBlockMode == types.InternetGatewayBlockModeOff {
		return nil
	}
	open, err := d.exclusions(ctx)
	if err != nil {
		return err
	}
	blocked = slices.DeleteFunc(blocked, func(subnet string) bool { return open[subnet] || open[d.Settings.VPC] })
	if len(blocked) == 0 {
		return nil
	}
	exclude := fmt.Sprintf("exclude each with aws ec2 create-vpc-block-public-access-exclusion --region %s --internet-gateway-exclusion-mode allow-bidirectional --subnet-id %s", d.Cloud.Region, blocked[0])
	if options.ExclusionsAllowed == types.VpcBlockPublicAccessExclusionsAllowedNotAllowed {
		exclude = "ask the administrators of your organization, which allows no exclusions, to allow one"
	}
	r.fail("VPC Block Public Access (%s) lets no traffic from the internet into %s: %s, or set PublicAddress=false and AllowedSources.", options.InternetGatewayBlockMode, strings.Join(blocked, ", "), exclude)
	return nil
}

// exclusions returns the IDs of the VPCs and subnets that are excluded from VPC Block
// Public Access in both directions.
func (d *Deployment) exclusions(ctx context.Context) (map[string]bool, error) {
	open := map[string]bool{}
	in := &ec2.DescribeVpcBlockPublicAccessExclusionsInput{Filters: []types.Filter{
		{Name: aws.String("internet-gateway-exclusion-mode"), Values: []string{string(types.InternetGatewayExclusionModeAllowBidirectional)}},
		{Name: aws.String("state"), Values: []string{string(types.VpcBlockPublicAccessExclusionStateCreateComplete), string(types.VpcBlockPublicAccessExclusionStateUpdateComplete)}},
	}}
	for {
		out, err := d.Cloud.EC2.DescribeVpcBlockPublicAccessExclusions(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("list exclusions: %w", err)
		}
		for _, exclusion := range out.VpcBlockPublicAccessExclusions {
			resource := aws.ToString(exclusion.ResourceArn)
			open[resource[strings.LastIndexByte(resource, '/')+1:]] = true
		}
		if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
			return open, nil
		}
	}
}
