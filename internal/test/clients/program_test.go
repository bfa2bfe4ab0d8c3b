//go:build conformance

package clients

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/freeport"
)

// program is a client with a command line.
type program interface {
	// command returns the command line that runs a request. Its forward, if the request is
	// one, listens on the local port.
	command(r request, localPort string) *exec.Cmd
	// rekeyed reports whether the standard error of a request shows a second key exchange.
	rekeyed(stderr string) bool
}

// running returns a driver that runs a program once for each request.
func running(t testing.TB, p program) driver {
	return func(r request) result {
		t.Helper()
		localPort := ""
		if r.op == "forward" {
			localPort = fmt.Sprint(freeport.Port(t))
		}
		command := p.command(r, localPort)
		command.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal to ask on
		if r.op == "forward" {
			return overLocalPort(t, command, localPort, r.file)
		}
		return toItsEnd(t, p, command, r)
	}
}

func toItsEnd(t testing.TB, p program, command *exec.Cmd, r request) result {
	t.Helper()
	var stdout io.Writer
	var text, stderr bytes.Buffer
	received := counter{hash: sha256.New()}
	stdout = &text
	if r.file != "" {
		stdout = &received
		file, err := os.Open(r.file)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		command.Stdin = file
	}
	command.Stdout, command.Stderr = stdout, &stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer killAfterTimeout(command)()
	if err := command.Wait(); err != nil {
		return result{text: strings.TrimSpace(strings.ReplaceAll(stderr.String(), "\r", ""))}
	}
	if r.file == "" {
		return result{ok: true, text: text.String()}
	}
	got := received.String()
	if r.op == "rekey" && p.rekeyed(stderr.String()) {
		got += " rekeyed"
	}
	return result{ok: true, text: got}
}

// overLocalPort starts a client that listens on a local port, and runs the operation pipe
// through it.
func overLocalPort(t testing.TB, command *exec.Cmd, port, file string) result {
	t.Helper()
	var stderr bytes.Buffer
	command.Stderr = &stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = command.Wait()
	}()
	defer func() {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
		<-ended
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			defer conn.Close()
			return pipe(t, conn.(*net.TCPConn), file)
		}
		select {
		case <-ended:
			return result{text: stderr.String()}
		case <-tick.C:
		}
	}
}

func pipe(t testing.TB, conn *net.TCPConn, path string) result {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(content); err != nil {
		return result{text: err.Error()}
	}
	if err := conn.CloseWrite(); err != nil {
		return result{text: err.Error()}
	}
	received := counter{hash: sha256.New()}
	if _, err := io.Copy(&received, conn); err != nil {
		return result{text: err.Error()}
	}
	return result{ok: true, text: received.String()}
}

// quoted returns a command line for a shell. No argument has a quotation mark.
func quoted(args ...string) string { return "'" + strings.Join(args, "' '") + "'" }

// openSSH is ssh, with further options of ssh_config.
type openSSH struct {
	t       testing.TB
	options string
}

func (o openSSH) command(r request, localPort string) *exec.Cmd {
	dir := o.t.TempDir()
	config := fmt.Sprintf(`StrictHostKeyChecking yes
UserKnownHostsFile %s
GlobalKnownHostsFile /dev/null
IdentityFile %s
IdentitiesOnly yes
IdentityAgent none
BatchMode yes
User bastion
%s`, r.known, r.key, o.options)
	file := filepath.Join(dir, "config")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		o.t.Fatal(err)
	}
	args := []string{"-F", file}
	server := []string{"-p", r.server.port, r.server.host}
	switch r.op {
	case "status":
		args = append(append(args, server...), "status")
	case "jump":
		args = append(args, "-J", r.server.String(), "-p", r.target.port, r.target.host, "status")
	case "forward":
		args = append(append(args, "-N", "-o", "ExitOnForwardFailure=yes", "-L", "127.0.0.1:"+localPort+":"+r.target.String()), server...)
	case "pipe":
		args = append(append(args, "-W", r.target.String()), server...)
	case "rekey":
		args = append(append(args, "-v", "-o", fmt.Sprintf("RekeyLimit=%d", size/2), "-W", r.target.String()), server...)
	}
	command := exec.Command("ssh", args...)
	command.Env = environment(dir)
	return command
}

func (o openSSH) rekeyed(stderr string) bool {
	return strings.Count(stderr, "SSH2_MSG_NEWKEYS received") > 1
}

// plink is PuTTY's client. Its keys have PuTTY's format.
type plink struct {
	t              testing.TB
	path, puttygen string
}

func (p plink) command(r request, localPort string) *exec.Cmd {
	dir := p.t.TempDir()
	key := r.key + ".ppk"
	if _, err := os.Stat(key); err != nil {
		convert(p.t, p.puttygen, r.key, "-O", "private", "-o", key)
	}
	if r.op == "rekey" {
		sessions := filepath.Join(dir, ".putty", "sessions")
		if err := os.MkdirAll(sessions, 0o700); err != nil {
			p.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sessions, "rekey"), fmt.Appendf(nil, "RekeyBytes=%d\n", size/2), 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	args := []string{"-batch", "-noagent", "-i", key}
	to := func(e endpoint) []string {
		args := []string{"-P", e.port, "-l", "bastion"}
		for _, line := range knownKeys(p.t, r.known, e) {
			args = append(args, "-hostkey", strings.Fields(line)[1]) // as in README
		}
		return append(args, e.host)
	}
	through := append(append([]string{p.path}, args...), append([]string{"-nc", r.target.String()}, to(r.server)...)...)
	switch r.op {
	case "status":
		args = append(append(args, to(r.server)...), "status")
	case "jump":
		args = append(append(append(args, "-proxycmd", quoted(through...)), to(r.target)...), "status")
	case "forward":
		args = append(append(args, "-N", "-L", "127.0.0.1:"+localPort+":"+r.target.String()), to(r.server)...)
	case "pipe":
		args = through[1:]
	case "rekey":
		args = append([]string{"-v", "-load", "rekey"}, through[1:]...)
	}
	command := exec.Command(p.path, args...)
	command.Env = environment(dir)
	return command
}

func (p plink) rekeyed(stderr string) bool {
	return strings.Count(stderr, "Initialised") > 4 // two ciphers and two MACs of the first key exchange
}

// dbclient is Dropbear's client. Its keys have Dropbear's format, and its known hosts have
// no ports.
type dbclient struct {
	t             testing.TB
	path, convert string
	libraries     string // folder of its shared libraries
}

func (d dbclient) command(r request, localPort string) *exec.Cmd {
	dir := d.t.TempDir()
	key := r.key + ".dropbear"
	if _, err := os.Stat(key); err != nil {
		convert(d.t, "env", "LD_LIBRARY_PATH="+d.libraries, d.convert, "openssh", "dropbear", r.key, key)
	}
	var known string
	for _, e := range []endpoint{r.server, r.target} {
		for _, line := range knownKeys(d.t, r.known, e) {
			known += e.host + " " + line + "\n"
		}
	}
	if err := os.Mkdir(filepath.Join(dir, ".ssh"), 0o700); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".ssh", "known_hosts"), []byte(known), 0o600); err != nil {
		d.t.Fatal(err)
	}
	args := []string{"-i", key}
	to := func(e endpoint) []string { return []string{"-p", e.port, "bastion@" + e.host} }
	through := append(append([]string{d.path}, args...), append([]string{"-B", r.target.String()}, to(r.server)...)...)
	switch r.op {
	case "status":
		args = append(append(args, to(r.server)...), "status")
	case "jump":
		args = append(append(append(args, "-J", quoted(through...)), to(r.target)...), "status")
	case "forward":
		args = append(append(args, "-N", "-L", "127.0.0.1:"+localPort+":"+r.target.String()), to(r.server)...)
	case "pipe":
		args = through[1:]
	}
	command := exec.Command(d.path, args...)
	command.Env = append(environment(dir), "LD_LIBRARY_PATH="+d.libraries)
	return command
}

func (dbclient) rekeyed(string) bool { return false }

func convert(t testing.TB, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
}

// knownKeys returns the keys of an endpoint in a known_hosts file, without its name.
func knownKeys(t testing.TB, file string, of endpoint) (keys []string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if key, found := strings.CutPrefix(line, fmt.Sprintf("[%s]:%s ", of.host, of.port)); found {
			keys = append(keys, strings.TrimSpace(key))
		}
	}
	return keys
}
