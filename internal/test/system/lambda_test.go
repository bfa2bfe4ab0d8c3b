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

// invoker is Lambda as functions reach it to call each other. Who may call whom is
// not for it to know: the recorder in front of it refuses what no role grants.
type lambdaAPI struct {
	ctx       context.Context // of what is done apart from its request
	invoke    invokeFunc
	bridge    *eventBridge
	loseFirst bool // the first event of each kind is lost at two tries

	background sync.WaitGroup

	mu            sync.Mutex
	rejections    []rejection // what is refused
	rejectedKinds []string    // the kinds that were
	lostKinds     []string    // the kinds of which one was lost, each once for a try
}

// refused is a kind of event that Lambda does not take for a while.
type rejection struct {
	kind  string
	until string // the role whose next one is taken; empty: any
	begun bool
}

// ServeHTTP answers an Invoke, for a function that answers or one that does not;
// see https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html.
func (i *lambdaAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	payload, err := io.ReadAll(r.Body)
	if err != nil {
		return // whoever called has gone
	}
	name, kind := privilege.Invoked(r), kindOf(payload)
	switch {
	case i.rejects(kind, r.Header.Get(privilege.RoleHeader)):
		serviceFails(w)
	case r.Header.Get("X-Amz-Invocation-Type") == "Event":
		i.bridge.countEvent(kind)
		i.background.Go(func() { i.bridge.send(i.ctx, i.invokeWithLoss(kind), name, payload) })
		w.WriteHeader(http.StatusAccepted)
	default:
		answer, err := i.invoke(r.Context(), name, payload)
		if err != nil {
			serviceFails(w)
			return
		}
		if functionError(answer) != "" {
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
		}
		_, _ = w.Write(answer)
	}
}

// serviceFails answers as Lambda does when it fails itself.
func serviceFails(w http.ResponseWriter) {
	w.Header().Set("X-Amzn-Errortype", "ServiceException")
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = io.WriteString(w, `{"Type":"Server","Message":"the service fails"}`)
}

// kindOf says what an event of the Slack function's is about; of others, nothing.
func kindOf(payload []byte) string {
	var event struct {
		Job    struct{ Action string }
		Notice struct {
			Bastion struct{ State string }
			Warning bool
		}
	}
	_ = json.Unmarshal(payload, &event) // it may be another
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

// refuseNext has the next event of a kind refused, and all that follow until a role
// hands one over.
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

// was reports what has become of events: the kinds that were refused, and those of
// which one was lost.
func (i *lambdaAPI) outcomes() (refused, lost []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.rejectedKinds), slices.Compact(slices.Sorted(slices.Values(i.lostKinds)))
}

// losing loses the first event of each kind, as when the function's machine dies:
// first before the function is called, and then when it has done its work. Lambda
// tries again, on AWS after a minute.
func (i *lambdaAPI) invokeWithLoss(kind string) invokeFunc {
	return func(ctx context.Context, name string, event []byte) ([]byte, error) {
		const lost = `{"errorType":"Runtime.ExitError","errorMessage":"it was lost"}`
		before := i.countLoss(kind)
		if i.loseFirst && before == 0 {
			return []byte(lost), nil
		}
		answer, err := i.invoke(ctx, name, event)
		if i.loseFirst && before == 1 {
			return []byte(lost), err
		}
		return answer, err
	}
}

// losses counts a try, and answers how many of that kind were lost before.
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
