package httpapi_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/publickey"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// runSSH runs the OpenSSH client and returns all its output.
func runSSH(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	return run(t, "ssh", args...)
}

func run(t *testing.T, program string, args ...string) (output string, err error) {
	t.Helper()
	client := sshclient.New(t)
	stdout, stderr, err := client.Run("", client.Command(program, args...))
	return stderr + stdout, err
}

func TestSSHAcceptsTheGoldenFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.conf")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d golden files, %v", len(files), err)
	}
	for _, file := range files {
		out, err := runSSH(t, "-G", "-F", file, "bastion-default")
		if err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}

// bothKeys returns the words that the KnownHostsCommand of a bastion prints.
func bothKeys(host string) string {
	return host + " " + string(hostKey) + " " + host + " " + string(rsaHost)
}

func TestSSHUnderstandsTheConfiguration(t *testing.T) {
	for file, hosts := range map[string]map[string]string{
		"ready.conf":             {"bastion-default": "198.51.100.24:2222 bastion " + bothKeys("[198.51.100.24]:2222")},
		"ready-ipv6.conf":        {"bastion-default": "2001:db8:1::24:2222 bastion " + bothKeys("[2001:db8:1::24]:2222")},
		"ready-port-22.conf":     {"bastion-db": "198.51.100.25:22 bastion " + bothKeys("198.51.100.25")},
		"ready-with-target.conf": {"private.internal": "private.internal:22 demo private.internal " + string(privateHost.HostKey)},
		"list.conf": {
			"bastion-default": "198.51.100.24:2222 bastion " + bothKeys("[198.51.100.24]:2222"),
			"bastion-db":      "198.51.100.25:22 bastion " + bothKeys("198.51.100.25"),
		},
	} {
		for host, want := range hosts {
			out, err := runSSH(t, "-G", "-F", filepath.Join("testdata", file), host)
			if err != nil {
				t.Fatalf("%s: %v\n%s", file, err, out)
			}
			is := map[string]string{}
			for line := range strings.Lines(out) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
				is[name] = value
			}
			got := is["hostname"] + ":" + is["port"] + " " + is["user"] + " " + strings.TrimPrefix(is["knownhostscommand"], `/usr/bin/env printf "%%s %%s %%s\n" `)
			if got != want {
				t.Errorf("%s, %s: %s\nwant %s", file, host, got, want)
			}
			if ciphers := is["ciphers"]; strings.HasPrefix(host, "bastion-") != (ciphers == "aes128-gcm@openssh.com,aes256-gcm@openssh.com") {
				t.Errorf("%s, %s: the ciphers are %s", file, host, ciphers)
			}
			if is["userknownhostsfile"] != "/dev/null" || is["globalknownhostsfile"] != "/dev/null" || is["stricthostkeychecking"] != "true" {
				t.Errorf("%s, %s: files %s and %s, strict %s", file, host, is["userknownhostsfile"], is["globalknownhostsfile"], is["stricthostkeychecking"])
			}
		}
	}
}

// local is the API in front of a real SSH server on loopback.
func local(t *testing.T) *fixture {
	t.Helper()
	r := newFixture()
	r.options.Targets = []httpapi.Target{privateHost}
	source := netip.MustParsePrefix("127.0.0.1/32")
	r.rec = ready()
	r.rec.Intent.Source, r.rec.Group.Ingress = source, source
	r.rec.Attempt.Endpoints = []netip.AddrPort{newBastion(t)}
	r.rec.Attempt.MoreHostKeys = []bastion.Key{publickey.Of(rsaSigner().PublicKey())}
	return r
}

// identity returns the file of the private key that the record has.
func identity(t *testing.T) string {
	t.Helper()
	return sshclient.WriteKey(t, privateKeyOf(1))
}

// saved writes the text response to a file, with lines appended.
func saved(t *testing.T, r *fixture, appended string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bastion-default.conf")
	text := r.send("GET", "/bastions/"+someID, "", "Accept", "text/plain").Body.String()
	if err := os.WriteFile(path, []byte(text+appended), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// With the unchanged response and one line for the key, a stock client reaches the
// private host through the bastion without a prompt.
func TestSSHThroughTheBastion(t *testing.T) {
	r := local(t)
	file := saved(t, r, "IdentityFile "+identity(t)+"\nBatchMode yes\n")
	for target, want := range map[string]string{
		"private.internal": "the private host answers\n",
		"bastion-default":  "the bastion answers\n",
	} {
		args := []string{"-F", file}
		if target == "private.internal" {
			args = append(args, "-J", "bastion-default")
		}
		out, err := runSSH(t, append(args, target, "true")...)
		if err != nil || out != want {
			t.Errorf("%s: %v\n%s", target, err, out)
		}
	}
}

// A client that accepts RSA host keys only, as in FIPS mode, gets in by both forms, too.
func TestSSHWithTheRSAHostKeyOnly(t *testing.T) {
	r := local(t)
	const rsaOnly = "HostKeyAlgorithms rsa-sha2-512,rsa-sha2-256"
	file := saved(t, r, "IdentityFile "+identity(t)+"\nBatchMode yes\n"+rsaOnly+"\n")
	if out, err := runSSH(t, "-F", file, "bastion-default", "true"); err != nil || out != "the bastion answers\n" {
		t.Errorf("%v\n%s", err, out)
	}
	command, _ := get(t, r)["ssh"].(string)
	given := "ssh -F none -o BatchMode=yes -o '" + rsaOnly + "' -i " + identity(t) + " "
	if out, err := run(t, "sh", "-c", strings.Replace(command, "ssh ", given, 1)); err != nil || !strings.Contains(out, "the bastion answers\n") {
		t.Errorf("%s: %v\n%s", command, err, out)
	}
	r.rec.Attempt.MoreHostKeys = []bastion.Key{rsaHost} // the key of another server
	file = saved(t, r, "IdentityFile "+identity(t)+"\nBatchMode yes\n"+rsaOnly+"\n")
	if out, err := runSSH(t, "-F", file, "bastion-default", "true"); err == nil || !strings.Contains(out, "Host key verification failed") {
		t.Errorf("with another RSA key: %v\n%s", err, out)
	}
}

// The field ssh is a complete shell command except for the key.
func TestConsoleCommandOpensTheConsole(t *testing.T) {
	r := local(t)
	command, _ := get(t, r)["ssh"].(string)
	given := "ssh -F none -o BatchMode=yes -i " + identity(t) + " "
	out, err := run(t, "sh", "-c", strings.Replace(command, "ssh ", given, 1))
	if err != nil || !strings.Contains(out, "the bastion answers\n") {
		t.Errorf("%s: %v\n%s", command, err, out)
	}
}

// The client refuses a bastion or a private host with another host key than the
// one in the response.
func TestSSHRefusesAnotherHostKey(t *testing.T) {
	for name, lie := range map[string]func(*fixture){
		"the bastion": func(r *fixture) { r.rec.Attempt.HostKey = keyOf(9) },
		"the target": func(r *fixture) {
			r.options.Targets = []httpapi.Target{{Name: privateHost.Name, User: privateHost.User, HostKey: keyOf(9)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := local(t)
			lie(r)
			file := saved(t, r, "IdentityFile "+identity(t)+"\nBatchMode yes\n")
			out, err := runSSH(t, "-F", file, "-J", "bastion-default", "private.internal", "true")
			if err == nil || !strings.Contains(out, "Host key verification failed") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// sshServer is an SSH server that accepts userKey, replies to every command with its
// own name, and forwards "private.internal:22" to another one that has no port.
type sshServer struct {
	name    string
	config  *ssh.ServerConfig
	private *sshServer // nil: it forwards nothing
	done    *sync.WaitGroup
}

// newBastion starts a bastion on loopback in front of a private host with the key of
// privateHost. Both end with the test.
func newBastion(t *testing.T) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := &sync.WaitGroup{}
	server := &sshServer{"bastion", serverConfig("bastion", 2), &sshServer{"private host", serverConfig(privateHost.User, 4), nil, done}, done}
	done.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			done.Go(func() { server.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		done.Wait()
	})
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// rsaSigner returns the RSA host key of the bastion on loopback.
var rsaSigner = sync.OnceValue(func() ssh.Signer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		panic(err)
	}
	return signer
})

func serverConfig(user string, hostKeySeed byte) *ssh.ServerConfig {
	config := &ssh.ServerConfig{PublicKeyCallback: func(conn ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if conn.User() != user || !bytes.Equal(key.Marshal(), signerOf(1).PublicKey().Marshal()) {
			return nil, errors.New("another user or key")
		}
		return &ssh.Permissions{}, nil
	}}
	config.AddHostKey(signerOf(hostKeySeed))
	if user == "bastion" {
		config.AddHostKey(rsaSigner())
	}
	return config
}

func (s *sshServer) serve(conn net.Conn) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	s.done.Go(func() { ssh.DiscardRequests(requests) })
	for offered := range channels {
		switch {
		case offered.ChannelType() == "session":
			s.done.Go(func() { s.response(offered) })
		case offered.ChannelType() == "direct-tcpip" && s.private != nil:
			s.done.Go(func() { s.forward(offered) })
		default:
			_ = offered.Reject(ssh.UnknownChannelType, "not here")
		}
	}
}

// response writes the server's name in reply to the first command or shell.
func (s *sshServer) response(offered ssh.NewChannel) {
	channel, requests, err := offered.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	for request := range requests {
		started := request.Type == "exec" || request.Type == "shell"
		_ = request.Reply(started, nil)
		if started {
			fmt.Fprintf(channel, "the %s answers\n", s.name)
			_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
			return
		}
	}
}

func (s *sshServer) forward(offered ssh.NewChannel) {
	var to struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}
	if err := ssh.Unmarshal(offered.ExtraData(), &to); err != nil || to.Host != privateHost.Name || to.Port != 22 {
		_ = offered.Reject(ssh.ConnectionFailed, "no such host")
		return
	}
	channel, requests, err := offered.Accept()
	if err != nil {
		return
	}
	s.done.Go(func() { ssh.DiscardRequests(requests) })
	here, there := net.Pipe()
	s.done.Go(func() { s.private.serve(there) })
	s.done.Go(func() {
		_, _ = io.Copy(here, channel)
		_ = here.Close()
	})
	_, _ = io.Copy(channel, here)
	_ = channel.Close()
}
