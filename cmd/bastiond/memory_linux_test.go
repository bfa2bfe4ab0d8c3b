package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leasefile"
	"github.com/bastion-on-demand/bastion/internal/publickey"
	"github.com/bastion-on-demand/bastion/internal/test/freeport"
)

// 250 uploads to a destination that reads nothing must leave most of a task's 512 MB.
// Without a limit, they took 594 MB by one connection and 739 MB by ten.
func TestStuckUploadsUseLimitedMemory(t *testing.T) {
	const uploads, limit = 250, 300 << 20
	program := program(t) // with the race detector, the test binary uses much more memory
	for _, connections := range []int{1, 10} {
		t.Run(fmt.Sprintf("%d connections", connections), func(t *testing.T) {
			_, private, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			key, err := ssh.NewSignerFromKey(private)
			if err != nil {
				t.Fatal(err)
			}
			dir := leasefile.Dir(t.TempDir())
			grant(t, dir, func(l *bastion.Lease) {
				l.Keys = []bastion.Key{publickey.Of(key.PublicKey())}
				l.AllowedDestinations = []bastion.DestinationRule{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}}
			})
			address := "127.0.0.1:" + fmt.Sprint(freeport.Port(t))
			cmd := exec.Command(program, "--lease", string(dir), "--listen", address, "--poll", "10ms", "--allow-loopback", "127.0.0.1/32")
			cmd.Env = append(os.Environ(), taskEnvironment(t)...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			ready(t, dir)
			dial := func() *ssh.Client {
				report, err := dir.Reported()
				if err != nil {
					t.Fatal(err)
				}
				hostKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(report.HostKey))
				if err != nil {
					t.Fatal(err)
				}
				client, err := ssh.Dial("tcp", address, &ssh.ClientConfig{
					User: "bastion", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(hostKey),
					HostKeyAlgorithms: []string{hostKey.Type()},
				})
				if err != nil {
					t.Fatal(err)
				}
				return client
			}

			stuck := host(t, func(conn net.Conn) {})
			echo := host(t, func(conn net.Conn) { _, _ = io.Copy(struct{ io.Writer }{conn}, conn) })
			var sent atomic.Int64
			var writers sync.WaitGroup
			defer writers.Wait()
			var forwards []net.Conn
			for range connections {
				client := dial()
				defer client.Close()
				for range uploads / connections {
					conn, err := client.Dial("tcp", stuck)
					if err != nil {
						t.Fatal(err)
					}
					forwards = append(forwards, conn)
				}
			}
			for _, conn := range forwards {
				writers.Go(func() {
					block := make([]byte, 32<<10)
					for {
						n, err := conn.Write(block)
						sent.Add(int64(n))
						if err != nil {
							return
						}
					}
				})
			}
			awaitStill(&sent)
			memory := peakMemory(t, cmd.Process.Pid)
			t.Logf("%d MB at most, after %d MB were sent", memory>>20, sent.Load()>>20)
			if memory > limit {
				t.Errorf("bastiond has used %d MB, want at most %d", memory>>20, limit>>20)
			}

			other := dial()
			defer other.Close()
			conn, err := other.Dial("tcp", echo)
			if err != nil {
				t.Fatal(err)
			}
			message := strings.Repeat("message ", 1<<17)
			go func() { _, _ = io.WriteString(conn, message) }()
			got := make([]byte, len(message))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != message {
				t.Errorf("the other client's echo differs, error %v", err)
			}
		})
	}
}

// program builds bastiond and returns its path.
func program(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bastiond")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return path
}

var goVariable = regexp.MustCompile(`- \{Name: (GO[A-Z]+), Value: '?([0-9A-Za-z]+)'?\}`)

// taskEnvironment returns the variables by which the task definition sets up Go's garbage
// collector and scheduler.
func taskEnvironment(t testing.TB) (environ []string) {
	t.Helper()
	template, err := os.ReadFile("../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range goVariable.FindAllStringSubmatch(string(template), -1) {
		environ = append(environ, match[1]+"="+match[2])
	}
	if len(environ) != 3 {
		t.Fatalf("template.yaml sets %v, want GOGC, GOMEMLIMIT and GOMAXPROCS", environ)
	}
	return environ
}

// host calls serve with each connection to the returned address. It closes the
// connections at the end of the test. Their kernel buffers are small.
func host(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 128<<10)
		}), err)
	}}
	listener, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepting, serving sync.WaitGroup
	var conns []net.Conn
	accepting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
			serving.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		accepting.Wait()
		for _, conn := range conns {
			conn.Close()
		}
		serving.Wait()
	})
	return listener.Addr().String()
}

// awaitStill waits until a counter does not change any more for a second. On a busy
// machine it may return too early, and the test then sees less memory than there is later.
func awaitStill(counter *atomic.Int64) {
	for last := int64(-1); last != counter.Load(); time.Sleep(time.Second) {
		last = counter.Load()
	}
}

// peakMemory returns the most memory that a process has had in use.
func peakMemory(t *testing.T, pid int) (bytes int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscanf(after, "%d kB", &bytes); !found || err != nil {
		t.Fatalf("no VmHWM in:\n%s", status)
	}
	return bytes << 10
}
