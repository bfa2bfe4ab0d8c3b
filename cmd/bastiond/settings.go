package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/leasefile"
	"github.com/bastion-on-demand/bastion/internal/sshd"
)

const usage = `Usage: bastiond --lease-table TABLE --task-role-id ID [flags]
       bastiond --lease DIR [flags]

The SSH server of one bastion. In an ECS task it obeys, and reports to, its own
item in the table of leases; by hand it obeys DIR/lease.json and writes
DIR/report.json. It logs to standard output, one JSON object a line. It exits
with 0 when it ended on purpose, 10 when no lease came, 143 when it was told to
stop.

Each flag can be given in the environment instead: BASTIOND_LEASE for --lease.

`

// metadataURI is the environment variable by which ECS tells a container where
// its task's metadata is.
const metadataURI = "ECS_CONTAINER_METADATA_URI_V4"

// metadataPatience is how long the metadata may take to be there.
const metadataPatience = 10 * time.Second

// values are the settings as they were written.
type values struct {
	id, lease, table, role, metadata, listen, poll, wait, allowLoopback string
}

// parse reads flags, and the environment for those that were not given. Its
// error lists all problems at once. flag.ErrHelp: help was asked for, and given.
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
	define(&v.id, "id", "", "the bastion's `ID`, for the log until a lease names it")
	define(&v.lease, "lease", "", "the `DIR` of the lease")
	define(&v.table, "lease-table", "", "the DynamoDB `TABLE` of leases; the region and credentials are those of the environment")
	define(&v.role, "task-role-id", "", "the unique `ID` of the task's role, AROA…")
	define(&v.listen, "listen", "0.0.0.0:2222", "`ADDRESS` to listen on")
	define(&v.poll, "poll", "", "`TIME` between looks at the lease (default 200ms, of a table 3s)")
	define(&v.wait, "wait", "5m", "`TIME` to wait for the first lease")
	define(&v.allowLoopback, "allow-loopback", "", "loopback destinations, as `CIDR,...`; the lease must allow them too")
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
		err = fmt.Errorf("%q is no flag; bastiond --help says what there is", flags.Arg(0))
	}
	cfg, problems := v.config(ctx)
	return cfg, errors.Join(err, problems)
}

// config makes the configuration, or says everything that is wrong.
func (v values) config(ctx context.Context) (sshd.Config, error) {
	cfg := sshd.Config{BastionID: v.id, Resolver: sshd.Network{}, Dialer: sshd.Network{}}
	cfg.Listen = func() (net.Listener, error) { return net.Listen("tcp", v.listen) }
	var problems [6]error
	if _, err := netip.ParseAddrPort(v.listen); err != nil {
		problems[0] = fmt.Errorf("--listen %q: want an address and a port, such as 127.0.0.1:2222", v.listen)
	}
	poll := cmp.Or(v.poll, "200ms")
	if v.table != "" {
		poll = cmp.Or(v.poll, "3s")
	}
	cfg.LeaseTiming.Poll, problems[1] = duration("--poll", poll)
	cfg.LeaseTiming.FirstLease, problems[2] = duration("--wait", v.wait)
	cfg.AllowLoopback, problems[3] = loopbacks("--allow-loopback", v.allowLoopback)
	cfg.Own, problems[4] = ownAddresses()
	problems[5] = v.checkLease()
	if err := errors.Join(problems[:]...); err != nil {
		return sshd.Config{}, err
	}
	if v.table == "" {
		cfg.Lease = leasefile.Dir(v.lease)
		return cfg, nil
	}
	return v.inTask(ctx, cfg)
}

// checkLease wants one lease, and all that is needed to reach it.
func (v values) checkLease() error {
	var problems [3]error
	info, err := os.Stat(v.lease)
	switch {
	case v.lease == "" && v.table == "":
		problems[0] = errors.New("--lease is needed, the directory that holds lease.json; or, in an ECS task, --lease-table")
	case v.lease != "" && v.table != "":
		problems[0] = errors.New("--lease and --lease-table: there can be only one lease")
	case v.table == "" && (err != nil || !info.IsDir()):
		problems[0] = fmt.Errorf("--lease %s: there is no such directory", v.lease)
	}
	if v.table != "" && !strings.HasPrefix(v.role, "AROA") {
		problems[1] = fmt.Errorf("--task-role-id %q: want the unique id of the task's role, AROA…", v.role)
	}
	if v.table != "" && v.metadata == "" {
		problems[2] = fmt.Errorf("%s is not in the environment: --lease-table is for ECS tasks", metadataURI)
	}
	return errors.Join(problems[:]...)
}

// inTask adds what only a task knows: who it is, and its addresses.
func (v values) inTask(ctx context.Context, cfg sshd.Config) (sshd.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataPatience)
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
