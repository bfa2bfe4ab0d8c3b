package sshd

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

// fixture is a bastion under test, with the owner's key, a control plane, and a
// network to forward into.
type fixture struct {
	t       testing.TB
	cfg     Config
	table   *simtask.Table
	journal *testLog
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

// newFixture returns a bastion that is leased for an hour. It does not run yet.
func newFixture(t testing.TB) *fixture {
	private := newPrivateKey(t)
	r := &fixture{
		t: t, table: &simtask.Table{}, journal: newTestLog(), private: private, key: signer(t, private, nil),
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

func (r *fixture) listen() (net.Listener, error) {
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
func (r *fixture) run() *fixture {
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
func start(t testing.TB, change ...func(*fixture)) *fixture {
	t.Helper()
	r := newFixture(t)
	for _, f := range change {
		f(r)
	}
	r.run()
	r.awaitReport("gives the host key", func(report bastion.Report) bool { return report.HostKey != "" })
	return r
}

// stop tells it to end, and answers the exit code.
func (r *fixture) stop() int {
	r.t.Helper()
	r.terminate()
	return r.exit()
}

// exit waits for its end, and answers the exit code.
func (r *fixture) exit() int {
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
func (r *fixture) client(auth ...ssh.AuthMethod) *ssh.ClientConfig {
	r.t.Helper()
	host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(r.table.LastReport().HostKey))
	if err != nil {
		r.t.Fatal(err)
	}
	return &ssh.ClientConfig{User: "bastion", Auth: auth, HostKeyCallback: ssh.FixedHostKey(host)}
}

func (r *fixture) connect() (net.Conn, error) {
	if r.memory != nil {
		return r.memory.dial()
	}
	return net.Dial("tcp", r.address)
}

func (r *fixture) dialWith(config *ssh.ClientConfig) (*ssh.Client, error) {
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
func (r *fixture) dial() *ssh.Client {
	r.t.Helper()
	client, err := r.dialWith(r.client(ssh.PublicKeys(r.key)))
	if err != nil {
		r.t.Fatalf("connect: %v\n%s", err, r.journal.text())
	}
	r.t.Cleanup(func() { client.Close() })
	return client
}

// refusal stops it, and answers its only refusal line.
func (r *fixture) refusal(kind, reason string) line {
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
func (r *fixture) awaitReport(what string, match func(bastion.Report) bool) bastion.Report {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	report, ok := r.table.Await(ctx, match)
	if !ok {
		r.t.Fatalf("no report came that %s; the last was %+v", what, report)
	}
	return report
}

// bubble runs a test in simulated time: the whole bastion, its clients and its
// hosts, without a socket. The idle time is ten minutes, the lease an hour.
func bubble(t *testing.T, test func(t *testing.T, r *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newFixture(t)
		r.memory = newMemoryListener()
		r.cfg.LeaseTiming = leaseloop.Timing{} // the defaults
		r.table.Lease.Deadline = time.Now().Add(time.Hour)
		r.table.Lease.IdleTimeout = 10 * time.Minute
		test(t, r)
		r.stop()
		synctest.Wait()
	})
}

// after lets time go by and everything come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *fixture) ended() bool {
	select {
	case <-r.exited:
		return true
	default:
		return false
	}
}

// endsAfter expects it to end after d, and not before.
func (r *fixture) endsAfter(d time.Duration, reason bastion.EndReason) {
	r.t.Helper()
	after(d - time.Second)
	if r.ended() {
		r.t.Fatalf("it ended before %v had gone by:\n%s", d, r.journal.text())
	}
	after(4 * time.Second)
	if !r.ended() {
		r.t.Fatalf("it did not end after %v:\n%s", d, r.journal.text())
	}
	if r.code != bastion.ExitOK {
		r.t.Errorf("exit code %d, want 0", r.code)
	}
	report := r.table.LastReport()
	if want := (bastion.Ending{Reason: reason, Generation: r.table.Lease.Generation}); report.Ending != want {
		r.t.Errorf("it reports the ending %+v, want %+v", report.Ending, want)
	}
	if report.Receipt.EndedAt.IsZero() {
		r.t.Error("it reports no receipt")
	}
}

// cold is a client's connection that can be frozen, as a client that is
// stopped: what comes is not read.
type cold struct {
	net.Conn
	mu     sync.Mutex
	thawed sync.Cond
	frozen bool
}

func (c *cold) freeze(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = on
	c.thawed.Broadcast()
}

func (c *cold) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.frozen {
		c.thawed.Wait()
	}
	return n, err
}

// host puts a host on the fixture's network; serve gets each connection to it, and
// closes it.
func (r *fixture) host(address string, serve func(net.Conn)) {
	r.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serve(conn) })
		}
	})
	r.t.Cleanup(func() {
		listener.Close()
		r.stop() // which closes what serve waits for
		serving.Wait()
	})
	r.network.add(address, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	})
}

// memoryHost is host without sockets.
func (r *fixture) memoryHost(address string, serve func(net.Conn)) {
	r.network.add(address, func(context.Context) (net.Conn, error) {
		up, down := newMemoryStream(), newMemoryStream()
		go serve(memoryConn{up, down})
		return memoryConn{down, up}, nil
	})
}

func (n *network) add(address string, dial func(context.Context) (net.Conn, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[netip.MustParseAddrPort(address)] = dial
}

// echo is a host that sends back what it gets.
func (r *fixture) echo(address string) { r.host(address, echo) }

func echo(conn net.Conn) {
	defer conn.Close()
	// Between sockets io.Copy would splice, and keep the pipes for the next time,
	// which leakcheck would find.
	_, _ = io.Copy(struct{ io.Writer }{conn}, conn)
}
