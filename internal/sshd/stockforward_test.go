package sshd

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// hold starts a stock ssh that stays, and ends it after the test.
func (s stock) hold(args ...string) *exec.Cmd {
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

// freePort is a port that nothing listens on.
func freePort(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// connected waits until n connections are open.
func (r *rig) connected(n int) {
	r.t.Helper()
	r.awaitReport(fmt.Sprintf("counts %d connections", n), func(report bastion.Report) bool { return report.Connections == n })
}

// dialUntil connects to what a client that is starting will listen on.
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

func TestLocalForwardWithDestinationThatEndsFirst(t *testing.T) {
	got := make(chan int64, 1)
	r := start(t)
	r.host("10.0.0.1:7", func(conn net.Conn) {
		defer conn.Close()
		_, _ = io.WriteString(conn, "bye")
		halfClose(conn)
		n, _ := io.Copy(io.Discard, conn)
		got <- n
	})
	s := r.stock()
	s.hold("-N", "-L", s.path("l")+":10.0.0.1:7", "bastion")
	r.connected(1)
	conn := dialUntil(t, "unix", s.path("l"))
	defer conn.Close()
	if said, err := io.ReadAll(conn); string(said) != "bye" || err != nil {
		t.Fatalf("it said %q, %v", said, err)
	}
	if _, err := io.CopyN(conn, zeros{}, 5<<20); err != nil {
		t.Fatal(err)
	}
	halfClose(conn)
	if n := <-got; n != 5<<20 {
		t.Errorf("%d bytes arrived, want %d", n, 5<<20)
	}
}

func TestDynamicForward(t *testing.T) {
	r := start(t)
	r.names.answers["web.internal"] = [][]netip.Addr{addrs("10.0.0.1")}
	r.host("10.0.0.1:80", func(conn net.Conn) {
		defer conn.Close()
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err == nil {
			fmt.Fprintf(conn, "HTTP/1.0 200 OK\r\n\r\nhello from %s", request.Host)
		}
	})
	s, port := r.stock(), freePort(t)
	s.hold("-N", "-D", "127.0.0.1:"+port, "bastion")
	r.connected(1)
	dialUntil(t, "tcp", "127.0.0.1:"+port).Close()
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5h", Host: "127.0.0.1:" + port})}
	defer transport.CloseIdleConnections()
	answer, err := (&http.Client{Transport: transport}).Get("http://web.internal/")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); string(body) != "hello from web.internal" || err != nil {
		t.Errorf("got %q, %v", body, err)
	}
}

// The host behind the bastion is another bastion: its console answers.
func TestJump(t *testing.T) {
	behind, r := start(t), start(t)
	r.host("10.0.0.1:22", func(conn net.Conn) {
		defer conn.Close()
		onward, err := net.Dial("tcp", behind.address)
		if err != nil {
			t.Error(err)
			return
		}
		defer onward.Close()
		go func() {
			_, _ = io.Copy(struct{ io.Writer }{onward}, conn)
			halfClose(onward)
		}()
		_, _ = io.Copy(struct{ io.Writer }{conn}, onward)
	})
	s := r.stock()
	s.write("known_hosts", fmt.Appendf(nil, "bastion %s\n10.0.0.1 %s\n", r.table.LastReport().HostKey, behind.table.LastReport().HostKey))
	behind.private = r.private
	if err := behind.table.Write(func(l *bastion.Lease) { l.Keys, l.Name = []bastion.Key{authorized(r.key)}, "behind" }); err != nil {
		t.Fatal(err)
	}
	behind.awaitReport("has the key in force", func(report bastion.Report) bool { return report.Generation == 2 })
	got := s.ssh("", "-J", "bastion", "-i", s.path("id"), "-o", "IdentitiesOnly=yes", "10.0.0.1", "status")
	if got.status != 0 || !strings.Contains(got.stdout, "behind") {
		t.Errorf("%+v", got)
	}
}
