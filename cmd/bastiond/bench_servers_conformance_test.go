//go:build conformance

package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leasefile"
	"github.com/bastion-on-demand/bastion/internal/publickey"
	"github.com/bastion-on-demand/bastion/internal/test/emulator"
	"github.com/bastion-on-demand/bastion/internal/test/freeport"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// server is a running sshd or bastiond.
type server struct {
	pid      int
	port     string
	hostKeys []string // as in a .pub file
}

// dieWithParent lets this process end when go test is killed. Servers and clients end with
// this process in the same way, so that nothing keeps running.
func dieWithParent(b *testing.B) {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0); err != nil {
		b.Fatal(err)
	}
}

// start returns a new sshd or a new bastiond, which runs until the benchmark ends.
var start = [2]func(b *testing.B, key string) *server{startSSHD, startBastiond}

// startSSHD starts sshd with its default settings, in a mount namespace in which it finds
// its user and its folder.
func startSSHD(b *testing.B, key string) *server {
	program := emulator.Tool(b, "openssh-server-*/usr/sbin/sshd")
	libraries, err := filepath.Glob(filepath.Join(filepath.Dir(program), "../lib/*-linux-gnu"))
	if err != nil || len(libraries) == 0 {
		b.Fatalf("no libraries beside %s", program)
	}
	dir := b.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // sshd reads the keys as its user
		b.Fatal(err)
	}
	write := func(name, content string) (path string) {
		path = filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			b.Fatal(err)
		}
		return path
	}
	var config strings.Builder
	var hostKeys []string
	for _, kind := range []string{"ed25519", "rsa"} {
		private, err := sshclient.NewKey(kind)
		if err != nil {
			b.Fatal(err)
		}
		signer, err := ssh.NewSignerFromKey(private)
		if err != nil {
			b.Fatal(err)
		}
		hostKeys = append(hostKeys, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))))
		fmt.Fprintf(&config, "HostKey %s\n", sshclient.WriteKey(b, private))
	}
	port := fmt.Sprint(freeport.Port(b))
	fmt.Fprintf(&config, "ListenAddress 127.0.0.1:%s\nPidFile none\nStrictModes no\nAuthorizedKeysFile %s\n", port, write("keys", key))
	users := write("passwd", "root:*:0:0::/:/bin/sh\nsshd:*:65533:65534::/:/bin/false\nbastion:*:65532:65534::/:/bin/sh\n")
	const script = `mount -t tmpfs tmpfs /run && mkdir /run/sshd && mount --bind "$1" /etc/passwd && exec "$2" -D -E "$3" -f "$4"`
	cmd := exec.Command("sh", "-c", script, "sh", users, program, filepath.Join(dir, "log"), write("config", config.String()))
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries[0])
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return started(b, cmd, port, hostKeys)
}

// startBastiond starts bastiond as it runs in a task.
func startBastiond(b *testing.B, key string) *server {
	public, err := publickey.Parse(key)
	if err != nil {
		b.Fatal(err)
	}
	dir := leasefile.Dir(b.TempDir())
	grant(b, dir, func(l *bastion.Lease) {
		l.Keys = []bastion.Key{public}
		l.AllowedDestinations = []bastion.DestinationRule{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}}
	})
	log, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	port := fmt.Sprint(freeport.Port(b))
	cmd := exec.Command(program(b), "--lease", string(dir), "--listen", "127.0.0.1:"+port, "--poll", "3s", "--allow-loopback", "127.0.0.1/32")
	cmd.Stdout = log
	cmd.Env = append(os.Environ(), taskEnvironment(b)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s := started(b, cmd, port, nil)
	ready(b, dir)
	report, err := dir.Reported()
	if err != nil {
		b.Fatal(err)
	}
	for _, key := range report.HostKeys() {
		s.hostKeys = append(s.hostKeys, string(key))
	}
	return s
}

// started starts a server and waits until it listens.
func started(b *testing.B, cmd *exec.Cmd, port string, hostKeys []string) *server {
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	b.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); <-ended })
	for {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
			return &server{cmd.Process.Pid, port, hostKeys}
		}
		select {
		case err := <-ended:
			ended <- err
			b.Fatalf("%s has ended: %v", cmd, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// cpu returns the CPU time that a server has used for connections that have ended. sshd has
// processes for each connection, whose time counts for the server when it has waited for
// them.
func (s *server) cpu(b *testing.B) time.Duration {
	s.settle(b)
	fields := stat(s.pid)
	var ticks int
	for _, field := range fields[11:15] { // utime, stime, cutime and cstime: see proc(5)
		n, err := strconv.Atoi(field)
		if err != nil {
			b.Fatalf("/proc/%d/stat: %v", s.pid, fields)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ is 100 on all systems that Go supports
}

// settle waits until the server has no processes for connections.
func (s *server) settle(b *testing.B) {
	for len(s.tree(b)) > 1 {
		time.Sleep(time.Millisecond)
	}
}

// memory returns the memory of the server's processes. What processes share counts once.
func (s *server) memory(b *testing.B) (bytes int64) {
	for _, pid := range s.tree(b) {
		rollup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		_, after, found := strings.Cut(string(rollup), "\nPss:")
		if !found {
			continue // the process has ended
		}
		var size int64
		if _, err := fmt.Sscanf(after, "%d kB", &size); err != nil {
			b.Fatalf("no Pss in:\n%s", rollup)
		}
		bytes += size << 10
	}
	return bytes
}

// tree returns the processes of the server.
func (s *server) tree(b *testing.B) (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		b.Fatal(err)
	}
	parents := map[int]int{}
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			if fields := stat(pid); fields != nil {
				parents[pid], _ = strconv.Atoi(fields[1])
			}
		}
	}
	for pid := range parents {
		for p := pid; p != 0; p = parents[p] {
			if p == s.pid {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// stat returns the fields of a process after its name: its state, its parent, and so on; nil
// if it has ended.
func stat(pid int) []string {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(content)[strings.LastIndexByte(string(content), ')')+1:])
}
