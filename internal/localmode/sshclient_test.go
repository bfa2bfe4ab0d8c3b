package localmode

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// sshClient is the stock ssh client with an SSH agent of its own, so that ssh finds
// the keys while the ssh_config stays exactly as the API returned it.
type sshClient struct {
	t      testing.TB
	socket string
	keys   agent.Agent
}

func newSSHClient(t testing.TB) *sshClient {
	t.Helper()
	return newSSHClientWith(t, agent.NewKeyring())
}

// newSSHClientWith returns a client that uses the given agent.
func newSSHClientWith(t testing.TB, keys agent.Agent) *sshClient {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // the path of t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	w := &sshClient{t: t, socket: filepath.Join(dir, "s"), keys: keys}
	listener, err := net.Listen("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_ = agent.ServeAgent(w.keys, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
		_ = os.RemoveAll(dir)
	})
	return w
}

// addKey adds a new key to the agent and returns the content of its .pub file.
func (w *sshClient) addKey(kind string) string {
	w.t.Helper()
	private, err := makeKey(kind)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.keys.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		w.t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(authorizedKey(signer.PublicKey())) + " test@laptop\n"
}

func makeKey(kind string) (crypto.PrivateKey, error) {
	switch kind {
	case "rsa":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "ecdsa":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return &private, err
}

// command returns an ssh command. It has no terminal, so it cannot ask questions.
func (w *sshClient) command(config string, args ...string) *exec.Cmd {
	w.t.Helper()
	path, err := exec.LookPath("ssh")
	if err != nil {
		w.t.Fatal("the OpenSSH client is not installed (Debian: apt-get install openssh-client)")
	}
	command := exec.Command(path, append([]string{"-F", config}, args...)...)
	command.Env = []string{"SSH_AUTH_SOCK=" + w.socket, "PATH=" + os.Getenv("PATH")}
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	command.WaitDelay = time.Second // for helpers that outlive the client
	return command
}

// run runs a command to its end and returns its output.
func (w *sshClient) run(stdin string, command *exec.Cmd) (stdout, stderr string, err error) {
	w.t.Helper()
	var out, errs bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &out, &errs
	stop := time.AfterFunc(timeout, func() { _ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) })
	defer stop.Stop()
	err = command.Run()
	return out.String(), errs.String(), err
}

// tunnel is a running ssh client.
type tunnel struct {
	t       testing.TB
	command *exec.Cmd
	input   io.WriteCloser
	lines   *bufio.Reader
	errs    bytes.Buffer
	ended   chan struct{}
}

// open starts a client and waits until its connection and its forwards are set up:
// ssh runs LocalCommand then.
func (w *sshClient) open(config string, args ...string) *tunnel {
	w.t.Helper()
	up := []string{"-o", "PermitLocalCommand=yes", "-o", "LocalCommand=echo up", "-o", "ExitOnForwardFailure=yes"}
	tun := &tunnel{t: w.t, command: w.command(config, append(up, args...)...), ended: make(chan struct{})}
	output, err := tun.command.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if tun.input, err = tun.command.StdinPipe(); err != nil {
		w.t.Fatal(err)
	}
	tun.lines, tun.command.Stderr = bufio.NewReader(output), &tun.errs
	if err := tun.command.Start(); err != nil {
		w.t.Fatal(err)
	}
	first := make(chan string, 1)
	go func() {
		defer close(tun.ended)
		line, _ := tun.lines.ReadString('\n')
		first <- line
		_, _ = io.Copy(io.Discard, tun.lines)
		_ = tun.command.Wait()
	}()
	w.t.Cleanup(tun.close)
	select {
	case line := <-first:
		if line != "up\n" {
			tun.close()
			w.t.Fatalf("%s: %q\n%s", tun.command, line, tun.errs.String())
		}
	case <-time.After(timeout):
		tun.close()
		w.t.Fatalf("%s: not connected after %s\n%s", tun.command, timeout, tun.errs.String())
	}
	return tun
}

// alive reports whether the client is still connected.
func (tun *tunnel) alive() bool {
	select {
	case <-tun.ended:
		return false
	default:
		return true
	}
}

// awaitEnd waits until the client has lost its connection.
func (tun *tunnel) awaitEnd() {
	tun.t.Helper()
	select {
	case <-tun.ended:
	case <-time.After(timeout):
		tun.t.Errorf("the connection was not closed: %s", tun.command)
	}
}

// close kills the client and its children.
func (tun *tunnel) close() {
	_ = syscall.Kill(-tun.command.Process.Pid, syscall.SIGKILL)
	<-tun.ended
}
