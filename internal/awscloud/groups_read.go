package awscloud

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// perPage is how much EC2 is asked for at a time, which is the most it gives.
// Calls with a page size or a filter come out of the larger of its two buckets.
const perPage = 1000

// Describe finds the bastion's group by id, or by the derived name; see
// bastion.Groups. It is a search with a filter, which answers nothing where a
// look-up by id would err.
func (g *Groups) Describe(ctx context.Context, bastionID, groupID string) (bastion.Group, error) {
	by := filter("group-name", GroupName(bastionID))
	if groupID != "" {
		by = filter("group-id", groupID)
	}
	groups, err := g.find(ctx, by, filter("vpc-id", g.stack.VPC), g.ours())
	if err != nil {
		return bastion.Group{}, fmt.Errorf("the security group %q of %s: %w", groupID, bastionID, err)
	}
	if len(groups) == 0 {
		return bastion.Group{}, fmt.Errorf("the security group %q of %s: %w", groupID, bastionID, bastion.ErrNotFound)
	}
	return groups[0], nil
}

// List lists all groups that carry this stack's tag; see bastion.Groups.
func (g *Groups) List(ctx context.Context) ([]bastion.Group, error) { return g.find(ctx, g.ours()) }

// ours finds what carries this stack's tag: nothing else may be touched.
func (g *Groups) ours() types.Filter { return filter("tag:"+TagStack, g.stack.ID) }

// find searches groups, and then the rules of those that have any: the groups do
// not tell their rules' ids.
func (g *Groups) find(ctx context.Context, by ...types.Filter) ([]bastion.Group, error) {
	var groups []bastion.Group
	var ruled []string
	in := &ec2.DescribeSecurityGroupsInput{Filters: by, MaxResults: aws.Int32(perPage)}
	for {
		out, err := g.ec2.DescribeSecurityGroups(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("DescribeSecurityGroups: %w", opaque(err))
		}
		for _, found := range out.SecurityGroups {
			groups = append(groups, groupOf(found))
			if len(found.IpPermissions)+len(found.IpPermissionsEgress) > 0 {
				ruled = append(ruled, aws.ToString(found.GroupId))
			}
		}
		if in.NextToken = out.NextToken; aws.ToString(out.NextToken) == "" {
			break
		}
	}
	for batch := range slices.Chunk(ruled, valuesPerFilter) {
		if err := g.addRules(ctx, groups, batch); err != nil {
			return nil, err
		}
	}
	return groups, nil
}

func groupOf(found types.SecurityGroup) bastion.Group {
	group := bastion.Group{ID: aws.ToString(found.GroupId)}
	for _, tag := range found.Tags {
		if aws.ToString(tag.Key) == TagID {
			group.BastionID = aws.ToString(tag.Value)
		}
	}
	return group
}

// addRules looks up the rules of these groups and adds them.
func (g *Groups) addRules(ctx context.Context, groups []bastion.Group, ids []string) error {
	index := map[string]*bastion.Group{}
	for i := range groups {
		index[groups[i].ID] = &groups[i]
	}
	in := &ec2.DescribeSecurityGroupRulesInput{
		Filters:    []types.Filter{filter("group-id", ids...)},
		MaxResults: aws.Int32(perPage),
	}
	for {
		out, err := g.ec2.DescribeSecurityGroupRules(ctx, in)
		if err != nil {
			return fmt.Errorf("DescribeSecurityGroupRules: %w", opaque(err))
		}
		for _, found := range out.SecurityGroupRules {
			group := index[aws.ToString(found.GroupId)]
			switch rule := g.stack.rule(found); {
			case group == nil:
			case rule.Egress:
				group.Egress = append(group.Egress, rule)
			default:
				group.Ingress = append(group.Ingress, rule)
			}
		}
		if in.NextToken = out.NextToken; aws.ToString(out.NextToken) == "" {
			return nil
		}
	}
}

// rule translates a rule. Only one that admits a prefix to the SSH port, and
// nothing besides, has a Source: any other is a stranger's, to be revoked.
func (s Stack) rule(found types.SecurityGroupRule) bastion.Rule {
	rule := bastion.Rule{ID: aws.ToString(found.SecurityGroupRuleId), Egress: aws.ToBool(found.IsEgress)}
	port := int32(s.Port)
	if rule.Egress || aws.ToString(found.IpProtocol) != "tcp" ||
		aws.ToInt32(found.FromPort) != port || aws.ToInt32(found.ToPort) != port {
		return rule
	}
	cidr := aws.ToString(found.CidrIpv4)
	if found.CidrIpv6 != nil {
		cidr = *found.CidrIpv6
	}
	rule.Source, _ = netip.ParsePrefix(cidr) // zero for a group or a prefix list
	return rule
}
