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
	"github.com/bastion-on-demand/bastion/internal/test/privilege"
)

// thief has the Slack function's role in its hands, and no more: what the role of
// template.yaml does not grant is refused, and what it does goes through.
type takenOverRole struct {
	functions *awscloud.Functions
	dynamo    *dynamodb.Client
	ssm       *ssm.Client
	ecs       *ecs.Client
}

// takeOver has a recorder of its own, so that what is tried does not count as
// needed.
func (w *deployment) takeOverSlackRole(t *testing.T) takenOverRole {
	t.Helper()
	r := privilege.NewRecorder(w.recorder.Deployment, w.recorder.Granted, w.services)
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

// victim is an IAM user who has no bastion, and is to have none after this.
const victim = "victim"

// takenOver tries everything while alice has a bastion.
func (s *systemTest) slackRoleIsConfined(t *testing.T) {
	by := s.takeOverSlackRole(t)
	by.checkGrantedCalls(t, s)
	s.logf(t, "  refused are %d payloads through the aliases", by.trySlackAliases(t, s))
	s.logf(t, "  refused are %d functions and aliases", by.tryOtherFunctions(t))
	s.logf(t, "  refused are %d calls of tables, parameters and tasks", by.tryOtherResources(t, s))
	by.tryJobsOfOthers(t)
	for _, owner := range []string{iamOwner(victim), "local:victim", "jwt:https://issuer.example#victim"} {
		if made, err := s.ports.Store.ListByOwner(t.Context(), owner); err != nil || len(made) > 0 {
			t.Errorf("%s has %+v, %v", owner, made, err)
		}
		if key, err := s.ports.Store.RememberedKey(t.Context(), owner); err == nil && key != "" {
			t.Errorf("a key is remembered of %s", owner)
		}
	}
	s.alice.expect(t, 200, "ready", "/bastions/"+s.bastionID)
}

func iamOwner(user string) string { return "iam:" + account + ":" + uniqueID("AIDA", user) }

// mayDoItsOwn shows that the thief's calls do arrive: for an owner of Slack, who has
// nothing and sees nothing of alice's.
func (by takenOverRole) checkGrantedCalls(t *testing.T, s *systemTest) {
	t.Helper()
	for _, ask := range []struct{ door, method, path, want string }{
		{"describe:slack", "GET", "/bastions", `"status":200`},
		{"describe:slack", "GET", "/bastions/" + s.bastionID, `"status":404`},
		{"extend:slack", "PATCH", "/bastions/" + s.bastionID, `"status":404`},
		{"destroy:slack", "DELETE", "/bastions/" + s.bastionID, `"status":404`},
	} {
		answer, err := by.functions.Invoke(t.Context(), functionARN(ask.door), slackCall("slack:"+team+":UTHIEF", ask.method, ask.path))
		if err != nil || !strings.Contains(string(answer), ask.want) {
			t.Errorf("%s %s answered %s, %v", ask.method, ask.path, answer, err)
		}
	}
}

// bodies are right ones, by method: whoever gets in with them has a bastion.
var requestBodies = map[string]string{
	"POST": `{"public_key":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3Yp3ZCq2yX6nV0zq9oZx9oUuUJ2m3n0b4V6fJmL1dN"}`, "PATCH": `{"ttl":"1h"}`,
}

// slackCall is what the Slack function writes.
func slackCall(owner, method, path string) []byte {
	call, _ := json.Marshal(map[string]string{
		"owner": owner, "source": "127.0.0.9", "method": method, "path": path, "body": requestBodies[method],
	}) // strings
	return call
}

// throughTheDoors says in each way that it is for somebody who is not of Slack. Each
// function runs and refuses.
func (by takenOverRole) trySlackAliases(t *testing.T, s *systemTest) (tried int) {
	t.Helper()
	for door, ask := range map[string]struct{ method, path string }{
		"create:slack": {"POST", "/bastions"}, "describe:slack": {"GET", "/bastions"},
		"extend:slack": {"PATCH", "/bastions/" + s.bastionID}, "destroy:slack": {"DELETE", "/bastions"},
	} {
		for what, payload := range map[string][]byte{
			"an event of a user":  userEvent(t, ask.method, ask.path, victim),
			"an event of alice":   userEvent(t, ask.method, ask.path, role+"alice"),
			"an event of admin":   userEvent(t, ask.method, ask.path, operator),
			"an event of a token": withToken(t, userEvent(t, ask.method, ask.path, victim)),
			"an event and a call": mergeObjects(userEvent(t, ask.method, ask.path, victim), slackCall("slack:"+team+":UTHIEF", ask.method, ask.path)),
			"a user":              slackCall(iamOwner(victim), ask.method, ask.path),
			"an admin":            slackCall("arn:aws:iam::"+account+":user/"+operator, ask.method, ask.path),
			"a token's":           slackCall("jwt:https://issuer.example#victim", ask.method, ask.path),
			"local mode's":        slackCall("local:victim", ask.method, ask.path),
			"Slack's, and more":   slackCall("slack:"+team+":UTHIEF\n"+iamOwner(victim), ask.method, ask.path),
		} {
			tried++
			answer, err := by.functions.Invoke(t.Context(), functionARN(door), payload)
			if !errors.As(err, new(*awscloud.FunctionError)) {
				t.Errorf("%s, of %s: answered %s, %v", door, what, answer, err)
			}
		}
	}
	return tried
}

// event is one of API Gateway's, as it would be of a user.
func userEvent(t *testing.T, method, path, user string) []byte {
	t.Helper()
	made, _, err := newAPIEvent(httptest.NewRequest(method, path, strings.NewReader(requestBodies[method])), user)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// withToken puts a token in the place of a user.
func withToken(t *testing.T, event []byte) []byte {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(event, &e); err != nil {
		t.Fatal(err)
	}
	e["requestContext"].(map[string]any)["authorizer"] = map[string]any{"jwt": map[string]any{
		"claims": map[string]string{"iss": "https://issuer.example", "sub": "victim"}, "scopes": nil,
	}}
	made, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// both is one object with what two have.
func mergeObjects(one, other []byte) []byte {
	return append(append(one[:len(one)-1:len(one)-1], ','), other[1:]...)
}

// pastTheDoors calls what the role does not grant, with what would do something.
func (by takenOverRole) tryOtherFunctions(t *testing.T) (tried int) {
	t.Helper()
	for name, payload := range map[string][]byte{
		"create": userEvent(t, "POST", "/bastions", victim), "create:$LATEST": userEvent(t, "POST", "/bastions", victim), "create:7": userEvent(t, "POST", "/bastions", victim),
		"create:queue": slackCall(iamOwner(victim), "POST", "/bastions"), "create:slack2": slackCall(iamOwner(victim), "POST", "/bastions"),
		"describe": userEvent(t, "GET", "/bastions", operator), "extend": userEvent(t, "PATCH", "/bastions", operator), "destroy": userEvent(t, "DELETE", "/bastions", operator),
		"reaper": []byte(`{"action":"sweep"}`), "observer": []byte(`{"Records":[]}`), "slack": userEvent(t, "POST", "/slack/command", ""),
	} {
		for _, function := range []string{name, functionARN(name)} {
			tried += 2
			answer, err := by.functions.Invoke(t.Context(), function, payload)
			if !isDenied(err) {
				t.Errorf("%s answered %s, %v", function, answer, err)
			}
			if err := by.functions.InvokeAsync(t.Context(), function, payload); !isDenied(err) {
				t.Errorf("%s took an event: %v", function, err)
			}
		}
	}
	return tried
}

// denied reports whether IAM refused, and not a function.
func isDenied(err error) bool {
	return err != nil && !errors.As(err, new(*awscloud.FunctionError)) && strings.Contains(err.Error(), "AccessDenied")
}

// besideThem calls what is none of the Slack function's business.
func (by takenOverRole) tryOtherResources(t *testing.T, s *systemTest) (tried int) {
	t.Helper()
	ctx, task := t.Context(), s.task(t, s.bastionID).arn
	key := map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: "B#" + s.bastionID}, "sk": &types.AttributeValueMemberS{Value: "B"}}
	calls := map[string]func(context.Context) error{
		"another parameter": func(ctx context.Context) error {
			_, err := by.ssm.GetParameters(ctx, &ssm.GetParametersInput{Names: []string{"/another"}, WithDecryption: aws.Bool(true)})
			return err
		},
		"another parameter beside its own": func(ctx context.Context) error {
			_, err := by.ssm.GetParameters(ctx, &ssm.GetParametersInput{Names: []string{secretName, "/another"}, WithDecryption: aws.Bool(true)})
			return err
		},
		"its parameters by path": func(ctx context.Context) error {
			_, err := by.ssm.GetParametersByPath(ctx, &ssm.GetParametersByPathInput{Path: aws.String("/way-in"), Recursive: aws.Bool(true)})
			return err
		},
		"all of its own table": func(ctx context.Context) error {
			_, err := by.dynamo.Scan(ctx, &dynamodb.ScanInput{TableName: aws.String(slackTable)})
			return err
		},
		"alice's task": func(ctx context.Context) error {
			_, err := by.ecs.StopTask(ctx, &ecs.StopTaskInput{Cluster: &s.recorder.Deployment.Cluster, Task: &task})
			return err
		},
	}
	for _, table := range []string{recordTable, leaseTable} {
		calls["read "+table] = func(ctx context.Context) error {
			_, err := by.dynamo.GetItem(ctx, &dynamodb.GetItemInput{TableName: &table, Key: key})
			return err
		}
		calls["change "+table] = func(ctx context.Context) error {
			_, err := by.dynamo.UpdateItem(ctx, &dynamodb.UpdateItemInput{TableName: &table, Key: key})
			return err
		}
		calls["put into "+table] = func(ctx context.Context) error {
			_, err := by.dynamo.PutItem(ctx, &dynamodb.PutItemInput{TableName: &table, Item: key})
			return err
		}
		calls["delete from "+table] = func(ctx context.Context) error {
			_, err := by.dynamo.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: &table, Key: key})
			return err
		}
		calls["scan "+table] = func(ctx context.Context) error {
			_, err := by.dynamo.Scan(ctx, &dynamodb.ScanInput{TableName: &table})
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

// jobsForOthers hands the Slack function itself work for others, which it may: it
// comes to nothing.
func (by takenOverRole) tryJobsOfOthers(t *testing.T) {
	t.Helper()
	for _, owner := range []string{iamOwner(victim), "local:victim", "jwt:https://issuer.example#victim"} {
		for _, do := range []string{"start", "down", "extend", "status"} {
			job, _ := json.Marshal(map[string]any{"job": map[string]any{"action": do, "owner": owner, "start_link": "c", "ttl": 1}}) // strings and a number
			if answer, err := by.functions.Invoke(t.Context(), functionARN(slackWork), job); err != nil || string(answer) != "null" {
				t.Errorf("a job to %s for %s answered %s, %v", do, owner, answer, err)
			}
		}
	}
}
