// Package awswire is an HTTP server for tests that speaks the protocols of EC2 and
// ECS. It serves the calls of package awscloud, as the SDK sends them, and it is
// closer to AWS than the emulators where the adapters depend on it. Its groups and
// tasks are those of package localcloud, with stale reads, clientTokens, groups in
// use and the states of a task. This package adds the rest of the protocol: refused
// parameters, error codes, pages, desired statuses, tags, and public addresses that
// are associated later.
//
// The package does not depend on how awscloud names things. The local cloud gets a
// group's name, or a task's startedBy, as the bastion's id.
package awswire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
)

// Config configures a server.
type Config struct {
	Cloud   *localcloud.Cloud
	Cluster string   // the ARN of the only cluster
	Groups  []string // security groups that exist from the start
	Port    uint16   // the only port that a rule can have
	// PageSize limits every page, whatever the request says; 0 for the limits of AWS.
	PageSize int
	// Admit, if not nil, decides by its action whether a call is served or throttled.
	Admit func(action string) bool
	// AddressAfter is the number of times that an interface is described before it
	// has a public address.
	AddressAfter int
}

// Server serves the calls of both services.
type Server struct {
	cfg Config

	mu        sync.Mutex // one call at a time
	calls     []string
	failures  []failure
	groups    map[string]groupDetails // by id
	tokens    map[string]token        // by clientToken
	tasks     map[string]runTask      // the request that started a task, by task id
	described map[string]int          // how often, by interface
}

// New returns a server. It is an http.Handler.
func New(cfg Config) *Server {
	return &Server{
		cfg:       cfg,
		groups:    map[string]groupDetails{},
		tokens:    map[string]token{},
		tasks:     map[string]runTask{},
		described: map[string]int{},
	}
}

type failure struct {
	action string
	wireError
}

// Fail makes the next call of an action fail without effect.
func (s *Server) Fail(action, code, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, failure{action, wireError{code, message}})
}

// Calls returns the actions called so far, in order.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// ServeHTTP serves a call. Only calls of ECS have the header.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, action, ok := strings.Cut(r.Header.Get("X-Amz-Target"), "."); ok {
		s.serveECS(w, r, action)
		return
	}
	s.serveEC2(w, r)
}

// RoundTrip serves a call without a network, for tests in simulated time.
func (s *Server) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	served := r.Clone(r.Context())
	served.Body = io.NopCloser(bytes.NewReader(body))
	response := httptest.NewRecorder()
	s.ServeHTTP(response, served)
	return response.Result(), r.Body.Close()
}

// begin records a call and returns the error that it must fail with, if any.
func (s *Server) begin(action string) error {
	s.calls = append(s.calls, action)
	if s.cfg.Admit != nil && !s.cfg.Admit(action) {
		return errThrottled
	}
	i := slices.IndexFunc(s.failures, func(f failure) bool { return f.action == action })
	if i < 0 {
		return nil
	}
	err := s.failures[i].wireError
	s.failures = slices.Delete(s.failures, i, i+1)
	return err
}

// wireError is an error of EC2 or ECS.
type wireError struct{ code, message string }

func (e wireError) Error() string { return e.code + ": " + e.message }

// page returns one page of all items, and the token of the next page.
func page[T any](all []T, token string, most, pageSize int) (items []T, next string, err error) {
	start := 0
	if token != "" {
		if start, err = strconv.Atoi(token); err != nil || start < 0 {
			return nil, "", wireError{"InvalidParameterValue", "the NextToken " + token + " is unknown"}
		}
	}
	if pageSize > 0 {
		most = min(most, pageSize)
	}
	start = min(start, len(all)) // there can be fewer than when the token was issued
	end := min(start+most, len(all))
	if end < len(all) {
		next = strconv.Itoa(end)
	}
	return all[start:end], next, nil
}

// visibleTask returns a task as a read sees it now, which can be stale.
func (s *Server) visibleTask(ctx context.Context, id string) (bastion.Task, bool, error) {
	tasks, err := s.cfg.Cloud.Tasks().Describe(ctx, "", id)
	if err != nil || len(tasks) == 0 {
		return bastion.Task{}, false, err
	}
	return tasks[0], true, nil
}

var errThrottled = errors.New("ThrottlingException")

// isThrottled reports whether this server or the local cloud throttled the call.
func isThrottled(err error) bool {
	return err != nil && strings.Contains(err.Error(), "ThrottlingException")
}
