package localmode

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// pasted asks for a bastion as text and keeps the answer as it stands.
func (r *rig) pasted(c call) (config string) {
	r.t.Helper()
	c.method, c.path = "POST", "/bastions"
	c.header = map[string]string{"Prefer": "wait=10", "Accept": "text/plain"}
	s := r.do(c)
	if s.status != http.StatusCreated && s.status != http.StatusOK || !strings.Contains(s.text, "Host bastion-") {
		r.t.Fatalf("asked for a bastion as text, got %d: %s", s.status, s.text)
	}
	return r.file(fmt.Sprintf("%s%s.conf", c.owner, c.from), s.text)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// wantPage checks that the private host's page came, through the bastion.
func wantPage(t *testing.T, page, id string) {
	t.Helper()
	if !strings.Contains(page, "this is private.internal") || !strings.Contains(page, "bastion "+id) {
		t.Errorf("not the private host's page through bastion %s: %q", id, page)
	}
}

func fetchPage(t *testing.T, transport *http.Transport, address string) string {
	t.Helper()
	transport.DisableKeepAlives = true
	client := http.Client{Transport: transport, Timeout: patience}
	answer, err := client.Get(address)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	return string(page)
}

func TestStockClientReachesThePrivateHost(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	key := w.add("ed25519")
	s := r.up(call{body: key})
	if s.status != http.StatusCreated {
		t.Errorf("status %d of the first request", s.status)
	}
	config := r.pasted(call{body: key})

	t.Run("-W to HTTP", func(t *testing.T) {
		out, errs, err := w.run("GET /w HTTP/1.0\r\n\r\n", w.ssh(config, "-W", "private.internal:80", "bastion-default"))
		if err != nil {
			t.Errorf("%v: %s", err, errs)
		}
		wantPage(t, out, s.ID)
	})
	t.Run("-L to HTTP", func(t *testing.T) {
		port := freePort(t)
		tun := w.open(config, "-N", "-L", "127.0.0.1:"+port+":private.internal:80", "bastion-default")
		defer tun.close()
		wantPage(t, fetchPage(t, &http.Transport{}, "http://127.0.0.1:"+port+"/l"), s.ID)
	})
	t.Run("-D to HTTP", func(t *testing.T) {
		port := freePort(t)
		tun := w.open(config, "-N", "-D", "127.0.0.1:"+port, "bastion-default")
		defer tun.close()
		proxy := &url.URL{Scheme: "socks5h", Host: "127.0.0.1:" + port}
		wantPage(t, fetchPage(t, &http.Transport{Proxy: http.ProxyURL(proxy)}, "http://private.internal/d"), s.ID)
	})
	t.Run("-J to SSH", func(t *testing.T) {
		out, errs, err := w.run("", w.ssh(config, "-J", "bastion-default", "private.internal", "hostname"))
		if err != nil || out != "private.internal\n" {
			t.Errorf("%q, %v: %s", out, err, errs)
		}
	})
}

func TestEveryKindOfKeyGetsIn(t *testing.T) {
	r := start(t, nil)
	for _, kind := range []string{"rsa", "ecdsa", "ed25519"} {
		w := newWallet(t)
		config := r.pasted(call{owner: kind, body: w.add(kind)})
		out, errs, err := w.run("", w.ssh(config, "-J", "bastion-default", "private.internal", "whoami"))
		if err != nil {
			t.Errorf("%s: %q, %v: %s", kind, out, err, errs)
		}
	}
}

func TestTenOtherKeysDoNotLockTheRightOneOut(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	for range 10 {
		w.add("ed25519")
	}
	config := r.pasted(call{body: w.add("ed25519")})
	out, errs, err := w.run("", w.ssh(config, "-J", "bastion-default", "private.internal", "hostname"))
	if err != nil || out != "private.internal\n" {
		t.Errorf("%q, %v: %s", out, err, errs)
	}
}

// Two bastions of one owner, and a name that is not the default.
func TestNamesMakeFurtherBastions(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	key := strings.TrimSpace(w.add("ed25519"))
	first := r.up(call{body: key})
	second := r.up(call{body: `{"name":"db"}`})
	if first.ID == second.ID {
		t.Fatal("two names, one bastion")
	}
	config := r.file("db.conf", second.SSHConfig)
	out, errs, err := w.run("GET / HTTP/1.0\r\n\r\n", w.ssh(config, "-W", "private.internal:80", "bastion-db"))
	if err != nil {
		t.Errorf("%v: %s", err, errs)
	}
	wantPage(t, out, second.ID)
}

func TestOtherDestinationsAreRefused(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	config := r.pasted(call{body: w.add("ed25519")})
	for _, test := range []struct{ to, says string }{
		{"127.0.0.1:80", "administratively prohibited"},
		{"169.254.170.2:80", "administratively prohibited"},
		{"203.0.113.9:80", "administratively prohibited"},
		{"10.200.200.200:80", "no route to host"},
		{"private.internal:443", "connection refused"},
		{"localhost:80", "found no address for localhost"},
		{"example.com:80", "found no address for example.com"},
	} {
		out, errs, err := w.run("", w.ssh(config, "-W", test.to, "bastion-default"))
		if err == nil || out != "" || !strings.Contains(errs, test.says) {
			t.Errorf("%s: %q, %v: %s, want %q", test.to, out, err, errs, test.says)
		}
	}
}

func TestAllowReachesThisMachine(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "of this machine") })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() { _ = server.Close(); <-served }()

	r, w := start(t, func(o *Options) { o.Allow = []string{"127.0.0.0/8"} }), newWallet(t)
	if !strings.Contains(r.log.String(), "names loopback") {
		t.Error("the log does not say that loopback is open")
	}
	config := r.pasted(call{body: w.add("ed25519")})
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost"} {
		out, errs, err := w.run("GET / HTTP/1.0\r\n\r\n", w.ssh(config, "-W", host+":"+port, "bastion-default"))
		if err != nil || !strings.Contains(out, "of this machine") {
			t.Errorf("%s: %q, %v: %s", host, out, err, errs)
		}
	}
}

func TestIPv6(t *testing.T) {
	r, w := start(t, func(o *Options) { o.Listen = "[::1]:0" }), newWallet(t)
	key := w.add("ed25519")
	s := r.up(call{body: key})
	if s.Source != "::1/128" || s.State != bastion.Ready {
		t.Errorf("source %s, state %s", s.Source, s.State)
	}
	out, errs, err := w.run("", w.ssh(r.pasted(call{body: key}), "-J", "bastion-default", "private.internal", "hostname"))
	if err != nil || out != "private.internal\n" {
		t.Errorf("%q, %v: %s", out, err, errs)
	}
}
