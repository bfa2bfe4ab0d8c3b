package awscloud

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// EC2Groups is what Groups calls of EC2.
type EC2Groups interface {
	CreateSecurityGroup(context.Context, *ec2.CreateSecurityGroupInput, ...func(*ec2.Options)) (*ec2.CreateSecurityGroupOutput, error)
	DescribeSecurityGroups(context.Context, *ec2.DescribeSecurityGroupsInput, ...func(*ec2.Options)) (*ec2.DescribeSecurityGroupsOutput, error)
	DescribeSecurityGroupRules(context.Context, *ec2.DescribeSecurityGroupRulesInput, ...func(*ec2.Options)) (*ec2.DescribeSecurityGroupRulesOutput, error)
	AuthorizeSecurityGroupIngress(context.Context, *ec2.AuthorizeSecurityGroupIngressInput, ...func(*ec2.Options)) (*ec2.AuthorizeSecurityGroupIngressOutput, error)
	RevokeSecurityGroupIngress(context.Context, *ec2.RevokeSecurityGroupIngressInput, ...func(*ec2.Options)) (*ec2.RevokeSecurityGroupIngressOutput, error)
	RevokeSecurityGroupEgress(context.Context, *ec2.RevokeSecurityGroupEgressInput, ...func(*ec2.Options)) (*ec2.RevokeSecurityGroupEgressOutput, error)
	DeleteSecurityGroup(context.Context, *ec2.DeleteSecurityGroupInput, ...func(*ec2.Options)) (*ec2.DeleteSecurityGroupOutput, error)
}

// Groups is bastion.Groups on EC2.
type Groups struct {
	ec2   EC2Groups
	stack Stack
}

// NewGroups makes the port. The stack must be valid.
func NewGroups(ec2 EC2Groups, stack Stack) *Groups { return &Groups{ec2: ec2, stack: stack} }

// Create makes the bastion's group or answers the one of its name; see
// bastion.Groups. CreateSecurityGroup takes no client token, so that the name,
// unique in the VPC, is what keeps a repeat from making a second one. A new
// group's egress rule is not in the answer: its id is for Describe to find.
func (g *Groups) Create(ctx context.Context, spec bastion.GroupSpec) (bastion.Group, error) {
	out, err := g.ec2.CreateSecurityGroup(ctx, g.stack.createGroupInput(spec))
	if hasCode(err, "InvalidGroup.Duplicate") {
		return g.Describe(ctx, spec.BastionID, "")
	}
	if err != nil {
		return bastion.Group{}, fmt.Errorf("CreateSecurityGroup for %s: %w", spec.BastionID, opaque(err))
	}
	return bastion.Group{ID: aws.ToString(out.GroupId), BastionID: spec.BastionID}, nil
}

func (s Stack) createGroupInput(spec bastion.GroupSpec) *ec2.CreateSecurityGroupInput {
	return &ec2.CreateSecurityGroupInput{
		GroupName:   aws.String(GroupName(spec.BastionID)),
		Description: aws.String("Who may connect to the bastion " + spec.BastionID),
		VpcId:       aws.String(s.VPC),
		TagSpecifications: []types.TagSpecification{{
			ResourceType: types.ResourceTypeSecurityGroup,
			Tags: []types.Tag{
				{Key: aws.String(TagStack), Value: aws.String(s.ID)},
				{Key: aws.String(TagID), Value: aws.String(spec.BastionID)},
			},
		}},
	}
}

// Authorize admits the source to the SSH port; see bastion.Groups. It takes one
// address only, so that no mistake above it can open a port to a whole network.
func (g *Groups) Authorize(ctx context.Context, groupID string, source netip.Prefix) error {
	if !source.IsSingleIP() || source.Addr().Is4In6() || source.Addr().Zone() != "" {
		return fmt.Errorf("authorize ingress of %s: the source %s is not one address", groupID, source)
	}
	_, err := g.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId:       aws.String(groupID),
		IpPermissions: []types.IpPermission{g.stack.permission(source)},
	})
	switch {
	case hasCode(err, "InvalidPermission.Duplicate"):
		return nil
	case hasCode(err, "InvalidGroup.NotFound"):
		return fmt.Errorf("AuthorizeSecurityGroupIngress of %s: %w", groupID, bastion.ErrNotFound)
	case err != nil:
		return fmt.Errorf("AuthorizeSecurityGroupIngress of %s: %w", groupID, opaque(err))
	}
	return nil
}

func (s Stack) permission(source netip.Prefix) types.IpPermission {
	p := types.IpPermission{
		IpProtocol: aws.String("tcp"),
		FromPort:   aws.Int32(int32(s.Port)),
		ToPort:     aws.Int32(int32(s.Port)),
	}
	if source.Addr().Is4() {
		p.IpRanges = []types.IpRange{{CidrIp: aws.String(source.String())}}
	} else {
		p.Ipv6Ranges = []types.Ipv6Range{{CidrIpv6: aws.String(source.String())}}
	}
	return p
}

// Revoke removes one rule by its id; see bastion.Groups. By id alone: a revoke
// by content errs and revokes nothing when part of the content is gone.
func (g *Groups) Revoke(ctx context.Context, groupID string, rule bastion.Rule) error {
	if rule.ID == "" {
		return fmt.Errorf("revoke a rule of %s: the rule has no id", groupID)
	}
	var err error
	if rule.Egress {
		_, err = g.ec2.RevokeSecurityGroupEgress(ctx, &ec2.RevokeSecurityGroupEgressInput{
			GroupId: aws.String(groupID), SecurityGroupRuleIds: []string{rule.ID}})
	} else {
		_, err = g.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{
			GroupId: aws.String(groupID), SecurityGroupRuleIds: []string{rule.ID}})
	}
	if err == nil || hasCode(err, "InvalidPermission.NotFound", "InvalidSecurityGroupRuleId.NotFound", "InvalidGroup.NotFound") {
		return nil
	}
	return fmt.Errorf("revoke rule %s of %s: %w", rule.ID, groupID, opaque(err))
}

// Delete deletes the group; see bastion.Groups.
func (g *Groups) Delete(ctx context.Context, groupID string) error {
	_, err := g.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: aws.String(groupID)})
	switch {
	case hasCode(err, "DependencyViolation", "InvalidGroup.InUse"):
		return fmt.Errorf("DeleteSecurityGroup %s: %w", groupID, bastion.ErrInUse)
	case hasCode(err, "InvalidGroup.NotFound"):
		return fmt.Errorf("DeleteSecurityGroup %s: %w", groupID, bastion.ErrNotFound)
	case err != nil:
		return fmt.Errorf("DeleteSecurityGroup %s: %w", groupID, opaque(err))
	}
	return nil
}

// hasCode reports whether AWS answered with one of these error codes.
func hasCode(err error, codes ...string) bool {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return false
	}
	for _, code := range codes {
		if api.ErrorCode() == code {
			return true
		}
	}
	return false
}

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
