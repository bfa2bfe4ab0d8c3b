package sshd

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// stock is the directory of a stock OpenSSH client that is set up for a rig's
// bastion as an owner would be: host key known, strict checking on.
type stock struct {
	t      testing.TB
	dir    string
	client *sshclient.Client
}

// stock sets up a client with the owner's key.
func (r *rig) stock() stock {
	r.t.Helper()
	s := stock{r.t, r.t.TempDir(), sshclient.New(r.t)}
	block, err := ssh.MarshalPrivateKey(r.private, "")
	if err != nil {
		r.t.Fatal(err)
	}
	s.write("id", pem.EncodeToMemory(block))
	host, port, err := net.SplitHostPort(r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	s.write("known_hosts", fmt.Appendf(nil, "bastion %s\n", r.table.LastReport().HostKey))
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

// withoutKey is the client's configuration without the owner's key.
func (s stock) withoutKey() string {
	s.t.Helper()
	config, err := os.ReadFile(s.path("config"))
	if err != nil {
		s.t.Fatal(err)
	}
	key := fmt.Appendf(nil, "	IdentityFile %s\n", s.path("id"))
	s.write("config2", bytes.Replace(config, key, nil, 1))
	return s.path("config2")
}

func (s stock) path(name string) string { return filepath.Join(s.dir, name) }

func (s stock) write(name string, data []byte) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// command returns a program of the OpenSSH client, with the client's configuration.
func (s stock) command(program string, args ...string) *exec.Cmd {
	s.t.Helper()
	return s.client.Command(program, append([]string{"-F", s.path("config")}, args...)...)
}

// outcome is what a program wrote, and its exit status.
type outcome struct {
	stdout, stderr string
	status         int
}

// ssh runs a stock ssh to its end.
func (s stock) ssh(stdin string, args ...string) outcome {
	s.t.Helper()
	return s.finish(s.command("ssh", args...), stdin)
}

func (s stock) finish(cmd *exec.Cmd, stdin string) outcome {
	s.t.Helper()
	stdout, stderr, err := s.client.Run(stdin, cmd)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%v: %v", cmd.Args, err)
	}
	return outcome{stdout, stderr, cmd.ProcessState.ExitCode()}
}
