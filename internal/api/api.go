// Package api has the types that processes exchange as JSON: the documents of the HTTP
// API, the calls that the Slack function makes to it, and the notices that the reaper
// and the observer send to the Slack function. Each type is defined once, and every
// reader and writer uses it. The package also has texts that the HTTP API and the Slack
// function both show to people.
package api

import (
	"net/http"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Bastion is the document that the API returns for a bastion; see
// api/openapi.yaml. Fields that are not known yet are absent from the JSON.
type Bastion struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Owner string `json:"owner"`

	State   bastion.State `json:"state"`
	Stage   string        `json:"stage,omitempty"` // of a starting bastion; see StageText
	Reason  string        `json:"reason,omitempty"`
	Failure *Failure      `json:"failure,omitempty"`
	Ended   *Ended        `json:"ended,omitempty"`

	Source string   `json:"source"` // a /32 or a /128
	Keys   []string `json:"keys"`   // fingerprints

	Host       string `json:"host,omitempty"`
	Port       int    `json:"port,omitempty"`
	User       string `json:"user,omitempty"`
	HostKey    string `json:"host_key,omitempty"`
	KnownHosts string `json:"known_hosts,omitempty"`
	SSHConfig  string `json:"ssh_config,omitempty"`
	SSH        string `json:"ssh,omitempty"`

	CreatedAt      time.Time `json:"created_at"`
	ReadyAt        time.Time `json:"ready_at,omitzero"`
	Deadline       time.Time `json:"deadline"`
	LatestDeadline time.Time `json:"latest_deadline"`
}

// Failure is the reason why a bastion could not be started.
type Failure struct {
	Code    bastion.FailureCode `json:"code"`
	Message string              `json:"message"`
}

// Ended is the reason and the time of a bastion's end.
type Ended struct {
	Reason bastion.EndReason `json:"reason"`
	At     time.Time         `json:"at"`
}

// List is the document that the API returns for several bastions.
type List struct {
	Bastions []Bastion `json:"bastions"`
}

// NewBastion returns the document of a record, without the fields from Host to SSH.
// Package httpapi adds them with the ssh configuration.
func NewBastion(rec bastion.Record) Bastion {
	b := Bastion{
		ID: rec.ID, Name: rec.Name, Owner: rec.Owner,
		State: rec.State(), Stage: rec.Stage(), Reason: rec.Intent.Reason,
		Source:         rec.Intent.Source.String(),
		Keys:           make([]string, 0, len(rec.Intent.Keys)),
		CreatedAt:      rec.CreatedAt.UTC(),
		ReadyAt:        rec.Attempt.ReadyAt.UTC(),
		Deadline:       rec.Intent.Deadline.UTC(),
		LatestDeadline: rec.LatestDeadline.UTC(),
	}
	for _, key := range rec.Intent.Keys {
		b.Keys = append(b.Keys, key.Fingerprint())
	}
	if rec.End.Reason != "" {
		b.Ended = &Ended{rec.End.Reason, rec.End.At.UTC()}
	}
	if rec.End.Reason == bastion.EndFailed {
		b.Failure = &Failure{rec.End.Failure.Code, rec.End.Failure.Message}
	}
	return b
}

// IsOpen reports whether the bastion can be used, extended and closed.
func (b Bastion) IsOpen() bool { return b.State == bastion.Starting || b.State == bastion.Ready }

// Problem is a problem document (RFC 9457) with the extension members code and
// request_id.
type Problem struct {
	Type      string       `json:"type"`
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail"`
	Code      bastion.Code `json:"code"`
	RequestID string       `json:"request_id"`
}

// NewProblem returns a problem document. Its type is about:blank: callers switch
// on code.
func NewProblem(status int, code bastion.Code, detail, requestID string) Problem {
	return Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status,
		Detail: detail, Code: code, RequestID: requestID,
	}
}

// EndSentence returns a sentence that says why a bastion was closed. It returns "" for
// an unknown reason.
func EndSentence(reason bastion.EndReason) string {
	switch reason {
	case bastion.EndClosed:
		return "It was closed on request."
	case bastion.EndConsole:
		return "It was closed from its console."
	case bastion.EndDeadline:
		return "It reached its deadline."
	case bastion.EndIdle:
		return "It was closed because it was idle."
	case bastion.EndFailed:
		return "It could not be started."
	case bastion.EndTask:
		return "Its process exited."
	}
	return ""
}

// StageText returns a short text that describes a stage of a start. It has the form of a
// title: a capital first letter, and no full stop. It returns "" for an unknown stage.
func StageText(stage string) string {
	switch stage {
	case "security group":
		return "Creating a firewall rule for your address only"
	case "capacity":
		return "Waiting for capacity"
	case "image":
		return "Pulling the image"
	case "network":
		return "Assigning a network address"
	case "host key":
		return "Waiting for the host key"
	case "address":
		return "Moving the firewall rule to your address"
	case "lease":
		return "Updating the running bastion"
	case "delayed":
		return "Delayed: AWS does not carry out the next step, so it is repeated"
	}
	return ""
}
