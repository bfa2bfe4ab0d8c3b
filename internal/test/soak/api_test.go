//go:build conformance

package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// client returns the HTTP client that connects from an address.
func (s *soak) client(from netip.Addr) *http.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http[from] == nil {
		s.http[from] = &http.Client{Timeout: patience, Transport: &http.Transport{
			DialContext:         func(ctx context.Context, _, to string) (net.Conn, error) { return dialFrom(ctx, from, to) },
			MaxIdleConnsPerHost: 2,
		}}
	}
	return s.http[from]
}

func dialFrom(ctx context.Context, from netip.Addr, to string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: patience}
	return d.DialContext(ctx, "tcp", to)
}

// request is one request to the API.
type request struct {
	method, path, body string
	text               bool // wants an ssh configuration
	wait               int  // seconds
}

// answer is a response of the API.
type answer struct {
	status   int
	code     bastion.Code // of a problem
	text     string
	bastions []api.Bastion // one, or the whole list
}

// call sends a request of a person. It checks the response against what any response must
// have, and its documents against those of earlier responses. ok is false if there is no
// response, which has been reported.
func (s *soak) call(p *person, r request, statuses ...int) (got answer, ok bool) {
	s.requests.Add(1)
	before := s.snapshot()
	what := fmt.Sprintf("%s %s of %s %q", r.method, r.path, p, r.body)
	req, err := http.NewRequest(r.method, s.local.URL+r.path, strings.NewReader(r.body))
	if err != nil {
		s.fail("%s: %v", what, err)
		return answer{}, false
	}
	req.SetBasicAuth(p.owner.name, "")
	if r.text {
		req.Header.Set("Accept", "text/plain")
	}
	if r.wait > 0 {
		req.Header.Set("Prefer", fmt.Sprintf("wait=%d", r.wait))
	}
	resp, err := s.client(p.from).Do(req)
	if err != nil {
		s.fail("%s: %v", what, err)
		return answer{}, false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.fail("%s: %v", what, err)
		return answer{}, false
	}
	got = answer{status: resp.StatusCode, text: string(body)}
	if !slices.Contains(statuses, got.status) {
		s.fail("%s: status %d, want one of %d: %s", what, got.status, statuses, body)
		return answer{}, false
	}
	if from := resp.Header.Get("X-Source-Address"); from != p.from.String() || resp.Header.Get("X-Request-Id") == "" {
		s.fail("%s: the response has the source address %q and the request ID %q", what, from, resp.Header.Get("X-Request-Id"))
	}
	if strings.Contains(resp.Header.Get("Content-Type"), "json") {
		if err := got.decode(body); err != nil {
			s.fail("%s: %v: %s", what, err, body)
			return answer{}, false
		}
	}
	for _, b := range got.bastions {
		if wrong := s.learn(p.owner, b, before[b.ID]); wrong != "" {
			s.fail("%s: %s: %s", what, wrong, body)
		}
	}
	return got, true
}

func (a *answer) decode(body []byte) error {
	if a.status >= 400 {
		var problem api.Problem
		err := json.Unmarshal(body, &problem)
		if a.code = problem.Code; err == nil && (problem.Code == "" || problem.Detail == "" || problem.Status != a.status) {
			err = fmt.Errorf("not a whole problem document")
		}
		return err
	}
	var document struct {
		api.Bastion
		Bastions *[]api.Bastion `json:"bastions"`
	}
	if err := json.Unmarshal(body, &document); err != nil {
		return err
	}
	if a.bastions = []api.Bastion{document.Bastion}; document.Bastions != nil {
		a.bastions = *document.Bastions
	}
	return nil
}

// known is what responses have said about a bastion.
type known struct {
	*usage
	owner    *owner
	latest   api.Bastion // the latest ready document, or the latest one
	state    bastion.State
	deadline time.Time // the latest deadline
	audited  bool
	users    int // steps that use it now
	kills    int // how often its tasks were killed
}

var progress = map[bastion.State]int{bastion.Starting: 0, bastion.Ready: 0, bastion.Closing: 1, bastion.Closed: 2, bastion.Failed: 2}

// snapshot returns what is known now.
func (s *soak) snapshot() map[string]known {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]known{}
	for id, k := range s.bastions {
		if !k.audited {
			all[id] = *k
		}
	}
	return all
}

// learn stores a document. It returns what is wrong with it, if anything: before is what
// was known when the request was sent.
func (s *soak) learn(o *owner, b api.Bastion, before known) (wrong string) {
	s.mu.Lock()
	k := s.bastions[b.ID]
	if k == nil {
		k = &known{usage: &usage{}, owner: o}
		s.bastions[b.ID] = k
	}
	if progress[b.State] >= progress[k.state] {
		k.state = b.State
	}
	if b.State == bastion.Ready || k.latest.State != bastion.Ready {
		k.latest = b
	}
	if b.Deadline.After(k.deadline) {
		k.deadline = b.Deadline
	}
	s.mu.Unlock()
	if progress[b.State] == 2 {
		o.access(b.Name).close(b.ID)
	}
	switch {
	case b.Owner != "local:"+o.name || k.owner != o:
		return "a bastion of somebody else"
	case progress[b.State] < progress[before.state]:
		return fmt.Sprintf("it was %s before", before.state)
	case b.Deadline.Before(before.deadline):
		return fmt.Sprintf("its deadline was %s before", before.deadline)
	case b.Deadline.After(b.LatestDeadline):
		return "the deadline is after the latest deadline"
	case b.State == bastion.Ready && (b.Host == "" || b.Port == 0 || len(b.HostKeys) == 0 || len(b.Keys) == 0 || b.SSHConfig == ""):
		return "a ready bastion without an address, host key or key"
	case (b.State == bastion.Closed || b.State == bastion.Failed) && b.Ended == nil:
		return "a bastion that has ended without a reason"
	}
	return ""
}

// killed is called before a task of the bastion is killed.
func (s *soak) killed(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.bastions[id]; k != nil {
		k.kills++
		k.kill()
	}
}

func (s *soak) killsOf(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bastions[id].kills
}

func (s *soak) usageOf(id string) *usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bastions[id].usage
}
