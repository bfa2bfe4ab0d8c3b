package awscloud

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

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
func (g *Groups) Create(ctx context.Context, bastionID string) (bastion.Group, error) {
	out, err := g.ec2.CreateSecurityGroup(ctx, g.stack.createGroupInput(bastionID))
	if hasCode(err, "InvalidGroup.Duplicate") {
		return g.Describe(ctx, bastionID, "")
	}
	if err != nil {
		return bastion.Group{}, fmt.Errorf("CreateSecurityGroup for %s: %w", bastionID, opaque(err))
	}
	return bastion.Group{ID: aws.ToString(out.GroupId), BastionID: bastionID}, nil
}

func (s Stack) createGroupInput(bastionID string) *ec2.CreateSecurityGroupInput {
	return &ec2.CreateSecurityGroupInput{
		GroupName:   aws.String(GroupName(bastionID)),
		Description: aws.String("Who may connect to the bastion " + bastionID),
		VpcId:       aws.String(s.VPC),
		TagSpecifications: []types.TagSpecification{{
			ResourceType: types.ResourceTypeSecurityGroup,
			Tags: []types.Tag{
				{Key: aws.String(TagStack), Value: aws.String(s.ID)},
				{Key: aws.String(TagID), Value: aws.String(bastionID)},
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
