package sshd

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

// rig is a bastion under test, with the owner's key, a control plane, and a
// network to forward into.
type rig struct {
	t       testing.TB
	cfg     Config
	table   *simtask.Table
	journal *journal
	names   *names
	network *network
	private ed25519.PrivateKey // the owner's
	key     ssh.Signer         // the same

	memory    *memoryListener // instead of TCP, if set
	address   string
	terminate context.CancelFunc
	exited    chan struct{}
	code      int
}

// network connects 10.0.0.0/8 to listeners of the test.
type network struct {
	mu     sync.Mutex
	hosts  map[netip.AddrPort]func(context.Context) (net.Conn, error)
	dialed []netip.AddrPort
}

func (n *network) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	n.mu.Lock()
	n.dialed = append(n.dialed, to)
	host := n.hosts[to]
	n.mu.Unlock()
	if host == nil {
		return nil, &net.OpError{Op: "dial", Err: errNoHost}
	}
	return host(ctx)
}

func (n *network) dials() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Trim(fmt.Sprint(n.dialed), "[]")
}

// newRig makes a bastion that is leased for an hour. It does not run yet.
func newRig(t testing.TB) *rig {
	private := newPrivateKey(t)
	r := &rig{
		t: t, table: &simtask.Table{}, journal: newJournal(), private: private, key: signer(t, private, nil),
		names:   &names{answers: map[string][][]netip.Addr{}},
		network: &network{hosts: map[netip.AddrPort]func(context.Context) (net.Conn, error){}},
		exited:  make(chan struct{}),
	}
	r.cfg = Config{
		BastionID: "b1", Lease: r.table, Listen: r.listen, Resolver: r.names, Dialer: r.network,
		Own: addrs("10.9.9.9"), Log: slog.New(slog.NewJSONHandler(r.journal, nil)),
		LeaseTiming: leaseloop.Timing{Poll: 10 * time.Millisecond, ReportPause: time.Millisecond},
	}
	r.table.Lease = bastion.Lease{
		BastionID: "b1", Owner: "local:alice", Name: "default", Generation: 1, Open: true,
		Source: netip.MustParsePrefix("127.0.0.1/32"), Keys: []bastion.Key{authorized(r.key)},
		Deadline: time.Now().Add(time.Hour), AllowedDestinations: prefixes("10.0.0.0/8"),
	}
	return r
}

func (r *rig) listen() (net.Listener, error) {
	if r.memory != nil {
		return r.memory, nil
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		r.address = listener.Addr().String()
	}
	return listener, err
}

// run starts it, and sees to its end.
func (r *rig) run() *rig {
	ctx, cancel := context.WithCancel(context.Background())
	r.terminate = cancel
	go func() {
		defer close(r.exited)
		r.code = Run(ctx, r.cfg)
	}()
	r.t.Cleanup(func() { r.stop() })
	return r
}

// start runs it and waits until it is ready.
func start(t testing.TB, change ...func(*rig)) *rig {
	t.Helper()
	r := newRig(t)
	for _, f := range change {
		f(r)
	}
	r.run()
	r.awaitReport("gives the host key", func(report bastion.Report) bool { return report.HostKey != "" })
	return r
}

// stop tells it to end, and answers the exit code.
func (r *rig) stop() int {
	r.t.Helper()
	r.terminate()
	return r.exit()
}

// exit waits for its end, and answers the exit code.
func (r *rig) exit() int {
	r.t.Helper()
	select {
	case <-r.exited:
	case <-time.After(48 * time.Hour): // of a bubble's time; outside, go test ends sooner
		r.t.Fatal("it does not end")
	}
	return r.code
}

func newPrivateKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return private
}

func newKey(t testing.TB) ssh.Signer {
	t.Helper()
	return signer(t, newPrivateKey(t), nil)
}

func authorized(key ssh.Signer) bastion.Key { return publicKey(key.PublicKey()) }

// client is the configuration of a client that checks the host key.
func (r *rig) client(auth ...ssh.AuthMethod) *ssh.ClientConfig {
	r.t.Helper()
	host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(r.table.LastReport().HostKey))
	if err != nil {
		r.t.Fatal(err)
	}
	return &ssh.ClientConfig{User: "bastion", Auth: auth, HostKeyCallback: ssh.FixedHostKey(host)}
}

func (r *rig) connect() (net.Conn, error) {
	if r.memory != nil {
		return r.memory.dial()
	}
	return net.Dial("tcp", r.address)
}

func (r *rig) dialWith(config *ssh.ClientConfig) (*ssh.Client, error) {
	conn, err := r.connect()
	if err != nil {
		return nil, err
	}
	c, channels, requests, err := ssh.NewClientConn(conn, "bastion", config)
	if err != nil {
		conn.Close()
		return nil, err
	}
	client := ssh.NewClient(c, channels, requests)
	// A client knows that it is in a moment before the server has noted it.
	if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// dial connects as the owner.
func (r *rig) dial() *ssh.Client {
	r.t.Helper()
	client, err := r.dialWith(r.client(ssh.PublicKeys(r.key)))
	if err != nil {
		r.t.Fatalf("connect: %v\n%s", err, r.journal.text())
	}
	r.t.Cleanup(func() { client.Close() })
	return client
}

// refusal stops it, and answers its only refusal line.
func (r *rig) refusal(kind, reason string) line {
	r.t.Helper()
	r.stop()
	lines := r.journal.all(msgRefusal)
	if len(lines) != 1 {
		r.t.Fatalf("%d refusal lines, want one:\n%v", len(lines), lines)
	}
	l := lines[0]
	if l.text("kind") != kind || !strings.Contains(l.text("reason"), reason) {
		r.t.Errorf("refused as %v, want kind %q and reason %q", l, kind, reason)
	}
	for key, want := range map[string]string{"bastion": "b1", "owner": "local:alice", "source": "127.0.0.1"} {
		if l.text(key) != want {
			r.t.Errorf("the line has %s %q, want %q", key, l.text(key), want)
		}
	}
	if l.number("connection") == 0 {
		r.t.Errorf("the line has no connection id: %v", l)
	}
	if n := r.table.LastReport().Receipt.Refusals; n != 1 {
		r.t.Errorf("the receipt has %d refusals, want 1", n)
	}
	return l
}

// awaitReport waits for a report that matches.
func (r *rig) awaitReport(what string, match func(bastion.Report) bool) bastion.Report {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	report, ok := r.table.Await(ctx, match)
	if !ok {
		r.t.Fatalf("no report came that %s; the last was %+v", what, report)
	}
	return report
}
