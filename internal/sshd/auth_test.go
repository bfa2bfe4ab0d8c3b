package sshd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

func signer(t testing.TB, key any, err error) ssh.Signer {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEveryAcceptedKeyTypeIsAdmitted(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 3072)
	keys := map[string]ssh.Signer{
		"ed25519":         newKey(t),
		"rsa":             signer(t, rsaKey, err),
		"sk-ed25519":      sshclient.NewSecurityKey(t, ssh.KeyAlgoSKED25519, sshclient.UserPresent),
		"sk-ecdsa":        sshclient.NewSecurityKey(t, ssh.KeyAlgoSKECDSA256, sshclient.UserPresent),
		"sk with a PIN":   sshclient.NewSecurityKey(t, ssh.KeyAlgoSKED25519, sshclient.UserPresent|sshclient.UserVerified),
		"rsa by sha2-256": algorithm(t, signer(t, rsaKey, err), ssh.KeyAlgoRSASHA256),
		"rsa by sha2-512": algorithm(t, signer(t, rsaKey, err), ssh.KeyAlgoRSASHA512),
	}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		keys["ecdsa "+curve.Params().Name] = signer(t, key, err)
	}
	r := start(t, func(r *fixture) {
		r.table.Lease.Keys = nil
		for _, key := range keys {
			r.table.Lease.Keys = append(r.table.Lease.Keys, authorized(key))
		}
	})
	for name, key := range keys {
		client, err := r.dialWith(r.client(ssh.PublicKeys(key)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		client.Close()
	}
	r.stop()
	admitted := map[string]bool{}
	for _, l := range r.log.all(msgConnection) {
		admitted[l.text("key")] = true
	}
	for name, key := range keys {
		if !admitted[ssh.FingerprintSHA256(key.PublicKey())] {
			t.Errorf("no connection line has the key %s", name)
		}
	}
	if refusals := r.log.all(msgRefusal); len(refusals) > 0 {
		t.Errorf("refusals: %v", refusals)
	}
}

// algorithm returns an RSA key that signs with the given algorithm only.
func algorithm(t testing.TB, key ssh.Signer, name string) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerWithAlgorithms(key.(ssh.AlgorithmSigner), []string{name})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wantRefused runs a server, checks that it refuses a client with the credentials that
// change returns, and returns the refusal line.
func wantRefused(t *testing.T, reason string, change func(*fixture) []ssh.AuthMethod) line {
	t.Helper()
	var auth []ssh.AuthMethod
	r := start(t, func(r *fixture) { auth = change(r) })
	if client, err := r.dialWith(r.client(auth...)); err == nil {
		client.Close()
		t.Fatal("the client was admitted")
	}
	l := r.refusal(kindAuthentication, reason)
	if lines := r.log.all(msgConnection); len(lines) > 0 {
		t.Errorf("connection lines of an unauthenticated client: %v", lines)
	}
	return l
}

func TestWrongKeyIsRefused(t *testing.T) {
	wrong := newKey(t)
	fingerprint := ssh.FingerprintSHA256(wrong.PublicKey())
	l := wantRefused(t, "is not admitted", func(*fixture) []ssh.AuthMethod { return []ssh.AuthMethod{ssh.PublicKeys(wrong)} })
	if got := l.text("keys_refused"); got != "["+fingerprint+"]" {
		t.Errorf("keys_refused %s, want %s", got, fingerprint)
	}
	if l.text("user") != "bastion" || !strings.Contains(l.text("methods"), "publickey") {
		t.Errorf("line %v, want user bastion and method publickey", l)
	}
}

func TestWrongKeysGetOneBanner(t *testing.T) {
	r := start(t)
	first := newKey(t)
	config := r.client(ssh.PublicKeys(first, newKey(t), newKey(t)))
	shown := banners(config)
	if _, err := r.dialWith(config); err == nil {
		t.Fatal("the client was admitted")
	}
	if want := []string{r.skipped(first.PublicKey())}; !slices.Equal(*shown, want) {
		t.Errorf("banners %q, want %q", *shown, want)
	}
	// The line lists all keys once, and has the library's last error only.
	l := r.refusal(kindAuthentication, "is not admitted")
	if n := strings.Count(l.text("keys_refused"), "SHA256:"); n != 3 || strings.Contains(l.text("error"), ssh.FingerprintSHA256(first.PublicKey())) {
		t.Errorf("%d refused keys, want 3; error %q", n, l.text("error"))
	}
}

// skipped returns the banner that a client gets whose first key is not the owner's.
func (r *fixture) skipped(wrong ssh.PublicKey) string {
	return fmt.Sprintf("bastion: this bastion accepts the key %s.\n"+
		"Your client offered %s, and continues with its other keys, if it has any.\n"+
		"If the right key is not among them, name its file as IdentityFile, or request the bastion with a key that you have.\n",
		ssh.FingerprintSHA256(r.key.PublicKey()), ssh.FingerprintSHA256(wrong))
}

// banners adds a list of the received banners to a client.
func banners(config *ssh.ClientConfig) *[]string {
	var shown []string
	config.BannerCallback = func(message string) error {
		shown = append(shown, message)
		return nil
	}
	return &shown
}

// The refusal of a proved key is final, so its banner is shown even after the banner of a
// key that was skipped, and no such banner follows it.
func TestRefusalOfAProvedKeyIsShown(t *testing.T) {
	r := start(t, func(r *fixture) { r.cfg.Limits.Connections = 1 })
	r.dial()
	before, after, last := newKey(t), newKey(t), newKey(t)
	refused := "bastion: login refused: too many open connections. Close some, and connect again.\n"
	for _, test := range []struct {
		keys []ssh.Signer
		want []string
	}{
		{[]ssh.Signer{before, after, r.key, last}, []string{r.skipped(before.PublicKey()), refused}},
		{[]ssh.Signer{r.key, after, last}, []string{refused}},
	} {
		config := r.client(ssh.PublicKeys(test.keys...))
		shown := banners(config)
		if _, err := r.dialWith(config); err == nil {
			t.Error("a connection beyond the limit was admitted")
		}
		if !slices.Equal(*shown, test.want) {
			t.Errorf("banners %q, want %q", *shown, test.want)
		}
	}
}

func TestOwnersKeyAfterTenWrongKeysIsAdmitted(t *testing.T) {
	r := start(t)
	var keys []ssh.Signer
	for range 10 {
		keys = append(keys, newKey(t))
	}
	client, err := r.dialWith(r.client(ssh.PublicKeys(append(keys, r.key)...)))
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
}

func TestAuthAttemptsBeyondTheLimitAreRefused(t *testing.T) {
	wantRefused(t, "limit of 3 refused attempts reached", func(r *fixture) []ssh.AuthMethod {
		r.cfg.Limits.AuthAttempts = 3
		return []ssh.AuthMethod{ssh.PublicKeys(newKey(t), newKey(t), newKey(t), r.key)}
	})
}

func TestSHA1IsRefused(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	signer := algorithm(t, signer(t, key, err), ssh.KeyAlgoRSA)
	wantRefused(t, `algorithm "ssh-rsa" not accepted`, func(r *fixture) []ssh.AuthMethod {
		r.table.Lease.Keys = []bastion.Key{authorized(signer)}
		return []ssh.AuthMethod{ssh.PublicKeys(signer)}
	})
}

func TestSecurityKeyWithoutUserPresenceIsRefused(t *testing.T) {
	wantRefused(t, "admitted key offered but not proved", func(r *fixture) []ssh.AuthMethod {
		key := sshclient.NewSecurityKey(t, ssh.KeyAlgoSKED25519, 0)
		r.table.Lease.Keys = []bastion.Key{authorized(key)}
		return []ssh.AuthMethod{ssh.PublicKeys(key)}
	})
}

func TestCertificateOfTheOwnersKeyIsRefused(t *testing.T) {
	wantRefused(t, "is not admitted", func(r *fixture) []ssh.AuthMethod {
		certificate := &ssh.Certificate{Key: r.key.PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
		if err := certificate.SignCert(rand.Reader, newKey(t)); err != nil {
			t.Fatal(err)
		}
		key, err := ssh.NewCertSigner(certificate, r.key)
		if err != nil {
			t.Fatal(err)
		}
		return []ssh.AuthMethod{ssh.PublicKeys(key)}
	})
}

func TestPasswordsAreRefused(t *testing.T) {
	l := wantRefused(t, "no key offered", func(*fixture) []ssh.AuthMethod {
		return []ssh.AuthMethod{ssh.Password("hunter2")}
	})
	if strings.Contains(l.text("error"), "hunter2") {
		t.Errorf("the line has the password: %v", l)
	}
	if l.text("user") != "bastion" {
		t.Errorf("the line has user %q, want bastion", l.text("user"))
	}
}

// mismatchedSigner offers one key and signs with another.
type mismatchedSigner struct {
	offered ssh.PublicKey
	ssh.Signer
}

func (s mismatchedSigner) PublicKey() ssh.PublicKey { return s.offered }

func TestSignatureOfAnotherKeyIsRefused(t *testing.T) {
	l := wantRefused(t, "admitted key offered but not proved", func(r *fixture) []ssh.AuthMethod {
		return []ssh.AuthMethod{ssh.PublicKeys(mismatchedSigner{r.key.PublicKey(), newKey(t)})}
	})
	if !strings.Contains(l.text("error"), "signature") {
		t.Errorf("line %v, want an error about the signature", l)
	}
}

// failingSigner offers a key, but cannot sign with it.
type failingSigner struct{ ssh.Signer }

func (failingSigner) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	return nil, errors.New("cannot sign")
}

func TestOfferWithoutSignatureIsRefused(t *testing.T) {
	l := wantRefused(t, "admitted key offered but not proved", func(r *fixture) []ssh.AuthMethod {
		return []ssh.AuthMethod{ssh.PublicKeys(failingSigner{r.key})}
	})
	if l.text("keys_admitted") == "" {
		t.Errorf("the line has no keys_admitted: %v", l)
	}
}

func TestOwnersKeyOfferedBeforeAWrongKeyIsRefused(t *testing.T) {
	l := wantRefused(t, "is not admitted", func(r *fixture) []ssh.AuthMethod {
		return []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			return []ssh.Signer{ignoredSigner{r.key}, newKey(t)}, nil
		})}
	})
	if l.text("keys_admitted") == "" || l.text("keys_refused") == "" {
		t.Errorf("line %v, want keys_admitted and keys_refused", l)
	}
}

// ignoredSigner makes signatures of a type that the server ignores, so that the client
// goes to the next key.
type ignoredSigner struct{ ssh.Signer }

func (ignoredSigner) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	return &ssh.Signature{Format: ssh.KeyAlgoRSASHA256}, nil
}

func TestConnectionLineHasTheKeyThatSigned(t *testing.T) {
	other := newKey(t)
	r := start(t, func(r *fixture) { r.table.Lease.Keys = append(r.table.Lease.Keys, authorized(other)) })
	client, err := r.dialWith(r.client(ssh.PublicKeys(ignoredSigner{r.key}, other)))
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	if got := r.log.await(t, msgConnection, 1).text("key"); got != ssh.FingerprintSHA256(other.PublicKey()) {
		t.Errorf("connection line with key %s, want the key that signed", got)
	}
}

// waitingSigner signs when sign is closed.
type waitingSigner struct {
	ssh.Signer
	offered chan<- struct{}
	sign    <-chan struct{}
}

func (s waitingSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	close(s.offered)
	<-s.sign
	return s.Signer.Sign(rand, data)
}

func TestKeyRemovedBetweenOfferAndSignatureIsRefused(t *testing.T) {
	r := start(t)
	offered, sign := make(chan struct{}), make(chan struct{})
	failed := make(chan error)
	config := r.client(ssh.PublicKeys(waitingSigner{r.key, offered, sign}))
	shown := banners(config)
	go func() {
		_, err := r.dialWith(config)
		failed <- err
	}()
	<-offered
	other := newKey(t)
	if err := r.table.Write(func(l *bastion.Lease) { l.Keys = []bastion.Key{authorized(other)} }); err != nil {
		t.Fatal(err)
	}
	r.awaitReport("has the new key in force", func(report bastion.Report) bool { return report.Generation == 2 })
	close(sign)
	if err := <-failed; err == nil {
		t.Fatal("the old key was admitted")
	}
	if want := []string{fmt.Sprintf("bastion: login refused: the key was removed from the bastion. This bastion now accepts the key %s. Request the bastion with a key that you have.\n",
		ssh.FingerprintSHA256(other.PublicKey()))}; !slices.Equal(*shown, want) {
		t.Errorf("banners %q, want %q", *shown, want)
	}
	r.refusal(kindAuthentication, errKeyRemoved.Error())
}

func TestClientWithoutAuthenticationIsRefused(t *testing.T) {
	r := start(t)
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	r.log.await(t, msgRefusal, 1)
	r.refusal(kindAuthentication, "no authentication attempted")
}

func TestHandshakeHasATimeLimit(t *testing.T) {
	r := start(t, func(r *fixture) { r.cfg.Timing.KeyExchange = 50 * time.Millisecond })
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Logf("closed with %v", err)
	}
	r.log.await(t, msgRefusal, 1)
	r.refusal(kindAuthentication, "no key exchange within 50ms")
}

func TestOpenConnectionsAreLimited(t *testing.T) {
	r := start(t, func(r *fixture) { r.cfg.Limits.Connections = 2 })
	first := r.dial()
	r.dial()
	other := newKey(t) // is offered next; the refusal must still name the limit
	if _, err := r.dialWith(r.client(ssh.PublicKeys(r.key, other))); err == nil {
		t.Fatal("a connection beyond the limit was admitted")
	}
	r.log.await(t, msgRefusal, 1)
	first.Close()
	r.log.await(t, msgConnection, 1)
	r.dial()
	r.refusal(kindAuthentication, errTooManyOpen.Error())
}
