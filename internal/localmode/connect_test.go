package localmode

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
	"github.com/bastion-on-demand/bastion/internal/sshd"
	"github.com/bastion-on-demand/bastion/internal/test/freeport"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// wantPage checks for the page of the private host, reached through the bastion.
func wantPage(t *testing.T, page, id string) {
	t.Helper()
	if !strings.Contains(page, "this is private.internal") || !strings.Contains(page, "bastion "+id) {
		t.Errorf("not the private host's page through bastion %s: %q", id, page)
	}
}

func fetchPage(t *testing.T, transport *http.Transport, address string) string {
	t.Helper()
	transport.DisableKeepAlives = true
	client := http.Client{Transport: transport, Timeout: timeout}
	resp, err := client.Get(address)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return string(page)
}

func TestStockClientReachesPrivateHost(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	key := w.AddKey("ed25519")
	s := f.create(request{body: key})
	if s.status != http.StatusCreated {
		t.Errorf("first POST: status %d", s.status)
	}
	config := f.sshConfig(request{body: key})

	t.Run("-W to HTTP", func(t *testing.T) {
		out, errs, err := w.Run("GET /w HTTP/1.0\r\n\r\n", w.SSH(config, "-W", "private.internal:80", "bastion-default"))
		if err != nil {
			t.Errorf("%v: %s", err, errs)
		}
		wantPage(t, out, s.ID)
	})
	t.Run("-L to HTTP", func(t *testing.T) {
		port := fmt.Sprint(freeport.Port(t))
		tun := w.Open(config, "-N", "-L", "127.0.0.1:"+port+":private.internal:80", "bastion-default")
		defer tun.Close()
		wantPage(t, fetchPage(t, &http.Transport{}, "http://127.0.0.1:"+port+"/l"), s.ID)
	})
	t.Run("-D to HTTP", func(t *testing.T) {
		port := fmt.Sprint(freeport.Port(t))
		tun := w.Open(config, "-N", "-D", "127.0.0.1:"+port, "bastion-default")
		defer tun.Close()
		proxy := &url.URL{Scheme: "socks5h", Host: "127.0.0.1:" + port}
		wantPage(t, fetchPage(t, &http.Transport{Proxy: http.ProxyURL(proxy)}, "http://private.internal/d"), s.ID)
	})
	t.Run("-J to SSH", func(t *testing.T) {
		out, errs, err := w.Run("", w.SSH(config, "-J", "bastion-default", "private.internal", "hostname"))
		if err != nil || out != "private.internal\n" {
			t.Errorf("%q, %v: %s", out, err, errs)
		}
	})
}

func TestEveryKeyTypeCanConnect(t *testing.T) {
	f := start(t, nil)
	for _, kind := range []string{"rsa", "ecdsa", "ed25519"} {
		w := sshclient.New(t)
		config := f.sshConfig(request{owner: kind, body: w.AddKey(kind)})
		out, errs, err := w.Run("", w.SSH(config, "-J", "bastion-default", "private.internal", "whoami"))
		if err != nil {
			t.Errorf("%s: %q, %v: %s", kind, out, err, errs)
		}
	}
}

func TestTenOtherKeysInTheAgentDoNotLockTheOwnerOut(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	for range 10 {
		w.AddKey("ed25519")
	}
	config := f.sshConfig(request{body: w.AddKey("ed25519")})
	out, errs, err := w.Run("", w.SSH(config, "-J", "bastion-default", "private.internal", "hostname"))
	if err != nil || out != "private.internal\n" {
		t.Errorf("%q, %v: %s", out, err, errs)
	}
}

// A client that has no ed25519, curve25519 or AES-GCM gets in with the ssh_config of the
// response, unless the bastions are strict.
func TestAlgorithmsFlag(t *testing.T) {
	older := []string{"-o", "HostKeyAlgorithms=rsa-sha2-512", "-o", "KexAlgorithms=diffie-hellman-group14-sha256", "-o", "Ciphers=aes256-ctr"}
	for set, want := range map[string]struct {
		keys   int
		stderr string // empty if it gets in
	}{"compatible": {2, ""}, "strict": {1, "no matching key exchange method found"}} {
		f, w := start(t, func(o *Options) {
			o.SSHAlgorithms = set
			o.task = func(server *sshd.Config) { server.LeaseTiming.HostKeys = timeout }
		}), sshclient.New(t)
		config := f.sshConfig(request{body: w.AddKey("ecdsa")})
		_, errs, err := w.Run("", w.SSH(config, append(older, "bastion-default", "status")...))
		if (err == nil) != (want.stderr == "") || !strings.Contains(errs, want.stderr) {
			t.Errorf("%s: an older client: %v: %s", set, err, errs)
		}
		if _, errs, err := w.Run("", w.SSH(config, "bastion-default", "status")); err != nil {
			t.Errorf("%s: %v: %s", set, err, errs)
		}
		if got := f.create(request{}).HostKeys; len(got) != want.keys {
			t.Errorf("%s: the host keys are %q", set, got)
		}
	}
}

func TestOneOwnerHasTwoNamedBastions(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	key := strings.TrimSpace(w.AddKey("ed25519"))
	first := f.create(request{body: key})
	second := f.create(request{body: `{"name":"db"}`})
	if first.ID == second.ID {
		t.Fatal("two names, but one bastion")
	}
	config := f.file("db.conf", second.SSHConfig)
	out, errs, err := w.Run("GET / HTTP/1.0\r\n\r\n", w.SSH(config, "-W", "private.internal:80", "bastion-db"))
	if err != nil {
		t.Errorf("%v: %s", err, errs)
	}
	wantPage(t, out, second.ID)
}

func TestOtherDestinationsAreRefused(t *testing.T) {
	f, w := start(t, nil), sshclient.New(t)
	config := f.sshConfig(request{body: w.AddKey("ed25519")})
	for _, test := range []struct{ to, want string }{
		{"127.0.0.1:80", "administratively prohibited"},
		{"169.254.170.2:80", "administratively prohibited"},
		{"203.0.113.9:80", "administratively prohibited"},
		{"10.200.200.200:80", "no route to host"},
		{"private.internal:443", "connection refused"},
		{"localhost:80", "found no address for localhost"},
		{"example.com:80", "found no address for example.com"},
	} {
		out, errs, err := w.Run("", w.SSH(config, "-W", test.to, "bastion-default"))
		if err == nil || out != "" || !strings.Contains(errs, test.want) {
			t.Errorf("%s: %q, %v: %s, want %q", test.to, out, err, errs, test.want)
		}
	}
}

// serveHTTP starts a server on this machine until the end of the test, and returns its port.
func serveHTTP(t *testing.T) (port string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "from this machine") })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	return port
}

func TestAllowOpensLoopback(t *testing.T) {
	port := serveHTTP(t)
	f, w := start(t, func(o *Options) { o.Allow = []string{"127.0.0.0/8"} }), sshclient.New(t)
	config := f.sshConfig(request{body: w.AddKey("ed25519")})
	for _, host := range []string{"127.0.0.1", "localhost"} {
		out, errs, err := w.Run("GET / HTTP/1.0\r\n\r\n", w.SSH(config, "-W", host+":"+port, "bastion-default"))
		if err != nil || !strings.Contains(out, "from this machine") {
			t.Errorf("%s: %q, %v: %s", host, out, err, errs)
		}
	}
}

// On AWS, a bastion refuses the same ports with the same sentences.
func TestAllowOpensOnePort(t *testing.T) {
	port := serveHTTP(t)

	f, w := start(t, func(o *Options) { o.Allow = []string{"127.0.0.1/32:" + port, "192.168.7.0/24:5432"} }), sshclient.New(t)
	config := f.sshConfig(request{body: w.AddKey("ed25519")})
	for to, want := range map[string]string{
		"127.0.0.1:" + port:   "from this machine",
		"private.internal:80": "HTTP/1.0 200 OK",
	} {
		out, errs, err := w.Run("GET / HTTP/1.0\r\n\r\n", w.SSH(config, "-W", to, "bastion-default"))
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %q, %v: %s", to, out, err, errs)
		}
	}
	for to, want := range map[string]string{
		"127.0.0.1:1":      "This bastion does not connect there: 127.0.0.1 is allowed on port " + port + " only.",
		"localhost:1":      "This bastion does not connect to localhost: 127.0.0.1 is allowed on port " + port + " only.",
		"192.168.7.7:5433": "192.168.7.7 is allowed on port 5432 only.",
		"192.168.8.7:5432": "192.168.8.7 is not among the destinations",
	} {
		out, errs, err := w.Run("", w.SSH(config, "-W", to, "bastion-default"))
		if err == nil || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%s: %q, %v: %s, want %q", to, out, err, errs, want)
		}
	}
}

func TestIPv6EndToEnd(t *testing.T) {
	f, w := start(t, func(o *Options) { o.Listen = "[::1]:0" }), sshclient.New(t)
	key := w.AddKey("ed25519")
	s := f.create(request{body: key})
	if s.Source != "::1/128" || s.State != bastion.Ready {
		t.Errorf("source %s, state %s", s.Source, s.State)
	}
	out, errs, err := w.Run("", w.SSH(f.sshConfig(request{body: key}), "-J", "bastion-default", "private.internal", "hostname"))
	if err != nil || out != "private.internal\n" {
		t.Errorf("%q, %v: %s", out, err, errs)
	}
}

// securityKeyAgent is an agent with one security key, which a keyring
// cannot hold.
type securityKeyAgent struct {
	agent.Agent // an empty keyring
	key         ssh.Signer
}

func (a securityKeyAgent) List() ([]*agent.Key, error) {
	public := a.key.PublicKey()
	return []*agent.Key{{Format: public.Type(), Blob: public.Marshal(), Comment: "security key"}}, nil
}

func (a securityKeyAgent) Sign(_ ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return a.key.Sign(rand.Reader, data)
}

func TestSecurityKeyCanConnect(t *testing.T) {
	f, key := start(t, nil), sshclient.NewSecurityKey(t, ssh.KeyAlgoSKED25519, sshclient.UserPresent)
	w := sshclient.NewWithAgent(t, securityKeyAgent{agent.NewKeyring(), key})
	config := f.sshConfig(request{body: string(publickey.Of(key.PublicKey()))})
	out, errs, err := w.Run("", w.SSH(config, "-J", "bastion-default", "private.internal", "hostname"))
	if err != nil || out != "private.internal\n" {
		t.Errorf("%q, %v: %s", out, err, errs)
	}
}
