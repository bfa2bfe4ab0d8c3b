package privilege

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
)

// Recorder stands between those who hold roles and AWS, or what is there in its
// place, and notes which calls each makes. Whoever is to be recorded is given the
// URL of its handler as AWS_ENDPOINT_URL, and then calls no service past it.
type Recorder struct {
	Deployment Deployment
	// Granted is what each role grants. It is not to change while calls are made. A
	// call that needs more is noted, and refused as IAM does.
	Granted map[string][]Permission

	behind    map[string]string
	transport *http.Transport

	mu    sync.Mutex
	calls map[string]map[Call]int // by role
	wrong []string
}

// RoleHeader is where what is behind a recorder may read which role calls.
const RoleHeader = "X-Recorded-Role"

// NewRecorder makes a recorder. behind has the URL of each service that may be
// called, by the name that requests are signed for: "dynamodb", "ecs", "ec2".
func NewRecorder(d Deployment, granted map[string][]Permission, behind map[string]string) *Recorder {
	return &Recorder{
		Deployment: d, Granted: granted, behind: behind, calls: map[string]map[Call]int{},
		transport: &http.Transport{MaxIdleConnsPerHost: 32},
	}
}

// Close ends the connections to what is behind, once no request is under way.
func (r *Recorder) Close() { r.transport.CloseIdleConnections() }

// As is the handler for a holder of the role. userID is as for [Deployment.Calls].
func (r *Recorder) As(role, userID string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) { r.serve(w, request, role, userID) })
}

func (r *Recorder) serve(w http.ResponseWriter, request *http.Request, role, userID string) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return // whoever called has gone
	}
	service := serviceOf(request.Header)
	calls, err := r.Deployment.Calls(request, body, userID)
	to, parsing := url.Parse(r.behind[service])
	if err == nil && (parsing != nil || to.Host == "") {
		err = fmt.Errorf("calls %s, which nothing is behind", service)
	}
	r.note(role, calls, err)
	if err == nil {
		err = r.judge(role, calls)
	}
	if err != nil {
		deny(w, role+" "+err.Error())
		return
	}
	request.Body = io.NopCloser(bytes.NewReader(body))
	proxy := httputil.ReverseProxy{
		Transport: r.transport,
		Rewrite: func(out *httputil.ProxyRequest) {
			out.SetURL(to)
			out.Out.Header.Set(RoleHeader, role)
		},
		// Whoever called has gone, or the service has: the caller knows either.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	proxy.ServeHTTP(w, request)
}

// judge is an error if the role does not grant what the calls need.
func (r *Recorder) judge(role string, calls []Call) error {
	needed, err := Expand(calls)
	if err != nil {
		return err
	}
	if tooFew, _ := Compare(r.Granted[role], needed); len(tooFew) > 0 {
		return fmt.Errorf("is not authorized to perform: %v", tooFew)
	}
	return nil
}

// deny answers as AWS does for what IAM does not allow.
func deny(w http.ResponseWriter, why string) {
	body, _ := json.Marshal(map[string]string{"__type": "AccessDeniedException", "message": why}) // strings
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Amzn-Errortype", "AccessDeniedException")
	w.Header().Set("X-Amz-Crc32", fmt.Sprint(crc32.ChecksumIEEE(body))) // which DynamoDB's clients look at
	w.WriteHeader(http.StatusForbidden)
	_, _ = w.Write(body)
}

func (r *Recorder) note(role string, calls []Call, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.wrong = append(r.wrong, role+" "+err.Error())
	}
	if r.calls[role] == nil {
		r.calls[role] = map[Call]int{}
	}
	for _, call := range calls {
		r.calls[role][call]++
	}
}

// Calls are the calls that holders of the role have made, once each, and how many
// there were in all, transactions by their parts.
func (r *Recorder) Calls(role string) (made []Call, times int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for call, n := range r.calls[role] {
		made = append(made, call)
		times += n
	}
	return made, times
}

// Wrong are the calls that no role of this stack could allow, as sentences; they
// were not let through.
func (r *Recorder) Wrong() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.wrong)
}
