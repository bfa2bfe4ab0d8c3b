package localmode

import (
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

func TestTheSameCallGivesTheSameBastion(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	key := w.add("ed25519")
	first, second := r.up(call{body: key}), r.up(call{})
	if first.status != http.StatusCreated || second.status != http.StatusOK || first.ID != second.ID || first.HostKey != second.HostKey {
		t.Errorf("%d %s, then %d %s", first.status, first.ID, second.status, second.ID)
	}
	if other := r.up(call{owner: "bob", body: key}); other.ID == first.ID || other.status != http.StatusCreated {
		t.Errorf("another owner got %d %s", other.status, other.ID)
	}
}

func TestTwentyFirstCallsMakeOneBastion(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	key := w.add("ed25519")
	answers := make([]seen, 20)
	var callers sync.WaitGroup
	for i := range answers {
		callers.Go(func() {
			var err error
			answers[i], err = r.try(call{method: "POST", path: "/bastions", body: key, header: map[string]string{"Prefer": "wait=10"}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	created := 0
	for _, s := range answers {
		if s.status == http.StatusCreated {
			created++
		} else if s.status != http.StatusOK {
			t.Errorf("status %d: %s", s.status, s.text)
		}
		if s.ID != answers[0].ID || s.State != bastion.Ready {
			t.Errorf("got %s, %s; another got %s", s.ID, s.State, answers[0].ID)
		}
	}
	all := r.Cloud.Inventory()
	if created != 1 || len(all.Records) != 1 || len(all.Tasks) != 1 || len(all.Groups) != 1 {
		t.Errorf("%d times 201, %d records, %d tasks, %d groups; want 1 of each", created, len(all.Records), len(all.Tasks), len(all.Groups))
	}
}

func TestOnlyTheOwnersPresentAddressGetsIn(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	key := w.add("ed25519")
	s := r.up(call{body: key})
	if got := r.banner("127.0.0.1", s); got != "SSH-" {
		t.Fatalf("the owner's address was greeted with %q", got)
	}
	if got := r.banner("127.0.0.2", s); got != "" {
		t.Fatalf("another address was greeted with %q", got)
	}
	config := r.pasted(call{body: key})
	open := w.open(config, "-N", "bastion-default")

	moved := r.up(call{from: "127.0.0.2"})
	if moved.ID != s.ID || moved.Source != "127.0.0.2/32" {
		t.Fatalf("moved %s from %s to %s", moved.ID, s.ID, moved.Source)
	}
	if got := r.banner("127.0.0.2", moved); got != "SSH-" {
		t.Errorf("the new address was greeted with %q", got)
	}
	if got := r.banner("127.0.0.1", moved); got != "" {
		t.Errorf("the old address was greeted with %q", got)
	}
	out, errs, err := w.run("GET / HTTP/1.0\r\n\r\n", w.ssh(config, "-b", "127.0.0.2", "-W", "private.internal:80", "bastion-default"))
	if err != nil {
		t.Errorf("from the new address: %v: %s", err, errs)
	}
	wantPage(t, out, s.ID)
	if !open.alive() {
		t.Error("the session from the old address was cut")
	}
	groups := r.Cloud.Inventory().Groups
	if len(groups) != 1 || len(groups[0].Egress) != 0 || len(groups[0].Ingress) != 1 || groups[0].Ingress[0].Source != netip.MustParsePrefix("127.0.0.2/32") {
		t.Errorf("the groups: %+v", groups)
	}
}

func TestANewKeyReplacesTheOldOne(t *testing.T) {
	r, before, after := start(t, nil), newWallet(t), newWallet(t)
	config := r.pasted(call{body: before.add("ed25519")})
	session := before.open(config, "-N", "bastion-default")
	s := r.up(call{body: after.add("ed25519")})
	if len(s.Keys) != 1 {
		t.Errorf("keys %v", s.Keys)
	}
	if out, errs, err := after.run("", after.ssh(config, "-J", "bastion-default", "private.internal", "hostname")); err != nil {
		t.Errorf("the new key: %q, %v: %s", out, err, errs)
	}
	session.cut()
	if _, errs, err := before.run("", before.ssh(config, "bastion-default", "status")); err == nil {
		t.Errorf("the old key still gets in: %s", errs)
	}
	if again := r.up(call{}); !slices.Equal(again.Keys, s.Keys) {
		t.Errorf("a call without a key changed it from %v to %v", s.Keys, again.Keys)
	}
}
