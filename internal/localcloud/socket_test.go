package localcloud

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// realTask is a cloud with sockets and one running task.
type realTask struct {
	fixture
	task    bastion.Task
	process Process
}

func newRealTask(t *testing.T, host netip.Addr) realTask {
	t.Helper()
	out := make(processes, 1)
	f := newFixture(t, Config{Host: host, Runner: out})
	r := realTask{fixture: f, task: f.run(t, 1)}
	r.process = <-out
	return r
}

func (r realTask) admit(t *testing.T, addr string) {
	t.Helper()
	source := netip.MustParseAddr(addr)
	if err := r.Groups().Authorize(t.Context(), r.group.ID, netip.PrefixFrom(source, source.BitLen())); err != nil {
		t.Fatal(err)
	}
}

// serve sends a greeting to each connection and echoes what it receives.
func (r realTask) serve(t *testing.T) net.Listener {
	t.Helper()
	l, err := r.process.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.WriteString(c, "hello\n")
				// The structs keep io.Copy from using splice(2), for which the standard
				// library keeps pipes open.
				_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			}()
		}
	}()
	return l
}

// dial connects to the task from an address.
func (r realTask) dial(t *testing.T, from string) (net.Conn, error) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Minute}
	c, err := d.Dial("tcp", r.process.Addr.String())
	if err == nil {
		t.Cleanup(func() { c.Close() })
		err = c.SetDeadline(time.Now().Add(5 * time.Minute))
	}
	return c, err
}

// greeting connects to the task from an address, and returns the connection and the
// first bytes that it receives.
func (r realTask) greeting(t *testing.T, from string) (net.Conn, string) {
	t.Helper()
	c, err := r.dial(t, from)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 6)
	n, _ := io.ReadFull(c, got)
	return c, string(got[:n])
}

func TestConnectionsAreRefusedUntilTheTaskListens(t *testing.T) {
	for _, host := range []netip.Addr{loopback, netip.MustParseAddr("::1")} {
		r := newRealTask(t, host)
		r.admit(t, host.String())
		if got := r.described(t).Endpoints; len(got) != 1 || got[0] != r.process.Addr || got[0].Addr() != host {
			t.Errorf("the task's endpoints are %v, the process is at %s", got, r.process.Addr)
		}
		if _, err := r.dial(t, host.String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("before the task listens: %v", err)
		}
		if l := r.serve(t); l.Addr().String() != r.process.Addr.String() {
			t.Errorf("the task listens on %s, not on %s", l.Addr(), r.process.Addr)
		}
		if _, got := r.greeting(t, host.String()); got != "hello\n" {
			t.Errorf("the greeting is %q", got)
		}
		if _, err := r.process.Listen(); err == nil {
			t.Error("Listen succeeded twice")
		}
	}
}

func TestGroupIsEnforcedOnEachAccept(t *testing.T) {
	r := newRealTask(t, loopback)
	r.serve(t)
	r.admit(t, "127.0.0.1")
	first, got := r.greeting(t, "127.0.0.1")
	if got != "hello\n" {
		t.Errorf("the admitted address receives %q", got)
	}
	if c, got := r.greeting(t, "127.0.0.2"); got != "" {
		t.Errorf("another address receives %q", got)
	} else if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Errorf("another address stays connected: %v", err)
	}

	r.admit(t, "127.0.0.2")
	group, err := r.Groups().Describe(t.Context(), id, r.group.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Groups().Revoke(t.Context(), r.group.ID, group.Ingress[0]); err != nil {
		t.Fatal(err)
	}
	if _, got := r.greeting(t, "127.0.0.2"); got != "hello\n" {
		t.Errorf("the newly admitted address receives %q", got)
	}
	if _, got := r.greeting(t, "127.0.0.1"); got != "" {
		t.Errorf("the revoked address receives %q", got)
	}
	echo := make([]byte, 4)
	if _, err := io.WriteString(first, "echo"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(first, echo); err != nil || string(echo) != "echo" {
		t.Errorf("the open connection receives %q, %v", echo, err)
	}
}

func TestEndOfTheProcessClosesItsSockets(t *testing.T) {
	ends := map[string]func(realTask){
		"kill": func(r realTask) { r.Kill(r.task.ID) },
		"stop": func(r realTask) { r.stop(t, r.task.ID) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			r := newRealTask(t, loopback)
			r.serve(t)
			r.admit(t, "127.0.0.1")
			c, _ := r.greeting(t, "127.0.0.1")
			end(r)
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection is still open: %v", err)
			}
			r.Close() // waits until the task has stopped
			if _, err := r.dial(t, "127.0.0.1"); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("new connection: %v", err)
			}
			if _, err := r.process.Listen(); !errors.Is(err, errKilled) {
				t.Errorf("Listen after the end: %v", err)
			}
		})
	}
}

func TestAcceptedConnectionsSupportHalfClose(t *testing.T) {
	r := newRealTask(t, loopback)
	r.admit(t, "127.0.0.1")
	l, err := r.process.Listen()
	if err != nil {
		t.Fatal(err)
	}
	client, err := r.dial(t, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := server.(syscall.Conn); !ok {
		t.Error("the connection is not a syscall.Conn")
	}
	if err := server.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the client reads %v", err)
	}
	if _, err := io.WriteString(client, "x"); err != nil {
		t.Fatal(err)
	}
	if n, err := server.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("the server reads %d bytes, %v", n, err)
	}
	if server.Close(); len(r.tasks[r.task.ID].process.conns) != 0 {
		t.Error("a closed connection is still registered")
	}
}

func TestStartFailsIfTheHostCannotBeBound(t *testing.T) {
	changed := make(chan struct{}, len(wholeLife))
	f := newFixture(t, Config{Host: netip.MustParseAddr("192.0.2.1"), OnTask: func(string, string) { changed <- struct{}{} }})
	f.run(t, 1)
	for f.only(t).Status != bastion.TaskStopped {
		<-changed
	}
	task := f.only(t)
	if task.StopCode != "TaskFailedToStart" || task.ExitCode != nil || !strings.Contains(task.StopReason, "bind to 192.0.2.1") {
		t.Errorf("the task is %+v", task)
	}
}
