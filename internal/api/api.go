// Package api has the types that processes exchange as JSON: the documents of the HTTP
// API, the calls that the Slack function makes to it, and the notices that the reaper
// and the observer send to the Slack function. Each type is defined once, and every
// reader and writer uses it. The package also has texts that the HTTP API and the Slack
// function both show to people.
package api

import (
	"net/http"
	"net/netip"
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
	Stage   string        `json:"stage,omitempty"` // of a starting or closing bastion; see StageText
	Reason  string        `json:"reason,omitempty"`
	Failure *Failure      `json:"failure,omitempty"`
	Ended   *Ended        `json:"ended,omitempty"`

	Source     string      `json:"source"`               // the first source of the latest request, as a prefix
	Sources    []string    `json:"sources,omitempty"`    // of all keys, as prefixes, sorted
	Keys       []string    `json:"keys"`                 // fingerprints, in the order in which the keys were added
	Admissions []Admission `json:"admissions,omitempty"` // each key with its sources
	AddedKey   string      `json:"added_key,omitempty"`  // the fingerprint of the key that this request added to an open bastion

	Host       string     `json:"host,omitempty"`
	Port       int        `json:"port,omitempty"`
	Endpoints  []Endpoint `json:"endpoints,omitempty"` // one for each family of the sources; the first is Host and Port
	User       string     `json:"user,omitempty"`
	HostKey    string     `json:"host_key,omitempty"`    // the first of HostKeys
	HostKeys   []string   `json:"host_keys,omitempty"`   // ed25519 first
	KnownHosts string     `json:"known_hosts,omitempty"` // a line for each host key
	SSHConfig  string     `json:"ssh_config,omitempty"`
	SSH        string     `json:"ssh,omitempty"`

	CreatedAt      time.Time `json:"created_at"`
	ReadyAt        time.Time `json:"ready_at,omitzero"`
	SeenAt         time.Time `json:"seen_at,omitzero"` // when AWS last showed the ready bastion
	Deadline       time.Time `json:"deadline"`
	LatestDeadline time.Time `json:"latest_deadline"`
}

// Admission is a key with the sources from which the bastion admits it.
type Admission struct {
	Key     string   `json:"key"`     // the fingerprint
	Sources []string `json:"sources"` // prefixes
}

// Endpoint is an address of the bastion's SSH server.
type Endpoint struct {
	Host string `json:"host"`
	Port int    `json:"port"`
}

// Failure is the reason why a bastion could not be started, or AWS's refusal of a step of
// a starting or closing bastion.
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
		Sources:        texts(rec.Intent.Sources()),
		Keys:           make([]string, 0, len(rec.Intent.Keys)),
		Admissions:     make([]Admission, 0, len(rec.Intent.Keys)),
		CreatedAt:      rec.CreatedAt.UTC(),
		ReadyAt:        rec.Attempt.ReadyAt.UTC(),
		Deadline:       rec.Intent.Deadline.UTC(),
		LatestDeadline: rec.LatestDeadline.UTC(),
	}
	for _, key := range rec.Intent.Keys {
		b.Keys = append(b.Keys, key.Fingerprint())
	}
	for _, a := range rec.Intent.Admissions() {
		b.Admissions = append(b.Admissions, Admission{a.Key.Fingerprint(), texts(a.Sources)})
	}
	if rec.End.Reason != "" {
		b.Ended = &Ended{rec.End.Reason, rec.End.At.UTC()}
	}
	if b.State == bastion.Ready {
		b.SeenAt = rec.SeenAt.UTC()
	}
	if rec.End.Reason == bastion.EndFailed {
		b.Failure = &Failure{rec.End.Failure.Code, rec.End.Failure.Message}
	} else if refusal := rec.Refusal(); refusal.Code != "" {
		b.Failure = &Failure{refusal.Code, refusal.Message}
	}
	return b
}

func texts(sources []netip.Prefix) []string {
	all := make([]string, 0, len(sources))
	for _, source := range sources {
		all = append(all, source.String())
	}
	return all
}

// IsOpen reports whether the bastion can be used, extended and closed.
func (b Bastion) IsOpen() bool { return b.State == bastion.Starting || b.State == bastion.Ready }

// stageDelayed is the stage of a bastion for which AWS does not carry out the next step.
const stageDelayed = "delayed"

// IsDelayed reports whether the latest change of the bastion may not be in force, because
// AWS does not carry out a step of it.
func (b Bastion) IsDelayed() bool {
	return b.Stage == stageDelayed || b.Failure != nil && b.State != bastion.Failed
}

// DelaySentence returns what the service does about the delay of a bastion, and what the
// person can do. It returns "" if the bastion is not delayed.
//
// A delayed close can leave the access open until the deadline, at which the bastion
// closes by itself. A bastion that ended by itself has closed its connections already.
func (b Bastion) DelaySentence() string {
	switch {
	case !b.IsDelayed():
		return ""
	case b.State == bastion.Closing && b.Ended != nil && b.Ended.Reason != bastion.EndClosed:
		return "Its server has ended by itself, or ends at the deadline. The service repeats the removal of the rest until AWS carries it out. You don't need to do anything."
	case b.State == bastion.Closing:
		return "The request to close the bastion is stored, and the service repeats each step until AWS carries it out. Until then, access may still be open, but no longer than until the deadline, when the bastion closes by itself. If that is too late, ask your operator to stop its task."
	case !b.ReadyAt.IsZero():
		return "Your request is stored, and the service repeats the step until AWS carries it out. Until then, the previous address and keys may still be accepted. You don't need to send the request again; to end the access, close the bastion."
	}
	return "Your request is stored, and the service repeats the step. You don't need to send the request again. If AWS still does not carry out the step after a long time, the start fails with a message that says why."
}

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

// StageText returns a short text that describes a stage of a bastion. It has the form of a
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
	case stageDelayed:
		return "Waiting for AWS, which has not carried out the latest step"
	}
	return ""
}
