package deploy

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
)

// left describes what is still open of the deleted bastion: a task that has not stopped,
// and a group that admits an address. The document does not show this.
func (t *trial) left(ctx context.Context) (open []string, err error) {
	tasks, err := t.tasks(ctx)
	if err != nil {
		return nil, err
	}
	for _, task := range tasks {
		if status := aws.ToString(task.LastStatus); status != "STOPPED" {
			open = append(open, fmt.Sprintf("the task %s is %s", awscloud.TaskID(aws.ToString(task.TaskArn)), status))
		}
	}
	if len(tasks) == 0 {
		open = append(open, "ECS does not list its task")
	}
	found, err := t.d.Cloud.EC2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: []ec2types.Filter{
		{Name: aws.String("group-name"), Values: []string{awscloud.GroupName(t.bastion.ID)}},
		{Name: aws.String("vpc-id"), Values: []string{t.stack.parameters["VpcId"]}},
	}})
	if err != nil {
		return nil, fmt.Errorf("describe the security group of %s: %w", t.bastion.ID, err)
	}
	for _, group := range found.SecurityGroups {
		if admitted := admittedBy(group); len(admitted) > 0 {
			open = append(open, fmt.Sprintf("the security group %s admits %s", aws.ToString(group.GroupId), strings.Join(admitted, ", ")))
		}
	}
	return open, nil
}

// admittedBy returns what the ingress rules of a group admit.
func admittedBy(group ec2types.SecurityGroup) (all []string) {
	for _, rule := range group.IpPermissions {
		for _, r := range rule.IpRanges {
			all = append(all, aws.ToString(r.CidrIp))
		}
		for _, r := range rule.Ipv6Ranges {
			all = append(all, aws.ToString(r.CidrIpv6))
		}
		for _, r := range rule.UserIdGroupPairs {
			all = append(all, aws.ToString(r.GroupId))
		}
		for _, r := range rule.PrefixListIds {
			all = append(all, aws.ToString(r.PrefixListId))
		}
	}
	return all
}

// tasks returns the tasks of the bastion. ECS lists a task for an hour after it has stopped.
func (t *trial) tasks(ctx context.Context) ([]ecstypes.Task, error) {
	cluster, known := t.client.names["Cluster"]
	if !known {
		return nil, fmt.Errorf("the stack has no Cluster")
	}
	var arns []string
	for _, desired := range []ecstypes.DesiredStatus{ecstypes.DesiredStatusRunning, ecstypes.DesiredStatusStopped} {
		listed, err := t.d.Cloud.ECS.ListTasks(ctx, &ecs.ListTasksInput{
			Cluster: &cluster, StartedBy: aws.String(awscloud.StartedBy(t.bastion.ID)), DesiredStatus: desired,
		})
		if err != nil {
			return nil, fmt.Errorf("list the tasks of %s: %w", t.bastion.ID, err)
		}
		arns = append(arns, listed.TaskArns...) // at most one for each attempt, so there is one page
	}
	if len(arns) == 0 {
		return nil, nil
	}
	described, err := t.d.Cloud.ECS.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: &cluster, Tasks: arns})
	if err != nil {
		return nil, fmt.Errorf("describe the tasks of %s: %w", t.bastion.ID, err)
	}
	return described.Tasks, nil
}
