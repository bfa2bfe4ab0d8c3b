package lambdamode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/config"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

// Doors is one function of the API, which has two doors. Which of them a call came
// through decides what it may say of itself:
//
//	unqualified    API Gateway's: events of an HTTP API, whose caller the authorizer
//	               found out. Owners of every kind but Slack's; admins.
//	alias "slack"  the Slack function's: calls that name their owner themselves.
//	               Owners of Slack and no others; never an admin.
//
// The door is the qualifier of the ARN that the function was invoked by. Lambda
// takes it from the request that IAM has authorized, and hands it over beside the
// payload, so nothing that a payload says can choose or change it. Who may use which
// door is in template.yaml: API Gateway may invoke the unqualified function only, the
// Slack function's role the aliases only. IAM tells the two apart by the same ARN.
//
// Each door knows one kind of payload and refuses the other's, even when it carries
// both. So a client of the API, who writes a body, cannot reach the Slack payload;
// and the Slack function, even taken over, cannot write an event with an authorizer
// in it. A call that no door is for ends in an error before anything is asked of the
// domain.
type EntryPoints struct {
	client *httpapi.Gateway
	slack  *httpapi.InternalAPI
}

// doorSlack and doorWork are aliases of template.yaml: of the API's functions, and
// of the Slack function.
const (
	doorSlack = "slack"
	doorWork  = config.QueueAlias
)

// Doors makes a function that serves a part of the API; see httpapi.OnlyCreate and
// its like.
func (a *App) EntryPoints(part httpapi.Service) *EntryPoints {
	options := httpapi.Options{Service: part, Log: a.log}
	client := httpapi.NewGateway(options, httpapi.Owners{
		TrustedRoles: a.Config.Access.TrustedRoles,
		Admins:       a.Config.Access.Admins,
		JWTIssuer:    a.Config.Access.JWTIssuer,
	})
	options.RequestID = requestID
	return &EntryPoints{client: client, slack: httpapi.NewInternalAPI(options)}
}

// Handle answers a call by the door that it came through. An error is for whoever
// invoked the function.
func (d *EntryPoints) Handle(ctx context.Context, payload json.RawMessage) (any, error) {
	door, err := invokedAs(ctx)
	switch {
	case err != nil:
		return nil, err
	case door == "":
		event, err := readEvent(payload)
		if err != nil {
			return nil, err
		}
		return d.client.Handle(ctx, event)
	case door == doorSlack:
		call, err := readSlackCall(payload)
		if err != nil {
			return nil, err
		}
		return d.slack.Handle(ctx, call)
	}
	return nil, fmt.Errorf("this function has no door %q", door)
}

// invokedAs is the qualifier of arn:PARTITION:lambda:REGION:ACCOUNT:function:NAME
// (:QUALIFIER) that Lambda says the function was invoked by, or empty. Without such
// an ARN no door is open: a default would be a door for whoever finds out how to
// leave it out.
func invokedAs(ctx context.Context) (qualifier string, err error) {
	lc, ok := lambdacontext.FromContext(ctx)
	if !ok {
		return "", errors.New("the call does not come from Lambda")
	}
	parts := strings.Split(lc.InvokedFunctionArn, ":")
	switch {
	case len(parts) < 7 || parts[0] != "arn" || parts[2] != "lambda" || parts[5] != "function" || parts[6] == "":
	case len(parts) == 7:
		return "", nil
	case len(parts) == 8 && parts[7] != "":
		return parts[7], nil
	}
	return "", fmt.Errorf("what Lambda says was invoked is no function's ARN: %q", lc.InvokedFunctionArn)
}

// readEvent reads an event of API Gateway. What our own functions write has no
// business in it.
func readEvent(payload json.RawMessage) (events.APIGatewayV2HTTPRequest, error) {
	var event struct {
		events.APIGatewayV2HTTPRequest
		Slack  json.RawMessage `json:"slack"`
		Job    json.RawMessage `json:"job"`
		Notice json.RawMessage `json:"notice"`
	}
	if err := json.Unmarshal(payload, &event); err != nil {
		return event.APIGatewayV2HTTPRequest, fmt.Errorf("read the event: %w", err)
	}
	if event.Slack != nil || event.Job != nil || event.Notice != nil {
		return event.APIGatewayV2HTTPRequest, errors.New("a call of another function came through API Gateway's door")
	}
	return event.APIGatewayV2HTTPRequest, nil
}

// readSlackCall reads {"slack": …} and nothing that has anything beside it.
func readSlackCall(payload json.RawMessage) (api.InternalCall, error) {
	var p slackPayload
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return api.InternalCall{}, fmt.Errorf("this is no call of the Slack function: %w", err)
	}
	if p.Slack == nil {
		return api.InternalCall{}, errors.New("this is no call of the Slack function")
	}
	return *p.Slack, nil
}

// slackPayload is what the Slack function writes.
type slackPayload struct {
	Slack *api.InternalCall `json:"slack"`
}
