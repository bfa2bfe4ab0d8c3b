package awscloud

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// tasksPerDescribe is how many tasks one DescribeTasks takes.
const tasksPerDescribe = 100

// Describe answers the bastion's tasks, oldest first; see bastion.Tasks.
func (t *Tasks) Describe(ctx context.Context, bastionID string, known ...string) ([]bastion.Task, error) {
	arns, err := t.list(ctx, &ecs.ListTasksInput{StartedBy: aws.String(StartedBy(bastionID))})
	if err != nil {
		return nil, fmt.Errorf("tasks of %s: %w", bastionID, err)
	}
	for _, id := range known {
		arns = append(arns, t.stack.taskARN(id))
	}
	tasks, err := t.describe(ctx, arns, func(task types.Task) bool {
		id, _ := BastionID(aws.ToString(task.StartedBy))
		return id == bastionID
	})
	if err != nil {
		return nil, fmt.Errorf("tasks of %s: %w", bastionID, err)
	}
	return tasks, nil
}

// Fetch answers one task; see bastion.Tasks.
func (t *Tasks) Fetch(ctx context.Context, taskID string) (bastion.Task, error) {
	tasks, err := t.describe(ctx, []string{t.stack.taskARN(taskID)}, func(types.Task) bool { return true })
	if err == nil && len(tasks) == 0 {
		err = bastion.ErrNotFound
	}
	if err != nil {
		return bastion.Task{}, fmt.Errorf("task %s: %w", taskID, err)
	}
	return tasks[0], nil
}

// List lists all tasks of this stack that are not stopped; see bastion.Tasks.
// ListTasks goes by the status that ECS wants a task to have, so that one on its
// way to its end is among the stopped.
func (t *Tasks) List(ctx context.Context) ([]bastion.Task, error) {
	arns, err := t.list(ctx, &ecs.ListTasksInput{})
	if err != nil {
		return nil, err
	}
	return t.describe(ctx, arns, func(task types.Task) bool {
		return tag(task.Tags, TagStack) == t.stack.ID && aws.ToString(task.LastStatus) != string(bastion.TaskStopped)
	})
}

// list finds the ARNs of tasks, whatever status ECS wants them to have: first
// those that are to run, so that one which is stopped meanwhile is found all the
// same, if twice.
func (t *Tasks) list(ctx context.Context, in *ecs.ListTasksInput) ([]string, error) {
	var arns []string
	for _, desired := range []types.DesiredStatus{types.DesiredStatusRunning, types.DesiredStatusStopped} {
		query := *in
		query.Cluster, query.DesiredStatus = aws.String(t.stack.Cluster), desired
		for {
			out, err := t.ecs.ListTasks(ctx, &query)
			if err != nil {
				return nil, fmt.Errorf("ListTasks: %w", opaque(err))
			}
			arns = append(arns, out.TaskArns...)
			if query.NextToken = out.NextToken; aws.ToString(out.NextToken) == "" {
				break
			}
		}
	}
	return arns, nil
}

// describe looks at those of the tasks that are wanted, and at their addresses.
// Tasks that ECS does not know (any more, or yet) are left out.
func (t *Tasks) describe(ctx context.Context, arns []string, wanted func(types.Task) bool) ([]bastion.Task, error) {
	slices.Sort(arns)
	var found []types.Task
	for batch := range slices.Chunk(slices.Compact(arns), tasksPerDescribe) {
		out, err := t.ecs.DescribeTasks(ctx, &ecs.DescribeTasksInput{
			Cluster: aws.String(t.stack.Cluster),
			Tasks:   batch,
			Include: []types.TaskField{types.TaskFieldTags},
		})
		if err == nil {
			err = otherThanMissing(out.Failures)
		}
		if err != nil {
			return nil, fmt.Errorf("DescribeTasks: %w", opaque(err))
		}
		found = append(found, out.Tasks...)
	}
	found = slices.DeleteFunc(found, func(task types.Task) bool { return !wanted(task) })
	return t.withEndpoints(ctx, found)
}

func otherThanMissing(failures []types.Failure) error {
	var failed []error
	for _, f := range failures {
		if aws.ToString(f.Reason) != "MISSING" {
			failed = append(failed, fmt.Errorf("%s: %s %s", aws.ToString(f.Arn), aws.ToString(f.Reason), aws.ToString(f.Detail)))
		}
	}
	return errors.Join(failed...)
}

// withEndpoints translates tasks and looks their addresses up, many at a time.
func (t *Tasks) withEndpoints(ctx context.Context, found []types.Task) ([]bastion.Task, error) {
	var interfaces []string
	for _, task := range found {
		if id := interfaceOf(task); id != "" {
			interfaces = append(interfaces, id)
		}
	}
	endpoints, err := t.endpoints(ctx, interfaces)
	if err != nil {
		return nil, err
	}
	var tasks []bastion.Task
	for _, task := range found {
		seen := t.stack.task(task)
		seen.Endpoints = endpoints[interfaceOf(task)]
		tasks = append(tasks, seen)
	}
	slices.SortFunc(tasks, func(a, b bastion.Task) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
	return tasks, nil
}

// interfaceOf is the network interface that a task can be reached by, as far as
// ECS has attached one. A task that is to end has none that anybody should reach.
func interfaceOf(task types.Task) string {
	if aws.ToString(task.DesiredStatus) == string(types.DesiredStatusStopped) {
		return ""
	}
	for _, a := range task.Attachments {
		if aws.ToString(a.Type) != "ElasticNetworkInterface" {
			continue
		}
		for _, detail := range a.Details {
			if aws.ToString(detail.Name) == "networkInterfaceId" {
				return aws.ToString(detail.Value)
			}
		}
	}
	return ""
}

// task translates what ECS says of a task.
func (s Stack) task(task types.Task) bastion.Task {
	seen := bastion.Task{
		ID:         TaskID(aws.ToString(task.TaskArn)),
		Status:     bastion.TaskStatus(aws.ToString(task.LastStatus)),
		StopCode:   string(task.StopCode),
		StopReason: aws.ToString(task.StoppedReason),
	}
	seen.BastionID, _ = BastionID(aws.ToString(task.StartedBy))
	seen.Attempt, _ = strconv.Atoi(tag(task.Tags, TagAttempt)) // 0 is no attempt of anybody's
	if task.CreatedAt != nil {
		seen.CreatedAt = task.CreatedAt.UTC()
	}
	for _, c := range task.Containers {
		if aws.ToString(c.Name) != s.Container {
			continue
		}
		if c.ExitCode != nil {
			seen.ExitCode = aws.Int(int(*c.ExitCode))
		}
		// Why an image cannot be pulled, say, may stand with the container only.
		if why := aws.ToString(c.Reason); !strings.Contains(seen.StopReason, why) {
			seen.StopReason = strings.TrimPrefix(seen.StopReason+": "+why, ": ")
		}
	}
	return seen
}

func tag(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

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
		in := &ec2.DescribeNetworkInterfacesInput{Filters: []ec2types.Filter{filter("network-interface-id", batch...)}}
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
func (s Stack) endpointsOf(i ec2types.NetworkInterface) []netip.AddrPort {
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

func filter(name string, values ...string) ec2types.Filter {
	return ec2types.Filter{Name: aws.String(name), Values: values}
}
