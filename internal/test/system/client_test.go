//go:build conformance

package system

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// apiUser calls the API with curl and connects with ssh, from one source address.
type apiUser struct {
	deployment *deployment
	user       string // USER or ROLE/SESSION; empty: unsigned
	sourceIP   string
	keyFile    string // the private key
	sshConfig  string // the file of the saved configuration
	hostAlias  string // the Host of that configuration
}

// apiResponse holds the parts of a response that the tests read.
type apiResponse struct {
	Status                                     int `json:"-"`
	Body                                       string
	ID, Owner, State, Stage, Source, Host, SSH string
	HostKey                                    string `json:"host_key"`
	Code                                       string // of a problem
	Keys                                       []string
	Deadline                                   time.Time
	Ended                                      struct{ Reason string }
	Bastions                                   []struct{ ID, State string }
}

// curl calls the API and returns the status and the body.
func (u *apiUser) curl(t *testing.T, args ...string) (status int, body string) {
	t.Helper()
	path := args[len(args)-1]
	args = append([]string{"--silent", "--show-error", "--max-time", "60", "--interface", u.sourceIP, "--write-out", "\n%{http_code}"}, args[:len(args)-1]...)
	if u.user != "" {
		args = append(args, "--user", u.user+":")
	}
	out, err := exec.Command("curl", append(args, u.deployment.url+path)...).Output()
	if err != nil {
		t.Fatalf("curl %v %s: %v\n%s", args, path, err, out)
	}
	cut := bytes.LastIndexByte(out, '\n')
	if _, err := fmt.Sscan(string(out[cut+1:]), &status); err != nil {
		t.Fatalf("curl %s: %s", path, out)
	}
	return status, string(out[:cut])
}

// call calls the API and decodes the JSON response.
func (u *apiUser) call(t *testing.T, args ...string) apiResponse {
	t.Helper()
	status, body := u.curl(t, args...)
	a := apiResponse{Status: status, Body: body}
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		t.Fatalf("curl %v returned %d %s: %v", args, status, body, err)
	}
	return a
}

// expect calls the API and checks the status and the state. An empty state matches any. If
// the request has waitHeader and the bastion still starts, because the machine is busy,
// expect waits until it is ready.
func (u *apiUser) expect(t *testing.T, status int, state string, args ...string) apiResponse {
	t.Helper()
	a := u.call(t, args...)
	if slices.Contains(args, waitHeader) {
		for giveUp := time.Now().Add(waitLimit); a.Status == status && a.State == "starting" && state == "ready" && time.Now().Before(giveUp); {
			a = u.call(t, "--header", waitHeader, "/bastions/"+a.ID)
			if a.Status == http.StatusOK {
				a.Status = status
			}
		}
	}
	if a.Status != status || state != "" && a.State != state {
		t.Fatalf("curl %v returned %d %s, want %d %s", args, a.Status, a.Body, status, state)
	}
	return a
}

// waitHeader asks the API to respond when the bastion is ready, or after 25 seconds.
const waitHeader = "Prefer: wait=25"

func (u *apiUser) publicKeyArgument() string { return "@" + u.keyFile + ".pub" }

// onlyKeyArgument returns the body that makes the user's key the only one.
func (u *apiUser) onlyKeyArgument(t *testing.T) string {
	key, err := os.ReadFile(u.keyFile + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"public_key": %q, "only_key": true}`, strings.TrimSpace(string(key)))
}

// generateKey makes a key pair with ssh-keygen. The user's later commands use it.
func (u *apiUser) generateKey(t *testing.T) {
	t.Helper()
	u.keyFile = filepath.Join(t.TempDir(), "id_ed25519")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", u.keyFile).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
}

// saveSSHConfig saves the API's text response as an ssh_config file and appends the line
// for the user's key.
func (u *apiUser) saveSSHConfig(t *testing.T, id string) {
	t.Helper()
	status, text := u.curl(t, "--header", "Accept: text/plain", "--header", waitHeader, "/bastions/"+id)
	if status != 200 || !strings.Contains(text, "Host bastion-default") || !strings.Contains(text, "StrictHostKeyChecking yes") {
		t.Fatalf("the text response is %d %s", status, text)
	}
	u.sshConfig, u.hostAlias = filepath.Join(t.TempDir(), "bastion-default.conf"), "bastion-default"
	if err := os.WriteFile(u.sshConfig, []byte(text+"  IdentityFile "+u.keyFile+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ssh returns a command of OpenSSH's client that uses the saved configuration.
func (u *apiUser) ssh(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), "ssh", append([]string{
		"-F", u.sshConfig, "-b", u.sourceIP, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=20",
	}, args...)...)
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "SSH_AUTH_SOCK=") {
			command.Env = append(command.Env, entry)
		}
	}
	return command
}

// console runs a command of the status console and returns its output.
func (u *apiUser) console(t *testing.T, command string) (string, error) {
	t.Helper()
	out, err := u.ssh(t, u.hostAlias, command).CombinedOutput()
	return string(out), err
}

// tunnel is a connection through a bastion to the private host.
type tunnel struct {
	command *exec.Cmd
	stdin   io.WriteCloser
	stdout  *bufio.Reader
	ended   chan error
}

// openTunnel opens a tunnel with ssh -W.
func (u *apiUser) openTunnel(t *testing.T, target string) *tunnel {
	t.Helper()
	command := u.ssh(t, "-W", target, u.hostAlias)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	tun := &tunnel{command, in, bufio.NewReader(out), make(chan error, 1)}
	t.Cleanup(func() {
		_ = in.Close()
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Logf("ssh -W printed: %s", &stderr)
		}
	})
	return tun
}

// checkEcho sends a line and checks that the private host sends it back.
func (tun *tunnel) checkEcho(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(tun.stdin, line+"\n"); err != nil {
		t.Fatalf("send %q through the bastion: %v", line, err)
	}
	got, err := tun.stdout.ReadString('\n')
	if err != nil || got != line+"\n" {
		t.Fatalf("sent %q through the bastion, got %q: %v", line, got, err)
	}
}

// checkCut waits until the bastion closes the tunnel.
func (tun *tunnel) checkCut(t *testing.T) {
	t.Helper()
	go func() {
		_, err := tun.stdout.ReadByte()
		tun.ended <- err
	}()
	select {
	case err := <-tun.ended:
		if err != io.EOF {
			t.Fatalf("the tunnel ended with %v", err)
		}
	case <-time.After(waitLimit):
		t.Fatal("the tunnel is still open")
	}
}

// privateHost starts an echo server on the private network and returns its address.
func privateHost(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.99.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return l.Addr().String()
}
