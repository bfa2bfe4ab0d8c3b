package httpapi

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strconv"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// sshUser is whom people log in as; who they are is in their key.
const sshUser = "bastion"

// document is a bastion as JSON. What is not known is left out.
type document struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Owner string `json:"owner"`

	State   bastion.State    `json:"state"`
	Stage   string           `json:"stage,omitempty"`
	Reason  string           `json:"reason,omitempty"`
	Failure *failureDocument `json:"failure,omitempty"`
	Ended   *endDocument     `json:"ended,omitempty"`

	Source string   `json:"source"`
	Keys   []string `json:"keys"`

	Host       string `json:"host,omitempty"`
	Port       uint16 `json:"port,omitempty"`
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

type failureDocument struct {
	Code    bastion.FailureCode `json:"code"`
	Message string              `json:"message"`
}

type endDocument struct {
	Reason bastion.EndReason `json:"reason"`
	At     time.Time         `json:"at"`
}

type listDocument struct {
	Bastions []document `json:"bastions"`
}

func (a *api) json(ans answer) []byte {
	documents := make([]document, 0, len(ans.records))
	for _, rec := range ans.records {
		documents = append(documents, documentOf(rec, a.Targets))
	}
	if ans.list {
		return marshal(listDocument{documents})
	}
	return marshal(documents[0])
}

// Document is a bastion as JSON, as the API of these targets answers it to its owner.
func Document(rec bastion.Record, targets ...Target) []byte {
	return marshal(documentOf(rec, targets))
}

func documentOf(rec bastion.Record, targets []Target) document {
	d := document{
		ID: rec.ID, Name: rec.Name, Owner: rec.Owner,
		State: rec.State(), Stage: rec.Stage(), Reason: rec.Intent.Reason,
		Source:         rec.Intent.Source.String(),
		Keys:           fingerprints(rec.Intent.Keys),
		CreatedAt:      rec.CreatedAt.UTC(),
		ReadyAt:        rec.Attempt.ReadyAt.UTC(),
		Deadline:       rec.Intent.Deadline.UTC(),
		LatestDeadline: rec.LatestDeadline.UTC(),
	}
	if rec.End.Reason != "" {
		d.Ended = &endDocument{rec.End.Reason, rec.End.At.UTC()}
	}
	if rec.End.Reason == bastion.EndFailed {
		d.Failure = &failureDocument{rec.End.Failure.Code, rec.End.Failure.Message}
	}
	at, ok := accessOf(rec)
	if !ok {
		return d
	}
	d.Host, d.Port, d.User = at.endpoint.Addr().String(), at.endpoint.Port(), sshUser
	if at.hostKey != "" {
		d.HostKey, d.KnownHosts = string(at.hostKey), at.knownHosts()
		d.SSHConfig, d.SSH = sshConfig([]access{at}, targets), at.consoleCommand()
	}
	return d
}

func fingerprints(keys []bastion.Key) []string {
	all := make([]string, 0, len(keys))
	for _, key := range keys {
		all = append(all, key.Fingerprint())
	}
	return all
}

// access is where a bastion is reached, and the host key that proves it; empty
// while that is not known.
type access struct {
	name     string
	endpoint netip.AddrPort
	hostKey  bastion.Key
}

// accessOf is not ok for a bastion that has no address, or whose end has begun.
func accessOf(rec bastion.Record) (access, bool) {
	at := access{name: rec.Name, endpoint: rec.Endpoint()}
	if !rec.Intent.Open || !at.endpoint.IsValid() {
		return access{}, false
	}
	// The task reported this, and people paste it into files that ssh obeys:
	// whatever else than a key it were would be an order to their machine.
	if key, err := publickey.Parse(string(rec.Attempt.HostKey)); err == nil {
		at.hostKey = key
	}
	return at, true
}

// knownHosts is the line that known_hosts would have of it. ssh looks for the
// bare host at port 22, and for host and port at any other.
func (at access) knownHosts() string {
	host := at.endpoint.Addr().String()
	if at.endpoint.Port() != 22 {
		host = "[" + host + "]:" + at.port()
	}
	return host + " " + string(at.hostKey)
}

func (at access) port() string { return strconv.Itoa(int(at.endpoint.Port())) }

// marshal writes a document for people to read too.
func marshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		panic(err) // documents hold strings, numbers and times
	}
	return b.Bytes()
}
