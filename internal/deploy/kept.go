package deploy

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
)

// kept is what deleting the stacks left, on purpose.
type kept struct {
	tables, repositories []string // those that there still are
	logs                 []string
}

// findKept asks CloudFormation, which remembers deleted stacks for 90 days, and
// then whether the things are still there: an earlier run may have deleted them.
func (d *Deployment) findKept(ctx context.Context) (kept, error) {
	var k kept
	pages := cloudformation.NewListStacksPaginator(d.Cloud.Stacks, &cloudformation.ListStacksInput{
		StackStatusFilter: []types.StackStatus{types.StackStatusDeleteComplete},
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
		case "AWS::Logs::LogGroup":
			k.logs = append(k.logs, r.physical)
		}
	}
	return nil
}

// appendUnless adds what is there.
func appendUnless(to *[]string, name string, err error, notThere string) error {
	if isCode(err, notThere) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for %s: %w", name, err)
	}
	*to = append(*to, name)
	return nil
}

func (d *Deployment) sayKept(ctx context.Context) error {
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
	if len(k.tables)+len(k.repositories) > 0 {
		fmt.Fprintln(d.Progress.W, "make undeploy PURGE=1 deletes these too.")
	} else {
		fmt.Fprintln(d.Progress.W, "no table and no repository is left")
	}
	d.sayLogs(k)
	return nil
}

// sayLogs: who connected where is not ours to delete; it goes when its retention
// is over.
func (d *Deployment) sayLogs(k kept) {
	for _, group := range k.logs {
		fmt.Fprintf(d.Progress.W, "kept until its retention is over, if nobody deleted it: aws logs delete-log-group --region %s --log-group-name %s\n", d.Cloud.Region, group)
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
	d.sayLogs(k)
	return nil
}
