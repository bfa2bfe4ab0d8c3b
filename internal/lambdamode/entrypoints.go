package lambdamode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/config"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
)

// EntryPoints are the names by which a function can be invoked, with the handler
// of each. A name is the qualifier of the ARN in the call: empty, or an alias of
// template.yaml. The entry point decides what a call may claim:
//
//	API functions
//	  unqualified    API Gateway: events of an HTTP API, whose caller the authorizer
//	                 has identified. Owners of all kinds but Slack's; admins.
//	  alias "slack"  the Slack function: calls that name their owner themselves.
//	                 Owners of Slack only; never an admin.
//	Slack function
//	  unqualified    API Gateway: requests of Slack and of browsers, which no
//	                 authorizer has seen. Slack's are signed; the pages have tokens.
//	  alias "queue"  the function itself, the observer and the reaper: jobs and
//	                 notices, which Lambda sends again if they fail.
//
// Lambda takes the ARN from the request that IAM has authorized, and passes it
// beside the payload, so nothing in a payload can choose or change the entry point.
// template.yaml grants the use of each: API Gateway may invoke the unqualified
// functions only, the other functions' roles the aliases only.
//
// Each entry point accepts one kind of payload and refuses the other kinds, also
// in one payload together. So a client of the API, who writes a body, cannot make
// an internal call; and even a compromised Slack function cannot write an event
// with an authorizer in it. A call without an entry point ends in an error before
// it reaches the domain.
type EntryPoints map[string]func(ctx context.Context, payload json.RawMessage) (any, error)

// The names of the entry points.
const (
	unqualified = ""
	aliasSlack  = "slack" // of the API functions
	aliasQueue  = config.QueueAlias
)

// Handle serves a call. An error is for the invoker of the function.
func (e EntryPoints) Handle(ctx context.Context, payload json.RawMessage) (any, error) {
	name, err := invokedAs(ctx)
	if err != nil {
		return nil, err
	}
	handle, ok := e[name]
	if !ok {
		return nil, fmt.Errorf("this function has no entry point %q", name)
	}
	return handle(ctx, payload)
}

// API returns the entry points of a function that serves some methods of the API.
func (a *App) API(methods ...string) EntryPoints {
	return apiEntryPoints(a.Service, a.Config, a.log, methods...)
}

func apiEntryPoints(service httpapi.Service, cfg config.Config, log *slog.Logger, methods ...string) EntryPoints {
	options := httpapi.Options{Service: service, Methods: methods, Draining: cfg.Draining, Log: log}
	owners := httpapi.Owners{TrustedRoles: cfg.Access.TrustedRoles, Admins: cfg.Access.Admins, JWTIssuer: cfg.Access.JWTIssuer}
	gateway, internal := httpapi.NewGateway(options, owners), httpapi.NewInternalAPI(options)
	return EntryPoints{
		unqualified: func(ctx context.Context, payload json.RawMessage) (any, error) {
			event, err := readEvent(payload)
			if err != nil {
				return nil, err
			}
			return gateway.Handle(ctx, event)
		},
		aliasSlack: func(ctx context.Context, payload json.RawMessage) (any, error) {
			call, err := readCall(payload)
			if err != nil {
				return nil, err
			}
			if lc, ok := lambdacontext.FromContext(ctx); ok {
				ctx = httpedge.WithRequestID(ctx, lc.AwsRequestID)
			}
			return internal.Handle(ctx, call)
		},
	}
}

// invokedAs returns the qualifier of arn:PARTITION:lambda:REGION:ACCOUNT:function:NAME
// (:QUALIFIER), the ARN by which Lambda invoked the function; empty if there is no
// qualifier. Without such an ARN it returns an error: a default would be an entry
// point for a caller who finds a way to leave the ARN out.
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
	return "", fmt.Errorf("the invoked ARN %q is not that of a function", lc.InvokedFunctionArn)
}

// readEvent reads an event of API Gateway. It refuses an event that also holds
// fields that only functions of this stack write.
func readEvent(payload json.RawMessage) (events.APIGatewayV2HTTPRequest, error) {
	var event struct {
		events.APIGatewayV2HTTPRequest
		Owner  json.RawMessage `json:"owner"`
		Job    json.RawMessage `json:"job"`
		Notice json.RawMessage `json:"notice"`
	}
	if err := json.Unmarshal(payload, &event); err != nil {
		return event.APIGatewayV2HTTPRequest, fmt.Errorf("decode the event: %w", err)
	}
	if event.Owner != nil || event.Job != nil || event.Notice != nil {
		return event.APIGatewayV2HTTPRequest, errors.New("a call of another function came through the entry point of API Gateway")
	}
	return event.APIGatewayV2HTTPRequest, nil
}

// readCall reads an internal call that has no other fields.
func readCall(payload json.RawMessage) (call api.InternalCall, err error) {
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&call); err != nil {
		return api.InternalCall{}, fmt.Errorf("not a call of the Slack function: %w", err)
	}
	return call, nil
}
