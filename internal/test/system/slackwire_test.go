//go:build conformance

package system

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// This file holds how the Slack function comes to Slack.

// certify makes a certificate of these names and of loopback, which vouches for
// itself, and a file of it.
func newCertificate(t testing.TB, names ...string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test's"}, DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "trusted.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, file
}

// serveTLS is serve, over TLS.
func (s *fakeSlack) serveTLS(t testing.TB, handler http.Handler) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{s.certificate}}
	server.StartTLS()
	t.Cleanup(func() {
		server.Close()
		s.tunnels.Wait()
	})
	return server.URL
}

// tunnel is the proxy: there is a way to Slack, and to nobody else.
func (s *fakeSlack) tunnel(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect || r.Host != "hooks.slack.com:443" && r.Host != "slack.com:443" {
		s.reject(w, http.StatusForbidden, "a way to "+r.Host, "no such way")
		return
	}
	inner, err := net.Dial("tcp", s.hostsAddress)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	outer, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		inner.Close()
		return
	}
	_, _ = io.WriteString(outer, "HTTP/1.1 200 Connection established\r\n\r\n")
	s.tunnels.Go(func() {
		defer outer.Close()
		defer inner.Close()
		var both sync.WaitGroup
		both.Go(func() { pipe(inner.(halfCloser), outer) })
		both.Go(func() { pipe(outer.(halfCloser), inner) })
		both.Wait()
	})
}
