package awscloud

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// EC2Interfaces is what Tasks calls of EC2.
type EC2Interfaces interface {
	DescribeNetworkInterfaces(context.Context, *ec2.DescribeNetworkInterfacesInput, ...func(*ec2.Options)) (*ec2.DescribeNetworkInterfacesOutput, error)
}

// valuesPerFilter is how many values EC2 takes in one filter.
const valuesPerFilter = 200

// endpoints looks up where the interfaces can be reached, at most one endpoint
// for each family, IPv4 first. It asks with a filter and not by id: an interface
// that is gone, or does not show yet, is then left out where it would fail the
// call for all; and EC2 allows more filtered calls than others.
func (t *Tasks) endpoints(ctx context.Context, interfaces []string) (map[string][]netip.AddrPort, error) {
	found := map[string][]netip.AddrPort{}
	for batch := range slices.Chunk(interfaces, valuesPerFilter) {
		in := &ec2.DescribeNetworkInterfacesInput{Filters: []types.Filter{filter("network-interface-id", batch...)}}
		for {
			out, err := t.ec2.DescribeNetworkInterfaces(ctx, in)
			if err != nil {
				return nil, fmt.Errorf("DescribeNetworkInterfaces: %w", opaque(err))
			}
			for _, i := range out.NetworkInterfaces {
				found[aws.ToString(i.NetworkInterfaceId)] = t.stack.endpointsOf(i)
			}
			if in.NextToken = out.NextToken; aws.ToString(out.NextToken) == "" {
				break
			}
		}
	}
	return found, nil
}

// endpointsOf is where callers reach the interface as far as it is known: a
// public IPv4 address is associated some time after the interface is attached.
func (s Stack) endpointsOf(i types.NetworkInterface) []netip.AddrPort {
	var known []netip.AddrPort
	add := func(address *string) {
		if addr, err := netip.ParseAddr(aws.ToString(address)); err == nil {
			known = append(known, netip.AddrPortFrom(addr, s.Port))
		}
	}
	switch {
	case s.IPv4 && s.Public && i.Association != nil:
		add(i.Association.PublicIp)
	case s.IPv4 && !s.Public:
		add(i.PrivateIpAddress)
	}
	if s.IPv6 && len(i.Ipv6Addresses) > 0 {
		add(i.Ipv6Addresses[0].Ipv6Address)
	}
	return known
}

func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: aws.String(name), Values: values}
}
