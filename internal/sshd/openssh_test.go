package sshd

import (
	"bufio"
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/freeport"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// openSSH is an OpenSSH client with a configuration for a fixture's server, as an owner
// has: the host keys are known, and checked strictly.
type openSSH struct {
	t      testing.TB
	dir    string
	client *sshclient.Client
}

// openSSH returns a client with the owner's key.
func (r *fixture) openSSH() openSSH {
	r.t.Helper()
	s := openSSH{r.t, r.t.TempDir(), sshclient.New(r.t)}
	block, err := ssh.MarshalPrivateKey(r.private, "")
	if err != nil {
		r.t.Fatal(err)
	}
	s.write("id", pem.EncodeToMemory(block))
	host, port, err := net.SplitHostPort(r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	var known []byte
	for _, key := range r.table.LastReport().HostKeys() {
		known = fmt.Appendf(known, "bastion %s\n", key)
	}
	s.write("known_hosts", known)
	s.write("config", fmt.Appendf(nil, `Host bastion
	HostName %s
	Port %s
	HostKeyAlias bastion
	User bastion
	IdentityFile %s
	IdentitiesOnly yes
	IdentityAgent none
Host *
	StrictHostKeyChecking yes
	UserKnownHostsFile %s
	LogLevel INFO
`, host, port, s.path("id"), s.path("known_hosts")))
	return s
}

// withoutKey returns the path of a copy of the configuration without the owner's key.
func (s openSSH) withoutKey() string {
	s.t.Helper()
	config, err := os.ReadFile(s.path("config"))
	if err != nil {
		s.t.Fatal(err)
	}
	key := fmt.Appendf(nil, "	IdentityFile %s\n", s.path("id"))
	s.write("config2", bytes.Replace(config, key, nil, 1))
	return s.path("config2")
}

func (s openSSH) path(name string) string { return filepath.Join(s.dir, name) }

func (s openSSH) write(name string, data []byte) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// command returns a program of the OpenSSH client, with the client's configuration.
func (s openSSH) command(program string, args ...string) *exec.Cmd {
	s.t.Helper()
	return s.client.Command(program, append([]string{"-F", s.path("config")}, args...)...)
}

// outcome is the output of a program and its exit status.
type outcome struct {
	stdout, stderr string
	status         int
}

// ssh runs ssh to its end.
func (s openSSH) ssh(stdin string, args ...string) outcome {
	s.t.Helper()
	return s.finish(s.command("ssh", args...), stdin)
}

func (s openSSH) finish(cmd *exec.Cmd, stdin string) outcome {
	s.t.Helper()
	stdout, stderr, err := s.client.Run(stdin, cmd)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%v: %v", cmd.Args, err)
	}
	return outcome{stdout, stderr, cmd.ProcessState.ExitCode()}
}

// hold starts ssh, and kills it at the end of the test.
func (s openSSH) hold(args ...string) *exec.Cmd {
	s.t.Helper()
	cmd := s.command("ssh", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if s.t.Failed() {
			s.t.Logf("%v: %s", cmd.Args, &stderr)
		}
	})
	return cmd
}

// connected waits until the report counts n connections.
func (r *fixture) connected(n int) {
	r.t.Helper()
	r.awaitReport(fmt.Sprintf("counts %d connections", n), func(report bastion.Report) bool { return report.Connections == n })
}

// dialUntil dials until a client that is starting listens on the address.
func dialUntil(t testing.TB, network, address string) net.Conn {
	t.Helper()
	for t.Context().Err() == nil {
		if conn, err := net.Dial(network, address); err == nil {
			return conn
		}
	}
	t.Fatalf("nothing listens on %s", address)
	return nil
}

func TestLocalForwardContinuesAfterTheDestinationHalfCloses(t *testing.T) {
	got := make(chan int64, 1)
	r := start(t)
	r.host("10.0.0.1:7", func(conn net.Conn) {
		defer conn.Close()
		_, _ = io.WriteString(conn, "bye")
		halfClose(conn)
		n, _ := io.Copy(io.Discard, conn)
		got <- n
	})
	s := r.openSSH()
	s.hold("-N", "-L", s.path("l")+":10.0.0.1:7", "bastion")
	r.connected(1)
	conn := dialUntil(t, "unix", s.path("l"))
	defer conn.Close()
	if data, err := io.ReadAll(conn); string(data) != "bye" || err != nil {
		t.Fatalf("read %q, error %v", data, err)
	}
	if _, err := io.CopyN(conn, zeros{}, 5<<20); err != nil {
		t.Fatal(err)
	}
	halfClose(conn)
	if n := <-got; n != 5<<20 {
		t.Errorf("%d bytes arrived, want %d", n, 5<<20)
	}
}

// The message of a refused port reaches the person: with -W in the output of ssh, with -L in
// that of the ssh that runs in the background.
func TestForwardsReachAllowedPortsOnly(t *testing.T) {
	const sentence = "This bastion does not connect to db.internal: 10.0.0.1 is allowed on ports 5432 and 8000-8099 only."
	r := start(t, func(r *fixture) {
		r.table.Lease.AllowedDestinations = rules("10.0.0.0/8:5432", "10.0.0.1/32:8000-8099")
	})
	r.resolver.results["db.internal"] = [][]netip.Addr{addrs("10.0.0.1")}
	for _, port := range []string{"5432", "5433", "8000", "8099", "8100"} {
		r.host("10.0.0.1:"+port, func(conn net.Conn) {
			defer conn.Close()
			_, _ = io.WriteString(conn, "port "+port)
		})
	}
	s := r.openSSH()
	for _, port := range []string{"5432", "8000", "8099"} {
		if got := s.ssh("", "-W", "db.internal:"+port, "bastion"); got.status != 0 || got.stdout != "port "+port {
			t.Errorf("-W to port %s: %+v", port, got)
		}
	}
	for _, port := range []string{"5433", "8100"} {
		if got := s.ssh("", "-W", "db.internal:"+port, "bastion"); got.status == 0 || got.stdout != "" || !strings.Contains(got.stderr, "administratively prohibited: "+sentence) {
			t.Errorf("-W to port %s: %+v, want %q", port, got, sentence)
		}
	}
	errs := s.path("errs")
	s.hold("-N", "-E", errs, "-L", s.path("yes")+":db.internal:5432", "-L", s.path("no")+":db.internal:5433", "bastion")
	for socket, want := range map[string]string{"yes": "port 5432", "no": ""} {
		conn := dialUntil(t, "unix", s.path(socket))
		defer conn.Close()
		if data, err := io.ReadAll(conn); string(data) != want || err != nil {
			t.Errorf("-L: read %q, error %v, want %q", data, err, want)
		}
	}
	if shown, err := os.ReadFile(errs); err != nil || !strings.Contains(string(shown), sentence) {
		t.Errorf("ssh wrote %q, %v", shown, err)
	}
	r.stop()
	lines := r.log.all(msgRefusal)
	var requested []string
	for _, l := range lines {
		requested = append(requested, l.text("requested"))
		if l.text("kind") != kindForward || l.text("reason") != sentence || l.text("owner") != "local:alice" {
			t.Errorf("line %v", l)
		}
	}
	if want := []string{"db.internal:5433", "db.internal:8100", "db.internal:5433"}; !slices.Equal(requested, want) {
		t.Errorf("refused %q, want %q", requested, want)
	}
	if dialed := r.network.dials(); strings.Contains(dialed, "5433") || strings.Contains(dialed, "8100") {
		t.Errorf("dialled %s", dialed)
	}
}

func TestDynamicForwardReachesTheHost(t *testing.T) {
	r := start(t)
	r.resolver.results["web.internal"] = [][]netip.Addr{addrs("10.0.0.1")}
	r.host("10.0.0.1:80", func(conn net.Conn) {
		defer conn.Close()
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err == nil {
			fmt.Fprintf(conn, "HTTP/1.0 200 OK\r\n\r\nhello from %s", request.Host)
		}
	})
	s, port := r.openSSH(), fmt.Sprint(freeport.Port(t))
	s.hold("-N", "-D", "127.0.0.1:"+port, "bastion")
	r.connected(1)
	dialUntil(t, "tcp", "127.0.0.1:"+port).Close()
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5h", Host: "127.0.0.1:" + port})}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get("http://web.internal/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); string(body) != "hello from web.internal" || err != nil {
		t.Errorf("got %q, %v", body, err)
	}
}

// The private host is another server, whose console prints its name.
func TestJumpReachesTheHost(t *testing.T) {
	host, r := start(t), start(t)
	r.host("10.0.0.1:22", func(conn net.Conn) {
		defer conn.Close()
		target, err := net.Dial("tcp", host.address)
		if err != nil {
			t.Error(err)
			return
		}
		defer target.Close()
		go func() {
			_, _ = io.Copy(struct{ io.Writer }{target}, conn)
			halfClose(target)
		}()
		_, _ = io.Copy(struct{ io.Writer }{conn}, target)
	})
	s := r.openSSH()
	s.write("known_hosts", fmt.Appendf(nil, "bastion %s\n10.0.0.1 %s\n", r.table.LastReport().HostKey, host.table.LastReport().HostKey))
	host.private = r.private
	if err := host.table.Write(func(l *bastion.Lease) { l.Keys, l.Name = []bastion.Key{authorized(r.key)}, "private-host" }); err != nil {
		t.Fatal(err)
	}
	host.awaitReport("has the key in force", func(report bastion.Report) bool { return report.Generation == 2 })
	got := s.ssh("", "-J", "bastion", "-i", s.path("id"), "-o", "IdentitiesOnly=yes", "10.0.0.1", "status")
	if got.status != 0 || !strings.Contains(got.stdout, "private-host") {
		t.Errorf("%+v", got)
	}
}

// An idle OpenSSH client replies to keepalives, which counts as use. A client that is
// stopped with SIGSTOP does not reply, although its kernel still acknowledges data. After
// Timing.Silence it is cut, and the idle time counts from its last reply.
func TestFrozenOpenSSHClientDoesNotPreventTheIdleEnd(t *testing.T) {
	const idle = 300 * time.Millisecond
	r := start(t, func(r *fixture) {
		r.table.Lease.IdleTimeout = time.Hour
		r.cfg.Timing.Keepalive, r.cfg.Timing.Silence = 100*time.Millisecond, 5*time.Second
		r.cfg.LeaseTiming.Report = 50 * time.Millisecond
		r.cfg.Timing.Grace = 50 * time.Millisecond
	})
	client := r.openSSH().hold("-N", "bastion")
	r.connected(1)
	if err := r.table.Write(func(l *bastion.Lease) { l.IdleTimeout = idle }); err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(3 * idle)
	r.awaitReport("has a use after three idle time-outs", func(report bastion.Report) bool {
		return report.Connections == 1 && report.LastUsedAt.After(until)
	})
	if err := client.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if code := r.exit(); code != bastion.ExitOK {
		t.Errorf("exit code %d, want 0", code)
	}
	if ending := r.table.LastReport().Ending.Reason; ending != bastion.EndIdle {
		t.Errorf("end reason %q, want idle", ending)
	}
	if result := r.log.await(t, msgConnection, 1).text("result"); result != causeDead.result {
		t.Errorf("connection result %q, want %q", result, causeDead.result)
	}
}
