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
// template.yaml. These are the callers and payloads of each entry point:
//
//	API functions
//	  unqualified    API Gateway sends an event. The authorizer has identified the
//	                 caller, who can be an admin. The owner never begins with slack:.
//	  alias "slack"  The Slack function sends a call that contains the owner. The owner
//	                 always begins with slack:, and the caller is never an admin.
//	Slack function
//	  unqualified    API Gateway sends an event without an authorizer. Slack signs its
//	                 requests; browsers send the token of a page.
//	  alias "queue"  The function itself sends jobs; the observer and the reaper send
//	                 notices. If one fails, Lambda sends it again.
//
// Lambda takes the ARN from the request that IAM has authorized, and passes it
// beside the payload, so nothing in a payload can choose or change the entry point.
// template.yaml lets API Gateway invoke the unqualified functions only, and lets the
// roles of other functions invoke the aliases only.
//
// Each entry point accepts one kind of payload. It refuses the other kinds, and a
// payload that mixes two kinds. So a client of the API, who writes only the body of an
// event, cannot make an internal call. Even a compromised Slack function cannot send an
// event with an authorizer in it. If the invoked name is not an entry point of the
// function, the call ends in an error before it reaches the domain.
type EntryPoints map[string]func(ctx context.Context, payload json.RawMessage) (any, error)

// The names of the entry points.
const (
	unqualified = ""
	aliasSlack  = "slack" // of the API functions
	aliasQueue  = config.QueueAlias
)

// Handle serves a call. Lambda returns an error of Handle to the invoker.
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
// qualifier. Without such an ARN it returns an error, and not the empty string: a caller
// who managed to leave the ARN out would then use the unqualified entry point.
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

// readEvent reads an event of API Gateway. It refuses an event that also has a field of
// an internal call, a job or a notice.
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

// readCall reads an internal call. It refuses a payload with any other field.
func readCall(payload json.RawMessage) (call api.InternalCall, err error) {
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&call); err != nil {
		return api.InternalCall{}, fmt.Errorf("not a call of the Slack function: %w", err)
	}
	return call, nil
}
