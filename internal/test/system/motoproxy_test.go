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
type motoProxy struct {
	moto    *moto
	fargate *fargate

	mu             sync.Mutex             // one call at a time
	hiddenUntil    map[string]time.Time   // until when a new group does not show, by id and by name
	startedTasks   map[string]startedTask // by clientToken
	forwardedCalls map[string]int         // answered by moto, by action
	ownResponses   map[string]int         // answered here, by error code
}

func newMotoProxy(f *fargate) *motoProxy {
	return &motoProxy{moto: f.moto, fargate: f, hiddenUntil: map[string]time.Time{}, startedTasks: map[string]startedTask{}, forwardedCalls: map[string]int{}, ownResponses: map[string]int{}}
}

// serveEC2 answers a call of EC2's.
func (f *motoProxy) serveEC2(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	answer, err := f.ec2(r, r.PostForm)
	f.writeResponse(w, answer, err)
}

func (f *motoProxy) ec2(r *http.Request, form url.Values) ([]byte, error) {
	action, group := form.Get("Action"), form.Get("GroupId")
	if action != "CreateSecurityGroup" { // whose name is taken at once
		f.replaceHidden(form)
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
	f.forwardedCalls[action]++
	if action == "CreateSecurityGroup" {
		var made ec2Response
		if err := xml.Unmarshal(answer, &made); err != nil {
			return nil, err
		}
		shows := time.Now().Add(f.fargate.staleness)
		f.hiddenUntil[made.Group], f.hiddenUntil[form.Get("GroupName")] = shows, shows
	}
	return answer, nil
}

// hide puts something that there is not in the place of each group that does not
// show yet, so that moto says in its own words that it is not found.
func (f *motoProxy) replaceHidden(form url.Values) {
	for _, values := range form {
		for i, value := range values {
			if f.isHidden(value) {
				values[i] = "sg-00000000000000000"
			}
		}
	}
}

func (f *motoProxy) isHidden(group string) bool { return time.Now().Before(f.hiddenUntil[group]) }

// refuse answers a refusal of the front's own.
func (f *motoProxy) refuse(code string, body []byte) error {
	f.ownResponses[code]++
	return errorResponse{http.StatusBadRequest, body}
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
func (f *motoProxy) writeResponse(w http.ResponseWriter, answer []byte, err error) {
	var refused errorResponse
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
