// Package httpapi serves the HTTP API of the domain. Its contract is
// api/openapi.yaml; a test compares the handlers with it.
//
// A request is handled in this order: identify the caller ([Identify]), find the
// operation (path, method), choose the format (Accept), read the body, call the
// [Service], write the response. Each step can end in an error; every error
// becomes a problem document (RFC 9457), by one table from code to HTTP status.
//
// Nothing of a body is logged, and the cause of an error goes to the log only.
package httpapi

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
)

// Service is the part of the domain that the handlers call; see [bastion.Service]. The
// client sees the message of a [*bastion.Error]. If the context of the request has
// ended, the client sees only that the request timed out. The cause of any other error
// is only logged. Every method waits at most wait for the state that its comment names,
// and then returns the current state.
type Service interface {
	// Create returns the caller's bastion with the name in req. If no such bastion is
	// open, it creates one. It waits as Get does.
	Create(ctx context.Context, req bastion.CreateRequest) (bastion.Record, bastion.Change, error)
	// Get returns a bastion. It waits until the bastion is ready, closed or failed.
	Get(ctx context.Context, caller bastion.Caller, id string, wait time.Duration) (bastion.Record, error)
	// List returns the bastions that the caller may see, oldest first. It waits as Get
	// does, for all of them.
	List(ctx context.Context, caller bastion.Caller, wait time.Duration) ([]bastion.Record, error)
	// Extend moves the deadline to at least ttl from now. It waits as Get does.
	Extend(ctx context.Context, caller bastion.Caller, id string, ttl, wait time.Duration) (bastion.Record, error)
	// Close closes a bastion. It waits until the cloud has no resource of the bastion.
	Close(ctx context.Context, caller bastion.Caller, id string, wait time.Duration) (bastion.Record, error)
	// CloseAll closes the caller's own bastions. It waits as Close does.
	CloseAll(ctx context.Context, caller bastion.Caller, wait time.Duration) ([]bastion.Record, error)
}

// Identify returns the caller of a request. It must not read the body. If it returns a
// [*bastion.Error], the client sees the error's message and code. The status is the one
// that the API has for the code, or 401 if it has none. If Identify returns any other
// error, the error is logged and the client sees CodeUnauthenticated.
type Identify func(*http.Request) (bastion.Caller, error)

// Target is a host that bastions can reach and whose host key is known in advance. A
// configuration file for ssh has a block for each target, so that
// "ssh -F FILE -J bastion-NAME TARGET" does not ask whether to trust the host key.
type Target struct {
	Name    string      // as the bastion resolves it; its SSH server listens on port 22
	User    string      // the login
	HostKey bastion.Key // of its SSH server
}

// knownHosts returns the target's line for a known_hosts file.
func (t Target) knownHosts() string { return t.Name + " " + string(t.HostKey) }

// Options are the options of [New]. Service, Identify and Log are required.
type Options struct {
	Service  Service
	Identify Identify
	Log      *slog.Logger

	// Methods are the HTTP methods that this process serves; empty for all. If it
	// receives a request with another method of the API, the routes in API Gateway are
	// wrong, and the client sees an internal error.
	Methods []string
	// If Draining is true, every request to create a bastion is refused.
	Draining bool
	// MaxWait is the longest time for which Prefer: wait can hold a response; zero for
	// 25 seconds, which leaves 5 of API Gateway's 30.
	MaxWait time.Duration
	Now     func() time.Time // nil for time.Now
	// Challenge is the WWW-Authenticate header of a 401; empty for that of AWS
	// Signature Version 4.
	Challenge string
	// Each target has a block in every configuration file for ssh.
	Targets []Target
}

type handler struct{ Options }

// New returns the handler of the whole API. It calls Log and Service
// concurrently.
func New(options Options) http.Handler {
	if options.MaxWait == 0 {
		options.MaxWait = 25 * time.Second
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Challenge == "" {
		options.Challenge = "AWS4-HMAC-SHA256"
	}
	h := &handler{options}
	return httpedge.Edge{Log: options.Log, Now: options.Now}.Handler(h.serve)
}

// exchange is one request with the parts of it that have been parsed so far.
type exchange struct {
	*httpedge.Exchange
	caller bastion.Caller
	format format
	wait   time.Duration
	waits  bool // the client sent Prefer: wait
}

// result is the outcome of an operation that succeeded.
type result struct {
	status  int
	records []bastion.Record
	list    bool        // records are a list of any length; otherwise there is one
	added   bastion.Key // the key that a POST added to an open bastion
}

func (h *handler) serve(e *httpedge.Exchange) {
	x := &exchange{Exchange: e}
	res, err := h.handle(x)
	if err != nil {
		h.fail(x, err)
		return
	}
	if x.waits {
		x.Header().Set("Preference-Applied", fmt.Sprintf("wait=%d", int(x.wait.Seconds())))
	}
	if res.status == http.StatusCreated {
		x.Header().Set("Location", collection+"/"+res.records[0].ID)
	}
	if x.format == formatText {
		x.Send(res.status, string(formatText)+"; charset=utf-8", h.text(x.caller, res))
	} else {
		x.Send(res.status, string(formatJSON), h.json(res))
	}
}

func (h *handler) handle(x *exchange) (result, error) {
	if err := h.identify(x); err != nil {
		return result{}, err
	}
	run, err := h.route(x)
	if err != nil {
		return result{}, err
	}
	if x.format, err = negotiate(x.Request.Header.Values("Accept")); err != nil {
		return result{}, err
	}
	x.wait, x.waits = preferredWait(x.Request.Header.Values("Prefer"), h.MaxWait)
	return run(h, x)
}

func (h *handler) identify(x *exchange) error {
	if len(x.Request.Header.Values("Authorization")) > 1 {
		return bastion.Errorf(CodeAuthorizationInvalid, "The request has more than one Authorization header. Send one.")
	}
	caller, err := h.Identify(x.Request)
	if err == nil && caller.Owner == "" {
		err = fmt.Errorf("the caller at %s has no owner", caller.Address)
	}
	if err != nil {
		return identityError(err)
	}
	caller.Address = caller.Address.Unmap().WithZone("")
	x.caller, x.Owner, x.Source = caller, caller.Owner, caller.Address
	return nil
}

// The patterns of the paths.
const (
	collection = "/bastions"
	item       = "/bastions/{id}"
)

type operation func(*handler, *exchange) (result, error)

// operations are all operations by path and method. http.ServeMux is not used, because
// it redirects a path such as //bastions. Here such a path is unknown.
var operations = map[string]map[string]operation{
	collection: {
		http.MethodGet:    (*handler).list,
		http.MethodHead:   (*handler).list, // the edge drops the body
		http.MethodPost:   (*handler).create,
		http.MethodDelete: (*handler).closeAll,
	},
	item: {
		http.MethodGet:    (*handler).get,
		http.MethodHead:   (*handler).get,
		http.MethodPatch:  (*handler).extend,
		http.MethodDelete: (*handler).close,
	},
}

// route returns the operation for the path and the method of a request.
func (h *handler) route(x *exchange) (operation, error) {
	x.Route = pattern(x.Request.URL.Path)
	byMethod, ok := operations[x.Route]
	if !ok {
		return nil, bastion.Errorf(httpedge.CodePathNotFound, "No such path. Use %s or %s.", collection, item)
	}
	run, ok := byMethod[x.Request.Method]
	if !ok {
		allowed := strings.Join(slices.Sorted(maps.Keys(byMethod)), ", ")
		x.Header().Set("Allow", allowed)
		return nil, bastion.Errorf(httpedge.CodeMethodNotAllowed, "Method not allowed. %s supports %s.", x.Route, allowed)
	}
	if len(h.Methods) > 0 && !slices.Contains(h.Methods, x.Request.Method) {
		return nil, fmt.Errorf("this function serves %s, not %s: check the routes of the API", strings.Join(h.Methods, ", "), x.Request.Method)
	}
	return run, nil
}

// pattern returns the pattern that a path matches, or the empty string.
func pattern(path string) string {
	if path == collection {
		return collection
	}
	if id, ok := strings.CutPrefix(path, collection+"/"); ok && id != "" && !strings.Contains(id, "/") {
		return item
	}
	return ""
}

// bastionID returns the ID in the path. Text that cannot be an ID is not found. It is
// not passed to the service, because a store may return another error for such a key.
func (x *exchange) bastionID() (string, error) {
	id := strings.TrimPrefix(x.Request.URL.Path, collection+"/")
	if !bastion.ValidID(id) {
		return "", bastion.NotFoundError(id)
	}
	return id, nil
}

func (h *handler) create(x *exchange) (result, error) {
	if h.Draining {
		return result{}, bastion.Errorf(CodeDraining, "This service is being decommissioned and no longer starts bastions. Ask its operator for another.")
	}
	body, err := x.readBody()
	if err != nil {
		return result{}, err
	}
	req, err := createRequest(body)
	if err != nil {
		return result{}, err
	}
	req.Caller, req.Wait = x.caller, x.wait
	rec, change, err := h.Service.Create(x.Request.Context(), req)
	res := one(rec, http.StatusOK)
	if change.Created {
		res.status = http.StatusCreated
	}
	res.added = change.AddedKey
	return res, err
}

func (h *handler) get(x *exchange) (result, error) {
	id, err := x.bastionID()
	if err != nil {
		return result{}, err
	}
	rec, err := h.Service.Get(x.Request.Context(), x.caller, id, x.wait)
	return one(rec, http.StatusOK), err
}

func (h *handler) list(x *exchange) (result, error) {
	records, err := h.Service.List(x.Request.Context(), x.caller, x.wait)
	return result{status: http.StatusOK, records: records, list: true}, err
}

func (h *handler) extend(x *exchange) (result, error) {
	id, err := x.bastionID()
	if err != nil {
		return result{}, err
	}
	body, err := x.readBody()
	if err != nil {
		return result{}, err
	}
	ttl, err := extendTTL(body)
	if err != nil {
		return result{}, err
	}
	rec, err := h.Service.Extend(x.Request.Context(), x.caller, id, ttl, x.wait)
	return one(rec, http.StatusOK), err
}

func (h *handler) close(x *exchange) (result, error) {
	id, err := x.bastionID()
	if err != nil {
		return result{}, err
	}
	rec, err := h.Service.Close(x.Request.Context(), x.caller, id, x.wait)
	return one(rec, closeStatus(rec)), err
}

func (h *handler) closeAll(x *exchange) (result, error) {
	records, err := h.Service.CloseAll(x.Request.Context(), x.caller, x.wait)
	return result{status: closeStatus(records...), records: records, list: true}, err
}

// closeStatus returns 202 while the cloud still has a resource of one of the bastions.
func closeStatus(records ...bastion.Record) int {
	for _, rec := range records {
		if rec.FinishedAt.IsZero() {
			return http.StatusAccepted
		}
	}
	return http.StatusOK
}

func one(rec bastion.Record, status int) result {
	return result{status: status, records: []bastion.Record{rec}}
}
