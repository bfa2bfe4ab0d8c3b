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
}

func (d *Deployment) checkSubnets(ctx context.Context, f *facts) (failed []string, err error) {
	out, err := d.Cloud.EC2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: d.Settings.Subnets})
	if isCode(err, "InvalidSubnetID.NotFound") {
		return []string{fmt.Sprintf("Not all of SUBNETS are in %s (%v): list subnets with aws ec2 describe-subnets --region %[1]s.", d.Cloud.Region, err)}, nil
	}
	if err != nil {
		return nil, err
	}
	known, err := d.network(ctx)
	if err != nil {
		return nil, err
	}
	for _, subnet := range out.Subnets {
		if aws.ToString(subnet.VpcId) != d.Settings.VPC {
			failed = append(failed, fmt.Sprintf("The subnet %s is in %s, not in %s: use subnets of that VPC.", *subnet.SubnetId, aws.ToString(subnet.VpcId), d.Settings.VPC))
			continue
		}
		failed = append(failed, known.check(subnet, f)...)
	}
	return failed, nil
}

func (d *Deployment) network(ctx context.Context) (network, error) {
	n := network{region: d.Cloud.Region}
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

// check returns what is wrong with a subnet.
func (n network) check(subnet types.Subnet, f *facts) (failed []string) {
	id := aws.ToString(subnet.SubnetId)
	if aws.ToInt32(subnet.AvailableIpAddressCount) == 0 {
		failed = append(failed, fmt.Sprintf("The subnet %s has no free address: use another.", id))
	}
	if f.ipv6 && !hasIPv6(subnet) {
		failed = append(failed, fmt.Sprintf("The subnet %s has no IPv6 prefix: associate one, or set AddressFamilies=ipv4.", id))
	}
	table, found := n.tableOf(id)
	if !found {
		return append(failed, fmt.Sprintf("The subnet %s has no route table that you are allowed to see: ask the VPC's owner.", id))
	}
	out := defaultRoute(table, "0.0.0.0/0")
	switch {
	case f.public && out != internet:
		failed = append(failed, fmt.Sprintf("The subnet %s has no route for 0.0.0.0/0 to an internet gateway, so public addresses in it cannot be reached: use a public subnet, or set PublicAddress=false and AllowedSources.", id))
	case !f.public && out != translated:
		if missing := n.missing(aws.ToString(table.RouteTableId)); len(missing) > 0 {
			failed = append(failed, fmt.Sprintf("The subnet %s has no route for 0.0.0.0/0 that a task without a public address can use, and the VPC has no %s: add a NAT gateway, or these endpoints (interface endpoints with private DNS).", id, strings.Join(missing, ", no ")))
		}
	}
	if f.public && f.ipv6 && defaultRoute(table, "::/0") != internet {
		failed = append(failed, fmt.Sprintf("The subnet %s has no route for ::/0 to an internet gateway, so its IPv6 addresses cannot be reached: add one, or set AddressFamilies=ipv4.", id))
	}
	return failed
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
