//go:build conformance

package system

import (
	"encoding/xml"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// front is EC2 and ECS as the functions reach them: moto, and what moto does not
// do, which the package's comment names call by call.
type front struct {
	moto    *moto
	fargate *fargate

	mu      sync.Mutex           // one call at a time
	young   map[string]time.Time // until when a new group does not show, by id and by name
	started map[string]started   // by clientToken
	calls   map[string]int       // answered by moto, by action
	own     map[string]int       // answered here, by error code
}

func newFront(f *fargate) *front {
	return &front{moto: f.moto, fargate: f, young: map[string]time.Time{}, started: map[string]started{}, calls: map[string]int{}, own: map[string]int{}}
}

// serveEC2 answers a call of EC2's.
func (f *front) serveEC2(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	answer, err := f.ec2(r, r.PostForm)
	f.write(w, answer, err)
}

func (f *front) ec2(r *http.Request, form url.Values) ([]byte, error) {
	action, group := form.Get("Action"), form.Get("GroupId")
	if action != "CreateSecurityGroup" { // whose name is taken at once
		f.hide(form)
	}
	if action == "DeleteSecurityGroup" {
		carried, err := f.moto.ec2(r.Context(), "DescribeNetworkInterfaces", "Filter.1.Name", "group-id", "Filter.1.Value.1", group)
		if err != nil {
			return nil, err
		}
		if len(carried.Interfaces) > 0 {
			return nil, f.refuse("DependencyViolation", ec2Error("DependencyViolation", "resource "+group+" has a dependent object"))
		}
	}
	answer, err := f.moto.forward(r.Context(), form)
	if err != nil {
		return nil, err
	}
	f.calls[action]++
	if action == "CreateSecurityGroup" {
		var made ec2Answer
		if err := xml.Unmarshal(answer, &made); err != nil {
			return nil, err
		}
		shows := time.Now().Add(f.fargate.staleness)
		f.young[made.Group], f.young[form.Get("GroupName")] = shows, shows
	}
	return answer, nil
}

// hide puts something that there is not in the place of each group that does not
// show yet, so that moto says in its own words that it is not found.
func (f *front) hide(form url.Values) {
	for _, values := range form {
		for i, value := range values {
			if f.isYoung(value) {
				values[i] = "sg-00000000000000000"
			}
		}
	}
}

func (f *front) isYoung(group string) bool { return time.Now().Before(f.young[group]) }

// refuse answers a refusal of the front's own.
func (f *front) refuse(code string, body []byte) error {
	f.own[code]++
	return refusal{http.StatusBadRequest, body}
}

func ec2Error(code, message string) []byte {
	body, _ := xml.Marshal(struct {
		XMLName   xml.Name `xml:"Response"`
		Code      string   `xml:"Errors>Error>Code"`
		Message   string   `xml:"Errors>Error>Message"`
		RequestID string
	}{Code: code, Message: message, RequestID: "request-1"})
	return body
}

// write writes an answer, or a refusal as it is.
func (f *front) write(w http.ResponseWriter, answer []byte, err error) {
	var refused refusal
	switch {
	case errors.As(err, &refused):
		w.WriteHeader(refused.status)
		answer = refused.body
	case err != nil:
		w.WriteHeader(http.StatusInternalServerError)
		answer = []byte(err.Error())
	}
	_, _ = w.Write(answer)
}
