//go:build conformance

package system

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/slack"
	"github.com/bastion-on-demand/bastion/internal/test/privilege"
)

// takenOverRole has clients with the Slack function's role, as an attacker who has taken
// over that function. The recorder rejects calls that the role does not grant.
type takenOverRole struct {
	functions *awscloud.Functions
	dynamo    *dynamodb.Client
	ssm       *ssm.Client
	ecs       *ecs.Client
}

// takeOverSlackRole uses a recorder of its own, so that these calls do not count as
// needed.
func (d *deployment) takeOverSlackRole(t *testing.T) takenOverRole {
	t.Helper()
	r := privilege.NewRecorder(d.recorder.Deployment, d.recorder.Granted, d.services)
	t.Cleanup(r.Close)
	url := serve(t, r.As("SlackRole", ""))
	cfg := awsConfig(t)
	return takenOverRole{
		functions: awscloud.NewFunctions(awscloud.NewLambda(cfg, func(o *lambda.Options) { o.BaseEndpoint = &url })),
		dynamo:    awscloud.NewDynamoDB(cfg, func(o *dynamodb.Options) { o.BaseEndpoint = &url }),
		ssm:       awscloud.NewSSM(cfg, func(o *ssm.Options) { o.BaseEndpoint = &url }),
		ecs:       awscloud.NewECS(cfg, awscloud.NewPacer(), func(o *ecs.Options) { o.BaseEndpoint = &url }),
	}
}

// victim is an IAM user who must have no bastion before and after the step.
const victim = "victim"

// slackRoleIsConfined makes all calls while alice has a bastion.
func (s *systemTest) slackRoleIsConfined(t *testing.T) {
	r := s.takeOverSlackRole(t)
	r.checkGrantedCalls(t, s)
	s.logf(t, "  refused: %d payloads at the aliases", r.trySlackAliases(t, s))
	s.logf(t, "  refused: %d calls of other functions and aliases", r.tryOtherFunctions(t))
	s.logf(t, "  refused: %d calls of tables, parameters and tasks", r.tryOtherResources(t, s))
	r.tryJobsOfOthers(t, s)
	for _, owner := range []string{iamOwner(victim), "local:victim", "jwt:https://issuer.example#victim"} {
		if found, err := s.ports.Store.ListByOwner(t.Context(), owner); err != nil || len(found) > 0 {
			t.Errorf("%s has %+v, %v", owner, found, err)
		}
		if key, err := s.ports.Store.RememberedKey(t.Context(), owner); err == nil && key != "" {
			t.Errorf("a key is stored for %s", owner)
		}
	}
	s.alice.expect(t, 200, "ready", "/bastions/"+s.bastionID)
}

func iamOwner(user string) string { return "iam:" + account + ":" + uniqueID("AIDA", user) }

// checkGrantedCalls checks that calls for an owner of Slack succeed, so that the refusals
// of the other steps have no other cause. This owner has no bastion and does
// not see alice's.
func (r takenOverRole) checkGrantedCalls(t *testing.T, s *systemTest) {
	t.Helper()
	for _, request := range []struct{ alias, method, path, want string }{
		{"describe:slack", "GET", "/bastions", `"status":200`},
		{"describe:slack", "GET", "/bastions/" + s.bastionID, `"status":404`},
		{"extend:slack", "PATCH", "/bastions/" + s.bastionID, `"status":404`},
		{"destroy:slack", "DELETE", "/bastions/" + s.bastionID, `"status":404`},
	} {
		response, err := r.functions.Invoke(t.Context(), functionARN(request.alias), slackCall("slack:"+team+":UATTACKER", request.method, request.path))
		if err != nil || !strings.Contains(string(response), request.want) {
			t.Errorf("%s %s returned %s, %v", request.method, request.path, response, err)
		}
	}
}

// requestBodies are valid bodies, by method: an authorized call with them succeeds.
var requestBodies = map[string]string{
	"POST": `{"public_key":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3Yp3ZCq2yX6nV0zq9oZx9oUuUJ2m3n0b4V6fJmL1dN"}`, "PATCH": `{"ttl":"1h"}`,
}

// slackCall returns a call of the API as the Slack function sends it.
func slackCall(owner, method, path string) []byte {
	call, _ := json.Marshal(map[string]string{
		"owner": owner, "source": "127.0.0.9", "method": method, "path": path, "body": requestBodies[method],
	}) // strings
	return call
}

// trySlackAliases calls each alias with payloads that name an owner who is not of Slack,
// in every form. Each function must run and fail.
func (r takenOverRole) trySlackAliases(t *testing.T, s *systemTest) (count int) {
	t.Helper()
	for alias, request := range map[string]struct{ method, path string }{
		"create:slack": {"POST", "/bastions"}, "describe:slack": {"GET", "/bastions"},
		"extend:slack": {"PATCH", "/bastions/" + s.bastionID}, "destroy:slack": {"DELETE", "/bastions"},
	} {
		for what, payload := range map[string][]byte{
			"an event of a user":     userEvent(t, request.method, request.path, victim),
			"an event of alice":      userEvent(t, request.method, request.path, role+"alice"),
			"an event of admin":      userEvent(t, request.method, request.path, operator),
			"an event of a token":    withToken(t, userEvent(t, request.method, request.path, victim)),
			"an event and a call":    mergeObjects(userEvent(t, request.method, request.path, victim), slackCall("slack:"+team+":UATTACKER", request.method, request.path)),
			"an IAM owner":           slackCall(iamOwner(victim), request.method, request.path),
			"the admin":              slackCall("arn:aws:iam::"+account+":user/"+operator, request.method, request.path),
			"a JWT owner":            slackCall("jwt:https://issuer.example#victim", request.method, request.path),
			"an owner of local mode": slackCall("local:victim", request.method, request.path),
			"two owners":             slackCall("slack:"+team+":UATTACKER\n"+iamOwner(victim), request.method, request.path),
		} {
			count++
			response, err := r.functions.Invoke(t.Context(), functionARN(alias), payload)
			if !errors.As(err, new(*awscloud.FunctionError)) {
				t.Errorf("%s with %s returned %s, %v", alias, what, response, err)
			}
		}
	}
	return count
}

// userEvent returns API Gateway's event for a request of an IAM user.
func userEvent(t *testing.T, method, path, user string) []byte {
	t.Helper()
	result, _, err := newAPIEvent(httptest.NewRequest(method, path, strings.NewReader(requestBodies[method])), user)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// withToken replaces the IAM user of an event by a JWT.
func withToken(t *testing.T, event []byte) []byte {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(event, &e); err != nil {
		t.Fatal(err)
	}
	e["requestContext"].(map[string]any)["authorizer"] = map[string]any{"jwt": map[string]any{
		"claims": map[string]string{"iss": "https://issuer.example", "sub": "victim"}, "scopes": nil,
	}}
	result, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// mergeObjects returns one JSON object with the members of two.
func mergeObjects(one, other []byte) []byte {
	return append(append(one[:len(one)-1:len(one)-1], ','), other[1:]...)
}

// tryOtherFunctions invokes functions and aliases that the role does not grant, with
// payloads that would have an effect.
func (r takenOverRole) tryOtherFunctions(t *testing.T) (count int) {
	t.Helper()
	for name, payload := range map[string][]byte{
		"create": userEvent(t, "POST", "/bastions", victim), "create:$LATEST": userEvent(t, "POST", "/bastions", victim), "create:7": userEvent(t, "POST", "/bastions", victim),
		"create:queue": slackCall(iamOwner(victim), "POST", "/bastions"), "create:slack2": slackCall(iamOwner(victim), "POST", "/bastions"),
		"describe": userEvent(t, "GET", "/bastions", operator), "extend": userEvent(t, "PATCH", "/bastions", operator), "destroy": userEvent(t, "DELETE", "/bastions", operator),
		"reaper": []byte(`{"action":"sweep"}`), "observer": []byte(`{"Records":[]}`), "slack": userEvent(t, "POST", "/slack/command", ""),
	} {
		for _, function := range []string{name, functionARN(name)} {
			count += 2
			response, err := r.functions.Invoke(t.Context(), function, payload)
			if !isDenied(err) {
				t.Errorf("%s returned %s, %v", function, response, err)
			}
			if err := r.functions.InvokeAsync(t.Context(), function, payload); !isDenied(err) {
				t.Errorf("%s accepted an event: %v", function, err)
			}
		}
	}
	return count
}

// isDenied reports whether IAM denied the call, as opposed to an error of the function.
func isDenied(err error) bool {
	return err != nil && !errors.As(err, new(*awscloud.FunctionError)) && strings.Contains(err.Error(), "AccessDenied")
}

// tryOtherResources makes calls of AWS that the role does not grant.
func (r takenOverRole) tryOtherResources(t *testing.T, s *systemTest) (count int) {
	t.Helper()
	ctx, task := t.Context(), s.task(t, s.bastionID).arn
	key := map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: "B#" + s.bastionID}, "sk": &types.AttributeValueMemberS{Value: "B"}}
	calls := map[string]func(context.Context) error{
		"another parameter": func(ctx context.Context) error {
			_, err := r.ssm.GetParameters(ctx, &ssm.GetParametersInput{Names: []string{"/another"}, WithDecryption: aws.Bool(true)})
			return err
		},
		"another parameter beside its own": func(ctx context.Context) error {
			_, err := r.ssm.GetParameters(ctx, &ssm.GetParametersInput{Names: []string{secretName, "/another"}, WithDecryption: aws.Bool(true)})
			return err
		},
		"its parameters by path": func(ctx context.Context) error {
			_, err := r.ssm.GetParametersByPath(ctx, &ssm.GetParametersByPathInput{Path: aws.String("/way-in"), Recursive: aws.Bool(true)})
			return err
		},
		"all of its own table": func(ctx context.Context) error {
			_, err := r.dynamo.Scan(ctx, &dynamodb.ScanInput{TableName: aws.String(slackTable)})
			return err
		},
		"alice's task": func(ctx context.Context) error {
			_, err := r.ecs.StopTask(ctx, &ecs.StopTaskInput{Cluster: &s.recorder.Deployment.Cluster, Task: &task})
			return err
		},
	}
	for _, table := range []string{recordTable, leaseTable} {
		calls["read "+table] = func(ctx context.Context) error {
			_, err := r.dynamo.GetItem(ctx, &dynamodb.GetItemInput{TableName: &table, Key: key})
			return err
		}
		calls["change "+table] = func(ctx context.Context) error {
			_, err := r.dynamo.UpdateItem(ctx, &dynamodb.UpdateItemInput{TableName: &table, Key: key})
			return err
		}
		calls["put into "+table] = func(ctx context.Context) error {
			_, err := r.dynamo.PutItem(ctx, &dynamodb.PutItemInput{TableName: &table, Item: key})
			return err
		}
		calls["delete from "+table] = func(ctx context.Context) error {
			_, err := r.dynamo.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: &table, Key: key})
			return err
		}
		calls["scan "+table] = func(ctx context.Context) error {
			_, err := r.dynamo.Scan(ctx, &dynamodb.ScanInput{TableName: &table})
			return err
		}
	}
	for what, call := range calls {
		if err := call(ctx); !isDenied(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	return len(calls)
}

// tryJobsOfOthers queues jobs for owners who are not of Slack. The role grants that. The
// function must drop the jobs and log an error.
func (r takenOverRole) tryJobsOfOthers(t *testing.T, s *systemTest) {
	t.Helper()
	for _, owner := range []string{iamOwner(victim), "local:victim", "jwt:https://issuer.example#victim"} {
		for _, action := range []slack.JobAction{slack.JobStart, slack.JobDown, slack.JobExtend, slack.JobStatus} {
			job, _ := json.Marshal(map[string]slack.Job{"job": {Action: action, Owner: owner, StartLink: "c", TTL: 1}}) // strings and a number
			if response, err := r.functions.Invoke(t.Context(), functionARN(slackQueue), job); err != nil || string(response) != "null" {
				t.Errorf("the job %s for %s returned %s, %v", action, owner, response, err)
			}
			if !s.functions[slackQueue].Log.Contains(`"job":"` + string(action) + `","owner":"` + owner + `"`) {
				t.Errorf("the job %s for %s is not in the log", action, owner)
			}
		}
	}
}
