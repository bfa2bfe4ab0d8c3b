package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// callFor bounds a call of the service's functions.
const callFor = 20 * time.Second

// errDown: the service's functions do not answer. What was asked for may have been
// begun.
var errDown = errors.New("the service's functions do not answer")

// ask makes one request of the API. *bastion.Error: it was refused, with the
// refusal's own code and sentence. errDown: there is no answer that can be read.
func (a *App) callAPI(ctx context.Context, call Call, body, into any) error {
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		call.Body = string(encoded)
	}
	ctx, cancel := context.WithTimeout(ctx, callFor)
	defer cancel()
	reply, err := a.Functions.Call(ctx, call)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errDown, call.Method, err)
	}
	if reply.Status >= http.StatusOK && reply.Status < http.StatusMultipleChoices {
		if err := json.Unmarshal([]byte(reply.Body), into); err != nil {
			return fmt.Errorf("%w: %s: %w", errDown, call.Method, err)
		}
		return nil
	}
	var problem api.Problem
	if err := json.Unmarshal([]byte(reply.Body), &problem); err != nil || problem.Detail == "" {
		return fmt.Errorf("%w: %s: status %d and no problem document", errDown, call.Method, reply.Status)
	}
	return &bastion.Error{Code: problem.Code, Message: problem.Detail}
}

// create asks for the bastion of a claim, for the address that used it.
func (a *App) create(ctx context.Context, c startLink) (Bastion, error) {
	body := map[string]string{"public_key": c.Key, "name": c.Name, "ttl": c.TTL.String()}
	if c.Reason != "" {
		body["reason"] = c.Reason
	}
	var b Bastion
	err := a.callAPI(ctx, Call{Owner: c.Owner, Source: c.Source, Method: http.MethodPost, Path: "/bastions"}, body, &b)
	return b, err
}

func (a *App) describe(ctx context.Context, owner, id string) (Bastion, error) {
	var b Bastion
	err := a.callAPI(ctx, Call{Owner: owner, Method: http.MethodGet, Path: "/bastions/" + id}, nil, &b)
	return b, err
}

func (a *App) list(ctx context.Context, owner string) ([]Bastion, error) {
	var all api.List
	err := a.callAPI(ctx, Call{Owner: owner, Method: http.MethodGet, Path: "/bastions"}, nil, &all)
	return all.Bastions, err
}

func (a *App) extend(ctx context.Context, owner, id string, ttl time.Duration) (Bastion, error) {
	var b Bastion
	err := a.callAPI(ctx, Call{Owner: owner, Method: http.MethodPatch, Path: "/bastions/" + id}, map[string]string{"ttl": ttl.String()}, &b)
	return b, err
}

func (a *App) close(ctx context.Context, owner, id string) (Bastion, error) {
	var b Bastion
	err := a.callAPI(ctx, Call{Owner: owner, Method: http.MethodDelete, Path: "/bastions/" + id}, nil, &b)
	return b, err
}

// whichError: there is not exactly one bastion that can be meant.
type whichError struct {
	open []Bastion
	name string // that was asked for
}

func (whichError) Error() string { return "not exactly one bastion can be meant" }

// choose finds the bastion that a job is about: by id, by name, or the only one.
// One that was asked for after the job was is never meant. One that is closing is
// if no other can be: it may be this very job that has closed it.
func (a *App) choose(ctx context.Context, job Job) (Bastion, error) {
	if job.ID != "" {
		return a.describe(ctx, job.Owner, job.ID)
	}
	all, err := a.list(ctx, job.Owner)
	if err != nil {
		return Bastion{}, err
	}
	var open, meant, closing []Bastion
	for _, b := range all {
		named := job.Name == "" || b.Name == job.Name
		switch {
		case b.CreatedAt.After(job.At):
		case b.IsOpen():
			open = append(open, b)
			if named {
				meant = append(meant, b)
			}
		case named && b.State == bastion.Closing:
			closing = append(closing, b)
		}
	}
	if len(meant) == 0 {
		meant = closing
	}
	if len(meant) != 1 {
		return Bastion{}, whichError{open: open, name: job.Name}
	}
	return meant[0], nil
}
