package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/leasefile"
	"github.com/bastion-on-demand/bastion/internal/sshd"
)

// exampleLease is a lease that people complete with their key.
const exampleLease = `  {"bastion_id": "manual", "generation": 1, "open": true,
   "deadline": "2030-01-01T00:00:00Z", "source": "127.0.0.1/32",
   "keys": ["ssh-ed25519 AAAA..."],
   "allowed_destinations": ["10.0.0.0/8", "192.168.1.7/32:22"]}
`

const usage = `Usage: bastiond --lease-table TABLE --task-role-id ID [flags]
       bastiond --lease DIR [flags]

bastiond is the SSH server of one bastion. In an ECS task, it reads its lease
from the table of leases and writes its report there. Run manually, it reads
DIR/lease.json and writes DIR/report.json, which has its host keys. To admit one
key from one address until a deadline, with two destinations, write this lease:

` + exampleLease + `
To change the lease, write it again with a higher generation. A lease in which open
is false ends bastiond.

It logs to standard output, one JSON object per line. Exit codes: 0 after a
deadline, idle time-out or closed lease, 10 if there was no lease in time, 11 if
the table of leases did not respond in time, 12 if it denies reads, 13 if there is
no such table, 143 after SIGTERM or SIGINT, 2 for wrong flags, 1 for other failures.

Each flag can also be set in the environment: BASTIOND_LEASE for --lease.

`

// metadataURI is the environment variable in which ECS gives a container the address
// of its task's metadata.
const metadataURI = "ECS_CONTAINER_METADATA_URI_V4"

// metadataTimeout is the time limit for reading the task's metadata.
const metadataTimeout = 10 * time.Second

// values holds the settings as text.
type values struct {
	id, lease, table, role, metadata, listen, algorithms, handshakes, connections, channels, silence, poll, wait, allowLoopback string
}

// parse reads the flags, and the environment for those that are not set. Its error
// lists all problems. It returns flag.ErrHelp after printing the help.
func parse(ctx context.Context, args []string, getenv func(string) string, help io.Writer) (sshd.Config, error) {
	var v values
	flags := flag.NewFlagSet("bastiond", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	define := func(into *string, name, fallback, about string) {
		if set := getenv("BASTIOND_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))); set != "" {
			fallback = set
		}
		flags.StringVar(into, name, fallback, about)
	}
	define(&v.id, "id", "", "`ID` of the bastion, for log lines before the first lease")
	define(&v.lease, "lease", "", "directory `DIR` of the lease")
	define(&v.table, "lease-table", "", "DynamoDB `TABLE` of leases; region and credentials come from the environment")
	define(&v.role, "task-role-id", "", "unique `ID` of the task's role, AROA…")
	define(&v.listen, "listen", "0.0.0.0:2222", "`ADDRESS` to listen on")
	define(&v.algorithms, "ssh-algorithms", string(sshd.Compatible), "`SET` of algorithms to offer: compatible, or strict, which some older clients lack")
	define(&v.handshakes, "ssh-handshakes", strconv.Itoa(sshd.DefaultHandshakes), "the most `CONNECTIONS` that have not authenticated")
	define(&v.connections, "ssh-connections", strconv.Itoa(sshd.DefaultConnections), "the most authenticated `CONNECTIONS`")
	define(&v.channels, "ssh-channels", strconv.Itoa(sshd.DefaultChannels), "the most `CHANNELS`, forwards and sessions, of one connection")
	define(&v.silence, "ssh-silence-minutes", strconv.Itoa(int(sshd.DefaultSilence.Minutes())), "`MINUTES` after which a client that sends nothing is cut")
	define(&v.poll, "poll", "", "`INTERVAL` between lease polls (default 200ms, or 3s with --lease-table)")
	define(&v.wait, "wait", "5m", "the longest `TIME` to wait for the first lease")
	define(&v.allowLoopback, "allow-loopback", "", "loopback destinations to permit, as `CIDR,...`; the lease must allow them too")
	v.metadata = getenv(metadataURI)
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
		err = fmt.Errorf("unexpected argument %q; see bastiond --help", flags.Arg(0))
	}
	cfg, problems := v.config(ctx)
	return cfg, errors.Join(err, problems)
}

// config returns the configuration, or one error that lists all problems.
func (v values) config(ctx context.Context) (sshd.Config, error) {
	cfg := sshd.Config{BastionID: v.id, Resolver: sshd.Network{}, Dialer: sshd.Network{}}
	cfg.Listen = func() (net.Listener, error) { return listen(v.listen) }
	var problems []error
	add := func(err error) { problems = append(problems, err) } // errors.Join ignores nil
	var err error
	if _, err := netip.ParseAddrPort(v.listen); err != nil {
		add(fmt.Errorf("--listen %q: not an address with a port, such as 127.0.0.1:2222", v.listen))
	}
	poll := cmp.Or(v.poll, "200ms")
	if v.table != "" {
		poll = cmp.Or(v.poll, "3s")
	}
	cfg.LeaseTiming.Poll, err = duration("--poll", poll)
	add(err)
	cfg.LeaseTiming.FirstLease, err = duration("--wait", v.wait)
	add(err)
	cfg.AllowLoopback, err = loopbacks("--allow-loopback", v.allowLoopback)
	add(err)
	cfg.Own, err = ownAddresses()
	add(err)
	add(v.checkLease())
	if cfg.Algorithms, err = sshd.ParseAlgorithms(v.algorithms); err != nil {
		add(fmt.Errorf("--ssh-algorithms %w", err))
	}
	cfg.Limits.Handshakes, err = number("--ssh-handshakes", v.handshakes, 1, 1000)
	add(err)
	cfg.Limits.Connections, err = number("--ssh-connections", v.connections, 1, 1000)
	add(err)
	cfg.Limits.Channels, err = number("--ssh-channels", v.channels, 1, 1000)
	add(err)
	minutes, err := number("--ssh-silence-minutes", v.silence, 1, 1440)
	add(err)
	cfg.Timing.Silence = time.Duration(minutes) * time.Minute
	if err := errors.Join(problems...); err != nil {
		return sshd.Config{}, err
	}
	if v.table == "" {
		cfg.Lease = leasefile.Dir(v.lease)
		return cfg, nil
	}
	return v.inTask(ctx, cfg)
}

func listen(address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: without root, a port below 1024 needs the system control net.ipv4.ip_unprivileged_port_start=0", err)
	}
	return listener, err
}

// checkLease checks that exactly one of --lease and --lease-table is set, and what each of
// them needs.
func (v values) checkLease() error {
	var problems [3]error
	info, err := os.Stat(v.lease)
	switch {
	case v.lease == "" && v.table == "":
		problems[0] = errors.New("--lease DIR or, in an ECS task, --lease-table TABLE is required")
	case v.lease != "" && v.table != "":
		problems[0] = errors.New("--lease and --lease-table cannot be combined")
	case v.table == "" && (err != nil || !info.IsDir()):
		problems[0] = fmt.Errorf("--lease %s: no such directory", v.lease)
	}
	if v.table != "" && !strings.HasPrefix(v.role, "AROA") {
		problems[1] = fmt.Errorf("--task-role-id %q: not the unique ID of a role, AROA…", v.role)
	}
	if v.table != "" && v.metadata == "" {
		problems[2] = fmt.Errorf("%s is not set: --lease-table works in ECS tasks only", metadataURI)
	}
	return errors.Join(problems[:]...)
}

// inTask reads the task's metadata, and adds the task's addresses and its lease in the
// table.
func (v values) inTask(ctx context.Context, cfg sshd.Config) (sshd.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	task, err := awscloud.ReadTaskMetadata(ctx, v.metadata)
	if err != nil {
		return sshd.Config{}, err
	}
	cfg.Own = append(cfg.Own, task.Addresses...)
	cfg.Lease, err = awscloud.ConnectTaskLease(ctx, v.table, v.role, task.TaskID)
	return cfg, err
}

func duration(flag, value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s %q: not a duration, such as 200ms or 5m", flag, value)
	}
	return d, nil
}

func number(flag, value string, least, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s %q: not a number from %d to %d", flag, value, least, most)
	}
	return n, nil
}

func loopbacks(flag, value string) (all []netip.Prefix, err error) {
	for _, item := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' }) {
		prefix, problem := netip.ParsePrefix(item)
		if problem != nil || !prefix.Addr().IsLoopback() {
			err = errors.Join(err, fmt.Errorf("%s %q: not a loopback prefix, such as 127.0.0.1/32", flag, item))
			continue
		}
		all = append(all, prefix)
	}
	return all, err
}

// ownAddresses returns this machine's addresses, except loopback, for which the
// destination policy has its own rule.
func ownAddresses() (own []netip.Addr, err error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list this machine's addresses: %w", err)
	}
	for _, addr := range addrs {
		prefix, err := netip.ParsePrefix(addr.String())
		if err == nil && !prefix.Addr().IsLoopback() {
			own = append(own, prefix.Addr())
		}
	}
	return own, nil
}
