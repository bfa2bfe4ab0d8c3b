package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
)

// A request that was on its way when draining began ends within the functions'
// time-out, and a list may be stale for a moment: nothing is left when nothing was
// listed for that long.
const (
	closePause = 10 * time.Second
	quietTime  = 40 * time.Second
)

// api calls the functions as API Gateway does. Whoever may invoke them speaks for
// whom they like; we speak for ourselves, as the admin that draining made us.
// Going through API Gateway would take a token where callers have tokens.
type api struct {
	functions Functions
	names     map[string]string // by the logical id
	me        operator
	requests  int
}

func (a *api) call(ctx context.Context, function, method, path string, want ...int) ([]byte, error) {
	name, known := a.names[function]
	if !known {
		return nil, fmt.Errorf("the stack has no %s", function)
	}
	a.requests++
	event, err := json.Marshal(a.event(method, path))
	if err != nil {
		return nil, err
	}
	answer, err := a.functions.Invoke(ctx, &lambda.InvokeInput{FunctionName: &name, Payload: event})
	if err != nil {
		return nil, fmt.Errorf("invoke %s: %w", name, err)
	}
	if answer.FunctionError != nil {
		return nil, fmt.Errorf("invoke %s: %s: %s", name, *answer.FunctionError, answer.Payload)
	}
	var response events.APIGatewayV2HTTPResponse
	if err := json.Unmarshal(answer.Payload, &response); err != nil {
		return nil, fmt.Errorf("read what %s answers: %w", name, err)
	}
	for _, status := range want {
		if response.StatusCode == status {
			return []byte(response.Body), nil
		}
	}
	return nil, fmt.Errorf("%s %s: %s answers %d: %s", method, path, name, response.StatusCode, response.Body)
}

func (a *api) event(method, path string) events.APIGatewayV2HTTPRequest {
	who := &events.APIGatewayV2HTTPRequestContextAuthorizerDescription{}
	if a.me.issuer != "" {
		who.JWT = &events.APIGatewayV2HTTPRequestContextAuthorizerJWTDescription{Claims: map[string]string{"iss": a.me.issuer, "sub": a.me.subject}}
	} else {
		who.IAM = &events.APIGatewayV2HTTPRequestContextAuthorizerIAMDescription{AccountID: a.me.account, UserARN: a.me.arn, UserID: a.me.userID}
	}
	return events.APIGatewayV2HTTPRequest{
		Version: "2.0", RawPath: path,
		RequestContext: events.APIGatewayV2HTTPRequestContext{
			AccountID: a.me.account, APIID: "undeploy", RequestID: fmt.Sprintf("undeploy-%d", a.requests), Authorizer: who,
			HTTP: events.APIGatewayV2HTTPRequestContextHTTPDescription{Method: method, Path: path, SourceIP: "127.0.0.1"},
		},
	}
}

// listed is a bastion as the API lists it.
type listed struct {
	ID    string `json:"id"`
	Owner string `json:"owner"`
	State string `json:"state"`
}

func (a *api) list(ctx context.Context) ([]listed, error) {
	body, err := a.call(ctx, "DescribeFunction", http.MethodGet, "/bastions", http.StatusOK)
	if err != nil {
		return nil, err
	}
	var list struct {
		Bastions []listed `json:"bastions"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read the list of bastions: %w", err)
	}
	return list.Bastions, nil
}

// close closes those that are not closing yet, each once.
func (a *api) close(ctx context.Context, bastions []listed, closed map[string]bool) error {
	for _, b := range bastions {
		if closed[b.ID] {
			continue
		}
		// 404 is of one that the list had after its end.
		_, err := a.call(ctx, "DestroyFunction", http.MethodDelete, "/bastions/"+b.ID, http.StatusOK, http.StatusAccepted, http.StatusNotFound)
		if err != nil {
			return err
		}
		closed[b.ID] = true
	}
	return nil
}

func (d *Deployment) closeAll(ctx context.Context) error {
	s, serves, err := d.target(ctx)
	if err != nil || !serves {
		return err
	}
	a := &api{functions: d.Cloud.Functions, names: map[string]string{}}
	if a.me, err = d.operator(ctx, s); err != nil {
		return err
	}
	all, err := resources(ctx, d.Cloud.Stacks, s.id)
	if err != nil {
		return err
	}
	for _, r := range all {
		a.names[r.logical] = r.physical
	}
	closed := map[string]bool{}
	quiet := time.Duration(0)
	err = poll(ctx, d.Progress, "close all bastions", closePause, func(ctx context.Context) (bool, string, error) {
		left, err := a.list(ctx)
		if err != nil {
			return false, "", err
		}
		if len(left) == 0 {
			quiet += closePause
			return quiet > quietTime, "none is left; making sure", nil
		}
		quiet = 0
		return false, waitingFor(left), a.close(ctx, left, closed)
	})
	if err == nil {
		fmt.Fprintf(d.Progress.W, "%d closed, none left\n", len(closed))
	}
	return err
}

// waitingFor tells the progress. A bastion is gone when its task's network
// interface is, up to fifteen minutes after the task.
func waitingFor(left []listed) string {
	first := left[0]
	return fmt.Sprintf("%d left, such as %s of %s, %s", len(left), first.ID, first.Owner, first.State)
}
