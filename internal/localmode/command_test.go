package localmode

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestDefaultsAreValid(t *testing.T) {
	s, err := Defaults().check()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.config(netip.MustParseAddr("10.0.0.10")).Validate(); err != nil {
		t.Error(err)
	}
	if len(s.loopback) != 0 || len(s.allow) != 0 {
		t.Errorf("default destinations beyond the private host: %v", s.allow)
	}
}

func TestCheckListsAllProblems(t *testing.T) {
	o := Defaults()
	o.Listen, o.Allow = "0.0.0.0:1", []string{"10.1.2.3/8", "nas.lan", "192.168.0.0/16"}
	o.LaunchDelay, o.DefaultTTL, o.Idle, o.ReapEvery = -time.Second, 0, -time.Minute, 0
	o.SSHAlgorithms = "fips"
	o.AllowSources, o.WidestIPv4, o.WidestIPv6 = []string{"127.0.0.1/8", "home"}, 33, 0
	_, err := o.check()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`--ssh-algorithms "fips": neither compatible nor strict`,
		"--listen 0.0.0.0:1: local mode listens on loopback only",
		"--allow: 10.1.2.3/8 has bits set after the prefix length: write 10.0.0.0/8",
		`--allow: "nas.lan" is not CIDR, CIDR:PORT or CIDR:FROM-TO`,
		"--allow-source: 127.0.0.1/8 has bits set after the prefix length: write 127.0.0.0/8",
		`--allow-source: "home" is not a CIDR`,
		"--widest-source-ipv4 must be from 8 to 32, not 33",
		"--widest-source-ipv6 must be from 32 to 128, not 0",
		"--launch-delay must be zero or more, not -1s",
		"--default-ttl must be more than zero, not 0s",
		"--idle must be zero (never) or more, not -1m0s",
		"--reap-every must be 10ms or more, not 0s",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing: %s\nin: %v", want, err)
		}
	}
	if got := strings.Count(err.Error(), "\n") + 1; got != 12 {
		t.Errorf("%d problems, want 12:\n%v", got, err)
	}
}

// Without --allow, all private addresses are allowed, although only the private host
// exists. With it, leases have the given rules.
func TestLeaseHasTheRulesOfAllow(t *testing.T) {
	for want, allow := range map[string][]string{
		"[10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7]":                nil,
		"[10.3.0.10/32 192.168.1.0/24:22 192.168.1.7/32:8000-8099 ::1/128]": {"192.168.1.0/24:22", "192.168.1.7/32:8000-8099", "::1/128"},
	} {
		o := Defaults()
		o.Allow = allow
		s, err := o.check()
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(s.config(netip.MustParseAddr("10.3.0.10")).AllowedDestinations); got != want {
			t.Errorf("%q: %s, want %s", allow, got, want)
		}
	}
}

func TestListenAcceptsLoopbackOnly(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:8080": "127.0.0.1:8080", "localhost:0": "127.0.0.1:0", "127.9.9.9:80": "127.9.9.9:80",
		"[::1]:8080": "[::1]:8080", "[::ffff:127.0.0.1]:1": "127.0.0.1:1",
		"0.0.0.0:1": "", "[::]:1": "", ":8080": "", "192.168.1.5:80": "", "example.com:80": "",
		"8080": "", "": "", "127.0.0.1:http": "", "127.0.0.1:70000": "",
	} {
		got, err := parseListen(text)
		if want == "" && err == nil || want != "" && (err != nil || got.String() != want) {
			t.Errorf("--listen %q: %s, %v, want %q", text, got, err, want)
		}
	}
}

func TestInsideLoopbackNeedsLoopbackAddressesOnly(t *testing.T) {
	for text, want := range map[string]bool{
		"127.0.0.1/32": true, "127.0.0.0/8": true, "::1/128": true,
		"0.0.0.0/0": false, "126.0.0.0/7": false, "192.168.0.0/16": false, "::/0": false, "::/127": false,
	} {
		if got := insideLoopback(netip.MustParsePrefix(text)); got != want {
			t.Errorf("insideLoopback(%s) = %v, want %v", text, got, want)
		}
	}
}

func TestDurationFlagsAcceptDaysAndPrintShortValues(t *testing.T) {
	flags := Command().Flags()
	for text, want := range map[string]string{"2d": "2d", "90m": "1h30m", "250ms": "250ms", "0": "0s", "1.5h": "1h30m"} {
		if err := flags.Set("idle", text); err != nil || flags.Lookup("idle").Value.String() != want {
			t.Errorf("--idle %s: %s, %v, want %s", text, flags.Lookup("idle").Value, err, want)
		}
	}
	if err := flags.Set("idle", "soon"); err == nil || !strings.Contains(err.Error(), "write a duration") {
		t.Errorf("--idle soon: %v", err)
	}
}
