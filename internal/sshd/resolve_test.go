package sshd

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// names is a resolver: each look-up of a name takes the next of its answers,
// and the last again.
type names struct {
	mu      sync.Mutex
	answers map[string][][]netip.Addr
	asked   []string
}

func (n *names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, host)
	answers := n.answers[strings.TrimSuffix(host, ".")]
	if len(answers) == 0 {
		return nil, errors.New("no such host")
	}
	if len(answers) > 1 {
		n.answers[strings.TrimSuffix(host, ".")] = answers[1:]
	}
	return answers[0], nil
}

func (n *names) lookups() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked)
}

func addrs(all ...string) (list []netip.Addr) {
	for _, a := range all {
		list = append(list, netip.MustParseAddr(a))
	}
	return list
}

func TestFindDestination(t *testing.T) {
	policy := Policy{Allowed: prefixes("10.0.0.0/8", "fd12::/64"), Own: addrs("10.9.9.9")}
	cases := []struct {
		host    string
		port    uint32
		want    string // addresses to dial
		refusal string // part of the sentence
		lookups int
	}{
		{"10.1.2.3", 22, "10.1.2.3:22", "", 0},
		{"[10.1.2.3]", 22, "10.1.2.3:22", "", 0},
		{"fd12::1", 22, "[fd12::1]:22", "", 0},
		{"[fd12::1]", 22, "[fd12::1]:22", "", 0},
		{"::ffff:10.1.2.3", 22, "10.1.2.3:22", "", 0},
		{"good.internal", 22, "10.0.0.1:22", "", 1},
		{"good.internal.", 22, "10.0.0.1:22", "", 1},
		{"GOOD_name-1.internal", 22, "", "no address for", 1},
		{"two.internal", 65535, "10.0.0.1:65535 [fd12::2]:65535", "", 1},
		{"mixed.internal", 80, "10.0.0.1:80", "", 1},
		{"mapped.internal", 80, "10.0.0.1:80", "", 1},
		{"1.db.internal", 80, "10.0.0.1:80", "", 1},

		{"bad.internal", 80, "", "bad.internal: 169.254.170.2 is a link-local address", 1},
		{"own.internal", 80, "", "own address", 1},
		{"localhost", 80, "", "loopback", 1},
		{"mapped-bad.internal", 80, "", "link-local", 1},
		{"empty.internal", 80, "", "no address for empty.internal", 1},
		{"169.254.170.2", 80, "", "there: 169.254.170.2 is a link-local address", 0},
		{"10.9.9.9", 80, "", "own address", 0},
		{"fe80::1%eth0", 80, "", "zone", 0},
		{"10.1.2.3", 0, "", "0 is not a TCP port", 0},
		{"10.1.2.3", 65536 + 22, "", "not a TCP port", 0},

		{"2130706433", 80, "", "not a valid host name", 0},
		{"0x7f000001", 80, "", "not a valid host name", 0},
		{"0x7f.1", 80, "", "not a valid host name", 0},
		{"127.1", 80, "", "not a valid host name", 0},
		{"127.0.1", 80, "", "not a valid host name", 0},
		{"0177.0.0.1", 80, "", "not a valid host name", 0},
		{"127.0.0.0x1", 80, "", "not a valid host name", 0},
		{"127.0.0.01", 80, "", "not a valid host name", 0},
		{"127.0.0.1.", 80, "", "not a valid host name", 0},
		{"1.2.3.4.5", 80, "", "not a valid host name", 0},
		{"foo.0x", 80, "", "not a valid host name", 0},
		{"", 80, "", "not a valid host name", 0},
		{".", 80, "", "not a valid host name", 0},
		{"a..b", 80, "", "not a valid host name", 0},
		{"a b", 80, "", "not a valid host name", 0},
		{"a\nb", 80, "", `"a?b" is not a valid`, 0},
		{"a\x00.internal", 80, "", "not a valid host name", 0},
		{"*", 80, "", "not a valid host name", 0},
		{"[::1", 80, "", "not a valid host name", 0},
		{"１２７.0.0.1", 80, "", "not a valid host name", 0},
		{"::ffff:127.1", 80, "", "not a valid host name", 0},
		{strings.Repeat("a", 64) + ".internal", 80, "", "not a valid host name", 0},
		{strings.Repeat("a.", 127) + "abc", 80, "", "not a valid host name", 0},
	}
	for _, c := range cases {
		resolver := &names{answers: map[string][][]netip.Addr{
			"good.internal":       {addrs("10.0.0.1")},
			"1.db.internal":       {addrs("10.0.0.1")},
			"two.internal":        {addrs("10.0.0.1", "fd12::2")},
			"mixed.internal":      {addrs("127.0.0.1", "10.0.0.1", "fd00:ec2::254", "192.168.0.1")},
			"mapped.internal":     {addrs("::ffff:10.0.0.1")},
			"mapped-bad.internal": {addrs("::ffff:169.254.170.2")},
			"bad.internal":        {addrs("169.254.170.2", "::1")},
			"own.internal":        {addrs("10.9.9.9")},
			"localhost":           {addrs("127.0.0.1", "::1")},
			"empty.internal":      {{}},
		}}
		d, err := findDestination(t.Context(), resolver, policy, c.host, c.port)
		var got []string
		for _, a := range d.addrs {
			got = append(got, a.String())
		}
		var r *refused
		switch {
		case strings.Join(got, " ") != c.want:
			t.Errorf("%q: would dial %q, want %q", c.host, got, c.want)
		case (err == nil) != (c.refusal == ""):
			t.Errorf("%q: %v, want a refusal with %q", c.host, err, c.refusal)
		case err != nil && (!errors.As(err, &r) || !strings.Contains(r.message, c.refusal)):
			t.Errorf("%q: %v, want a refusal with %q", c.host, err, c.refusal)
		case len(resolver.asked) != c.lookups:
			t.Errorf("%q: looked up %q, want %d look-ups", c.host, resolver.asked, c.lookups)
		}
		want := ssh.Prohibited
		if strings.HasPrefix(c.refusal, "no address") {
			want = ssh.ConnectionFailed
		}
		if r != nil && r.reason != want {
			t.Errorf("%q: refused as %v, want %v", c.host, r.reason, want)
		}
	}
}

func TestNoMoreThanSoManyAddresses(t *testing.T) {
	var many []netip.Addr
	for i := range 3 * maxAddresses {
		many = append(many, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}))
	}
	resolver := &names{answers: map[string][][]netip.Addr{"many.internal": {many}}}
	d, err := findDestination(t.Context(), resolver, Policy{Allowed: prefixes("10.0.0.0/8")}, "many.internal", 22)
	if err != nil || len(d.addrs) != maxAddresses {
		t.Fatalf("would dial %d addresses, %v; want %d", len(d.addrs), err, maxAddresses)
	}
}
