package httpapi

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strconv"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// sshUser is whom people log in as; who they are is in their key.
const sshUser = "bastion"

// Document returns the document of a bastion as the API with these targets returns
// it to the owner.
func Document(rec bastion.Record, targets ...Target) api.Bastion {
	d := api.NewBastion(rec)
	at, ok := accessOf(rec)
	if !ok {
		return d
	}
	d.Host, d.Port, d.User = at.endpoint.Addr().String(), int(at.endpoint.Port()), sshUser
	if at.hostKey != "" {
		d.HostKey, d.KnownHosts = string(at.hostKey), at.knownHosts()
		d.SSHConfig, d.SSH = sshConfig([]access{at}, targets), at.consoleCommand()
	}
	return d
}

func (a *handler) json(ans answer) []byte {
	documents := make([]api.Bastion, 0, len(ans.records))
	for _, rec := range ans.records {
		documents = append(documents, Document(rec, a.Targets...))
	}
	if ans.list {
		return marshal(api.List{Bastions: documents})
	}
	return marshal(documents[0])
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
