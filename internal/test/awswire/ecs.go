package awswire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// serveECS answers a call in AWS JSON 1.1.
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
		in.DisallowUnknownFields() // what nothing here reads, the tests do not show to be right
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
	case throttled(err):
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

// taskID is the id in a task's full ARN; false for what is no ARN of a task in
// the cluster.
func (s *Server) taskID(arn string) (string, bool) {
	return strings.CutPrefix(arn, s.taskARN(""))
}

// desiredStatus is what ECS wants of a task in a status.
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
		task, there, err := s.taskShown(ctx, id)
		if err != nil {
			return nil, err
		}
		by := query.StartedBy == "" || s.tasks[id].StartedBy == query.StartedBy
		if there && by && desiredStatus(task.Status) == desired {
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

// taskIDs are the ids of all tasks ever made here, in order.
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
		task, there, err := s.taskShown(ctx, id)
		if err != nil {
			return nil, err
		}
		if !there {
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
	task, there, err := s.taskShown(ctx, id)
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, wireError{"InvalidParameterException", "The referenced task was not found."}
	}
	if err := s.cfg.Cloud.Tasks().Stop(ctx, id, query.Reason); err != nil {
		return nil, err
	}
	return map[string]any{"task": s.describedTask(task, false)}, nil
}
