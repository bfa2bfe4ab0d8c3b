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
	"github.com/bastion-on-demand/bastion/internal/publickey"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

// fixture is a server under test, with the owner's key, a lease table, a resolver and a
// network of hosts.
type fixture struct {
	t        testing.TB
	cfg      Config
	table    *simtask.Table
	log      *testLog
	resolver *testResolver
	network  *network
	private  ed25519.PrivateKey // the owner's key
	key      ssh.Signer         // the same key

	memory    *memoryListener // if set, used instead of TCP
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

// newFixture returns a server that does not run yet. Its lease ends in an hour.
func newFixture(t testing.TB) *fixture {
	private := newPrivateKey(t)
	r := &fixture{
		t: t, table: &simtask.Table{}, log: newTestLog(), private: private, key: signer(t, private, nil),
		resolver: &testResolver{results: map[string][][]netip.Addr{}},
		network:  &network{hosts: map[netip.AddrPort]func(context.Context) (net.Conn, error){}},
		exited:   make(chan struct{}),
	}
	r.cfg = Config{
		BastionID: "b1", Lease: r.table, Listen: r.listen, Resolver: r.resolver, Dialer: r.network,
		RSAKey: testRSAKey,
		Own:    addrs("10.9.9.9"), Log: slog.New(slog.NewJSONHandler(r.log, nil)),
		LeaseTiming: leaseloop.Timing{Poll: 10 * time.Millisecond, ReportPause: time.Millisecond},
	}
	r.table.Lease = bastion.Lease{
		BastionID: "b1", Owner: "local:alice", Name: "default", Generation: 1, Open: true,
		Source: netip.MustParsePrefix("127.0.0.1/32"), Keys: []bastion.Key{authorized(r.key)},
		Deadline: time.Now().Add(time.Hour), AllowedDestinations: rules("10.0.0.0/8"),
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

// run starts the server, and stops it at the end of the test.
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

// start runs a server and waits until it is ready.
func start(t testing.TB, change ...func(*fixture)) *fixture {
	t.Helper()
	r := newFixture(t)
	for _, f := range change {
		f(r)
	}
	r.run()
	r.awaitReport("has the host key", func(report bastion.Report) bool { return report.HostKey != "" })
	return r
}

// stop cancels Run's context and returns the exit code.
func (r *fixture) stop() int {
	r.t.Helper()
	r.terminate()
	return r.exit()
}

// exit waits until Run returns, and returns the exit code.
func (r *fixture) exit() int {
	r.t.Helper()
	select {
	case <-r.exited:
	case <-time.After(48 * time.Hour): // for simulated time; in real time, go test ends sooner
		r.t.Fatal("Run does not return")
	}
	return r.code
}

// testRSAKey returns the RSA host key of all servers under test, because it takes long to
// make one.
var testRSAKey = sync.OnceValues(makeRSAKey)

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

func authorized(key ssh.Signer) bastion.Key { return publickey.Of(key.PublicKey()) }

// client is the configuration of a client that checks the host key.
func (r *fixture) client(auth ...ssh.AuthMethod) *ssh.ClientConfig {
	r.t.Helper()
	host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(r.table.LastReport().HostKey))
	if err != nil {
		r.t.Fatal(err)
	}
	return &ssh.ClientConfig{
		User: "bastion", Auth: auth, HostKeyCallback: ssh.FixedHostKey(host), HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	}
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
	// A reply shows that the server has entered the connection too, not only the client.
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
		r.t.Fatalf("connect: %v\n%s", err, r.log.text())
	}
	r.t.Cleanup(func() { client.Close() })
	return client
}

// refusal stops the server, checks that it logged one refusal, and returns that line.
func (r *fixture) refusal(kind, reason string) line {
	r.t.Helper()
	r.stop()
	lines := r.log.all(msgRefusal)
	if len(lines) != 1 {
		r.t.Fatalf("%d refusal lines, want one:\n%v", len(lines), lines)
	}
	l := lines[0]
	if l.text("kind") != kind || !strings.Contains(l.text("reason"), reason) {
		r.t.Errorf("refusal line %v, want kind %q and reason %q", l, kind, reason)
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
		r.t.Fatalf("no report %s; the last one is %+v", what, report)
	}
	return report
}

// bubble runs a test in simulated time, with the server, its clients and its hosts in
// memory. The idle time-out is ten minutes, the deadline is in an hour.
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

// after waits for d, and then until all goroutines of the bubble are blocked.
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

// wantEndAfter checks that the server ends by its own decision after d, and not before.
func (r *fixture) wantEndAfter(d time.Duration, reason bastion.EndReason) {
	r.t.Helper()
	after(d - time.Second)
	if r.ended() {
		r.t.Fatalf("the server ended before %v:\n%s", d, r.log.text())
	}
	after(4 * time.Second)
	if !r.ended() {
		r.t.Fatalf("the server did not end after %v:\n%s", d, r.log.text())
	}
	if r.code != bastion.ExitOK {
		r.t.Errorf("exit code %d, want 0", r.code)
	}
	report := r.table.LastReport()
	if want := (bastion.Ending{Reason: reason, Generation: r.table.Lease.Generation}); report.Ending != want {
		r.t.Errorf("reported ending %+v, want %+v", report.Ending, want)
	}
	if report.Receipt.EndedAt.IsZero() {
		r.t.Error("no receipt is reported")
	}
}

// freezableConn is a client's connection. While it is frozen, reads block, as with a
// client whose process is stopped.
type freezableConn struct {
	net.Conn
	mu     sync.Mutex
	thawed sync.Cond
	frozen bool
}

func (c *freezableConn) freeze(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = on
	c.thawed.Broadcast()
}

func (c *freezableConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.frozen {
		c.thawed.Wait()
	}
	return n, err
}

// dialFreezable connects as the owner, with a connection that can be frozen.
func (r *fixture) dialFreezable() (*ssh.Client, *freezableConn) {
	r.t.Helper()
	conn, err := r.connect()
	if err != nil {
		r.t.Fatal(err)
	}
	frozen := &freezableConn{Conn: conn}
	frozen.thawed.L = &frozen.mu
	c, channels, requests, err := ssh.NewClientConn(frozen, "bastion", r.client(ssh.PublicKeys(r.key)))
	if err != nil {
		r.t.Fatal(err)
	}
	return ssh.NewClient(c, channels, requests), frozen
}

// host adds a host to the fixture's network. serve is called with each connection to the
// host, and closes it.
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
		r.stop() // closes the connections, so that serve returns
		serving.Wait()
	})
	r.network.add(address, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	})
}

// memoryHost adds a host whose connections are in memory.
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

// echo adds a host that sends back what it receives.
func (r *fixture) echo(address string) { r.host(address, echo) }

func echo(conn net.Conn) {
	defer conn.Close()
	// Between sockets, io.Copy would use splice(2) and keep its pipes, which leakcheck
	// would report.
	_, _ = io.Copy(struct{ io.Writer }{conn}, conn)
}
