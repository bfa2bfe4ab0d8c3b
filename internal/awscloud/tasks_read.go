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

// tasksPerDescribe is the largest number of tasks that one DescribeTasks accepts.
const tasksPerDescribe = 100

// Describe returns the bastion's tasks, oldest first: those that have its startedBy,
// and those with the known ids.
func (t *Tasks) Describe(ctx context.Context, bastionID string, known ...string) ([]bastion.Task, error) {
	ctx = together(ctx)
	arns, err := t.list(ctx, &ecs.ListTasksInput{StartedBy: aws.String(StartedBy(bastionID))})
	if err != nil {
		return nil, fmt.Errorf("describe tasks of %s: %w", bastionID, err)
	}
	for _, id := range known {
		arns = append(arns, t.stack.taskARN(id))
	}
	tasks, err := t.describe(ctx, arns, func(task types.Task) bool {
		id, _ := BastionID(aws.ToString(task.StartedBy))
		return id == bastionID
	})
	if err != nil {
		return nil, fmt.Errorf("describe tasks of %s: %w", bastionID, err)
	}
	return tasks, nil
}

// Fetch returns one task.
func (t *Tasks) Fetch(ctx context.Context, taskID string) (bastion.Task, error) {
	ctx = together(ctx)
	tasks, err := t.describe(ctx, []string{t.stack.taskARN(taskID)}, func(types.Task) bool { return true })
	if err == nil && len(tasks) == 0 {
		err = bastion.ErrNotFound
	}
	if err != nil {
		return bastion.Task{}, fmt.Errorf("describe task %s: %w", taskID, err)
	}
	return tasks[0], nil
}

// List lists all tasks of the stack that have not stopped. ListTasks selects tasks by
// their desired status. The desired status of a task that is being stopped is STOPPED,
// so List reads the tasks of both statuses.
func (t *Tasks) List(ctx context.Context) ([]bastion.Task, error) {
	arns, err := t.list(ctx, &ecs.ListTasksInput{})
	if err != nil {
		return nil, err
	}
	return t.describe(ctx, arns, func(task types.Task) bool {
		return tag(task.Tags, TagStack) == t.stack.ID && aws.ToString(task.LastStatus) != string(bastion.TaskStopped)
	})
}

// list returns the ARNs of tasks, first of those whose desired status is RUNNING, then
// of those whose desired status is STOPPED. If a task is stopped between the two calls,
// list returns the task twice. In the other order, list would miss the task.
func (t *Tasks) list(ctx context.Context, in *ecs.ListTasksInput) ([]string, error) {
	var arns []string
	for _, desired := range []types.DesiredStatus{types.DesiredStatusRunning, types.DesiredStatusStopped} {
		query := *in
		query.Cluster, query.DesiredStatus = aws.String(t.stack.Cluster), desired
		for {
			out, err := t.ecs.ListTasks(ctx, &query)
			if err != nil {
				return nil, fmt.Errorf("list tasks: %w", opaque(err))
			}
			arns = append(arns, out.TaskArns...)
			if query.NextToken = out.NextToken; aws.ToString(out.NextToken) == "" {
				break
			}
		}
	}
	return arns, nil
}

// describe returns the wanted tasks with their addresses, oldest first. It leaves out
// tasks that ECS does not know yet, or no longer knows.
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
			err = exceptMissing(out.Failures)
		}
		if err != nil {
			return nil, fmt.Errorf("describe tasks: %w", opaque(err))
		}
		found = append(found, out.Tasks...)
	}
	found = slices.DeleteFunc(found, func(task types.Task) bool { return !wanted(task) })
	return t.withEndpoints(ctx, found), nil
}

// exceptMissing returns the failures as an error, without those for tasks that ECS does
// not know (MISSING).
func exceptMissing(failures []types.Failure) error {
	var failed []error
	for _, f := range failures {
		if aws.ToString(f.Reason) != "MISSING" {
			failed = append(failed, fmt.Errorf("%s: %s %s", aws.ToString(f.Arn), aws.ToString(f.Reason), aws.ToString(f.Detail)))
		}
	}
	return errors.Join(failed...)
}

// withEndpoints converts tasks and adds their addresses, which it reads in batches. If
// EC2 does not return the addresses, the tasks have EndpointsErr. It returns the tasks
// oldest first.
func (t *Tasks) withEndpoints(ctx context.Context, found []types.Task) []bastion.Task {
	var interfaces []string
	for _, task := range found {
		if id := interfaceOf(task); id != "" {
			interfaces = append(interfaces, id)
		}
	}
	endpoints, err := t.endpoints(ctx, interfaces)
	var tasks []bastion.Task
	for _, task := range found {
		converted := t.stack.task(task)
		if id := interfaceOf(task); id != "" {
			converted.Endpoints, converted.EndpointsErr = endpoints[id], err
		}
		tasks = append(tasks, converted)
	}
	slices.SortFunc(tasks, func(a, b bastion.Task) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
	return tasks
}

// interfaceOf returns the id of the task's network interface. It returns "" if ECS has
// not attached an interface yet, and for a task that is being stopped, because no
// client should connect to such a task.
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

// task converts ECS's description of a task.
func (s Stack) task(task types.Task) bastion.Task {
	converted := bastion.Task{
		ID:         TaskID(aws.ToString(task.TaskArn)),
		Status:     bastion.TaskStatus(aws.ToString(task.LastStatus)),
		StopCode:   string(task.StopCode),
		StopReason: aws.ToString(task.StoppedReason),
	}
	converted.BastionID, _ = BastionID(aws.ToString(task.StartedBy))
	converted.Attempt, _ = strconv.Atoi(tag(task.Tags, TagAttempt)) // 0 for a task without the tag
	if task.CreatedAt != nil {
		converted.CreatedAt = task.CreatedAt.UTC()
	}
	for _, c := range task.Containers {
		if aws.ToString(c.Name) != s.Container {
			continue
		}
		if c.ExitCode != nil {
			converted.ExitCode = aws.Int(int(*c.ExitCode))
		}
		// For some stops the reason of the container says more than that of the task,
		// for example if an image cannot be pulled.
		if reason := aws.ToString(c.Reason); !strings.Contains(converted.StopReason, reason) {
			converted.StopReason = strings.TrimPrefix(converted.StopReason+": "+reason, ": ")
		}
	}
	return converted
}

// tag returns the value of a tag; "" if it is missing.
func tag(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

// EC2Interfaces has the calls of EC2 that [Tasks] makes.
type EC2Interfaces interface {
	DescribeNetworkInterfaces(context.Context, *ec2.DescribeNetworkInterfacesInput, ...func(*ec2.Options)) (*ec2.DescribeNetworkInterfacesOutput, error)
}

// valuesPerFilter is the largest number of values that EC2 accepts in one filter.
const valuesPerFilter = 200

// endpoints returns the endpoints of network interfaces, by interface id: at most one
// for each address family, IPv4 first. It selects the interfaces by a filter. A call
// with ids instead would fail for all interfaces if EC2 does not find one of them, and
// EC2 has a larger bucket for calls with a filter.
func (t *Tasks) endpoints(ctx context.Context, interfaces []string) (map[string][]netip.AddrPort, error) {
	found := map[string][]netip.AddrPort{}
	for batch := range slices.Chunk(interfaces, valuesPerFilter) {
		in := &ec2.DescribeNetworkInterfacesInput{Filters: []ec2types.Filter{filter("network-interface-id", batch...)}}
		for {
			out, err := t.ec2.DescribeNetworkInterfaces(ctx, in)
			if err != nil {
				return nil, fmt.Errorf("describe network interfaces: %w", opaque(err))
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

// endpointsOf returns the endpoints of an interface. The public IPv4 endpoint can be
// missing, because EC2 associates a public address some time after it attaches the
// interface.
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
