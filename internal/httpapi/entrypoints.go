package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-lambda-go/events"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
)

// Gateway serves the events of API Gateway.
type Gateway struct{ handler http.Handler }

// NewGateway returns a Gateway with these options. owners identifies the callers;
// options.Identify is not used.
func NewGateway(options Options, owners Owners) *Gateway {
	options.Identify = func(r *http.Request) (bastion.Caller, error) { return owners.Caller(*httpedge.EventContext(r)) }
	if owners.JWTIssuer != "" {
		options.Challenge = "Bearer"
	}
	return &Gateway{New(options)}
}

// Handle serves one event; see [httpedge.ServeEvent].
func (g *Gateway) Handle(ctx context.Context, event events.APIGatewayV2HTTPRequest) (events.APIGatewayV2HTTPResponse, error) {
	return httpedge.ServeEvent(ctx, g.handler, event)
}

// InternalAPI serves the calls of the Slack function, with the same handlers. A call
// contains its owner, which must begin with slack:. The caller is never an admin.
type InternalAPI struct{ handler http.Handler }

// NewInternalAPI returns an InternalAPI with these options. The call contains the
// caller; options.Identify is not used. Bastions that a call creates send notices to
// their owners.
func NewInternalAPI(options Options) *InternalAPI {
	options.Service = notifying{options.Service}
	options.Identify = func(r *http.Request) (bastion.Caller, error) {
		caller, ok := r.Context().Value(callerKey{}).(bastion.Caller)
		if !ok {
			return caller, errors.New("the request is not an internal call")
		}
		return caller, nil
	}
	return &InternalAPI{New(options)}
}

// callerKey is the context's key for the caller, after Handle has checked the call.
type callerKey struct{}

// Handle serves a call. If the Slack function could not have made the call, Handle
// returns an error and does nothing.
func (a *InternalAPI) Handle(ctx context.Context, call api.InternalCall) (api.InternalReply, error) {
	_, _, ofSlack := bastion.ParseSlackOwner(call.Owner)
	switch {
	case !ofSlack:
		return api.InternalReply{}, fmt.Errorf("the Slack function may act for owners such as slack:T0123ABCD:U0123ABCD, not for %q", call.Owner)
	case call.Method == http.MethodPost && !call.Source.IsValid():
		return api.InternalReply{}, errors.New("the Slack function's call has no source address to start a bastion for")
	case call.Method == "": // net/http would take it for GET
		return api.InternalReply{}, errors.New("the Slack function's call has no method")
	}
	ctx = context.WithValue(ctx, callerKey{}, bastion.Caller{Owner: call.Owner, Address: call.Source})
	status, body, err := httpedge.ServeCall(ctx, a.handler, call.Method, call.Path, call.Body)
	if err != nil {
		return api.InternalReply{}, fmt.Errorf("serve the Slack function's call: %w", err)
	}
	return api.InternalReply{Status: status, Body: body}, nil
}

// notifying sets Notify on every bastion that it creates.
type notifying struct{ Service }

func (n notifying) Create(ctx context.Context, req bastion.CreateRequest) (bastion.Record, bastion.Change, error) {
	req.Notify = true
	return n.Service.Create(ctx, req)
}
