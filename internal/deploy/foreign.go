package deploy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// rule is one of another group's that names the member group.
type rule struct {
	group, id string
	egress    bool
}

// remove is the command that takes the rule away.
func (r rule) remove(region string) string {
	direction := "ingress"
	if r.egress {
		direction = "egress"
	}
	return fmt.Sprintf("aws ec2 revoke-security-group-%s --region %s --group-id %s --security-group-rule-ids %s", direction, region, r.group, r.id)
}

// checkForeign finds what others made that keeps the member group from being
// deleted. It is theirs to remove: a target may need the rule until the last day.
func (d *Deployment) checkForeign(ctx context.Context) error {
	s, serves, err := d.target(ctx)
	if err != nil || !serves {
		return err
	}
	member := s.outputs["MemberGroupId"]
	if member == "" {
		return fmt.Errorf("the stack %s has no output MemberGroupId; was it made from another template.yaml?", d.Settings.Stack)
	}
	rules, err := d.foreignRules(ctx, member)
	if err != nil {
		return err
	}
	carriers, err := d.carriers(ctx, member)
	if err != nil {
		return err
	}
	var lines []string
	for _, r := range rules {
		lines = append(lines, r.remove(d.Cloud.Region))
	}
	for _, c := range carriers {
		lines = append(lines, fmt.Sprintf("# the interface %s carries the group: see aws ec2 describe-network-interfaces --region %s --network-interface-ids %[1]s", c, d.Cloud.Region))
	}
	if len(lines) == 0 {
		fmt.Fprintf(d.Progress.W, "nothing else refers to %s\n", member)
		return nil
	}
	return fmt.Errorf("the member group %s is still referred to, and cannot be deleted. What removes it:\n  %s", member, strings.Join(lines, "\n  "))
}

func (d *Deployment) foreignRules(ctx context.Context, member string) ([]rule, error) {
	var groups []string
	for _, filter := range []string{"ip-permission.group-id", "egress.ip-permission.group-id"} {
		pages := ec2.NewDescribeSecurityGroupsPaginator(d.Cloud.EC2, &ec2.DescribeSecurityGroupsInput{
			Filters: []types.Filter{{Name: &filter, Values: []string{member}}},
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, fmt.Errorf("look for groups that name %s: %w", member, err)
			}
			for _, group := range page.SecurityGroups {
				if id := aws.ToString(group.GroupId); id != member && !slices.Contains(groups, id) {
					groups = append(groups, id)
				}
			}
		}
	}
	return d.rulesOf(ctx, groups, member)
}

func (d *Deployment) rulesOf(ctx context.Context, groups []string, member string) (found []rule, err error) {
	for _, group := range groups { // one by one: a filter takes 200 values, and these are few
		pages := ec2.NewDescribeSecurityGroupRulesPaginator(d.Cloud.EC2, &ec2.DescribeSecurityGroupRulesInput{
			Filters: []types.Filter{{Name: aws.String("group-id"), Values: []string{group}}},
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, fmt.Errorf("list the rules of %s: %w", group, err)
			}
			for _, r := range page.SecurityGroupRules {
				if r.ReferencedGroupInfo != nil && aws.ToString(r.ReferencedGroupInfo.GroupId) == member {
					found = append(found, rule{group, aws.ToString(r.SecurityGroupRuleId), aws.ToBool(r.IsEgress)})
				}
			}
		}
	}
	return found, nil
}

// carriers are network interfaces that carry the member group. The bastions' own
// are gone by now.
func (d *Deployment) carriers(ctx context.Context, member string) (ids []string, err error) {
	pages := ec2.NewDescribeNetworkInterfacesPaginator(d.Cloud.EC2, &ec2.DescribeNetworkInterfacesInput{
		Filters: []types.Filter{{Name: aws.String("group-id"), Values: []string{member}}},
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("look for interfaces that carry %s: %w", member, err)
		}
		for _, one := range page.NetworkInterfaces {
			ids = append(ids, aws.ToString(one.NetworkInterfaceId))
		}
	}
	return ids, nil
}
