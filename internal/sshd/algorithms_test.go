package sshd

import (
	"crypto/rsa"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// bothHostKeys waits for a report with two host keys.
func (r *fixture) bothHostKeys() {
	r.t.Helper()
	r.awaitReport("has two host keys", func(report bastion.Report) bool { return len(report.HostKeys()) == 2 })
}

func strictAlgorithms(r *fixture) { r.cfg.Algorithms = Strict }

// older has the algorithms that only the compatible set has. Each entry forces a stock
// client to use one. The second element is part of the client's message when the server
// does not offer it.
var older = map[string][2]string{
	"group 14":           {"KexAlgorithms=diffie-hellman-group14-sha256", "no matching key exchange method found. Their offer: mlkem768x25519-sha256,curve25519-sha256"},
	"AES-256-CTR":        {"Ciphers=aes256-ctr", "no matching cipher found. Their offer: aes128-gcm@openssh.com,aes256-gcm@openssh.com"},
	"AES-128-CTR":        {"Ciphers=aes128-ctr", "no matching cipher found. Their offer: aes128-gcm@openssh.com,aes256-gcm@openssh.com"},
	"RSA with SHA-2 512": {"HostKeyAlgorithms=rsa-sha2-512", "no matching host key type found. Their offer: ssh-ed25519"},
	"RSA with SHA-2 256": {"HostKeyAlgorithms=rsa-sha2-256", "no matching host key type found. Their offer: ssh-ed25519"},
}

func TestOlderAlgorithmsAreAccepted(t *testing.T) {
	r := start(t)
	r.bothHostKeys()
	s := r.openSSH()
	options := map[string][]string{}
	for name, c := range older {
		options[name] = []string{c[0]}
	}
	for _, mac := range []string{"hmac-sha2-256", "hmac-sha2-512", "hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"} {
		options[mac] = []string{"Ciphers=aes128-ctr", "MACs=" + mac}
	}
	options["all of them"] = []string{"KexAlgorithms=diffie-hellman-group14-sha256", "Ciphers=aes256-ctr", "MACs=hmac-sha2-512", "HostKeyAlgorithms=rsa-sha2-256"}
	for name, all := range options {
		if got := s.ssh("", append(sshOptions(all), "bastion", "status")...); got.status != 0 || !strings.Contains(got.stdout, "state        ready") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func sshOptions(all []string) (args []string) {
	for _, option := range all {
		args = append(args, "-o", option)
	}
	return args
}

func TestStrictServerOffersNoOlderAlgorithms(t *testing.T) {
	r := start(t, strictAlgorithms)
	if keys := r.table.LastReport().HostKeys(); len(keys) != 1 || !strings.HasPrefix(string(keys[0]), "ssh-ed25519 ") {
		t.Errorf("the host keys are %q", keys)
	}
	s := r.openSSH()
	for name, c := range older {
		if got := s.ssh("", "-o", c[0], "bastion", "status"); got.status != 255 || !strings.Contains(got.stderr, c[1]) {
			t.Errorf("%s: %+v, want %q", name, got, c[1])
		}
	}
	if got := s.ssh("", "bastion", "status"); got.status != 0 {
		t.Errorf("the default client: %+v", got)
	}
}

// A client in FIPS mode has neither ed25519 nor curve25519, ChaCha20 or ML-KEM. Its user
// has an ECDSA or an RSA key.
func TestClientInFIPSMode(t *testing.T) {
	for _, kind := range []string{"ecdsa", "rsa"} {
		private, err := sshclient.NewKey(kind)
		if err != nil {
			t.Fatal(err)
		}
		key, err := ssh.NewSignerFromKey(private)
		if err != nil {
			t.Fatal(err)
		}
		r := start(t, func(r *fixture) { r.table.Lease.Keys = []bastion.Key{authorized(key)} })
		r.bothHostKeys()
		s := r.openSSH()
		fips := []string{
			"HostKeyAlgorithms=ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-256,rsa-sha2-512",
			"KexAlgorithms=ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521,diffie-hellman-group-exchange-sha256,diffie-hellman-group14-sha256,diffie-hellman-group16-sha512,diffie-hellman-group18-sha512",
			"PubkeyAcceptedAlgorithms=ecdsa-sha2-nistp256,rsa-sha2-256,rsa-sha2-512",
			"MACs=hmac-sha2-256-etm@openssh.com,hmac-sha2-256,hmac-sha2-512",
			"IdentityFile=" + sshclient.WriteKey(t, private),
		}
		for _, ciphers := range []string{"aes256-gcm@openssh.com,aes128-gcm@openssh.com", "aes256-ctr,aes128-ctr"} {
			if got := s.ssh("", append(sshOptions(append(fips, "Ciphers="+ciphers)), "bastion", "status")...); got.status != 0 {
				t.Errorf("%s, %s: %+v", kind, ciphers, got)
			}
		}
	}
}

// These algorithms are in neither set.
func TestOtherAlgorithmsAreRefused(t *testing.T) {
	r := start(t)
	r.bothHostKeys()
	s := r.openSSH()
	for option, want := range map[string]string{
		"Ciphers=chacha20-poly1305@openssh.com":                                "no matching cipher found. Their offer: aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes256-ctr,aes128-ctr",
		"Ciphers=aes128-cbc,aes256-cbc,3des-cbc,aes192-ctr":                    "no matching cipher found",
		"KexAlgorithms=ecdh-sha2-nistp256,ecdh-sha2-nistp384":                  "no matching key exchange method found. Their offer: mlkem768x25519-sha256,curve25519-sha256,curve25519-sha256@libssh.org,diffie-hellman-group14-sha256,",
		"KexAlgorithms=diffie-hellman-group14-sha1,diffie-hellman-group1-sha1": "no matching key exchange method found",
		"HostKeyAlgorithms=ssh-rsa,ecdsa-sha2-nistp256":                        "no matching host key type found. Their offer: ssh-ed25519,rsa-sha2-256,rsa-sha2-512",
	} {
		if got := s.ssh("", "-o", option, "bastion", "status"); got.status != 255 || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: %+v, want %q", option, got, want)
		}
	}
	if got := s.ssh("", "-o", "Ciphers=aes128-ctr", "-o", "MACs=hmac-sha1,hmac-sha1-etm@openssh.com", "bastion", "status"); got.status != 255 || !strings.Contains(got.stderr, "no matching MAC found. Their offer: hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256,hmac-sha2-512") {
		t.Errorf("SHA-1: %+v", got)
	}
	algorithms := r.dial().Conn.(ssh.AlgorithmsConnMetadata).Algorithms()
	if algorithms.KeyExchange != ssh.KeyExchangeMLKEM768X25519 || algorithms.Write.Cipher != ssh.CipherAES128GCM {
		t.Errorf("negotiated %+v", algorithms)
	}
}

// While the RSA key is being made, the ed25519 key serves. Afterwards, new connections
// can use both.
func TestLateRSAHostKey(t *testing.T) {
	release := make(chan struct{})
	r := start(t, func(r *fixture) {
		r.cfg.LeaseTiming.HostKeys = time.Millisecond
		r.cfg.RSAKey = func() (*rsa.PrivateKey, error) {
			<-release
			return testRSAKey()
		}
	})
	early := r.openSSH()
	if got := early.ssh("", "bastion", "status"); got.status != 0 {
		t.Errorf("without the RSA key: %+v", got)
	}
	const rsaOnly = "HostKeyAlgorithms=rsa-sha2-512"
	if got := early.ssh("", "-o", rsaOnly, "bastion", "status"); got.status != 255 || !strings.Contains(got.stderr, "no matching host key type found. Their offer: ssh-ed25519") {
		t.Errorf("RSA without the RSA key: %+v", got)
	}
	close(release)
	r.bothHostKeys()
	if got := r.openSSH().ssh("", "-o", rsaOnly, "bastion", "status"); got.status != 0 {
		t.Errorf("RSA with the RSA key: %+v", got)
	}
	if got := early.ssh("", "bastion", "status"); got.status != 0 || got.stderr != "" {
		t.Errorf("a client that knows the ed25519 key only: %+v", got)
	}
}

// A key that is made late is reported at the moment when it has been made.
func TestLateRSAHostKeyIsReportedAtOnce(t *testing.T) {
	if _, err := testRSAKey(); err != nil { // made outside the bubble
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r := newFixture(t)
		r.memory = newMemoryListener()
		r.cfg.LeaseTiming = leaseloop.Timing{Poll: time.Hour, Report: time.Hour}
		r.cfg.RSAKey = func() (*rsa.PrivateKey, error) {
			time.Sleep(10 * time.Second)
			return testRSAKey()
		}
		r.run()
		for _, want := range []struct {
			at   time.Duration
			keys int
		}{{3*time.Second - 1, 0}, {3 * time.Second, 1}, {10*time.Second - 1, 1}, {10 * time.Second, 2}} {
			time.Sleep(time.Until(began.Add(want.at)))
			synctest.Wait()
			if keys := r.table.LastReport().HostKeys(); len(keys) != want.keys {
				t.Errorf("after %s, the report has %d host keys, want %d", want.at, len(keys), want.keys)
			}
		}
	})
}

func TestRSAKeyIsMadeBeforeTheFirstLease(t *testing.T) {
	made := make(chan struct{})
	r := newFixture(t)
	lease := r.table.Lease
	r.table.Lease = bastion.Lease{}
	r.cfg.RSAKey = func() (*rsa.PrivateKey, error) {
		defer close(made)
		return testRSAKey()
	}
	r.run()
	<-made
	if n := r.table.Reports(); n != 0 {
		t.Errorf("%d reports without a lease", n)
	}
	if err := r.table.Write(func(l *bastion.Lease) { *l = lease }); err != nil {
		t.Fatal(err)
	}
	r.bothHostKeys()
	if n := r.table.Reports(); n != 1 {
		t.Errorf("%d reports, want the first one to have both keys", n)
	}
}

// A key takes seconds on a slow machine. A task that is stopped meanwhile must not take as
// long to end.
func TestEndDoesNotWaitForTheRSAKey(t *testing.T) {
	release, made := make(chan struct{}), make(chan struct{})
	r := start(t, func(r *fixture) {
		r.cfg.RSAKey = func() (*rsa.PrivateKey, error) {
			defer close(made)
			<-release
			return testRSAKey()
		}
	})
	if code := r.stop(); code != bastion.ExitTerminated {
		t.Errorf("exit code %d, want %d", code, bastion.ExitTerminated)
	}
	close(release)
	<-made
}

func TestServerWithoutRSAKey(t *testing.T) {
	r := start(t, func(r *fixture) {
		r.cfg.LeaseTiming.HostKeys = time.Hour // the report must not wait for a key that failed
		r.cfg.RSAKey = func() (*rsa.PrivateKey, error) { return nil, errors.New("no primes left") }
	})
	r.dial()
	if keys := r.table.LastReport().HostKeys(); len(keys) != 1 {
		t.Errorf("the host keys are %q", keys)
	}
	if !strings.Contains(r.log.text(), "no primes left") {
		t.Errorf("the log does not mention the error:\n%s", r.log.text())
	}
}

func TestRSAHostKeyHas3072Bits(t *testing.T) {
	key, err := testRSAKey() // made by makeRSAKey
	if err != nil || key.N.BitLen() != 3072 {
		t.Errorf("%d bits, %v", key.N.BitLen(), err)
	}
	signer, err := signerWith(key, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
	if err != nil {
		t.Fatal(err)
	}
	report := bastion.Report{HostKey: authorized(newKey(t)), MoreHostKeys: []bastion.Key{authorized(signer)}}
	if got := report.Bounded(); !slices.Equal(got.HostKeys(), report.HostKeys()) {
		t.Errorf("the record keeps %q of %q", got.HostKeys(), report.HostKeys())
	}
	if got := signer.Algorithms(); !slices.Equal(got, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}) {
		t.Errorf("it signs with %q", got)
	}
}
