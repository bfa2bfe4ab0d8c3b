package httpapi_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

var update = flag.Bool("update", false, "write the golden files anew")

var privateHost = httpapi.Target{Name: "private.internal", User: "demo", HostKey: keyOf(4)}

func TestGoldenResponses(t *testing.T) {
	second := ready()
	second.ID, second.Name, second.Intent.Reason = "4kq7vmx2p4hzr6ta", "db", ""
	second.Attempt.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("198.51.100.25:22")}
	others := ready()
	others.ID, others.Owner = "5kq7vmx2p4hzr6ta", "local:bob"
	old := closing(bastion.EndIdle)
	old.ID = "6kq7vmx2p4hzr6ta"
	six := ready()
	six.Intent.Source = netip.MustParsePrefix("2001:db8::7/128")
	six.Group.Ingress = six.Intent.Source
	six.Attempt.Endpoints = append(six.Attempt.Endpoints, netip.MustParseAddrPort("[2001:db8:1::24]:2222"))

	for name, test := range map[string]struct {
		records []bastion.Record
		targets []httpapi.Target
	}{
		"starting":          {[]bastion.Record{starting()}, []httpapi.Target{privateHost}},
		"starting-delayed":  {[]bastion.Record{delayed(starting())}, nil},
		"starting-refused":  {[]bastion.Record{refused(starting())}, nil},
		"moving-refused":    {[]bastion.Record{refused(moving())}, nil},
		"moving-delayed":    {[]bastion.Record{delayed(moving())}, nil},
		"closing-delayed":   {[]bastion.Record{delayed(closing(bastion.EndClosed))}, nil},
		"closing-refused":   {[]bastion.Record{refused(closing(bastion.EndClosed))}, nil},
		"ending-delayed":    {[]bastion.Record{delayed(closing(bastion.EndIdle))}, nil},
		"ready-just-seen":   {[]bastion.Record{justSeen()}, nil},
		"ready":             {[]bastion.Record{ready()}, nil},
		"ready-with-target": {[]bastion.Record{ready()}, []httpapi.Target{privateHost}},
		"ready-ipv6":        {[]bastion.Record{six}, nil},
		"ready-two-sources": {[]bastion.Record{severalSources()}, nil},
		"ready-two-keys":    {[]bastion.Record{severalKeys()}, nil},
		"ready-port-22":     {[]bastion.Record{second}, nil},
		"closing":           {[]bastion.Record{closing(bastion.EndIdle)}, nil},
		"closed":            {[]bastion.Record{closed()}, nil},
		"failed":            {[]bastion.Record{failed()}, nil},
		"list":              {[]bastion.Record{old, ready(), others, second}, []httpapi.Target{privateHost}},
		"list-empty":        {nil, []httpapi.Target{privateHost}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFixture()
			r.options.Targets = test.targets
			path := "/bastions"
			if r.records = test.records; !strings.HasPrefix(name, "list") {
				path, r.rec = path+"/"+someID, test.records[0]
			}
			golden(t, name+".conf", r.send("GET", path, "", "Accept", "text/plain").Body.Bytes())
			golden(t, name+".json", r.send("GET", path, "").Body.Bytes())
			if path != "/bastions" && test.targets == nil {
				var decoded api.Bastion
				if err := json.Unmarshal(r.send("GET", path, "").Body.Bytes(), &decoded); err != nil || !reflect.DeepEqual(decoded, httpapi.Document(r.rec)) {
					t.Errorf("the response decodes to\n%+v, %v\nwant what notices hold\n%+v", decoded, err, httpapi.Document(r.rec))
				}
			}
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update writes it anew):\n%s", path, got)
	}
}

func TestAddedKeyIsInTheResponse(t *testing.T) {
	added := keyOf(9)
	for _, key := range []bastion.Key{added, ""} {
		r := newFixture()
		r.rec, r.added = severalKeys(), key
		document := r.send("POST", "/bastions", string(added), "Accept", "application/json").Body.String()
		text := r.send("POST", "/bastions", string(added), "Accept", "text/plain").Body.String()
		inJSON := strings.Contains(document, `"added_key": "`+added.Fingerprint()+`"`) || strings.Contains(document, `"added_key":"`+added.Fingerprint()+`"`)
		inText := strings.Contains(text, "# added the key "+added.Fingerprint()+": the bastion admits 2 keys")
		if want := key != ""; inJSON != want || inText != want {
			t.Errorf("added %q: in JSON %t, in text %t\n%s\n%s", key, inJSON, inText, document, text)
		}
	}
}

func TestOnlyKnownFieldsAreInTheDocument(t *testing.T) {
	always := []string{"admissions", "created_at", "deadline", "id", "keys", "latest_deadline", "name", "owner", "source", "sources", "state"}
	reach := []string{"endpoints", "host", "port", "user"}
	proof := []string{"host_key", "host_keys", "known_hosts", "ssh", "ssh_config"}
	bare := starting()
	bare.Intent.Reason = ""
	network := bare
	network.Attempt.Endpoints = ready().Attempt.Endpoints
	rebinding := ready()
	rebinding.Intent.Generation++
	dead := ready()
	dead.Attempt.EndedAt = noon
	for name, test := range map[string]struct {
		rec  bastion.Record
		want []string
	}{
		"starting":            {bare, []string{"stage"}},
		"with an address":     {network, append([]string{"stage"}, reach...)},
		"refused":             {refused(bare), []string{"stage", "failure"}},
		"ready":               {ready(), slices.Concat([]string{"reason", "ready_at", "seen_at"}, reach, proof)},
		"ready, then changed": {rebinding, slices.Concat([]string{"reason", "ready_at", "stage"}, reach, proof)},
		"its task died":       {dead, []string{"reason", "ready_at", "stage"}},
		"closing":             {closing(bastion.EndIdle), []string{"reason", "ready_at", "ended"}},
		"closed":              {closed(), []string{"reason", "ready_at", "ended"}},
		"failed":              {failed(), []string{"reason", "ended", "failure"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFixture()
			r.rec = test.rec
			got := slices.Sorted(maps.Keys(get(t, r)))
			want := slices.Sorted(slices.Values(append(test.want, always...)))
			if !slices.Equal(got, want) {
				t.Errorf("got %v, not %v", got, want)
			}
		})
	}
}

func get(t *testing.T, r *fixture) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(r.send("GET", "/bastions/"+someID, "").Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// A task reports its host key. People paste it, so text that is not exactly one key
// must not get into a response.
func TestInvalidHostKeyIsLeftOut(t *testing.T) {
	for _, reported := range []bastion.Key{
		"ssh-ed25519",
		hostKey + "\n  ProxyCommand touch /tmp/owned",
		hostKey + "' -o 'ProxyCommand=touch /tmp/owned",
		"restrict " + hostKey,
		hostKey + "\n" + userKey,
	} {
		r := newFixture()
		r.rec = ready()
		r.rec.Attempt.HostKey, r.rec.Attempt.MoreHostKeys = reported, []bastion.Key{rsaHost, reported}
		response := r.send("GET", "/bastions/"+someID, "").Body.String() + r.send("GET", "/bastions/"+someID, "", "Accept", "text/plain").Body.String()
		if strings.Contains(response, "ProxyCommand") {
			t.Errorf("%q went through:\n%s", reported, response)
		}
		if keys := httpapi.Document(r.rec).HostKeys; !slices.Equal(keys, []string{string(rsaHost)}) {
			t.Errorf("with %q, the host keys are %q", reported, keys)
		}
	}
}

// Text from people or from AWS must not become a line of the configuration.
func TestTextCannotLeaveItsComment(t *testing.T) {
	for _, evil := range []string{
		"x\nProxyCommand touch /tmp/owned", "x\r\nMatch all", "x\u2028Match all", "x\u0085Match all", "x\x00\x1b[2J\u202ey", "\xff\n",
	} {
		rec := failed()
		rec.Owner, rec.Intent.Reason = "jwt:https://issuer#"+evil, evil
		rec.End.Failure = bastion.Failure{Code: "odd", Message: evil}
		r := newFixture()
		r.rec = rec
		text := r.send("GET", "/bastions/"+someID, "", "Accept", "text/plain").Body.String()
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		if len(lines) != 5 {
			t.Errorf("%q makes %d lines:\n%s", evil, len(lines), text)
		}
		for _, line := range lines {
			if !strings.HasPrefix(line, "# ") || strings.ContainsAny(line, "\r\x00\x1b\u0085\u2028\u202e") {
				t.Errorf("%q makes the line %q", evil, line)
			}
		}
	}
}
