package localmode

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/sshd"
)

// Options are what whoever starts local mode decides: the flags of the command.
type Options struct {
	Listen      string // a loopback address and a port; port 0 for any free one
	LaunchDelay time.Duration
	DefaultTTL  time.Duration
	MaxTTL      time.Duration
	Idle        time.Duration // 0 for never
	ReapEvery   time.Duration // how often the reaper runs; the sweep runs a tenth as often
	Allow       []string      // CIDRs of real destinations, beyond the private host
	Log         *slog.Logger

	// SlackSigningSecret has Slack's routes served beside the API, to requests that
	// are signed with it. Nothing is sent to Slack. Empty: there are none.
	SlackSigningSecret string

	task func(*sshd.Config) // for tests: changes what a task's server is given
}

// Defaults are the options of the command without flags.
func Defaults() Options {
	return Options{
		Listen:      "127.0.0.1:8080",
		LaunchDelay: 2 * time.Second,
		DefaultTTL:  time.Hour,
		MaxTTL:      8 * time.Hour,
		Idle:        15 * time.Minute,
		ReapEvery:   time.Second,
		Log:         slog.New(slog.DiscardHandler),
	}
}

// settings are options that were found right, in the form the wiring needs.
type settings struct {
	Options
	listen   netip.AddrPort
	allow    []netip.Prefix
	loopback []netip.Prefix // those of allow that lie in loopback
}

// check names everything that is wrong with the options, in one error.
func (o Options) check() (settings, error) {
	var wrong []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	s := settings{Options: o}
	var err error
	s.listen, err = parseListen(o.Listen)
	refuse(err != nil, "--listen %s: %w", o.Listen, err)
	for _, text := range o.Allow {
		prefix, err := parseAllow(text)
		refuse(err != nil, "--allow %s: %w", text, err)
		s.allow = append(s.allow, prefix)
		if namesLoopback(prefix) {
			s.loopback = append(s.loopback, prefix)
		}
	}
	refuse(o.LaunchDelay < 0, "--launch-delay must be zero or more, not %s", o.LaunchDelay)
	refuse(o.DefaultTTL <= 0, "--default-ttl must be more than zero, not %s", o.DefaultTTL)
	refuse(o.MaxTTL <= 0, "--max-ttl must be more than zero, not %s", o.MaxTTL)
	refuse(o.Idle < 0, "--idle must be zero (never) or more, not %s", o.Idle)
	refuse(o.ReapEvery < 10*time.Millisecond, "--reap-every must be 10ms or more, not %s", o.ReapEvery)
	return s, errors.Join(wrong...)
}

// parseListen refuses every address that another machine can reach: owners are
// only names here, so whoever reaches the API is anybody.
func parseListen(text string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return netip.AddrPort{}, errors.New("write an address and a port, such as 127.0.0.1:8080")
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return netip.AddrPort{}, fmt.Errorf("the port is a number up to 65535, or 0 for any free one; %q is not", port)
	}
	listen, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil || !listen.Addr().IsLoopback() {
		return netip.AddrPort{}, fmt.Errorf("local mode listens on loopback only, because its owners are names and not identities; try 127.0.0.1:%s", port)
	}
	return netip.AddrPortFrom(listen.Addr().Unmap(), listen.Port()), nil
}

func parseAllow(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Addr().Is4In6() {
		return netip.Prefix{}, errors.New("write a CIDR, such as 192.168.1.0/24, or 192.168.1.7/32 for one address")
	}
	if prefix != prefix.Masked() {
		return netip.Prefix{}, fmt.Errorf("bits are set behind the prefix length; write %s", prefix.Masked())
	}
	return prefix, nil
}

// namesLoopback reports whether a prefix lies inside loopback. One that merely
// spans it, such as 0.0.0.0/0, does not open it.
func namesLoopback(p netip.Prefix) bool {
	return p.Addr().IsLoopback() && (p.Addr().Is6() || p.Bits() >= 8)
}

// privateRanges are what bastions may connect to without any --allow.
var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("fc00::/7"),
}

// config is the operator's configuration that follows. The times are a laptop's:
// nothing here is stale for longer than it takes to look again.
func (s settings) config() bastion.Config {
	return bastion.Config{
		DefaultTTL:          s.DefaultTTL,
		MaxTTL:              s.MaxTTL,
		IdleTimeout:         s.Idle,
		WarnBefore:          min(10*time.Minute, s.MaxTTL/2),
		AllowedDestinations: append(append([]netip.Prefix(nil), privateRanges...), s.allow...),
		IPv4:                s.listen.Addr().Is4(),
		IPv6:                s.listen.Addr().Is6(),
		Quota:               bastion.Quota{PerOwner: 5, Total: 50},
		Subnets:             []string{"subnet-local-a", "subnet-local-b"},
		TaskDefinition:      "bastion-local:1",
		MaxAttempts:         5,
		Timing: bastion.Timing{
			CallTimeout:   5 * time.Second,
			Settle:        10 * time.Second,
			ReadLag:       2 * time.Second,
			Backoff:       250 * time.Millisecond,
			StableAfter:   10 * time.Second,
			PollInterval:  25 * time.Millisecond,
			WatchInterval: time.Second,
			CheckInterval: 5 * time.Second,
			SweepGrace:    10 * time.Second,
			TombstoneLife: time.Minute,
		},
	}
}
