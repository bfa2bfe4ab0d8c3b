package sshd

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// stock is the directory of a stock OpenSSH client that is set up for a rig's
// bastion as an owner would be: host key known, strict checking on.
type stock struct {
	t   testing.TB
	dir string
}

// stock sets up a client with the owner's key.
func (r *rig) stock() stock {
	r.t.Helper()
	s := stock{r.t, r.t.TempDir()}
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

// command is a stock program with the client's configuration.
func (s stock) command(program string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	s.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, append([]string{"-F", s.path("config")}, args...)...)
	// Neither this machine's agent nor its display.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}
	return cmd
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
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewBufferString(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%v: %v", cmd.Args, err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}
