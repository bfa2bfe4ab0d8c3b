// Package sshclient runs the OpenSSH client in tests, with an SSH agent of its own and
// without the machine's configuration, agent or terminal.
package sshclient

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
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

// timeout ends a client that hangs.
const timeout = 5 * time.Minute

// Client is the OpenSSH client with an agent.
type Client struct {
	t      testing.TB
	socket string
	keys   agent.Agent
}

// New returns a client whose agent has no keys yet.
func New(t testing.TB) *Client {
	t.Helper()
	return NewWithAgent(t, agent.NewKeyring())
}

// NewWithAgent returns a client that uses the given agent.
func NewWithAgent(t testing.TB, keys agent.Agent) *Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // the path of t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	c := &Client{t: t, socket: filepath.Join(dir, "s"), keys: keys}
	listener, err := net.Listen("unix", c.socket)
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
				_ = agent.ServeAgent(c.keys, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
		_ = os.RemoveAll(dir)
	})
	return c
}

// AddKey adds a new key of type ed25519, ecdsa or rsa to the agent and returns the
// content of its .pub file.
func (c *Client) AddKey(kind string) string {
	c.t.Helper()
	private, err := NewKey(kind)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.keys.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		c.t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " test@laptop\n"
}

// NewKey returns a new private key of type ed25519, ecdsa or rsa.
func NewKey(kind string) (crypto.PrivateKey, error) {
	switch kind {
	case "rsa":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "ecdsa":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return &private, err
}

// WriteKey writes a private key to a file that ssh accepts, and returns its path.
func WriteKey(t testing.TB, private crypto.PrivateKey) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// SSH returns an ssh command with a configuration file. It has no terminal, so it
// cannot prompt.
func (c *Client) SSH(config string, args ...string) *exec.Cmd {
	c.t.Helper()
	return c.Command("ssh", append([]string{"-F", config}, args...)...)
}

// Command is SSH for another program, such as sftp or a shell.
func (c *Client) Command(program string, args ...string) *exec.Cmd {
	c.t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		c.t.Fatalf("%s is not installed (the OpenSSH client in Debian: apt-get install openssh-client)", program)
	}
	command := exec.Command(path, args...)
	command.Env = []string{"SSH_AUTH_SOCK=" + c.socket, "PATH=" + os.Getenv("PATH")}
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	command.WaitDelay = time.Second // for helpers that outlive the client
	return command
}

// Run runs a command to its end and returns its output.
func (c *Client) Run(stdin string, command *exec.Cmd) (stdout, stderr string, err error) {
	c.t.Helper()
	var out, errs bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &out, &errs
	if err := command.Start(); err != nil {
		c.t.Fatal(err)
	}
	stop := time.AfterFunc(timeout, func() { _ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) })
	defer stop.Stop()
	err = command.Wait()
	return out.String(), errs.String(), err
}

// Tunnel is a running ssh client.
type Tunnel struct {
	t       testing.TB
	command *exec.Cmd
	input   io.WriteCloser
	lines   *bufio.Reader
	errs    bytes.Buffer
	ended   chan struct{}
}

// Open starts a client and waits until its connection and its forwards are set up:
// ssh runs LocalCommand then.
func (c *Client) Open(config string, args ...string) *Tunnel {
	c.t.Helper()
	up := []string{"-o", "PermitLocalCommand=yes", "-o", "LocalCommand=echo up", "-o", "ExitOnForwardFailure=yes"}
	tun := &Tunnel{t: c.t, command: c.SSH(config, append(up, args...)...), ended: make(chan struct{})}
	output, err := tun.command.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if tun.input, err = tun.command.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	tun.lines, tun.command.Stderr = bufio.NewReader(output), &tun.errs
	if err := tun.command.Start(); err != nil {
		c.t.Fatal(err)
	}
	first := make(chan string, 1)
	go func() {
		defer close(tun.ended)
		line, _ := tun.lines.ReadString('\n')
		first <- line
		_, _ = io.Copy(io.Discard, tun.lines)
		_ = tun.command.Wait()
	}()
	c.t.Cleanup(tun.Close)
	select {
	case line := <-first:
		if line != "up\n" {
			tun.Close()
			c.t.Fatalf("%s: %q\n%s", tun.command, line, tun.errs.String())
		}
	case <-time.After(timeout):
		tun.Close()
		c.t.Fatalf("%s: not connected after %s\n%s", tun.command, timeout, tun.errs.String())
	}
	return tun
}

// Alive reports whether the client is still connected.
func (tun *Tunnel) Alive() bool {
	select {
	case <-tun.ended:
		return false
	default:
		return true
	}
}

// AwaitEnd waits until the client has lost its connection.
func (tun *Tunnel) AwaitEnd() {
	tun.t.Helper()
	select {
	case <-tun.ended:
	case <-time.After(timeout):
		tun.t.Errorf("the connection was not closed: %s", tun.command)
	}
}

// Close kills the client and its children.
func (tun *Tunnel) Close() {
	_ = syscall.Kill(-tun.command.Process.Pid, syscall.SIGKILL)
	<-tun.ended
}

// Freeze stops the client's process, which then neither sends nor reads.
func (tun *Tunnel) Freeze() {
	tun.t.Helper()
	if err := syscall.Kill(tun.command.Process.Pid, syscall.SIGSTOP); err != nil {
		tun.t.Fatal(err)
	}
}
