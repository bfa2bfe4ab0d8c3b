package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/leasefile"
	"github.com/bastion-on-demand/bastion/internal/sshd"
)

const usage = `Usage: bastiond --lease DIR [flags]

The SSH server of one bastion. It obeys DIR/lease.json, writes DIR/report.json,
and logs to standard output, one JSON object a line. It exits with 0 when it
ended on purpose, 10 when no lease came, 143 when it was told to stop.

Each flag can be given in the environment instead: BASTIOND_LEASE for --lease.

`

// values are the settings as they were written.
type values struct {
	id, lease, listen, poll, wait, allowLoopback string
}

// parse reads flags, and the environment for those that were not given. Its
// error lists all problems at once. flag.ErrHelp: help was asked for, and given.
func parse(args []string, getenv func(string) string, help io.Writer) (sshd.Config, error) {
	var v values
	flags := flag.NewFlagSet("bastiond", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	define := func(into *string, name, fallback, about string) {
		if set := getenv("BASTIOND_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))); set != "" {
			fallback = set
		}
		flags.StringVar(into, name, fallback, about)
	}
	define(&v.id, "id", "", "the bastion's `ID`, for the log until a lease names it")
	define(&v.lease, "lease", "", "the `DIR` of the lease")
	define(&v.listen, "listen", "0.0.0.0:2222", "`ADDRESS` to listen on")
	define(&v.poll, "poll", "200ms", "`TIME` between looks at the lease")
	define(&v.wait, "wait", "5m", "`TIME` to wait for the first lease")
	define(&v.allowLoopback, "allow-loopback", "", "loopback destinations, as `CIDR,...`; the lease must allow them too")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(help, usage)
		flags.SetOutput(help)
		flags.PrintDefaults()
		return sshd.Config{}, err
	}
	if err != nil {
		return sshd.Config{}, err
	}
	if flags.NArg() > 0 {
		err = fmt.Errorf("%q is no flag; bastiond --help says what there is", flags.Arg(0))
	}
	cfg, problems := v.config()
	return cfg, errors.Join(err, problems)
}

// config makes the configuration, or says everything that is wrong.
func (v values) config() (sshd.Config, error) {
	cfg := sshd.Config{BastionID: v.id, Lease: leasefile.Dir(v.lease), Resolver: sshd.Network{}, Dialer: sshd.Network{}}
	cfg.Listen = func() (net.Listener, error) { return net.Listen("tcp", v.listen) }
	var problems [6]error
	if info, err := os.Stat(v.lease); v.lease == "" {
		problems[0] = errors.New("--lease is needed: the directory that holds lease.json")
	} else if err != nil || !info.IsDir() {
		problems[0] = fmt.Errorf("--lease %s: there is no such directory", v.lease)
	}
	if _, err := netip.ParseAddrPort(v.listen); err != nil {
		problems[1] = fmt.Errorf("--listen %q: want an address and a port, such as 127.0.0.1:2222", v.listen)
	}
	cfg.Timing.Poll, problems[2] = duration("--poll", v.poll)
	cfg.Timing.FirstLease, problems[3] = duration("--wait", v.wait)
	cfg.AllowLoopback, problems[4] = loopbacks("--allow-loopback", v.allowLoopback)
	cfg.Own, problems[5] = ownAddresses()
	return cfg, errors.Join(problems[:]...)
}

func duration(flag, value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s %q: want a time, such as 200ms or 5m", flag, value)
	}
	return d, nil
}

func loopbacks(flag, value string) (all []netip.Prefix, err error) {
	for _, item := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' }) {
		prefix, problem := netip.ParsePrefix(item)
		if problem != nil || !prefix.Addr().IsLoopback() {
			err = errors.Join(err, fmt.Errorf("%s %q: want a loopback prefix, such as 127.0.0.1/32", flag, item))
			continue
		}
		all = append(all, prefix)
	}
	return all, err
}

// ownAddresses are this machine's, except loopback, which has a rule of its own.
func ownAddresses() (own []netip.Addr, err error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("find this machine's own addresses: %w", err)
	}
	for _, addr := range addrs {
		prefix, err := netip.ParsePrefix(addr.String())
		if err == nil && !prefix.Addr().IsLoopback() {
			own = append(own, prefix.Addr())
		}
	}
	return own, nil
}
