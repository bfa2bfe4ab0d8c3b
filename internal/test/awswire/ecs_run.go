package awswire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// runTask is what RunTask takes, as far as anything here sends it.
type runTask struct {
	Cluster, TaskDefinition, ClientToken, StartedBy string
	Count                                           int
	CapacityProviderStrategy                        []struct {
		CapacityProvider string
		Weight           int
	}
	NetworkConfiguration struct {
		AwsvpcConfiguration struct {
			Subnets, SecurityGroups []string
			AssignPublicIp          string
		}
	}
	Overrides struct {
		ContainerOverrides []struct {
			Name        string
			Environment []struct{ Name, Value string }
		}
	}
	Tags []tag
}

type tag struct {
	Key   string `json:"key" xml:"key"`
	Value string `json:"value" xml:"value"`
}

// token is what ECS remembers by a clientToken.
type token struct {
	in      runTask
	attempt int
	arn     string // empty: there was no capacity
}

type conflictError struct{ arns []string }

func (conflictError) Error() string {
	return "The provided clientToken is already in use with a different RunTask request."
}

var (
	startedByForm   = regexp.MustCompile(`^[A-Za-z0-9_/-]{1,128}$`)
	clientTokenForm = regexp.MustCompile(`^[!-~]{1,64}$`)
	tagForm         = regexp.MustCompile(`^[A-Za-z0-9 _.:/=+@-]{1,256}$`)
)

// check refuses what ECS refuses.
func (s *Server) check(in runTask) error {
	vpc := in.NetworkConfiguration.AwsvpcConfiguration
	bad := ""
	switch {
	case in.Count != 1:
		bad = "count is not 1, which is all that this server does"
	case !clientTokenForm.MatchString(in.ClientToken):
		bad = "clientToken has a bad form"
	case !startedByForm.MatchString(in.StartedBy):
		bad = "startedBy has a bad form"
	case len(in.CapacityProviderStrategy) != 1 || !strings.HasPrefix(in.CapacityProviderStrategy[0].CapacityProvider, "FARGATE"):
		bad = "the capacity provider is not one of Fargate's"
	case len(vpc.Subnets) < 1 || len(vpc.Subnets) > 16 || len(vpc.SecurityGroups) < 1 || len(vpc.SecurityGroups) > 5:
		bad = "there must be 1 to 16 subnets and 1 to 5 security groups"
	case vpc.AssignPublicIp != "ENABLED" && vpc.AssignPublicIp != "DISABLED":
		bad = "assignPublicIp is neither ENABLED nor DISABLED"
	case in.TaskDefinition == "":
		bad = "TaskDefinition can not be blank."
	}
	for _, t := range in.Tags {
		if !tagForm.MatchString(t.Key) || !tagForm.MatchString(t.Value) {
			bad = "the tag " + t.Key + " has a bad form"
		}
	}
	if bad != "" {
		return wireError{"InvalidParameterException", bad}
	}
	for _, id := range vpc.SecurityGroups[1:] {
		if !slices.Contains(s.cfg.Groups, id) {
			return noSuchGroup(vpc.SecurityGroups, id)
		}
	}
	return s.checkCluster(in.Cluster)
}

func noSuchGroup(groups []string, id string) error {
	return wireError{"InvalidParameterException", fmt.Sprintf(
		"Error retrieving security group information for [%s]: The security group '%s' does not exist (ErrorCode: InvalidGroup.NotFound)",
		strings.Join(groups, ", "), id)}
}

func (s *Server) runTask(ctx context.Context, decoder *json.Decoder) (any, error) {
	in, err := decode[runTask](decoder)
	if err == nil {
		err = s.check(in)
	}
	if err != nil {
		return nil, err
	}
	known, replay := s.tokens[in.ClientToken]
	if replay && !reflect.DeepEqual(known.in, in) {
		return nil, conflictError{slices.DeleteFunc([]string{known.arn}, func(arn string) bool { return arn == "" })}
	}
	if !replay {
		known = token{in: in, attempt: len(s.tokens) + 1}
	}
	vpc := in.NetworkConfiguration.AwsvpcConfiguration
	task, err := s.cfg.Cloud.Tasks().Run(ctx, bastion.TaskSpec{
		BastionID: in.StartedBy, Attempt: known.attempt, GroupID: vpc.SecurityGroups[0],
		Subnet: vpc.Subnets[0], TaskDefinition: in.TaskDefinition,
	})
	var refused *bastion.RefusedError
	switch {
	case errors.Is(err, bastion.ErrNotFound):
		return nil, noSuchGroup(vpc.SecurityGroups, vpc.SecurityGroups[0])
	case errors.As(err, &refused):
		s.tokens[in.ClientToken] = known
		return map[string]any{"tasks": []any{}, "failures": []any{map[string]any{
			"reason": "Capacity is unavailable at this time. Please try again later or in a different availability zone",
		}}}, nil
	case err != nil:
		return nil, err
	}
	known.arn = s.taskARN(task.ID)
	s.tokens[in.ClientToken], s.tasks[task.ID] = known, in
	return map[string]any{"tasks": []any{s.startedTask(task)}, "failures": []any{}}, nil
}

// startedTask is a task as RunTask answers it: one that has stopped since is no
// more than its ARN and its statuses.
func (s *Server) startedTask(task bastion.Task) map[string]any {
	if task.Status == bastion.TaskStopped {
		return map[string]any{
			"taskArn": s.taskARN(task.ID), "lastStatus": string(task.Status), "desiredStatus": desiredStatus(task.Status),
		}
	}
	task.Endpoints = nil
	return s.describedTask(task, true)
}

// describedTask is a task as DescribeTasks answers it.
func (s *Server) describedTask(task bastion.Task, tags bool) map[string]any {
	in := s.tasks[task.ID]
	container := map[string]any{"name": in.container(), "lastStatus": string(task.Status)}
	if task.ExitCode != nil {
		container["exitCode"] = *task.ExitCode
	}
	out := map[string]any{
		"taskArn":           s.taskARN(task.ID),
		"clusterArn":        s.cfg.Cluster,
		"taskDefinitionArn": in.TaskDefinition,
		"startedBy":         in.StartedBy,
		"lastStatus":        string(task.Status),
		"desiredStatus":     desiredStatus(task.Status),
		"createdAt":         float64(task.CreatedAt.UnixMilli()) / 1000,
		"containers":        []any{container},
		"attachments":       []any{attachment(task)},
	}
	if tags {
		out["tags"] = in.Tags
	}
	if task.Status == bastion.TaskStopped {
		out["stopCode"], out["stoppedReason"] = task.StopCode, task.StopReason
	}
	return out
}

func (in runTask) container() string {
	if len(in.Overrides.ContainerOverrides) == 0 {
		return "main"
	}
	return in.Overrides.ContainerOverrides[0].Name
}

// attachment is a task's interface: its id is known once it is attached.
func attachment(task bastion.Task) map[string]any {
	status, details := "PRECREATED", []any{map[string]any{"name": "subnetId", "value": "subnet-1"}}
	switch {
	case task.Status == bastion.TaskStopped:
		status = "DELETED"
	case len(task.Endpoints) > 0:
		status = "ATTACHED"
		details = append(details, map[string]any{"name": "networkInterfaceId", "value": interfacePrefix + task.ID})
	}
	return map[string]any{"id": "attachment-" + task.ID, "type": "ElasticNetworkInterface", "status": status, "details": details}
}

const interfacePrefix = "eni-"
