package awswire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// serveECS serves a call in AWS JSON 1.1.
func (s *Server) serveECS(w http.ResponseWriter, r *http.Request, action string) {
	handlers := map[string]func(context.Context, *json.Decoder) (any, error){
		"RunTask":       s.runTask,
		"ListTasks":     s.listTasks,
		"DescribeTasks": s.describeTasks,
		"StopTask":      s.stopTask,
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	var out any
	err := s.begin(action)
	if handle := handlers[action]; err == nil && handle == nil {
		err = wireError{"UnknownOperationException", action}
	} else if err == nil {
		in := json.NewDecoder(r.Body)
		in.DisallowUnknownFields() // a parameter that is not read here is not tested
		out, err = handle(r.Context(), in)
	}
	if err != nil {
		s.failECS(w, err)
		return
	}
	json.NewEncoder(w).Encode(out)
}

func (s *Server) failECS(w http.ResponseWriter, err error) {
	var known wireError
	var conflict conflictError
	body := map[string]any{}
	status := http.StatusBadRequest
	switch {
	case errors.As(err, &conflict):
		body["__type"], body["message"], body["resourceIds"] = "ConflictException", conflict.Error(), conflict.arns
	case errors.As(err, &known):
		body["__type"], body["message"] = known.code, known.message
	case isThrottled(err):
		body["__type"], body["message"] = "ThrottlingException", "Rate exceeded"
	default:
		body["__type"], body["message"] = "ServerException", err.Error()
		status = http.StatusInternalServerError
	}
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func decode[T any](in *json.Decoder) (T, error) {
	var value T
	if err := in.Decode(&value); err != nil {
		return value, wireError{"SerializationException", err.Error()}
	}
	return value, nil
}

func (s *Server) checkCluster(arn string) error {
	if arn != s.cfg.Cluster {
		return wireError{"ClusterNotFoundException", "Cluster not found."}
	}
	return nil
}

func (s *Server) taskARN(id string) string {
	return strings.Replace(s.cfg.Cluster, ":cluster/", ":task/", 1) + "/" + id
}

// taskID returns the id in a task's ARN, and false for anything but the ARN of a
// task in the cluster.
func (s *Server) taskID(arn string) (string, bool) {
	return strings.CutPrefix(arn, s.taskARN(""))
}

// desiredStatus returns the desired status of a task with this last status.
func desiredStatus(status bastion.TaskStatus) string {
	switch status {
	case bastion.TaskDeactivating, bastion.TaskStopping, bastion.TaskDeprovisioning, bastion.TaskStopped:
		return "STOPPED"
	}
	return "RUNNING"
}

func (s *Server) listTasks(ctx context.Context, in *json.Decoder) (any, error) {
	query, err := decode[struct {
		Cluster, StartedBy, DesiredStatus, NextToken string
		MaxResults                                   int
	}](in)
	if err == nil {
		err = s.checkCluster(query.Cluster)
	}
	if err != nil {
		return nil, err
	}
	desired := query.DesiredStatus
	if desired == "" {
		desired = "RUNNING"
	}
	var arns []string
	for _, id := range s.taskIDs() {
		task, visible, err := s.visibleTask(ctx, id)
		if err != nil {
			return nil, err
		}
		by := query.StartedBy == "" || s.tasks[id].StartedBy == query.StartedBy
		if visible && by && desiredStatus(task.Status) == desired {
			arns = append(arns, s.taskARN(id))
		}
	}
	most := 100
	if query.MaxResults > 0 {
		most = min(most, query.MaxResults)
	}
	items, next, err := page(arns, query.NextToken, most, s.cfg.PageSize)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"taskArns": append([]string{}, items...)}
	if next != "" {
		out["nextToken"] = next
	}
	return out, nil
}

// taskIDs returns the ids of all tasks ever started, in order.
func (s *Server) taskIDs() []string {
	var ids []string
	for id := range s.tasks {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (s *Server) describeTasks(ctx context.Context, in *json.Decoder) (any, error) {
	query, err := decode[struct {
		Cluster        string
		Tasks, Include []string
	}](in)
	if err == nil {
		err = s.checkCluster(query.Cluster)
	}
	if err != nil {
		return nil, err
	}
	if len(query.Tasks) == 0 || len(query.Tasks) > 100 {
		return nil, wireError{"InvalidParameterException", fmt.Sprintf("there must be 1 to 100 tasks, not %d", len(query.Tasks))}
	}
	tasks, failures := []any{}, []any{}
	for _, arn := range query.Tasks {
		id, ok := s.taskID(arn)
		if !ok {
			return nil, wireError{"InvalidParameterException", "Invalid identifier: " + arn}
		}
		task, visible, err := s.visibleTask(ctx, id)
		if err != nil {
			return nil, err
		}
		if !visible {
			failures = append(failures, map[string]any{"arn": arn, "reason": "MISSING"})
			continue
		}
		tasks = append(tasks, s.describedTask(task, slices.Contains(query.Include, "TAGS")))
	}
	return map[string]any{"tasks": tasks, "failures": failures}, nil
}

func (s *Server) stopTask(ctx context.Context, in *json.Decoder) (any, error) {
	query, err := decode[struct{ Cluster, Task, Reason string }](in)
	if err == nil {
		err = s.checkCluster(query.Cluster)
	}
	if err != nil {
		return nil, err
	}
	id, ok := s.taskID(query.Task)
	if !ok {
		return nil, wireError{"InvalidParameterException", "Invalid identifier: " + query.Task}
	}
	if len(query.Reason) > 255 {
		return nil, wireError{"InvalidParameterException", "Reason is too long."}
	}
	task, visible, err := s.visibleTask(ctx, id)
	if err != nil {
		return nil, err
	}
	if !visible {
		return nil, wireError{"InvalidParameterException", "The referenced task was not found."}
	}
	if err := s.cfg.Cloud.Tasks().Stop(ctx, id, query.Reason); err != nil {
		return nil, err
	}
	return map[string]any{"task": s.describedTask(task, false)}, nil
}

// runTask has those parameters of RunTask that awscloud uses.
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

// token is what ECS stores for a clientToken.
type token struct {
	in      runTask
	attempt int
	arn     string // empty if there was no capacity
}

type conflictError struct{ arns []string }

func (conflictError) Error() string {
	return "The provided clientToken is already in use with a different RunTask request."
}

var (
	startedByForm   = regexp.MustCompile(`^[A-Za-z0-9_/-]{1,128}$`)
	clientTokenForm = regexp.MustCompile(`^[!-~]{1,64}$`)
	tagKeyForm      = regexp.MustCompile(`^[A-Za-z0-9 _.:/=+@-]{1,128}$`)
	tagValueForm    = regexp.MustCompile(`^[A-Za-z0-9 _.:/=+@-]{0,256}$`)
)

// checkRunTask returns an error for a request that ECS refuses.
func (s *Server) checkRunTask(in runTask) error {
	vpc := in.NetworkConfiguration.AwsvpcConfiguration
	bad := ""
	switch {
	case in.Count != 1:
		bad = "count is not 1, and this server supports nothing else"
	case !clientTokenForm.MatchString(in.ClientToken):
		bad = "clientToken is invalid"
	case !startedByForm.MatchString(in.StartedBy):
		bad = "startedBy is invalid"
	case len(in.CapacityProviderStrategy) != 1 || !strings.HasPrefix(in.CapacityProviderStrategy[0].CapacityProvider, "FARGATE"):
		bad = "the capacity provider is not of Fargate"
	case len(vpc.Subnets) < 1 || len(vpc.Subnets) > 16 || len(vpc.SecurityGroups) < 1 || len(vpc.SecurityGroups) > 5:
		bad = "there must be 1 to 16 subnets and 1 to 5 security groups"
	case vpc.AssignPublicIp != "ENABLED" && vpc.AssignPublicIp != "DISABLED":
		bad = "assignPublicIp is neither ENABLED nor DISABLED"
	case in.TaskDefinition == "":
		bad = "TaskDefinition can not be blank."
	}
	for _, t := range in.Tags {
		if !tagKeyForm.MatchString(t.Key) || !tagValueForm.MatchString(t.Value) {
			bad = "the tag " + t.Key + " is invalid"
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
		err = s.checkRunTask(in)
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

// startedTask returns a task as RunTask describes it. For a task that has stopped
// since, that is only the ARN and the statuses.
func (s *Server) startedTask(task bastion.Task) map[string]any {
	if task.Status == bastion.TaskStopped {
		return map[string]any{
			"taskArn": s.taskARN(task.ID), "lastStatus": string(task.Status), "desiredStatus": desiredStatus(task.Status),
		}
	}
	task.Endpoints = nil
	return s.describedTask(task, true)
}

// describedTask returns a task as DescribeTasks describes it.
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

// attachment returns a task's network interface. It has an id once it is attached.
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
