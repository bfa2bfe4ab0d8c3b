//go:build conformance

package system

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// motoProxy serves EC2 and ECS to the functions. It forwards to moto and adds behaviour
// that moto does not have; the package comment lists it for each call.
type motoProxy struct {
	moto    *moto
	fargate *fargate

	mu             sync.Mutex             // one call at a time
	ecsFault       ecsFault               // nil: every call of ECS is served
	hiddenUntil    map[string]time.Time   // end of the time in which a new group is not found, by ID and by name
	startedTasks   map[string]startedTask // by clientToken
	forwardedCalls map[string]int         // answered by moto, by action
	ownResponses   map[string]int         // answered here, by error code
}

func newMotoProxy(f *fargate) *motoProxy {
	return &motoProxy{moto: f.moto, fargate: f, hiddenUntil: map[string]time.Time{}, startedTasks: map[string]startedTask{}, forwardedCalls: map[string]int{}, ownResponses: map[string]int{}}
}

// serveEC2 serves a call of EC2.
func (p *motoProxy) serveEC2(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	response, err := p.ec2(r, r.PostForm)
	p.writeResponse(w, response, err)
}

func (p *motoProxy) ec2(r *http.Request, form url.Values) ([]byte, error) {
	action, group := form.Get("Action"), form.Get("GroupId")
	if action != "CreateSecurityGroup" { // a new group's name is in use at once
		p.replaceHidden(form)
	}
	if action == "DeleteSecurityGroup" {
		carried, err := p.moto.ec2(r.Context(), "DescribeNetworkInterfaces", "Filter.1.Name", "group-id", "Filter.1.Value.1", group)
		if err != nil {
			return nil, err
		}
		if len(carried.Interfaces) > 0 {
			return nil, p.refuse("DependencyViolation", ec2Error("DependencyViolation", "resource "+group+" has a dependent object"))
		}
	}
	response, err := p.moto.forward(r.Context(), form)
	if err != nil {
		return nil, err
	}
	p.forwardedCalls[action]++
	if action == "CreateSecurityGroup" {
		var created ec2Response
		if err := xml.Unmarshal(response, &created); err != nil {
			return nil, err
		}
		shows := time.Now().Add(p.fargate.staleness)
		p.hiddenUntil[created.Group], p.hiddenUntil[form.Get("GroupName")] = shows, shows
	}
	return response, nil
}

// replaceHidden replaces each hidden group by a group that does not exist, so that moto
// returns its own error.
func (p *motoProxy) replaceHidden(form url.Values) {
	for _, values := range form {
		for i, value := range values {
			if p.isHidden(value) {
				values[i] = "sg-00000000000000000"
			}
		}
	}
}

func (p *motoProxy) isHidden(group string) bool { return time.Now().Before(p.hiddenUntil[group]) }

// refuse counts and returns an error response of the proxy itself.
func (p *motoProxy) refuse(code string, body []byte) error {
	p.ownResponses[code]++
	return errorResponse{http.StatusBadRequest, body}
}

func ec2Error(code, message string) []byte {
	body, _ := xml.Marshal(struct {
		XMLName   xml.Name `xml:"Response"`
		Code      string   `xml:"Errors>Error>Code"`
		Message   string   `xml:"Errors>Error>Message"`
		RequestID string
	}{Code: code, Message: message, RequestID: "request-1"})
	return body
}

// writeResponse writes a response, or an error response as it is.
func (p *motoProxy) writeResponse(w http.ResponseWriter, response []byte, err error) {
	var refused errorResponse
	switch {
	case errors.As(err, &refused):
		w.WriteHeader(refused.status)
		response = refused.body
	case err != nil:
		w.WriteHeader(http.StatusInternalServerError)
		response = []byte(err.Error())
	}
	_, _ = w.Write(response)
}

// startedTask is what ECS keeps for a clientToken.
type startedTask struct {
	request  []byte
	response map[string]any // of a task, as moto gave it
	task     *task
}

// ecsCall has the parameters that the proxy reads, for all actions.
type ecsCall struct {
	ClientToken, StartedBy, TaskDefinition, Task, Reason string
	Tasks                                                []string
	NetworkConfiguration                                 struct {
		AwsvpcConfiguration struct{ SecurityGroups []string }
	}
	Overrides struct {
		ContainerOverrides []struct {
			Environment []struct{ Name, Value string }
		}
	}
}

// serveECS serves a call of ECS.
func (p *motoProxy) serveECS(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	var call ecsCall
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &call)
	}
	var out map[string]any
	if err == nil {
		out, err = p.ecs(r.Context(), action, call, body)
	}
	response, _ := json.Marshal(out)
	p.writeResponse(w, response, err)
}

// ecsFault lets calls of ECS fail. It is called for each call, before the call has its
// effect and after it. If it returns true, the caller gets a server error.
type ecsFault func(action string, call ecsCall, after bool) bool

func (p *motoProxy) setECSFault(fault ecsFault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ecsFault = fault
}

// ecs serves a call, or lets it fail.
func (p *motoProxy) ecs(ctx context.Context, action string, call ecsCall, body []byte) (map[string]any, error) {
	failed := errorResponse{http.StatusInternalServerError, []byte(`{"__type":"ServerException","message":"the test lets this call fail"}`)}
	if p.ecsFault != nil && p.ecsFault(action, call, false) {
		return nil, failed
	}
	response, err := p.serve(ctx, action, call, body)
	if err == nil && p.ecsFault != nil && p.ecsFault(action, call, true) {
		return nil, failed
	}
	return response, err
}

func (p *motoProxy) serve(ctx context.Context, action string, call ecsCall, body []byte) (map[string]any, error) {
	switch action {
	case "RunTask":
		return p.runTask(ctx, call, body)
	case "DescribeTasks":
		return p.describeTasks(ctx, call, body)
	case "StopTask":
		return p.stopTask(ctx, call, body)
	}
	return p.forward(ctx, action, body)
}

// forward passes a call on to moto unchanged.
func (p *motoProxy) forward(ctx context.Context, action string, body []byte) (map[string]any, error) {
	out, err := p.moto.ecs(ctx, action, json.RawMessage(body))
	if err == nil {
		p.forwardedCalls[action]++
	}
	return out, err
}

func (p *motoProxy) refuseECS(code, message string, arns ...string) error {
	body, _ := json.Marshal(map[string]any{"__type": code, "message": message, "resourceIds": arns})
	return p.refuse(code, body)
}

func (p *motoProxy) runTask(ctx context.Context, call ecsCall, body []byte) (map[string]any, error) {
	known, repeated := p.startedTasks[call.ClientToken]
	switch {
	case repeated && !bytes.Equal(known.request, body):
		return nil, p.refuseECS("ConflictException", "The provided clientToken is already in use with a different RunTask request.", known.task.arn)
	case repeated:
		p.ownResponses["repeated clientToken"]++
		return runTaskResponse(known), nil
	}
	groups := call.NetworkConfiguration.AwsvpcConfiguration.SecurityGroups
	for _, group := range groups {
		if exists, err := p.groupExists(ctx, group); err != nil {
			return nil, err
		} else if !exists {
			return nil, p.refuseECS("InvalidParameterException", fmt.Sprintf(
				"Error retrieving security group information for [%s]: The security group '%s' does not exist (ErrorCode: InvalidGroup.NotFound)",
				strings.Join(groups, ", "), group))
		}
	}
	out, err := p.forward(ctx, "RunTask", body)
	if err != nil {
		return nil, err
	}
	now := startedTask{request: body, response: out["tasks"].([]any)[0].(map[string]any)}
	var environ []string
	for _, container := range call.Overrides.ContainerOverrides {
		for _, entry := range container.Environment {
			environ = append(environ, entry.Name+"="+entry.Value)
		}
	}
	now.task, err = p.fargate.startTask(now.response["taskArn"].(string), call.StartedBy, call.TaskDefinition, networkInterfaceOf(now.response), environ)
	p.startedTasks[call.ClientToken] = now
	return runTaskResponse(now), err
}

func (p *motoProxy) groupExists(ctx context.Context, group string) (bool, error) {
	if p.isHidden(group) {
		return false, nil
	}
	_, err := p.moto.ec2(ctx, "DescribeSecurityGroups", "GroupId.1", group)
	var refused errorResponse
	if errors.As(err, &refused) && bytes.Contains(refused.body, []byte("InvalidGroup.NotFound")) {
		return false, nil
	}
	return err == nil, err
}

// networkInterfaceOf returns the network interface of a task that moto shows.
func networkInterfaceOf(shown map[string]any) string {
	for _, detail := range shown["attachments"].([]any)[0].(map[string]any)["details"].([]any) {
		if detail := detail.(map[string]any); detail["name"] == "networkInterfaceId" {
			return detail["value"].(string)
		}
	}
	return ""
}

// runTaskResponse returns the response of RunTask. A task that has stopped since is shown
// with its ARN and statuses only.
func runTaskResponse(s startedTask) map[string]any {
	shown, now := maps.Clone(s.response), s.task.currentState()
	if addLifecycle(shown, s.task, now); now.status == "STOPPED" {
		shown = map[string]any{"taskArn": s.task.arn, "lastStatus": now.status, "desiredStatus": now.status}
	}
	return map[string]any{"tasks": []any{shown}, "failures": []any{}}
}

// addLifecycle sets the fields of a task's life in a task that moto shows.
func addLifecycle(shown map[string]any, t *task, now taskState) {
	shown["createdAt"] = float64(t.created.UnixMilli()) / 1000
	shown["lastStatus"], shown["stoppedReason"] = now.status, now.reason
	if !now.attached {
		shown["attachments"] = []any{}
	}
	if delete(shown, "stopCode"); now.stopCode != "" {
		shown["stopCode"] = now.stopCode
	}
	container := maps.Clone(shown["containers"].([]any)[0].(map[string]any))
	container["lastStatus"] = now.status
	if delete(container, "exitCode"); now.exit != nil {
		container["exitCode"] = *now.exit
	}
	shown["containers"] = []any{container}
}

func (p *motoProxy) describeTasks(ctx context.Context, call ecsCall, body []byte) (map[string]any, error) {
	out, err := p.forward(ctx, "DescribeTasks", body)
	if err != nil {
		return nil, err
	}
	tasks, failures := []any{}, []any{}
	for _, arn := range call.Tasks {
		t, now, shows := p.fargate.visibleState(arn)
		if !shows {
			failures = append(failures, map[string]any{"arn": arn, "reason": "MISSING"})
			continue
		}
		for _, found := range out["tasks"].([]any) {
			if shown := found.(map[string]any); shown["taskArn"] == arn {
				addLifecycle(shown, t, now)
				tasks = append(tasks, shown)
			}
		}
	}
	return map[string]any{"tasks": tasks, "failures": failures}, nil
}

// stopTask stops the task in moto, which sets the desired status, and its process.
func (p *motoProxy) stopTask(ctx context.Context, call ecsCall, body []byte) (map[string]any, error) {
	t, now, shows := p.fargate.visibleState(call.Task)
	if !shows {
		return nil, p.refuseECS("InvalidParameterException", "The referenced task was not found.")
	}
	out, err := p.forward(ctx, "StopTask", body)
	if err != nil {
		return nil, err
	}
	t.terminate(call.Reason)
	addLifecycle(out["task"].(map[string]any), t, now)
	return out, nil
}
