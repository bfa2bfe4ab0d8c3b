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
	kind  string
	until string // the role whose next event is accepted; empty: the second event of any role
	begun bool   // one event was rejected
}

// ServeHTTP serves Invoke, synchronous and asynchronous; see
// https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html.
func (i *lambdaAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	payload, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller has disconnected
	}
	name, kind := privilege.Invoked(r), kindOf(payload)
	switch {
	case i.rejects(kind, r.Header.Get(privilege.RoleHeader)):
		serviceFails(w)
	case r.Header.Get("X-Amz-Invocation-Type") == "Event":
		i.events.countEvent(kind)
		i.background.Go(func() { i.events.send(i.ctx, i.invokeWithLoss(kind), name, payload) })
		w.WriteHeader(http.StatusAccepted)
	default:
		response, err := i.invoke(r.Context(), name, payload)
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
func (i *lambdaAPI) rejectNext(kind, until string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.rejections = append(i.rejections, rejection{kind: kind, until: until})
}

func (i *lambdaAPI) rejects(kind, role string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	at := slices.IndexFunc(i.rejections, func(r rejection) bool { return r.kind == kind })
	if at < 0 {
		return false
	}
	if r := i.rejections[at]; r.begun && (r.until == "" || r.until == role) {
		i.rejections = slices.Delete(i.rejections, at, at+1)
		return false
	}
	i.rejections[at].begun = true
	if !slices.Contains(i.rejectedKinds, kind) {
		i.rejectedKinds = append(i.rejectedKinds, kind)
	}
	return true
}

// outcomes returns the kinds of events that were rejected and those of which an attempt
// was lost.
func (i *lambdaAPI) outcomes() (refused, lost []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.rejectedKinds), slices.Compact(slices.Sorted(slices.Values(i.lostKinds)))
}

// invokeWithLoss returns an invokeFunc that loses two attempts of the first event of each
// kind, as when the function's machine dies: the first before the function runs, the
// second after it has run. Lambda retries, on AWS after a minute.
func (i *lambdaAPI) invokeWithLoss(kind string) invokeFunc {
	return func(ctx context.Context, name string, event []byte) ([]byte, error) {
		const lost = `{"errorType":"Runtime.ExitError","errorMessage":"lost"}`
		before := i.countLoss(kind)
		if i.loseFirst && before == 0 {
			return []byte(lost), nil
		}
		response, err := i.invoke(ctx, name, event)
		if i.loseFirst && before == 1 {
			return []byte(lost), err
		}
		return response, err
	}
}

// countLoss counts an attempt and returns how many of that kind were lost before.
func (i *lambdaAPI) countLoss(kind string) (before int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, lost := range i.lostKinds {
		if lost == kind {
			before++
		}
	}
	if before < 2 {
		i.lostKinds = append(i.lostKinds, kind)
	}
	return before
}
