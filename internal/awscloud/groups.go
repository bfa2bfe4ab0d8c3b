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

// EC2Groups has the calls that [Groups] makes.
type EC2Groups interface {
	CreateSecurityGroup(context.Context, *ec2.CreateSecurityGroupInput, ...func(*ec2.Options)) (*ec2.CreateSecurityGroupOutput, error)
	DescribeSecurityGroups(context.Context, *ec2.DescribeSecurityGroupsInput, ...func(*ec2.Options)) (*ec2.DescribeSecurityGroupsOutput, error)
	DescribeSecurityGroupRules(context.Context, *ec2.DescribeSecurityGroupRulesInput, ...func(*ec2.Options)) (*ec2.DescribeSecurityGroupRulesOutput, error)
	AuthorizeSecurityGroupIngress(context.Context, *ec2.AuthorizeSecurityGroupIngressInput, ...func(*ec2.Options)) (*ec2.AuthorizeSecurityGroupIngressOutput, error)
	RevokeSecurityGroupIngress(context.Context, *ec2.RevokeSecurityGroupIngressInput, ...func(*ec2.Options)) (*ec2.RevokeSecurityGroupIngressOutput, error)
	RevokeSecurityGroupEgress(context.Context, *ec2.RevokeSecurityGroupEgressInput, ...func(*ec2.Options)) (*ec2.RevokeSecurityGroupEgressOutput, error)
	DeleteSecurityGroup(context.Context, *ec2.DeleteSecurityGroupInput, ...func(*ec2.Options)) (*ec2.DeleteSecurityGroupOutput, error)
}

// Groups implements [bastion.Groups] on EC2.
type Groups struct {
	ec2   EC2Groups
	stack Stack
}

var _ bastion.Groups = (*Groups)(nil)

// NewGroups returns Groups for the security groups of the stack's bastions.
func NewGroups(ec2 EC2Groups, stack Stack) *Groups { return &Groups{ec2: ec2, stack: stack} }

// Create creates the bastion's group, or returns the existing group of that name.
// CreateSecurityGroup has no client token. The name, which is unique in the VPC,
// prevents a second group when the call is retried. For a new group, the result does
// not contain the egress rule that EC2 adds, because only Describe finds the rule's id.
func (g *Groups) Create(ctx context.Context, spec bastion.GroupSpec) (bastion.Group, error) {
	out, err := g.ec2.CreateSecurityGroup(ctx, g.stack.createGroupInput(spec))
	if hasCode(err, "InvalidGroup.Duplicate") {
		return g.Describe(ctx, spec.BastionID, "")
	}
	if err != nil {
		return bastion.Group{}, fmt.Errorf("create the security group of %s: %w", spec.BastionID, refusal(err))
	}
	return bastion.Group{ID: aws.ToString(out.GroupId), BastionID: spec.BastionID}, nil
}

func (s Stack) createGroupInput(spec bastion.GroupSpec) *ec2.CreateSecurityGroupInput {
	tags := []types.Tag{
		{Key: aws.String(TagStack), Value: aws.String(s.ID)},
		{Key: aws.String(TagID), Value: aws.String(spec.BastionID)},
	}
	for _, tag := range spec.Tags {
		tags = append(tags, types.Tag{Key: aws.String(tag.Key), Value: aws.String(tag.Value)})
	}
	return &ec2.CreateSecurityGroupInput{
		GroupName:   aws.String(GroupName(spec.BastionID)),
		Description: aws.String("Addresses that may connect to bastion " + spec.BastionID),
		VpcId:       aws.String(s.VPC),
		TagSpecifications: []types.TagSpecification{{
			ResourceType: types.ResourceTypeSecurityGroup,
			Tags:         tags,
		}},
	}
}

// Authorize adds a rule that allows the source to connect to the SSH port. It refuses a
// source that is wider than the operator allows, so that no mistake of a caller can open
// the port to a larger network. A record that was written before the operator changed the
// limit can have such a source.
func (g *Groups) Authorize(ctx context.Context, groupID string, source netip.Prefix) error {
	if source != source.Masked() || source.Addr().Is4In6() || source.Addr().Zone() != "" {
		return fmt.Errorf("authorize ingress to %s: %s is not a source", groupID, source)
	}
	if source.Bits() < g.stack.widest(source) {
		return fmt.Errorf("authorize ingress to %s: %w", groupID, &bastion.RefusedError{
			Failure: bastion.Failure{Code: bastion.FailureConfig, Message: "The operator no longer allows the source " + source.String() + ". Request the bastion again with another one."},
			Detail:  fmt.Sprintf("the source %s is wider than /%d", source, g.stack.widest(source)),
		})
	}
	_, err := g.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId:       aws.String(groupID),
		IpPermissions: []types.IpPermission{g.stack.permission(source)},
	})
	switch {
	case hasCode(err, "InvalidPermission.Duplicate"):
		return nil
	case hasCode(err, groupNotFound...):
		return fmt.Errorf("authorize ingress to %s: %w", groupID, bastion.ErrNotFound)
	case err != nil:
		return fmt.Errorf("authorize ingress to %s: %w", groupID, refusal(err))
	}
	return nil
}

// widest returns the shortest prefix length that a source of this family may have.
func (s Stack) widest(source netip.Prefix) int {
	widest := s.WidestIPv6
	if source.Addr().Is4() {
		widest = s.WidestIPv4
	}
	if widest <= 0 {
		return source.Addr().BitLen()
	}
	return widest
}

// permission returns the rule that allows the source to connect to the SSH port.
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

// Revoke removes one rule by its id. EC2 also accepts a list of rules by protocol,
// ports and source, but then it revokes none of them if one no longer exists.
func (g *Groups) Revoke(ctx context.Context, groupID string, rule bastion.Rule) error {
	if rule.ID == "" {
		return fmt.Errorf("revoke a rule of %s: rule has no id", groupID)
	}
	var err error
	if rule.Egress {
		_, err = g.ec2.RevokeSecurityGroupEgress(ctx, &ec2.RevokeSecurityGroupEgressInput{
			GroupId: aws.String(groupID), SecurityGroupRuleIds: []string{rule.ID}})
	} else {
		_, err = g.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{
			GroupId: aws.String(groupID), SecurityGroupRuleIds: []string{rule.ID}})
	}
	if err == nil || hasCode(err, "InvalidPermission.NotFound", "InvalidSecurityGroupRuleId.NotFound") || hasCode(err, groupNotFound...) {
		return nil
	}
	return fmt.Errorf("revoke rule %s of %s: %w", rule.ID, groupID, refusal(err))
}

// Delete deletes the group.
func (g *Groups) Delete(ctx context.Context, groupID string) error {
	_, err := g.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: aws.String(groupID)})
	switch {
	case hasCode(err, "DependencyViolation", "InvalidGroup.InUse"):
		return fmt.Errorf("delete security group %s: %w", groupID, bastion.ErrInUse)
	case hasCode(err, groupNotFound...):
		return fmt.Errorf("delete security group %s: %w", groupID, bastion.ErrNotFound)
	case err != nil:
		return fmt.Errorf("delete security group %s: %w", groupID, refusal(err))
	}
	return nil
}

// groupNotFound are EC2's codes for a group that is too new to be visible, or gone.
var groupNotFound = []string{"InvalidGroup.NotFound", "InvalidSecurityGroupID.NotFound"}

// hasCode reports whether an error of AWS has one of these codes.
func hasCode(err error, codes ...string) bool {
	var api smithy.APIError
	return errors.As(err, &api) && slices.Contains(codes, api.ErrorCode())
}

// perPage is the largest page size that EC2 accepts. EC2 allows a higher rate for some
// calls if they have a page size or a filter; see [Rates].
const perPage = 1000

// Describe returns the bastion's group by its id, or by its name if groupID is
// empty. It uses a filter in both cases: for an unknown id, the result of a filter
// is empty, while a lookup by id is an error.
func (g *Groups) Describe(ctx context.Context, bastionID, groupID string) (bastion.Group, error) {
	match := filter("group-name", GroupName(bastionID))
	if groupID != "" {
		match = filter("group-id", groupID)
	}
	groups, err := g.find(ctx, match, filter("vpc-id", g.stack.VPC), g.ofStack())
	if err != nil {
		return bastion.Group{}, fmt.Errorf("describe the security group of %s (id %q): %w", bastionID, groupID, err)
	}
	if len(groups) == 0 {
		return bastion.Group{}, fmt.Errorf("describe the security group of %s (id %q): %w", bastionID, groupID, bastion.ErrNotFound)
	}
	return groups[0], nil
}

// List lists all groups with the stack's tag.
func (g *Groups) List(ctx context.Context) ([]bastion.Group, error) { return g.find(ctx, g.ofStack()) }

// ofStack returns a filter for groups with the stack's tag. Every read uses it, so no
// method returns a group without that tag.
func (g *Groups) ofStack() types.Filter { return filter("tag:"+TagStack, g.stack.ID) }

// find returns the groups that match all filters, with their rules. It reads the rules
// separately, because the description of a group does not contain the ids of its rules.
func (g *Groups) find(ctx context.Context, filters ...types.Filter) ([]bastion.Group, error) {
	ctx = together(ctx)
	var groups []bastion.Group
	var withRules []string
	in := &ec2.DescribeSecurityGroupsInput{Filters: filters, MaxResults: aws.Int32(perPage)}
	for {
		out, err := g.ec2.DescribeSecurityGroups(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("describe security groups: %w", opaque(err))
		}
		for _, found := range out.SecurityGroups {
			groups = append(groups, groupOf(found))
			if len(found.IpPermissions)+len(found.IpPermissionsEgress) > 0 {
				withRules = append(withRules, aws.ToString(found.GroupId))
			}
		}
		if in.NextToken = out.NextToken; aws.ToString(out.NextToken) == "" {
			break
		}
	}
	for batch := range slices.Chunk(withRules, valuesPerFilter) {
		if err := g.addRules(ctx, groups, batch); err != nil {
			return nil, err
		}
	}
	return groups, nil
}

// groupOf converts a group, without its rules.
func groupOf(found types.SecurityGroup) bastion.Group {
	group := bastion.Group{ID: aws.ToString(found.GroupId)}
	for _, tag := range found.Tags {
		if aws.ToString(tag.Key) == TagID {
			group.BastionID = aws.ToString(tag.Value)
		}
	}
	return group
}

// addRules reads the rules of the groups with these ids and adds them to the groups.
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
			return fmt.Errorf("describe security group rules: %w", opaque(err))
		}
		for _, found := range out.SecurityGroupRules {
			group := index[aws.ToString(found.GroupId)]
			switch rule := g.stack.rule(found); {
			case group == nil: // EC2 returned a rule of another group
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

// rule converts a rule. It sets Source only for an ingress rule that allows a prefix
// to connect to the SSH port and to no other port. The domain revokes every rule
// without a Source.
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
	source, _ := netip.ParsePrefix(cidr) // zero if the source is a group or a prefix list
	rule.Source = source.Masked()
	return rule
}
