package localmode

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

func TestRepeatedPOSTReturnsTheSameBastion(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	key := w.AddKey("ed25519")
	first, second := f.create(request{body: key}), f.create(request{})
	if first.status != http.StatusCreated || second.status != http.StatusOK || first.ID != second.ID || first.HostKey != second.HostKey {
		t.Errorf("%d %s, then %d %s", first.status, first.ID, second.status, second.ID)
	}
	if other := f.create(request{owner: "bob", body: key}); other.ID == first.ID || other.status != http.StatusCreated {
		t.Errorf("another owner got %d %s", other.status, other.ID)
	}
}

func TestTwentyConcurrentPOSTsCreateOneBastion(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	key := w.AddKey("ed25519")
	responses := make([]response, 20)
	var callers sync.WaitGroup
	for i := range responses {
		callers.Go(func() {
			var err error
			responses[i], err = f.send(request{method: "POST", path: "/bastions", body: key, header: map[string]string{"Prefer": "wait=25"}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	created := 0
	for _, s := range responses {
		if s.status == http.StatusCreated {
			created++
		} else if s.status != http.StatusOK && s.status != http.StatusAccepted {
			t.Errorf("status %d: %s", s.status, s.text)
		}
		if s.ID != responses[0].ID {
			t.Errorf("bastion %s, but another request got %s", s.ID, responses[0].ID)
		}
	}
	f.await("", responses[0].ID, bastion.Ready)
	all := f.Cloud.Inventory()
	if created != 1 || len(all.Records) != 1 || len(all.Tasks) != 1 || len(all.Groups) != 1 {
		t.Errorf("%d times 201, %d records, %d tasks, %d groups; want 1 of each", created, len(all.Records), len(all.Tasks), len(all.Groups))
	}
}

func TestOnlyTheOwnersCurrentAddressCanConnect(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	key := w.AddKey("ed25519")
	s := f.create(request{body: key})
	if got := f.banner("127.0.0.1", s); got != "SSH-" {
		t.Fatalf("banner for the owner's address: %q", got)
	}
	if got := f.banner("127.0.0.2", s); got != "" {
		t.Fatalf("banner for another address: %q", got)
	}
	config := f.sshConfig(request{body: key})
	open := w.Open(config, "-N", "bastion-default")

	moved := f.create(request{from: "127.0.0.2"})
	if moved.ID != s.ID || moved.Source != "127.0.0.2/32" {
		t.Fatalf("moved %s from %s to %s", moved.ID, s.ID, moved.Source)
	}
	if got := f.banner("127.0.0.2", moved); got != "SSH-" {
		t.Errorf("banner for the new address: %q", got)
	}
	if got := f.banner("127.0.0.1", moved); got != "" {
		t.Errorf("banner for the old address: %q", got)
	}
	out, errs, err := w.Run("GET / HTTP/1.0\r\n\r\n", w.SSH(config, "-b", "127.0.0.2", "-W", "private.internal:80", "bastion-default"))
	if err != nil {
		t.Errorf("from the new address: %v: %s", err, errs)
	}
	wantPage(t, out, s.ID)
	if !open.Alive() {
		t.Error("the session from the old address was cut")
	}
	groups := f.Cloud.Inventory().Groups
	if len(groups) != 1 || len(groups[0].Egress) != 0 || len(groups[0].Ingress) != 1 || groups[0].Ingress[0].Source != netip.MustParsePrefix("127.0.0.2/32") {
		t.Errorf("the groups: %+v", groups)
	}
}

// A POST with another key adds it, and a POST with only_key takes the other one away.
func TestKeysAreAddedAndTakenAway(t *testing.T) {
	f, first, second := start(t, nil), sshclient.New(t), sshclient.New(t)
	config := f.sshConfig(request{body: first.AddKey("ed25519")})
	session := first.Open(config, "-N", "bastion-default")
	key := strings.TrimSpace(second.AddKey("ed25519"))
	both := f.create(request{body: key})
	if len(both.Keys) != 2 || both.AddedKey != both.Keys[1] {
		t.Errorf("keys %v, added %q", both.Keys, both.AddedKey)
	}
	for _, w := range []*sshclient.Client{first, second} {
		if out, errs, err := w.Run("", w.SSH(config, "-J", "bastion-default", "private.internal", "hostname")); err != nil {
			t.Errorf("with two keys: %q, %v: %s", out, err, errs)
		}
	}
	if again := f.create(request{}); !slices.Equal(again.Keys, both.Keys) || again.AddedKey != "" {
		t.Errorf("a POST without a key: keys %v, added %q, before %v", again.Keys, again.AddedKey, both.Keys)
	}
	if !session.Alive() {
		t.Error("the added key cut the session of the first one")
	}
	if only := f.create(request{body: fmt.Sprintf(`{"public_key": %q, "only_key": true}`, key)}); !slices.Equal(only.Keys, both.Keys[1:]) || only.AddedKey != "" {
		t.Errorf("only_key: keys %v, added %q", only.Keys, only.AddedKey)
	}
	session.AwaitEnd()
	if _, errs, err := first.Run("", first.SSH(config, "bastion-default", "status")); err == nil {
		t.Errorf("the key that was taken away can still connect: %s", errs)
	}
	if out, errs, err := second.Run("", second.SSH(config, "-J", "bastion-default", "private.internal", "hostname")); err != nil {
		t.Errorf("the only key: %q, %v: %s", out, err, errs)
	}
}

func TestBadRequestsReturnProblemsAndCreateNothing(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	key := strings.TrimSpace(w.AddKey("ed25519"))
	private, secret := privateKeyFile(t)
	post := func(body string) request { return request{method: "POST", path: "/bastions", body: body} }
	field := func(name, value string) request {
		return post(`{"public_key":"` + key + `","` + name + `":"` + value + `"}`)
	}
	for name, c := range map[string]request{
		"no key, now or before":  post(""),
		"two keys":               post(key + "\n" + key + "\n"),
		"junk before the key":    post("junk " + key),
		"key options":            post(`command="sh" ` + key),
		"a private key":          post(private),
		"a private key as field": post(`{"public_key":"` + strings.ReplaceAll(private, "\n", `\n`) + `"}`),
		"a certificate":          post("ssh-ed25519-cert-v01@openssh.com AAAA"),
		"a 1 MB body":            post(strings.Repeat("a", 1<<20)),
		"bad JSON":               post(`{"public_key":`),
		"an unknown field":       field("colour", "red"),
		"ttl of 0":               field("ttl", "0"),
		"ttl of -1m":             field("ttl", "-1m"),
		"ttl of 1000h":           field("ttl", "1000h"),
		"ttl of abc":             field("ttl", "abc"),
		"a name with a newline":  field("name", `a\nb`),
		"source 0.0.0.0/0":       field("source", "0.0.0.0/0"),
		"a wrong method":         {method: "PUT", path: "/bastions", body: key},
		"a wrong path":           {method: "POST", path: "/bastion", body: key},
		"a wrong Accept":         {method: "POST", path: "/bastions", body: key, header: map[string]string{"Accept": "image/png"}},
		"an owner with a prefix": {method: "POST", path: "/bastions", body: key, owner: "iam:1"},
	} {
		if s := f.do(c); s.status < 400 || s.status >= 500 || s.Code == "" || s.Detail == "" {
			t.Errorf("%s: %d: %s", name, s.status, s.text)
		}
	}
	if all := f.Cloud.Inventory(); len(all.Records)+len(all.Groups)+len(all.Tasks)+len(all.Leases) != 0 {
		t.Errorf("created: %+v", all)
	}
	if strings.Contains(f.log.String(), secret) {
		t.Error("the private key is in the log")
	}
}

// privateKeyFile returns a new private key and a line that occurs in no other text.
func privateKeyFile(t *testing.T) (file, line string) {
	t.Helper()
	private, err := sshclient.NewKey("ed25519")
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	file = string(pem.EncodeToMemory(block))
	return file, strings.Split(file, "\n")[3]
}

func TestRequestsFromWebPagesAreRefused(t *testing.T) {
	f := start(t, nil)
	for name, edit := range map[string]func(*http.Request){
		"a foreign Host":      func(req *http.Request) { req.Host = "evil.example" },
		"a cross-origin POST": func(req *http.Request) { req.Header.Set("Origin", "https://evil.example") },
		"a cross-site POST":   func(req *http.Request) { req.Header.Set("Sec-Fetch-Site", "cross-site") },
	} {
		req, err := http.NewRequest("POST", f.URL+"/bastions", strings.NewReader("ssh-ed25519 AAAA"))
		if err != nil {
			t.Fatal(err)
		}
		edit(req)
		resp, err := f.client("").Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode < 400 || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d, %s", name, resp.StatusCode, resp.Header.Get("Content-Type"))
		}
	}
	if all := f.Cloud.Inventory(); len(all.Records) != 0 {
		t.Errorf("created: %+v", all.Records)
	}
}

func TestStartRefusesUnusableAddresses(t *testing.T) {
	o := Defaults()
	o.Listen = "0.0.0.0:1"
	if _, err := Start(o); err == nil || !strings.Contains(err.Error(), "loopback only") {
		t.Errorf("--listen 0.0.0.0:1: %v", err)
	}
	f := start(t, nil)
	o.Listen = strings.TrimPrefix(f.URL, "http://")
	if _, err := Start(o); err == nil || !strings.Contains(err.Error(), "is in use") || !strings.Contains(err.Error(), "--listen 127.0.0.1:0") {
		t.Errorf("a port in use: %v", err)
	}
}
