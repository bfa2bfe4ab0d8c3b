// Package wiretest is EC2 and ECS at the wire, for tests: an HTTP server that
// understands the calls package awscloud makes, as the real SDK sends them, and
// that behaves where an emulator does not. What is true of groups and tasks is
// package localcloud's to know: staleness, clientTokens, groups in use, the life
// of a task. This package adds what only shows at the wire: parameters that AWS
// refuses, error codes, pages, desired statuses, tags, addresses that come later.
//
// It knows nothing of how awscloud names things. A group's name, or a task's
// startedBy, is the bastion's id to the local cloud under it.
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

// Config says what the server serves.
type Config struct {
	Cloud   *localcloud.Cloud
	Cluster string   // the ARN of the one cluster there is
	Groups  []string // security groups that exist beside those made
	Port    uint16   // the only one that rules can be about
	// PageSize is the most that one page holds, whatever is asked for; 0 for as
	// much as AWS gives.
	PageSize int
	// Admit, if any, is asked before each call by its action; where it says no, the
	// call is throttled.
	Admit func(action string) bool
	// AddressAfter is how many DescribeNetworkInterfaces see an interface before
	// its public address is associated.
	AddressAfter int
}

// Server answers both services' calls at one address.
type Server struct {
	cfg Config

	mu       sync.Mutex // one call at a time
	calls    []string
	failures []failure
	groups   map[string]groupFacts // by id
	tokens   map[string]token      // by clientToken
	tasks    map[string]runTask    // what each task was made of, by task id
	looks    map[string]int        // at each interface
}

// New makes a server. It is an http.Handler.
func New(cfg Config) *Server {
	return &Server{
		cfg:    cfg,
		groups: map[string]groupFacts{},
		tokens: map[string]token{},
		tasks:  map[string]runTask{},
		looks:  map[string]int{},
	}
}

type failure struct {
	action string
	wireError
}

// Fail makes the next call of an action fail without an effect.
func (s *Server) Fail(action, code, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, failure{action, wireError{code, message}})
}

// Calls are the actions called so far, in order.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// ServeHTTP tells ECS's calls from EC2's by the header that only ECS's have.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, action, ok := strings.Cut(r.Header.Get("X-Amz-Target"), "."); ok {
		s.serveECS(w, r, action)
		return
	}
	s.serveEC2(w, r)
}

// RoundTrip answers a call without a network, for tests in simulated time.
func (s *Server) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	served := r.Clone(r.Context())
	served.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	s.ServeHTTP(answer, served)
	return answer.Result(), r.Body.Close()
}

// begin notes a call, and answers the error that it is to fail with, if any.
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

// wireError is an error as the services answer it.
type wireError struct{ code, message string }

func (e wireError) Error() string { return e.code + ": " + e.message }

// page cuts one page out of all items.
func page[T any](all []T, token string, most, pageSize int) (items []T, next string, err error) {
	start := 0
	if token != "" {
		if start, err = strconv.Atoi(token); err != nil || start < 0 {
			return nil, "", wireError{"InvalidParameterValue", "the NextToken " + token + " is none of ours"}
		}
	}
	if pageSize > 0 {
		most = min(most, pageSize)
	}
	start = min(start, len(all)) // there may be fewer than when the token was made
	end := min(start+most, len(all))
	if end < len(all) {
		next = strconv.Itoa(end)
	}
	return all[start:end], next, nil
}

// taskShown finds a task as it shows at present.
func (s *Server) taskShown(ctx context.Context, id string) (bastion.Task, bool, error) {
	tasks, err := s.cfg.Cloud.Tasks().Describe(ctx, "", id)
	if err != nil || len(tasks) == 0 {
		return bastion.Task{}, false, err
	}
	return tasks[0], true, nil
}

var errThrottled = errors.New("ThrottlingException")

// throttled reports whether the call was throttled, here or by the local cloud.
func throttled(err error) bool {
	return err != nil && strings.Contains(err.Error(), "ThrottlingException")
}
