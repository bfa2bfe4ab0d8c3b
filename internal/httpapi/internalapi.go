package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// SlackDoor serves the API to the Slack function: by the handlers that serve
// everybody, to owners of Slack only, none of whom is an admin.
type InternalAPI struct{ handler http.Handler }

// NewSlackDoor makes the door to the API of the options; who calls is said by
// the call alone. Bastions that come through it keep their owners told.
func NewInternalAPI(options Options) *InternalAPI {
	options.Service = notifying{options.Service}
	options.Identify = func(r *http.Request) (bastion.Caller, error) {
		caller, ok := r.Context().Value(slackKey{}).(bastion.Caller)
		if !ok {
			return caller, errors.New("the request came through no door")
		}
		return caller, nil
	}
	return &InternalAPI{New(options)}
}

// slackKey is where a request carries its caller, whom Handle has let in.
type slackKey struct{}

// Handle answers a call. An error means that it is not one that the Slack function
// makes, and that nothing was done.
func (d *InternalAPI) Handle(ctx context.Context, call api.InternalCall) (api.InternalReply, error) {
	_, _, ofSlack := bastion.ParseSlackOwner(call.Owner)
	switch {
	case !ofSlack:
		return api.InternalReply{}, fmt.Errorf("the Slack function speaks for owners of Slack, as slack:T0123ABCD:U0123ABCD, and not for %q", call.Owner)
	case call.Method == http.MethodPost && !call.Source.IsValid():
		return api.InternalReply{}, errors.New("the Slack function's call does not say for which address it starts a bastion")
	case call.Method == "": // to net/http it would be GET
		return api.InternalReply{}, errors.New("the Slack function's call has no method")
	}
	ctx, cancel := withAnswerTime(context.WithValue(ctx, slackKey{}, bastion.Caller{Owner: call.Owner, Address: call.Source}))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, call.Method, "/", strings.NewReader(call.Body))
	if err != nil {
		return api.InternalReply{}, fmt.Errorf("make a request of the Slack function's call: %w", err)
	}
	request.URL = &url.URL{Path: call.Path}
	w := &response{header: http.Header{}}
	d.handler.ServeHTTP(w, request)
	return api.InternalReply{Status: w.status, Body: w.body.String()}, nil
}

// notifying is the service for people who are told of what becomes of their
// bastions.
type notifying struct{ Service }

func (n notifying) Create(ctx context.Context, req bastion.CreateRequest) (bastion.Record, bool, error) {
	req.Notify = true
	return n.Service.Create(ctx, req)
}
