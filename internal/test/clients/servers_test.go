//go:build conformance

package clients

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leasefile"
	"github.com/bastion-on-demand/bastion/internal/publickey"
	"github.com/bastion-on-demand/bastion/internal/test/freeport"
)

// size is the number of bytes that each client sends, and receives.
const size = 64 << 20

// endpoint is a host and a port.
type endpoint struct{ host, port string }

func (e endpoint) String() string { return net.JoinHostPort(e.host, e.port) }

// servers has everything that the clients connect to, and the files that they need.
type servers struct {
	folder string // for files

	compatible, strict endpoint // bastions
	private            endpoint // the SSH server of a private host

	upload, download, greeting, forbidden endpoint // destinations
	forbiddenConns                        atomic.Int64

	keys     map[string]string // paths of admitted private keys, by name
	stranger string            // path of a private key that is not admitted

	known, wrongKnown string // known_hosts files; the keys in the second are wrong

	data, nothing string // files of size and of 0 bytes
	dataHash      string // in hexadecimal
}

// keyNames are the types of keys in the order of the table.
var keyNames = []string{"ed25519", "rsa2048", "rsa3072", "ecdsa256", "ecdsa384", "ecdsa521"}

const greetingText = "hello from the private host\n"

// startServers starts the servers. They end with the test.
func startServers(t *testing.T) *servers {
	t.Helper()
	s := &servers{folder: t.TempDir(), keys: map[string]string{}}
	var admitted []bastion.Key
	for _, name := range keyNames {
		path, public := s.newKey(t, name, name)
		s.keys[name], admitted = path, append(admitted, public)
	}
	s.stranger, _ = s.newKey(t, "stranger", "ed25519")

	content := make([]byte, size)
	_, _ = rand.Read(content)
	hash := sha256.Sum256(content)
	s.dataHash = hex.EncodeToString(hash[:])
	s.data, s.nothing = s.write(t, "data", content), s.write(t, "nothing", nil)

	s.upload = destination(t, func(conn *net.TCPConn) {
		received := sha256.New()
		if _, err := io.Copy(received, conn); err == nil {
			_, _ = io.WriteString(conn, hex.EncodeToString(received.Sum(nil)))
		}
	})
	s.download = destination(t, func(conn *net.TCPConn) {
		_, _ = conn.Write(content)
		_ = conn.CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
	})
	s.greeting = destination(t, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, greetingText)
		_ = conn.CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
	})
	s.forbidden = destination(t, func(*net.TCPConn) { s.forbiddenConns.Add(1) })

	program := filepath.Join(s.folder, "bastiond")
	build := exec.Command("go", "build", "-o", program, "./cmd/bastiond")
	build.Dir = "../../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	var known, wrong bytes.Buffer
	for _, server := range []struct {
		name       string
		host       string
		algorithms string
		into       *endpoint
		hostKeys   int
	}{
		{"private-host", "127.0.0.2", "compatible", &s.private, 2},
		{"bastion", "127.0.0.1", "compatible", &s.compatible, 2},
		{"strict-bastion", "127.0.0.1", "strict", &s.strict, 1},
	} {
		*server.into = endpoint{server.host, fmt.Sprint(freeport.Port(t))}
		lease := bastion.Lease{
			BastionID: server.name, Owner: "local:alice", Name: server.name, Generation: 1, Open: true,
			Source: netip.MustParsePrefix("127.0.0.0/8"), Keys: admitted, Deadline: time.Now().Add(2 * time.Hour),
		}
		for _, target := range []endpoint{s.private, s.upload, s.download, s.greeting} {
			address := netip.MustParseAddrPort(target.String())
			lease.AllowedDestinations = append(lease.AllowedDestinations, bastion.DestinationRule{
				Prefix: netip.PrefixFrom(address.Addr(), 32), From: address.Port(), To: address.Port()})
		}
		for _, key := range s.startBastiond(t, program, *server.into, lease, server.algorithms, server.hostKeys) {
			name := fmt.Sprintf("[%s]:%s", server.host, server.into.port)
			fmt.Fprintf(&known, "%s %s\n", name, key)
			kind := "ed25519"
			if strings.HasPrefix(string(key), "ssh-rsa ") {
				kind = "rsa3072"
			}
			_, other := s.newKey(t, fmt.Sprintf("wrong%d", wrong.Len()), kind)
			fmt.Fprintf(&wrong, "%s %s\n", name, other)
		}
	}
	s.known, s.wrongKnown = s.write(t, "known_hosts", known.Bytes()), s.write(t, "wrong_known_hosts", wrong.Bytes())
	return s
}

// startBastiond starts bastiond as a process, and returns its host keys.
func (s *servers) startBastiond(t *testing.T, program string, at endpoint, lease bastion.Lease, algorithms string, hostKeys int) []bastion.Key {
	t.Helper()
	dir := leasefile.Dir(t.TempDir())
	if err := dir.Grant(lease); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "--lease", string(dir), "--listen", at.String(),
		"--ssh-algorithms", algorithms, "--allow-loopback", "127.0.0.0/8")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(5 * time.Minute); time.Now().Before(giveUp); <-tick.C {
		if report, err := dir.Reported(); err == nil && len(report.HostKeys()) == hostKeys {
			return report.HostKeys()
		}
	}
	t.Fatalf("%s reported no %d host keys", lease.Name, hostKeys)
	return nil
}

// destination serves TCP connections on a port of 127.0.0.1, and closes each one
// afterwards. It ends with the test.
func destination(t *testing.T, serve func(*net.TCPConn)) endpoint {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
	})
	host, port, _ := net.SplitHostPort(listener.Addr().String())
	return endpoint{host, port}
}

// newKey makes a key with ssh-keygen, as people do. Its public part is in the file's
// neighbour with the ending .pub.
func (s *servers) newKey(t *testing.T, file, kind string) (path string, public bastion.Key) {
	t.Helper()
	path = filepath.Join(s.folder, file)
	algorithm, bits := kind, "256"
	if end := strings.TrimLeft(kind, "rsaecd"); kind != "ed25519" {
		algorithm, bits = strings.TrimSuffix(kind, end), end
	}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", algorithm, "-b", bits, "-N", "", "-C", "test", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	line, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	key, err := publickey.Parse(string(line))
	if err != nil {
		t.Fatal(err)
	}
	return path, key
}

func (s *servers) write(t *testing.T, name string, content []byte) (path string) {
	t.Helper()
	path = filepath.Join(s.folder, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
