package localmode

import (
	"slices"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// Two clients of one owner use one bastion from two addresses, each with its own key. The
// group admits both addresses, and the SSH server admits each key from its own only.
func TestEachKeyIsAdmittedFromItsOwnAddress(t *testing.T) {
	f, laptop, desktop := start(t, nil), sshclient.New(t), sshclient.New(t)
	laptopKey, desktopKey := laptop.AddKey("ed25519"), desktop.AddKey("ed25519")
	config := f.sshConfig(request{body: laptopKey})
	first := laptop.Open(config, "-N", "-b", "127.0.0.1", "bastion-default")
	s := f.create(request{from: "127.0.0.2", body: desktopKey})
	if len(s.Keys) != 2 {
		t.Fatalf("keys %v, want both", s.Keys)
	}
	second := desktop.Open(config, "-N", "-b", "127.0.0.2", "bastion-default")
	if got, want := admittedSources(f), []string{"127.0.0.1/32", "127.0.0.2/32"}; !slices.Equal(got, want) {
		t.Errorf("the group admits %v, want %v", got, want)
	}
	for from, client := range map[string]*sshclient.Client{"127.0.0.1": desktop, "127.0.0.2": laptop} {
		if got := f.banner(from, s); got != "SSH-" {
			t.Errorf("the group does not admit %s: banner %q", from, got)
		}
		_, errs, err := client.Run("", client.SSH(config, "-b", from, "bastion-default", "status"))
		if err == nil || !strings.Contains(errs, "but not from your address "+from) {
			t.Errorf("the other key from %s: %v: %s", from, err, errs)
		}
	}
	out, errs, err := laptop.Run("", laptop.SSH(config, "-b", "127.0.0.1", "bastion-default", "status"))
	if err != nil || !strings.Contains(out, s.Keys[0]+" (yours), 2 connections, from 127.0.0.1\n") || !strings.Contains(out, s.Keys[1]+", 1 connection, from 127.0.0.2\n") {
		t.Errorf("status %q, %v: %s", out, err, errs)
	}
	if !first.Alive() || !second.Alive() {
		t.Error("a connection was cut")
	}

	body := `{"only_key": true, "public_key": "` + strings.TrimSpace(desktopKey) + `"}`
	only := f.create(request{from: "127.0.0.2", body: body})
	if only.ID != s.ID || !slices.Equal(only.Keys, s.Keys[1:]) {
		t.Errorf("keys %v of %s, want only %v of %s", only.Keys, only.ID, s.Keys[1:], s.ID)
	}
	first.AwaitEnd()
	if !second.Alive() {
		t.Error("the connection of the only key was cut")
	}
	if got, want := admittedSources(f), []string{"127.0.0.2/32"}; !slices.Equal(got, want) {
		t.Errorf("the group admits %v, want %v", got, want)
	}
	// From the address that is still admitted, the server refuses the key that was removed.
	if _, errs, err := laptop.Run("", laptop.SSH(config, "-b", "127.0.0.2", "bastion-default", "status")); err == nil || !strings.Contains(errs, "accepts the key "+s.Keys[1]+".") {
		t.Errorf("the key that was removed: %v: %s", err, errs)
	}
}

// One key comes from several addresses, which a request names.
func TestSeveralSourcesOfOneKey(t *testing.T) {
	f, laptop := start(t, func(o *Options) { o.AllowSources, o.WidestIPv4 = []string{"127.0.0.0/24"}, 30 }), sshclient.New(t)
	key := strings.TrimSpace(laptop.AddKey("ed25519"))
	named := `{"public_key": "` + key + `", "source": ["127.0.0.1", "127.0.0.9/30", "127.0.0.1/32"]}`
	config := f.sshConfig(request{body: named})
	want := []string{"127.0.0.1/32", "127.0.0.8/30"}
	if got := admittedSources(f); !slices.Equal(got, want) {
		t.Errorf("the group admits %v, want %v", got, want)
	}
	for from, admitted := range map[string]bool{"127.0.0.1": true, "127.0.0.8": true, "127.0.0.11": true, "127.0.0.12": false, "127.0.0.7": false} {
		out, errs, err := laptop.Run("", laptop.SSH(config, "-b", from, "bastion-default", "status"))
		if admitted != (err == nil) {
			t.Errorf("from %s: %v: %s%s", from, err, out, errs)
		}
	}
	for source, code := range map[string]string{
		`"127.0.0.16/29"`: "source_too_wide",
		`"127.0.1.1"`:     "source_not_allowed",
		`["127.0.0.20","127.0.0.21","127.0.0.22","127.0.0.23","127.0.0.24","127.0.0.25"]`: "source_invalid",
	} {
		got := f.do(request{method: "POST", path: "/bastions", body: `{"source": ` + source + `}`})
		if string(got.Code) != code {
			t.Errorf("source %s: %s, want code %s", source, got.text, code)
		}
	}
	// A request without sources keeps the list, and adds the caller.
	f.create(request{from: "127.0.0.40"})
	if got, want := admittedSources(f), []string{want[0], "127.0.0.40/32", want[1]}; !slices.Equal(got, want) {
		t.Errorf("the group admits %v, want %v", got, want)
	}
}

// admittedSources returns the sources that the only group admits.
func admittedSources(f *fixture) []string {
	var all []string
	for _, group := range f.Cloud.Inventory().Groups {
		for _, rule := range group.Ingress {
			all = append(all, rule.Source.String())
		}
	}
	slices.Sort(all)
	return all
}
