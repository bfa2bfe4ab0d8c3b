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

// Recorder is a proxy between the holders of roles and AWS, or an emulator of it, and
// records their calls. A holder gets the URL of its handler as AWS_ENDPOINT_URL, and then
// makes all calls through it.
type Recorder struct {
	Deployment Deployment
	// Granted has the permissions of each role. It must not change while calls are made.
	// A call that needs more is recorded, and refused as IAM does.
	Granted map[string][]Permission

	backends  map[string]string
	transport *http.Transport

	mu    sync.Mutex
	calls map[string]map[Call]int // by role
	wrong []string
}

// RoleHeader is the header in which the backend of a recorder finds the caller's role.
const RoleHeader = "X-Recorded-Role"

// NewRecorder returns a recorder. backends has the URL of each service, by the name that
// requests are signed for: "dynamodb", "ecs", "ec2".
func NewRecorder(d Deployment, granted map[string][]Permission, backends map[string]string) *Recorder {
	return &Recorder{
		Deployment: d, Granted: granted, backends: backends, calls: map[string]map[Call]int{},
		transport: &http.Transport{MaxIdleConnsPerHost: 32},
	}
}

// Close closes the connections to the backends. No request may be running.
func (r *Recorder) Close() { r.transport.CloseIdleConnections() }

// As returns the handler for a holder of the role. userID is that of [Deployment.Calls].
func (r *Recorder) As(role, userID string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) { r.serve(w, request, role, userID) })
}

func (r *Recorder) serve(w http.ResponseWriter, request *http.Request, role, userID string) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return // the caller closed the connection
	}
	service := serviceOf(request.Header)
	calls, err := r.Deployment.Calls(request, body, userID)
	to, parsing := url.Parse(r.backends[service])
	if err == nil && (parsing != nil || to.Host == "") {
		err = fmt.Errorf("calls %s, which has no backend", service)
	}
	r.record(role, calls, err)
	if err == nil {
		err = r.authorize(role, calls)
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
		// The caller or the backend closed the connection. The caller notices either.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	proxy.ServeHTTP(w, request)
}

// authorize returns an error if the role does not grant what the calls need.
func (r *Recorder) authorize(role string, calls []Call) error {
	needed, err := Expand(calls)
	if err != nil {
		return err
	}
	if tooFew, _ := Compare(r.Granted[role], needed); len(tooFew) > 0 {
		return fmt.Errorf("is not authorized to perform: %v", tooFew)
	}
	return nil
}

// deny responds as AWS does to a call that IAM does not allow.
func deny(w http.ResponseWriter, why string) {
	body, _ := json.Marshal(map[string]string{"__type": "AccessDeniedException", "message": why}) // strings are always valid
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Amzn-Errortype", "AccessDeniedException")
	w.Header().Set("X-Amz-Crc32", fmt.Sprint(crc32.ChecksumIEEE(body))) // DynamoDB's clients check it
	w.WriteHeader(http.StatusForbidden)
	_, _ = w.Write(body)
}

func (r *Recorder) record(role string, calls []Call, err error) {
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

// Calls returns the distinct calls that holders of the role have made, and the number of
// all calls. The parts of a transaction count separately.
func (r *Recorder) Calls(role string) (made []Call, times int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for call, n := range r.calls[role] {
		made = append(made, call)
		times += n
	}
	return made, times
}

// Wrong returns sentences about the calls that no role of this stack may allow. They were
// refused.
func (r *Recorder) Wrong() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.wrong)
}
