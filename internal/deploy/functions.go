package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/bastion-on-demand/bastion/internal/api"
)

// identity is the caller that the functions see when a functionClient invokes them.
type identity struct {
	admin                string // as in the parameter Admins
	account, userID, arn string
	issuer, subject      string // if callers have tokens
}

// functionClient invokes the functions as API Gateway does, for a caller of the operator's
// choice. Undeploying calls as the admin that draining added. A request through API Gateway
// would need a token if callers have tokens.
type functionClient struct {
	functions Functions
	names     map[string]string // by the logical ID
	caller    identity
	requests  int
}

// newFunctionClient returns a client of the functions of a stack.
func (d *Deployment) newFunctionClient(ctx context.Context, s stack, caller identity) (*functionClient, error) {
	all, err := resources(ctx, d.Cloud.Stacks, s.id)
	if err != nil {
		return nil, err
	}
	c := &functionClient{functions: d.Cloud.Functions, names: map[string]string{}, caller: caller}
	for _, r := range all {
		c.names[r.logical] = r.physical
	}
	return c, nil
}

// call sends a request without a body, and returns the body of the response. Any status
// but those in want is an error.
func (c *functionClient) call(ctx context.Context, function, method, path string, want ...int) ([]byte, error) {
	response, err := c.send(ctx, function, c.event(method, path))
	if err != nil {
		return nil, err
	}
	if slices.Contains(want, response.StatusCode) {
		return []byte(response.Body), nil
	}
	return nil, fmt.Errorf("%s %s: %s returned %d: %s", method, path, c.names[function], response.StatusCode, response.Body)
}

// requestLimit is the longest time for the invocation of a function, which ends within 28
// seconds.
const requestLimit = 45 * time.Second

// send invokes a function with an event.
func (c *functionClient) send(ctx context.Context, function string, event events.APIGatewayV2HTTPRequest) (response events.APIGatewayV2HTTPResponse, err error) {
	name, known := c.names[function]
	if !known {
		return response, fmt.Errorf("the stack has no %s", function)
	}
	payload, err := json.Marshal(event)
	if err != nil {
		return response, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	out, err := c.functions.Invoke(ctx, &lambda.InvokeInput{FunctionName: &name, Payload: payload})
	if err != nil {
		return response, fmt.Errorf("invoke %s: %w", name, err)
	}
	if out.FunctionError != nil {
		return response, fmt.Errorf("invoke %s: %s: %s", name, *out.FunctionError, out.Payload)
	}
	if err := json.Unmarshal(out.Payload, &response); err != nil {
		return response, fmt.Errorf("read the response of %s: %w", name, err)
	}
	return response, nil
}

func (c *functionClient) event(method, path string) events.APIGatewayV2HTTPRequest {
	c.requests++
	authorizer := &events.APIGatewayV2HTTPRequestContextAuthorizerDescription{}
	if c.caller.issuer != "" {
		authorizer.JWT = &events.APIGatewayV2HTTPRequestContextAuthorizerJWTDescription{Claims: map[string]string{"iss": c.caller.issuer, "sub": c.caller.subject}}
	} else {
		authorizer.IAM = &events.APIGatewayV2HTTPRequestContextAuthorizerIAMDescription{AccountID: c.caller.account, UserARN: c.caller.arn, UserID: c.caller.userID}
	}
	return events.APIGatewayV2HTTPRequest{
		Version: "2.0", RawPath: path,
		RequestContext: events.APIGatewayV2HTTPRequestContext{
			AccountID: c.caller.account, APIID: "operator", RequestID: fmt.Sprintf("operator-%d", c.requests), Authorizer: authorizer,
			HTTP: events.APIGatewayV2HTTPRequestContextHTTPDescription{Method: method, Path: path, SourceIP: "127.0.0.1"},
		},
	}
}

func (c *functionClient) list(ctx context.Context) ([]api.Bastion, error) {
	body, err := c.call(ctx, "DescribeFunction", http.MethodGet, "/bastions", http.StatusOK)
	if err != nil {
		return nil, err
	}
	var list api.List
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read the list of bastions: %w", err)
	}
	return list.Bastions, nil
}

// delete sends the request to close a bastion.
func (c *functionClient) delete(ctx context.Context, id string) error {
	// 404: the list was stale, and the bastion has ended.
	_, err := c.call(ctx, "DestroyFunction", http.MethodDelete, "/bastions/"+id, http.StatusOK, http.StatusAccepted, http.StatusNotFound)
	return err
}

// close closes the bastions that are not in closed yet, and adds them to it.
func (c *functionClient) close(ctx context.Context, bastions []api.Bastion, closed map[string]bool) error {
	for _, b := range bastions {
		if closed[b.ID] {
			continue
		}
		if err := c.delete(ctx, b.ID); err != nil {
			return err
		}
		closed[b.ID] = true
	}
	return nil
}
