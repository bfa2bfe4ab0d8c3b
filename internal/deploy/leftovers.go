package deploy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	cfntypes "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// rule is a rule of another security group that refers to the member group.
type rule struct {
	group, id string
	egress    bool
}

// remove returns the command that removes the rule.
func (r rule) remove(region string) string {
	direction := "ingress"
	if r.egress {
		direction = "egress"
	}
	return fmt.Sprintf("aws ec2 revoke-security-group-%s --region %s --group-id %s --security-group-rule-ids %s", direction, region, r.group, r.id)
}

// checkReferences finds rules and interfaces that prevent the deletion of the member
// group. Their owners must remove them: a target may need its rule until the end.
func (d *Deployment) checkReferences(ctx context.Context) error {
	s, serves, err := d.target(ctx)
	if err != nil || !serves {
		return err
	}
	member := s.outputs["MemberGroupId"]
	if member == "" {
		return fmt.Errorf("the stack %s has no output MemberGroupId; was it created from another template.yaml?", d.Settings.Stack)
	}
	rules, err := d.referringRules(ctx, member)
	if err != nil {
		return err
	}
	interfaces, err := d.interfacesOf(ctx, member)
	if err != nil {
		return err
	}
	var lines []string
	for _, r := range rules {
		lines = append(lines, r.remove(d.Cloud.Region))
	}
	for _, c := range interfaces {
		lines = append(lines, fmt.Sprintf("# the interface %s has the group: see aws ec2 describe-network-interfaces --region %s --network-interface-ids %[1]s", c, d.Cloud.Region))
	}
	if len(lines) == 0 {
		fmt.Fprintf(d.Progress.W, "nothing else refers to %s\n", member)
		return nil
	}
	return fmt.Errorf("the member group %s cannot be deleted, because others refer to it. To remove them:\n  %s", member, strings.Join(lines, "\n  "))
}

func (d *Deployment) referringRules(ctx context.Context, member string) ([]rule, error) {
	var groups []string
	for _, filter := range []string{"ip-permission.group-id", "egress.ip-permission.group-id"} {
		pages := ec2.NewDescribeSecurityGroupsPaginator(d.Cloud.EC2, &ec2.DescribeSecurityGroupsInput{
			Filters: []ec2types.Filter{{Name: &filter, Values: []string{member}}},
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, fmt.Errorf("list the groups that refer to %s: %w", member, err)
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
	for _, group := range groups { // one by one, because a filter takes 200 values
		pages := ec2.NewDescribeSecurityGroupRulesPaginator(d.Cloud.EC2, &ec2.DescribeSecurityGroupRulesInput{
			Filters: []ec2types.Filter{{Name: aws.String("group-id"), Values: []string{group}}},
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

// interfacesOf returns the network interfaces that have the member group. Those of
// bastions are deleted by now.
func (d *Deployment) interfacesOf(ctx context.Context, member string) (ids []string, err error) {
	pages := ec2.NewDescribeNetworkInterfacesPaginator(d.Cloud.EC2, &ec2.DescribeNetworkInterfacesInput{
		Filters: []ec2types.Filter{{Name: aws.String("group-id"), Values: []string{member}}},
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the interfaces of %s: %w", member, err)
		}
		for _, one := range page.NetworkInterfaces {
			ids = append(ids, aws.ToString(one.NetworkInterfaceId))
		}
	}
	return ids, nil
}

// kept is what the stacks leave when they are deleted, because it is retained.
type kept struct {
	tables, repositories, buckets []string // those that still exist
	logs                          []string
}

// findKept reads deleted stacks from CloudFormation, which lists them for 90 days, and
// checks that the resources still exist: an earlier run may have deleted them.
func (d *Deployment) findKept(ctx context.Context) (kept, error) {
	var k kept
	pages := cloudformation.NewListStacksPaginator(d.Cloud.Stacks, &cloudformation.ListStacksInput{
		StackStatusFilter: []cfntypes.StackStatus{cfntypes.StackStatusDeleteComplete},
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return k, fmt.Errorf("list deleted stacks: %w", err)
		}
		for _, s := range page.StackSummaries {
			if name := aws.ToString(s.StackName); name != d.Settings.Stack && name != d.Settings.Registry() {
				continue
			}
			if err := d.addKept(ctx, aws.ToString(s.StackId), &k); err != nil {
				return k, err
			}
		}
	}
	return k, nil
}

func (d *Deployment) addKept(ctx context.Context, id string, k *kept) error {
	all, err := resources(ctx, d.Cloud.Stacks, id)
	if err != nil {
		return err
	}
	for _, r := range all {
		if !r.retained {
			continue
		}
		switch r.kind {
		case "AWS::DynamoDB::Table":
			_, err := d.Cloud.Tables.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &r.physical})
			if err := appendUnless(&k.tables, r.physical, err, "ResourceNotFoundException"); err != nil {
				return err
			}
		case "AWS::ECR::Repository":
			_, err := d.Cloud.ECR.DescribeRepositories(ctx, &ecr.DescribeRepositoriesInput{RepositoryNames: []string{r.physical}})
			if err := appendUnless(&k.repositories, r.physical, err, "RepositoryNotFoundException"); err != nil {
				return err
			}
		case "AWS::S3::Bucket":
			_, err := d.Cloud.Objects.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &r.physical})
			if err := appendUnless(&k.buckets, r.physical, err, "NotFound"); err != nil {
				return err
			}
		case "AWS::Logs::LogGroup":
			k.logs = append(k.logs, r.physical)
		}
	}
	return nil
}

// appendUnless appends the name unless err says that the resource does not exist.
func appendUnless(to *[]string, name string, err error, missing string) error {
	if isCode(err, missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up %s: %w", name, err)
	}
	*to = append(*to, name)
	return nil
}

func (d *Deployment) listKept(ctx context.Context) error {
	k, err := d.findKept(ctx)
	if err != nil {
		return err
	}
	for _, table := range k.tables {
		fmt.Fprintf(d.Progress.W, "kept: the table %s\n", table)
	}
	for _, repository := range k.repositories {
		fmt.Fprintf(d.Progress.W, "kept: the repository %s with its images\n", repository)
	}
	for _, bucket := range k.buckets {
		fmt.Fprintf(d.Progress.W, "kept: the bucket %s with the code and the templates of all deployments\n", bucket)
	}
	if len(k.tables)+len(k.repositories)+len(k.buckets) > 0 {
		fmt.Fprintln(d.Progress.W, "To delete these too, run make undeploy PURGE=1.")
	} else {
		fmt.Fprintln(d.Progress.W, "no table, no repository and no bucket is kept")
	}
	d.listLogs(k)
	return nil
}

// listLogs lists the log groups. They have the audit log, so they are kept until their
// retention ends.
func (d *Deployment) listLogs(k kept) {
	for _, group := range k.logs {
		fmt.Fprintf(d.Progress.W, "kept until its retention ends; to delete it now: aws logs delete-log-group --region %s --log-group-name %s\n", d.Cloud.Region, group)
	}
}

func (d *Deployment) purge(ctx context.Context) error {
	k, err := d.findKept(ctx)
	if err != nil {
		return err
	}
	for _, table := range k.tables {
		err := d.Progress.Step("delete the table "+table, nil, func() error {
			_, err := d.Cloud.Tables.DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: &table})
			return err
		})
		if err != nil && !isCode(err, "ResourceNotFoundException") {
			return fmt.Errorf("delete the table %s: %w", table, err)
		}
	}
	for _, repository := range k.repositories {
		err := d.Progress.Step("delete the repository "+repository+" with its images", nil, func() error {
			_, err := d.Cloud.ECR.DeleteRepository(ctx, &ecr.DeleteRepositoryInput{RepositoryName: &repository, Force: true})
			return err
		})
		if err != nil && !isCode(err, "RepositoryNotFoundException") {
			return fmt.Errorf("delete the repository %s: %w", repository, err)
		}
	}
	for _, bucket := range k.buckets {
		if err := d.deleteBucket(ctx, bucket); err != nil {
			return err
		}
	}
	d.listLogs(k)
	return nil
}
