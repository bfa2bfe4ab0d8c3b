//go:build conformance

package system

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"sync"

	"github.com/bastion-on-demand/bastion/internal/test/privilege"
)

// lambdaAPI plays Lambda's Invoke for calls between functions. It does not check
// permissions: the recorder in front of it rejects calls that the role does not grant.
type lambdaAPI struct {
	ctx       context.Context // of what is done apart from its request
	invoke    invokeFunc
	events    *eventBridge
	loseFirst bool // lose two attempts of the first event of each kind

	background sync.WaitGroup

	mu            sync.Mutex
	rejections    []rejection // in force
	rejectedKinds []string    // ever
	lostKinds     []string    // one entry for each lost attempt
}

// rejection is a kind of event that Lambda rejects for a while.
type rejection struct {
	kind   string
	until  string // the role whose next event is accepted; empty: the second event of any role
	active bool   // one event was rejected
}

// ServeHTTP serves Invoke, synchronous and asynchronous; see
// https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html.
func (l *lambdaAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	payload, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller has disconnected
	}
	name, kind := privilege.Invoked(r), kindOf(payload)
	switch {
	case l.rejects(kind, r.Header.Get(privilege.RoleHeader)):
		serviceFails(w)
	case r.Header.Get("X-Amz-Invocation-Type") == "Event":
		l.events.countEvent(kind)
		l.background.Go(func() { l.events.send(l.ctx, l.invokeWithLoss(kind), name, payload) })
		w.WriteHeader(http.StatusAccepted)
	default:
		response, err := l.invoke(r.Context(), name, payload)
		if err != nil {
			serviceFails(w)
			return
		}
		if functionError(response) != "" {
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
		}
		_, _ = w.Write(response)
	}
}

// serviceFails responds with an error of Lambda itself.
func serviceFails(w http.ResponseWriter) {
	w.Header().Set("X-Amzn-Errortype", "ServiceException")
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = io.WriteString(w, `{"Type":"Server","Message":"internal error"}`)
}

// kindOf returns the kind of an event for the Slack function, or "" for other events.
func kindOf(payload []byte) string {
	var event struct {
		Job    struct{ Action string }
		Notice struct {
			Bastion struct{ State string }
			Warning bool
		}
	}
	_ = json.Unmarshal(payload, &event) // other events have no kind
	switch {
	case event.Job.Action != "":
		return "job " + event.Job.Action
	case event.Notice.Warning:
		return "warning"
	case event.Notice.Bastion.State != "":
		return "notice " + event.Notice.Bastion.State
	}
	return ""
}

// rejectNext rejects the next event of a kind and all later ones of that kind until one
// comes from a function with the role.
func (l *lambdaAPI) rejectNext(kind, until string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rejections = append(l.rejections, rejection{kind: kind, until: until})
}

func (l *lambdaAPI) rejects(kind, role string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := slices.IndexFunc(l.rejections, func(r rejection) bool { return r.kind == kind })
	if at < 0 {
		return false
	}
	if r := l.rejections[at]; r.active && (r.until == "" || r.until == role) {
		l.rejections = slices.Delete(l.rejections, at, at+1)
		return false
	}
	l.rejections[at].active = true
	if !slices.Contains(l.rejectedKinds, kind) {
		l.rejectedKinds = append(l.rejectedKinds, kind)
	}
	return true
}

// outcomes returns the kinds of events that were rejected and those of which an attempt
// was lost.
func (l *lambdaAPI) outcomes() (rejected, lost []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.rejectedKinds), slices.Compact(slices.Sorted(slices.Values(l.lostKinds)))
}

// invokeWithLoss returns an invokeFunc that loses two attempts of the first event of each
// kind, as when the function's machine dies: the first before the function runs, the
// second after it has run. Lambda retries, on AWS after a minute.
func (l *lambdaAPI) invokeWithLoss(kind string) invokeFunc {
	return func(ctx context.Context, name string, event []byte) ([]byte, error) {
		const lost = `{"errorType":"Runtime.ExitError","errorMessage":"lost"}`
		before := l.countLoss(kind)
		if l.loseFirst && before == 0 {
			return []byte(lost), nil
		}
		response, err := l.invoke(ctx, name, event)
		if l.loseFirst && before == 1 {
			return []byte(lost), err
		}
		return response, err
	}
}

// countLoss counts an attempt and returns how many of that kind were lost before.
func (l *lambdaAPI) countLoss(kind string) (before int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lost := range l.lostKinds {
		if lost == kind {
			before++
		}
	}
	if before < 2 {
		l.lostKinds = append(l.lostKinds, kind)
	}
	return before
}
