package sshd

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// withSecondKey adds a key to the lease that is admitted from the given sources only.
func (r *fixture) withSecondKey(key ssh.Signer, sources ...string) {
	r.table.Lease.Keys = append(r.table.Lease.Keys, authorized(key))
	r.table.Lease.KeySources = []bastion.KeySources{{Prefixes: prefixes("127.0.0.1/32")}, {Prefixes: prefixes(sources...)}}
}

// move changes the sources of the key at the given place of the lease.
func move(place int, sources ...string) func(*bastion.Lease) {
	return func(l *bastion.Lease) {
		l.KeySources = slices.Clone(l.KeySources)
		l.KeySources[place] = bastion.KeySources{Prefixes: prefixes(sources...)}
	}
}

// inForce changes the lease and waits until the server has it in force.
func (r *fixture) inForce(change func(*bastion.Lease)) {
	r.t.Helper()
	if err := r.table.Write(change); err != nil {
		r.t.Fatal(err)
	}
	generation := r.table.LastReport().Generation + 1
	r.awaitReport(fmt.Sprintf("has generation %d in force", generation), func(report bastion.Report) bool { return report.Generation == generation })
}

func TestTwoKeysFromTwoAddressesWithOpenSSH(t *testing.T) {
	private := newPrivateKey(t)
	second := signer(t, private, nil)
	var one bastion.Key
	two := authorized(second)
	r := start(t, func(r *fixture) {
		one = authorized(r.key)
		r.withSecondKey(second, "127.0.0.2/32", "192.0.2.0/28")
	})
	s := r.openSSH()
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	s.write("id2", pem.EncodeToMemory(block))
	secondKey := []string{"-F", s.withoutKey(), "-i", s.path("id2")}
	s.hold("-N", "-b", "127.0.0.1", "bastion")
	r.connected(1)
	s.hold(append(secondKey, "-N", "-b", "127.0.0.2", "bastion")...)
	r.connected(2)

	got := s.ssh("", append(secondKey, "-b", "127.0.0.2", "bastion", "status")...)
	for _, want := range []string{
		fmt.Sprintf("key          %s, 1 connection, from 127.0.0.1\n", one.Fingerprint()),
		fmt.Sprintf("key          %s (yours), 2 connections, from 127.0.0.2, 192.0.2.0/28\n", two.Fingerprint()),
	} {
		if got.status != 0 || !strings.Contains(got.stdout, want) {
			t.Errorf("%+v, want the line %q", got, want)
		}
	}
	for _, test := range []struct {
		from string
		key  bastion.Key
		only string
		args []string
	}{
		{"127.0.0.2", one, "127.0.0.1", nil},
		{"127.0.0.1", two, "127.0.0.2, 192.0.2.0/28", secondKey},
		{"127.0.0.3", two, "127.0.0.2, 192.0.2.0/28", secondKey},
	} {
		before := len(r.log.all(msgRefusal))
		got := s.ssh("", append(test.args, "-b", test.from, "bastion", "status")...)
		// The client has proved nothing, so the banner does not name the other addresses.
		want := fmt.Sprintf("bastion: this bastion accepts the key %s, but not from your address %s.\n"+
			"Your client continues with its other keys, if it has any.\n"+
			"To use this key from here, request the bastion again with it, from here.\n"+
			"bastion@127.0.0.1: Permission denied (publickey).\n", test.key.Fingerprint(), test.from)
		if shown := strings.ReplaceAll(got.stderr, "\r", ""); got.status != 255 || shown != want {
			t.Errorf("from %s: %+v, want standard error %q", test.from, got, want)
		}
		reason := fmt.Sprintf("key %s is not admitted from %s, only from %s", test.key.Fingerprint(), test.from, test.only)
		if l := r.log.await(t, msgRefusal, before+1); l.text("reason") != reason || l.text("source") != test.from {
			t.Errorf("refusal line %v, want reason %q and source %s", l, reason, test.from)
		}
	}
	r.stop()
	for key, from := range map[bastion.Key]string{one: "127.0.0.1", two: "127.0.0.2"} {
		if !slices.ContainsFunc(r.log.all(msgConnection), func(l line) bool {
			return l.text("key") == key.Fingerprint() && l.text("source") == from
		}) {
			t.Errorf("no connection line has the key %s and the source %s", key.Fingerprint(), from)
		}
	}
}

// A client with both keys tries the first one in vain, and gets in with the second.
func TestKeyFromElsewhereDoesNotStopTheNextKey(t *testing.T) {
	elsewhere, unknown := newKey(t), newKey(t)
	r := start(t, func(r *fixture) { r.withSecondKey(elsewhere, "192.0.2.7/32") })
	config := r.client(ssh.PublicKeys(unknown, elsewhere, r.key))
	shown := banners(config)
	client, err := r.dialWith(config)
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	// The banner of the unknown key names the key only that gets in from here.
	want := []string{r.skipped(unknown.PublicKey()), fmt.Sprintf(elsewhereBanner, authorized(elsewhere).Fingerprint(), "127.0.0.1")}
	if !slices.Equal(*shown, want) {
		t.Errorf("banners %q, want %q", *shown, want)
	}
}

func TestNoKeyIsAcceptedFromHere(t *testing.T) {
	r := start(t, func(r *fixture) { r.table.Lease.Source = netip.MustParsePrefix("192.0.2.7/32") })
	config := r.client(ssh.PublicKeys(newKey(t)))
	shown := banners(config)
	if _, err := r.dialWith(config); err == nil {
		t.Fatal("the client was admitted")
	}
	if len(*shown) != 1 || !strings.HasPrefix((*shown)[0], "bastion: this bastion accepts no key from your address 127.0.0.1.\n") {
		t.Errorf("banners %q", *shown)
	}
}

// The key is offered from an admitted address, which moves before the client has signed.
func TestSourceMovedBetweenOfferAndSignatureIsRefused(t *testing.T) {
	r := start(t, func(r *fixture) { r.withSecondKey(newKey(t), "127.0.0.1/32") })
	offered, sign := make(chan struct{}), make(chan struct{})
	config := r.client(ssh.PublicKeys(waitingSigner{r.key, offered, sign}))
	shown := banners(config)
	failed := make(chan error)
	go func() {
		_, err := r.dialWith(config)
		failed <- err
	}()
	<-offered
	r.inForce(move(0, "192.0.2.7/32", "2001:db8::/64"))
	close(sign)
	if err := <-failed; err == nil {
		t.Fatal("the key was admitted from an address that has moved")
	}
	reason := fmt.Sprintf("key %s is not admitted from 127.0.0.1, only from 192.0.2.7, 2001:db8::/64", authorized(r.key).Fingerprint())
	if want := []string{"bastion: login refused: " + reason + ". To use this key from here, request the bastion again with it, from here.\n"}; !slices.Equal(*shown, want) {
		t.Errorf("banners %q, want %q", *shown, want)
	}
	r.refusal(kindAuthentication, reason)
}

// The lease changes after the client has signed, and before it enters.
func TestKeyIsCheckedAgainAtEntry(t *testing.T) {
	sources := func(all ...string) keySet { return keySet{"key": {0, "SHA256:key", prefixes(all...)}} }
	here := netip.MustParseAddr("127.0.0.1")
	for name, test := range map[string]struct {
		next keySet
		want func(error) bool
	}{
		"nothing changes": {sources("127.0.0.1/32"), func(err error) bool { return err == nil }},
		"wider":           {sources("127.0.0.0/8"), func(err error) bool { return err == nil }},
		"removed":         {keySet{}, func(err error) bool { return errors.Is(err, errKeyRemoved) }},
		"moved":           {sources("192.0.2.7/32"), func(err error) bool { return errors.As(err, new(*elsewhereError)) }},
		"no source":       {sources(), func(err error) bool { return errors.As(err, new(*elsewhereError)) }},
	} {
		table := newConnectionTable(time.Now, Limits{}.withDefaults(), Timing{}.withDefaults(), func() {})
		table.setKeys(sources("127.0.0.1/32"))
		p := &pendingConnection{from: here}
		if err := table.begin(p); err != nil {
			t.Fatal(err)
		}
		if err := table.prove(p, "key"); err != nil {
			t.Fatal(err)
		}
		table.setKeys(test.next)
		err := table.enter(p, &connection{key: "key"})
		if !test.want(err) {
			t.Errorf("%s: enter returns %v", name, err)
		}
		if open, _ := table.use(); (open == 1) != (err == nil) {
			t.Errorf("%s: %d open connections after %v", name, open, err)
		}
	}
}

// remoteConn is a connection from an address.
type remoteConn struct {
	net.Conn
	address string
}

func (c remoteConn) RemoteAddr() net.Addr { return c }
func (c remoteConn) Network() string      { return "tcp" }
func (c remoteConn) String() string       { return c.address }

func TestSourceOf(t *testing.T) {
	for _, test := range []struct {
		remote, shown, source string
		admitted              bool
	}{
		{"192.0.2.7:5000", "192.0.2.7", "192.0.2.7/32", true},
		{"192.0.2.7:5000", "192.0.2.7", "192.0.2.0/28", true},
		{"192.0.2.17:5000", "192.0.2.17", "192.0.2.0/28", false},
		{"[::ffff:192.0.2.7]:5000", "192.0.2.7", "192.0.2.7/32", true},
		{"[::ffff:192.0.2.7]:5000", "192.0.2.7", "::/0", false},
		{"[2001:db8::7]:5000", "2001:db8::7", "2001:db8::/64", true},
		{"[2001:db8::7]:5000", "2001:db8::7", "0.0.0.0/0", false},
		{"[fe80::7%eth0]:5000", "fe80::7%eth0", "fe80::7/128", true},
		{"pipe", "pipe", "0.0.0.0/0", false},
		{"pipe", "pipe", "::/0", false},
	} {
		shown, from := sourceOf(remoteConn{address: test.remote})
		admitted := keySet{"key": {sources: prefixes(test.source)}}.check("key", from) == nil
		if shown != test.shown || admitted != test.admitted {
			t.Errorf("%s: shown as %s, admitted from %s %t; want %s, %t", test.remote, shown, test.source, admitted, test.shown, test.admitted)
		}
	}
}

func TestConsolesShowChangesOfKeys(t *testing.T) {
	second := newKey(t)
	r := start(t, func(r *fixture) {
		r.table.Lease.KeySources = []bastion.KeySources{{Prefixes: prefixes("127.0.0.1/32")}}
	})
	first := r.console(r.dial(), false)
	first.await("Commands:")
	one, two := authorized(r.key).Fingerprint(), authorized(second).Fingerprint()

	r.inForce(func(l *bastion.Lease) {
		l.Keys = append(slices.Clone(l.Keys), authorized(second))
		l.KeySources = append(slices.Clone(l.KeySources), bastion.KeySources{Prefixes: prefixes("127.0.0.1/32", "2001:db8::/64")})
	})
	first.await(fmt.Sprintf("bastion: The key %s was added. It is accepted from 127.0.0.1, 2001:db8::/64.\n", two))
	client, err := r.dialWith(r.client(ssh.PublicKeys(second)))
	if err != nil {
		t.Fatal(err)
	}
	other := r.console(client, false)
	other.await("Commands:")

	r.inForce(move(0, "192.0.2.7/32"))
	moved := fmt.Sprintf("bastion: The key %s is now accepted from 192.0.2.7. Open connections stay open.\n", one)
	first.await(moved)
	other.await(moved)
	first.send("status\n")
	first.await("key          " + one + " (yours), 1 connection, from 192.0.2.7\n")

	r.inForce(func(*bastion.Lease) {}) // nothing to show

	r.inForce(func(l *bastion.Lease) { l.Keys, l.KeySources = l.Keys[1:], l.KeySources[1:] })
	first.await("bastion: Your key was removed from this bastion: a request made another key the only one. To connect again, request the bastion with your key.\n")
	other.await(fmt.Sprintf("bastion: The key %s was removed, and its connections were closed.\n", one))
	other.send("status\n")
	other.await("key          " + two + " (yours), 1 connection, from 127.0.0.1, 2001:db8::/64\n")
	if n := strings.Count(other.text(), "bastion: "); n != 2 {
		t.Errorf("the console shows %d notices, want 2:\n%s", n, other.text())
	}
	if l := r.log.await(t, msgConnection, 1); l.text("result") != "key removed" || l.text("key") != one {
		t.Errorf("connection line %v", l)
	}
}

// An earlier version writes leases with one source for all keys.
func TestLeaseOfAnEarlierVersion(t *testing.T) {
	other := newKey(t)
	for source, admitted := range map[string]bool{"127.0.0.1/32": true, "192.0.2.7/32": false} {
		r := start(t, func(r *fixture) {
			deadline := r.table.Lease.Deadline.Format(time.RFC3339)
			stored := fmt.Sprintf(`{"bastion_id": "b1", "owner": "local:alice", "name": "default", "generation": 1, "open": true,
				"source": %q, "keys": [%q, %q], "deadline": %q}`, source, authorized(r.key), authorized(other), deadline)
			r.table.Lease = bastion.Lease{}
			if err := json.Unmarshal([]byte(stored), &r.table.Lease); err != nil {
				t.Fatal(err)
			}
		})
		for _, key := range []ssh.Signer{r.key, other} {
			client, err := r.dialWith(r.client(ssh.PublicKeys(key)))
			if (err == nil) != admitted {
				t.Errorf("source %s: %v", source, err)
			}
			if err == nil {
				client.Close()
			}
		}
	}
}
