package sshd

import (
	"net/netip"
	"strings"
	"testing"
)

func prefixes(all ...string) (list []netip.Prefix) {
	for _, p := range all {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

func TestPolicy(t *testing.T) {
	everything := Policy{Allowed: prefixes("0.0.0.0/0", "::/0"), Own: []netip.Addr{
		netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("fd12::9%eth1"), netip.MustParseAddr("::ffff:10.8.8.8"),
	}}
	private := Policy{Allowed: prefixes("10.0.0.0/8", "fd12::/64", "64:ff9b::/96")}
	laptop := Policy{Allowed: prefixes("10.0.0.0/8", "127.0.0.0/8", "::1/128"), AllowLoopback: prefixes("127.0.0.1/32", "::1/128")}
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
		{everything, "224.0.0.1", "one host"},
		{everything, "239.255.255.250", "one host"},
		{everything, "ff02::1", "one host"},
		{everything, "ff01::1", "one host"},
		{everything, "255.255.255.255", "one host"},
		{everything, "::ffff:255.255.255.255", "one host"},

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
		{Policy{Allowed: prefixes("127.0.0.1/32"), AllowLoopback: prefixes("127.0.0.1/32"),
			Own: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}, "127.0.0.1", "own"},
	}
	for _, c := range cases {
		err := c.policy.Judge(netip.MustParseAddr(c.addr))
		switch {
		case c.why == "" && err != nil:
			t.Errorf("%s is refused: %v", c.addr, err)
		case c.why != "" && err == nil:
			t.Errorf("%s is allowed; want it refused: %s", c.addr, c.why)
		case err != nil && !strings.Contains(err.Error(), c.why):
			t.Errorf("%s is refused because %q; want %q in it", c.addr, err, c.why)
		}
	}
	if err := everything.Judge(netip.Addr{}); err == nil {
		t.Error("the zero address is allowed")
	}
}
