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

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

func prefixes(all ...string) (list []netip.Prefix) {
	for _, p := range all {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

// rules returns destination rules by their texts.
func rules(all ...string) (list []bastion.DestinationRule) {
	for _, text := range all {
		rule, err := bastion.ParseDestinationRule(text)
		if err != nil {
			panic(err)
		}
		list = append(list, rule)
	}
	return list
}

func TestPolicy(t *testing.T) {
	everything := Policy{Allowed: rules("0.0.0.0/0", "::/0"), Own: []netip.Addr{
		netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("fd12::9%eth1"), netip.MustParseAddr("::ffff:10.8.8.8"),
	}}
	private := Policy{Allowed: rules("10.0.0.0/8", "fd12::/64", "64:ff9b::/96")}
	laptop := Policy{Allowed: rules("10.0.0.0/8", "127.0.0.0/8", "::1/128"), AllowLoopback: prefixes("127.0.0.1/32", "::1/128")}
	cases := []struct {
		policy Policy
		addr   string
		why    string // part of the reason; empty: allowed
	}{
		{private, "10.1.2.3", ""},
		{private, "::ffff:10.1.2.3", ""},
		{private, "fd12::1", ""},
		{private, "64:ff9b::a01:203", ""}, // 10.1.2.3
		{private, "192.168.1.1", "not among"},
		{private, "::ffff:192.168.1.1", "not among"},
		{private, "fd13::1", "not among"},
		{private, "64:ff9b::c0a8:101", "192.168.1.1 is not among"}, // the form is allowed, the address in it is not
		{private, "2002:a01:203::1", "not among"},                  // 10.1.2.3 is allowed, the form is not
		{Policy{}, "10.1.2.3", "not among"},

		{everything, "93.184.216.34", ""},
		{everything, "2606:2800::1", ""},
		{everything, "2002:5db8:d822::1", ""}, // 93.184.216.34

		{everything, "127.0.0.1", "loopback"},
		{everything, "127.255.255.254", "loopback"},
		{everything, "::1", "loopback"},
		{everything, "::ffff:127.0.0.1", "loopback"},
		{everything, "::127.0.0.1", "loopback"},
		{everything, "::ffff:0:127.0.0.1", "loopback"},
		{everything, "64:ff9b::7f00:1", "loopback"},
		{everything, "2002:7f00:1::", "loopback"},
		{everything, "fd00::5efe:7f00:1", "loopback"},
		{everything, "fd00::200:5efe:7f00:1", "loopback"},

		{everything, "169.254.169.254", "link-local"},
		{everything, "169.254.170.2", "link-local"},
		{everything, "::ffff:169.254.170.2", "link-local"},
		{everything, "64:ff9b::a9fe:aa02", "link-local"},
		{everything, "2002:a9fe:aa02::1", "link-local"},
		{everything, "fe80::1", "link-local"},
		{everything, "fe80::1%eth0", "zone"},
		{everything, "fd12::1%eth0", "zone"},

		{everything, "0.0.0.0", "any host"},
		{everything, "0.1.2.3", "any host"},
		{everything, "::", "any host"},
		{everything, "::ffff:0.0.0.0", "any host"},
		{everything, "64:ff9b::", "any host"},
		{everything, "224.0.0.1", "multicast or broadcast"},
		{everything, "239.255.255.250", "multicast or broadcast"},
		{everything, "ff02::1", "multicast or broadcast"},
		{everything, "ff01::1", "multicast or broadcast"},
		{everything, "255.255.255.255", "multicast or broadcast"},
		{everything, "::ffff:255.255.255.255", "multicast or broadcast"},

		{everything, "fd00:ec2::254", "instance services"},
		{everything, "fd00:ec2::23", "instance services"},
		{everything, "64:ff9b:1::a01:203", "translation"},
		{everything, "2001:0:4136:e378:8000:63bf:3fff:fdd2", "translation"},

		{everything, "10.9.9.9", "own"},
		{everything, "::ffff:10.9.9.9", "own"},
		{everything, "64:ff9b::a09:909", "own"},
		{everything, "2002:a09:909::", "own"},
		{everything, "10.8.8.8", "own"},
		{everything, "fd12::9", "own"},

		{laptop, "127.0.0.1", ""},
		{laptop, "::ffff:127.0.0.1", ""},
		{laptop, "::1", ""},
		{laptop, "127.0.0.2", "loopback"},
		{Policy{AllowLoopback: prefixes("127.0.0.1/32")}, "127.0.0.1", "not among"},
		{Policy{Allowed: rules("127.0.0.1/32"), AllowLoopback: prefixes("127.0.0.1/32"),
			Own: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}, "127.0.0.1", "own"},
	}
	for _, c := range cases {
		for _, port := range []uint16{1, 443, 65535} {
			checkPolicy(t, c.policy, netip.AddrPortFrom(netip.MustParseAddr(c.addr), port), c.why)
		}
	}
	if err := everything.Check(netip.AddrPort{}); err == nil {
		t.Error("the zero address is allowed")
	}
}

// checkPolicy checks that the policy allows a destination, or the reason for which it does
// not. why is a part of the reason, or empty.
func checkPolicy(t *testing.T, policy Policy, to netip.AddrPort, why string) {
	t.Helper()
	err := policy.Check(to)
	switch {
	case why == "" && err != nil:
		t.Errorf("%s is refused: %v", to, err)
	case why != "" && err == nil:
		t.Errorf("%s is allowed, want %q", to, why)
	case err != nil && !strings.Contains(err.Error(), why):
		t.Errorf("%s is refused with %q, want %q", to, err, why)
	}
}

func TestPolicyWithPorts(t *testing.T) {
	own := addrs("10.9.9.9")
	database := Policy{Allowed: rules("10.0.0.0/8:5432", "fd12::/64:5432"), Own: own}
	several := Policy{Allowed: rules("10.0.0.0/8:5432", "10.1.0.0/16:22", "10.0.0.0/8:8000-8099", "10.2.0.0/16"), Own: own}
	translated := Policy{Allowed: rules("10.0.0.0/8:5432", "64:ff9b::/96")}
	form := Policy{Allowed: rules("10.0.0.0/8", "64:ff9b::/96:5432")}
	everything := Policy{Allowed: rules("0.0.0.0/0:80", "::/0:80"), Own: own}
	laptop := Policy{Allowed: rules("127.0.0.1/32:5432"), AllowLoopback: prefixes("127.0.0.1/32")}
	for _, c := range []struct {
		policy Policy
		to     string
		why    string // part of the reason; empty: allowed
	}{
		{database, "10.1.2.3:5432", ""},
		{database, "[::ffff:10.1.2.3]:5432", ""},
		{database, "[fd12::1]:5432", ""},
		{database, "10.1.2.3:5433", "10.1.2.3 is allowed on port 5432 only"},
		{database, "10.1.2.3:5431", "allowed on port 5432 only"},
		{database, "10.1.2.3:22", "allowed on port 5432 only"},
		{database, "10.1.2.3:0", "allowed on port 5432 only"},
		{database, "[::ffff:10.1.2.3]:22", "allowed on port 5432 only"},
		{database, "[fd12::1]:22", "fd12::1 is allowed on port 5432 only"},
		{database, "192.168.1.1:5432", "not among the destinations"},
		{database, "[fd13::1]:5432", "not among the destinations"},
		{database, "10.9.9.9:5432", "own"},
		{database, "10.9.9.9:22", "own"},

		{several, "10.1.2.3:22", ""},
		{several, "10.1.2.3:5432", ""},
		{several, "10.1.2.3:8000", ""},
		{several, "10.1.2.3:8099", ""},
		{several, "10.1.2.3:7999", "allowed on ports 22, 5432 and 8000-8099 only"},
		{several, "10.1.2.3:8100", "allowed on ports 22, 5432 and 8000-8099 only"},
		{several, "10.3.2.3:22", "allowed on ports 5432 and 8000-8099 only"},
		{several, "10.2.2.3:22", ""},
		{several, "10.2.2.3:1", ""},
		{several, "10.2.2.3:65535", ""},

		// The port must be allowed for the IPv6 address and for the address in it.
		{translated, "[64:ff9b::a01:203]:5432", ""},
		{translated, "[64:ff9b::a01:203]:22", "10.1.2.3 is allowed on port 5432 only"},
		{translated, "[64:ff9b::c0a8:101]:5432", "192.168.1.1 is not among"},
		{form, "[64:ff9b::a01:203]:5432", ""},
		{form, "[64:ff9b::a01:203]:22", "64:ff9b::a01:203 is allowed on port 5432 only"},

		// No port makes a forbidden address allowed.
		{everything, "93.184.216.34:80", ""},
		{everything, "169.254.170.2:80", "link-local"},
		{everything, "[::ffff:169.254.170.2]:80", "link-local"},
		{everything, "127.0.0.1:80", "loopback"},
		{everything, "[fd00:ec2::254]:80", "instance services"},
		{everything, "10.9.9.9:80", "own"},
		{laptop, "127.0.0.1:5432", ""},
		{laptop, "127.0.0.1:22", "allowed on port 5432 only"},
		{laptop, "127.0.0.2:5432", "loopback"},
	} {
		checkPolicy(t, c.policy, netip.MustParseAddrPort(c.to), c.why)
	}
}

// testResolver is a resolver. Each look-up of a name returns the next of its results;
// the last result is repeated.
type testResolver struct {
	mu      sync.Mutex
	results map[string][][]netip.Addr
	lookups []string
}

func (r *testResolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lookups = append(r.lookups, host)
	name := strings.TrimSuffix(host, ".")
	results := r.results[name]
	if len(results) == 0 {
		return nil, errors.New("no such host")
	}
	if len(results) > 1 {
		r.results[name] = results[1:]
	}
	return results[0], nil
}

func (r *testResolver) lookedUp() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lookups)
}

func addrs(all ...string) (list []netip.Addr) {
	for _, a := range all {
		list = append(list, netip.MustParseAddr(a))
	}
	return list
}

func TestFindDestination(t *testing.T) {
	policy := Policy{Allowed: rules("10.0.0.0/8", "fd12::/64", "172.16.0.0/12:5432", "fd13::/64:22"), Own: addrs("10.9.9.9")}
	cases := []struct {
		host    string
		port    uint32
		want    string // addresses to dial
		refusal string // part of the message
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
		{"db.internal", 5432, "172.16.0.1:5432", "", 1},
		{"db.internal", 22, "[fd13::1]:22", "", 1}, // another address of the name is allowed on this port

		{"bad.internal", 80, "", "bad.internal: 169.254.170.2 is a link-local address", 1},
		{"own.internal", 80, "", "own address", 1},
		{"localhost", 80, "", "loopback", 1},
		{"mapped-bad.internal", 80, "", "link-local", 1},
		{"empty.internal", 80, "", "no address for empty.internal", 1},
		{"169.254.170.2", 80, "", "there: 169.254.170.2 is a link-local address", 0},
		{"10.9.9.9", 80, "", "own address", 0},
		{"fe80::1%eth0", 80, "", "zone", 0},
		{"172.16.0.1", 5433, "", "there: 172.16.0.1 is allowed on port 5432 only.", 0},
		{"db.internal", 5433, "", "db.internal: 172.16.0.1 is allowed on port 5432 only.", 1},
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
		resolver := &testResolver{results: map[string][][]netip.Addr{
			"good.internal":       {addrs("10.0.0.1")},
			"1.db.internal":       {addrs("10.0.0.1")},
			"db.internal":         {addrs("192.168.0.1", "172.16.0.1", "fd13::1")},
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
			t.Errorf("%q: addresses %q, want %q", c.host, got, c.want)
		case (err == nil) != (c.refusal == ""):
			t.Errorf("%q: %v, want a refusal with %q", c.host, err, c.refusal)
		case err != nil && (!errors.As(err, &r) || !strings.Contains(r.message, c.refusal)):
			t.Errorf("%q: %v, want a refusal with %q", c.host, err, c.refusal)
		case len(resolver.lookups) != c.lookups:
			t.Errorf("%q: looked up %q, want %d look-ups", c.host, resolver.lookups, c.lookups)
		}
		want := ssh.Prohibited
		if strings.HasPrefix(c.refusal, "no address") {
			want = ssh.ConnectionFailed
		}
		if r != nil && r.reason != want {
			t.Errorf("%q: refused with %v, want %v", c.host, r.reason, want)
		}
	}
}

func TestAddressesOfANameAreLimited(t *testing.T) {
	var many []netip.Addr
	for i := range 3 * maxAddresses {
		many = append(many, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}))
	}
	resolver := &testResolver{results: map[string][][]netip.Addr{"many.internal": {many}}}
	d, err := findDestination(t.Context(), resolver, Policy{Allowed: rules("10.0.0.0/8")}, "many.internal", 22)
	if err != nil || len(d.addrs) != maxAddresses {
		t.Fatalf("%d addresses, want %d; error %v", len(d.addrs), maxAddresses, err)
	}
}
