package localmode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/config"
	"github.com/bastion-on-demand/bastion/internal/sshd"
)

// FailedError wraps an error that happened while a command was running. Every
// other error that cobra returns means that the command line was wrong.
type FailedError struct{ Err error }

func (f *FailedError) Error() string { return f.Err.Error() }
func (f *FailedError) Unwrap() error { return f.Err }

const about = `Run the whole service on this machine: the API over HTTP, bastions as real SSH
servers for your ssh client, and a private host to connect to. There are no
other dependencies, and everything is cleaned up on exit.

Standard output starts with the URL of the API on a line of its own, followed
by commands to paste into another terminal. The log goes to standard error: a
short form on a terminal, otherwise one JSON object per line.

The owner of a bastion is the user name of HTTP basic authentication
(curl -u alice:), or "local" without one. Owners are names, not identities:
there are no passwords, and anyone who can reach the API can use any name.
Local mode therefore listens on loopback only, and refuses requests from web
pages and requests for other host names.

Bastions can reach private.internal on port 80 (HTTP) and port 22 (SSH). That
name exists inside bastions only. Use --allow to add other destinations; bastions
then also resolve other names. A destination is a CIDR for all ports, CIDR:PORT or
CIDR:FROM-TO; for several ports, repeat --allow.

Press Ctrl-C to stop.`

// Command returns the command "bastion local".
func Command() *cobra.Command {
	o := Defaults()
	command := &cobra.Command{
		Use:   "local",
		Short: "Run the whole service on this machine",
		Long:  about,
		Example: `  bastion local
  bastion local --listen 127.0.0.1:0 --launch-delay 30s
  bastion local --allow 192.168.1.0/24
  bastion local --allow 192.168.1.0/24:22 --allow 192.168.1.7/32:8000-8099`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := o.check(); err != nil {
				return err
			}
			// The first Ctrl-C stops in order, the second one at once.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			context.AfterFunc(ctx, stop)
			o.Log = slog.New(logHandler(cmd.ErrOrStderr()))
			if err := Run(ctx, o, cmd.OutOrStdout()); err != nil {
				return &FailedError{err}
			}
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVar(&o.Listen, "listen", o.Listen, "loopback `address` and port of the API; port 0 picks a free one")
	flags.Var((*duration)(&o.LaunchDelay), "launch-delay", "how long a task takes to start")
	flags.Var((*duration)(&o.DefaultTTL), "default-ttl", "default bastion lifetime (capped by --max-ttl)")
	flags.Var((*duration)(&o.MaxTTL), "max-ttl", "maximum bastion lifetime, counted from the first request")
	flags.Var((*duration)(&o.Idle), "idle", "close a bastion after this long without an authenticated connection; 0 means never")
	flags.Var((*duration)(&o.ReapEvery), "reap-every", "interval of the reaper; the sweep for orphans runs every ten intervals")
	flags.StringArrayVar(&o.Allow, "allow", nil, "`CIDR[:PORTS]` of real destinations to allow (repeatable); with a loopback CIDR, every owner can\nreach services that listen on loopback addresses of this machine")
	flags.StringArrayVar(&o.AllowSources, "allow-source", nil, "`CIDR` of addresses that a request may name as \"source\" (repeatable), as AllowedSources on AWS")
	flags.IntVar(&o.WidestIPv4, "widest-source-ipv4", o.WidestIPv4, "shortest prefix `length` of an IPv4 source that a request may name")
	flags.IntVar(&o.WidestIPv6, "widest-source-ipv6", o.WidestIPv6, "the same for IPv6")
	flags.StringVar(&o.SSHAlgorithms, "ssh-algorithms", o.SSHAlgorithms, "`set` of algorithms that bastions offer: compatible, or strict, which some older clients lack")
	flags.StringVar(&o.SlackSigningSecret, "slack-signing-secret", "", "testing only: also serve the Slack routes, for requests signed with this `secret`\n(see scripts/slack); messages to Slack are logged instead of sent")
	return command
}

// duration is a flag that accepts the durations of Go and those of the API, which
// also have days.
type duration time.Duration

// String implements pflag.Value. Go's own format would write 1h0m0s for 1h.
func (d *duration) String() string {
	if v := time.Duration(*d); v >= time.Second && v%time.Second == 0 {
		return bastion.FormatTTL(v)
	}
	return time.Duration(*d).String()
}

// Set implements pflag.Value.
func (d *duration) Set(text string) error {
	v, err := time.ParseDuration(text)
	if err != nil {
		if v, err = bastion.ParseTTL(text); err != nil {
			return errors.New("write a duration such as 30s, 15m, 1h30m or 2d")
		}
	}
	*d = duration(v)
	return nil
}

// Type implements pflag.Value.
func (d *duration) Type() string { return "duration" }

// logHandler writes a short log for a person if w is a terminal, and JSON otherwise.
func logHandler(w io.Writer) slog.Handler {
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return newTerminalHandler(w)
	}
	return slog.NewJSONHandler(w, nil)
}

// Options are the flags of "bastion local".
type Options struct {
	Listen      string // a loopback address and a port; port 0 for any free one
	LaunchDelay time.Duration
	DefaultTTL  time.Duration
	MaxTTL      time.Duration
	Idle        time.Duration // 0 for never
	ReapEvery   time.Duration // interval of the reaper; the sweep runs every ten intervals
	Allow       []string      // CIDR, CIDR:PORT or CIDR:FROM-TO of real destinations, in addition to the private host
	Log         *slog.Logger

	AllowSources           []string // CIDRs of addresses that a request may name as source; nil for none
	WidestIPv4, WidestIPv6 int      // the shortest prefix lengths of such sources

	SSHAlgorithms string // see sshd.ParseAlgorithms

	// SlackSigningSecret, if not empty, adds the Slack routes for requests that are
	// signed with it. Nothing is sent to Slack.
	SlackSigningSecret string

	// For tests.
	task func(*sshd.Config) // changes the configuration of a task's server
	now  func() time.Time   // the clock of the control plane
}

// Defaults returns the options of the command without flags.
func Defaults() Options {
	return Options{
		Listen:      "127.0.0.1:8080",
		LaunchDelay: 2 * time.Second,
		DefaultTTL:  time.Hour,
		MaxTTL:      8 * time.Hour,
		Idle:        15 * time.Minute,
		ReapEvery:   time.Second,

		WidestIPv4: 32,
		WidestIPv6: 128,

		SSHAlgorithms: string(sshd.Compatible),

		Log: slog.New(slog.DiscardHandler),
		now: time.Now,
	}
}

// settings are checked options in the form that the wiring needs.
type settings struct {
	Options
	listen     netip.AddrPort
	allow      []bastion.DestinationRule
	sources    []netip.Prefix // that requests may name
	algorithms sshd.Algorithms
	loopback   []netip.Prefix // the prefixes of allow that contain loopback addresses only
}

// check returns one error that lists every problem of the options.
func (o Options) check() (settings, error) {
	var problems []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	s := settings{Options: o}
	var err error
	s.listen, err = parseListen(o.Listen)
	refuse(err != nil, "--listen %s: %w", o.Listen, err)
	for _, text := range o.Allow {
		rule, err := bastion.ParseDestinationRule(text)
		refuse(err != nil, "--allow: %w", err)
		s.allow = append(s.allow, rule)
		if insideLoopback(rule.Prefix) {
			s.loopback = append(s.loopback, rule.Prefix)
		}
	}
	sources, wrong := config.ParseSources(strings.Join(o.AllowSources, ","))
	for _, err := range wrong {
		refuse(true, "--allow-source: %w", err)
	}
	s.sources = sources
	refuse(o.WidestIPv4 < 8 || o.WidestIPv4 > 32, "--widest-source-ipv4 must be from 8 to 32, not %d", o.WidestIPv4)
	refuse(o.WidestIPv6 < 32 || o.WidestIPv6 > 128, "--widest-source-ipv6 must be from 32 to 128, not %d", o.WidestIPv6)
	s.algorithms, err = sshd.ParseAlgorithms(o.SSHAlgorithms)
	refuse(err != nil, "--ssh-algorithms %w", err)
	refuse(o.LaunchDelay < 0, "--launch-delay must be zero or more, not %s", o.LaunchDelay)
	refuse(o.DefaultTTL <= 0, "--default-ttl must be more than zero, not %s", o.DefaultTTL)
	refuse(o.MaxTTL <= 0, "--max-ttl must be more than zero, not %s", o.MaxTTL)
	refuse(o.Idle < 0, "--idle must be zero (never) or more, not %s", o.Idle)
	refuse(o.ReapEvery < 10*time.Millisecond, "--reap-every must be 10ms or more, not %s", o.ReapEvery)
	return s, errors.Join(problems...)
}

// parseListen refuses every address that other machines can reach, because an
// owner is only a name here: any caller can act as any owner.
func parseListen(text string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return netip.AddrPort{}, errors.New("write an address and a port, such as 127.0.0.1:8080")
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not a port; use a number up to 65535, or 0 for any free port", port)
	}
	listen, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil || !listen.Addr().IsLoopback() {
		return netip.AddrPort{}, fmt.Errorf("local mode listens on loopback only, because its owners are names and not identities; try 127.0.0.1:%s", port)
	}
	return netip.AddrPortFrom(listen.Addr().Unmap(), listen.Port()), nil
}

// insideLoopback reports whether all addresses of a prefix are loopback addresses. A
// prefix that also contains others, such as 0.0.0.0/0, does not allow loopback.
func insideLoopback(p netip.Prefix) bool {
	return p.Addr().IsLoopback() && (p.Addr().Is6() || p.Bits() >= 8)
}

// privateRanges are the destinations that leases allow without --allow. A bastion can
// connect to the private host only: for all other addresses of these ranges,
// [bastionNetwork.Dial] returns "no route to host".
var privateRanges = []bastion.DestinationRule{
	{Prefix: netip.MustParsePrefix("10.0.0.0/8")},
	{Prefix: netip.MustParsePrefix("172.16.0.0/12")},
	{Prefix: netip.MustParsePrefix("192.168.0.0/16")},
	{Prefix: netip.MustParsePrefix("fc00::/7")},
}

// destinations returns the rules of every lease. With --allow, they are those of --allow,
// as on AWS, and one for the private host.
func (s settings) destinations(privateHost netip.Addr) []bastion.DestinationRule {
	if len(s.allow) == 0 {
		return privateRanges
	}
	host := bastion.DestinationRule{Prefix: netip.PrefixFrom(privateHost, privateHost.BitLen())}
	return append([]bastion.DestinationRule{host}, s.allow...)
}

// config returns the configuration of the domain. The times are short, because the
// local cloud responds at once, and its reads show every change.
func (s settings) config(privateHost netip.Addr) bastion.Config {
	return bastion.Config{
		DefaultTTL:          s.DefaultTTL,
		MaxTTL:              s.MaxTTL,
		IdleTimeout:         s.Idle,
		WarnBefore:          min(10*time.Minute, s.MaxTTL/2),
		AllowedDestinations: s.destinations(privateHost),
		IPv4:                s.listen.Addr().Is4(),
		IPv6:                s.listen.Addr().Is6(),
		SourceOverride:      s.sources,
		WidestIPv4:          s.WidestIPv4,
		WidestIPv6:          s.WidestIPv6,
		Quota:               bastion.Quota{PerOwner: 5, Total: 50},
		Subnets:             []string{"subnet-local-a", "subnet-local-b"},
		TaskDefinition:      "bastion-local:1",
		MaxAttempts:         5,
		Timing: bastion.Timing{
			CallTimeout:   5 * time.Second,
			StepTimeout:   time.Second,
			GiveUpAfter:   time.Minute,
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
