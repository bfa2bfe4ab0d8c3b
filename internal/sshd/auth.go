package sshd

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"golang.org/x/crypto/ssh"
)

// The accepted algorithms. Both sets begin with the same algorithms; the client's order of
// preference decides.
//
// The compatible set adds what older clients and clients in FIPS mode need. ChaCha20 is
// not in it: OpenSSH 9 would prefer it to the faster AES-GCM, and every client that has
// it also has AES-CTR. NIST's curves are not in it: no client needs them that does
// not have group 14 too.
var (
	strict = ssh.Config{
		KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519},
		Ciphers:      []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM},
		MACs:         []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
	}
	compatible = ssh.Config{
		KeyExchanges: append(slices.Clone(strict.KeyExchanges), ssh.KeyExchangeDH14SHA256),
		Ciphers:      append(slices.Clone(strict.Ciphers), ssh.CipherAES256CTR, ssh.CipherAES128CTR),
		MACs:         append(slices.Clone(strict.MACs), ssh.HMACSHA256, ssh.HMACSHA512),
	}
)

// The algorithms that a client may sign with. RSA keys must sign with SHA-2; the library's
// defaults also accept SHA-1 and DSA.
var signatures = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
	ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
	ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512,
}

// The extensions of an authenticated connection's Permissions that hold the key that the
// client signed with, in wire form, and its fingerprint.
const (
	keyPermission         = "key"
	fingerprintPermission = "fingerprint"
)

// maxOffers limits the keys, and the methods, that an audit line lists.
const maxOffers = 20

// handshake is one connection's authentication. The goroutine that runs the handshake
// calls its methods.
type handshake struct {
	connections *connectionTable
	pending     *pendingConnection
	gate        *exchangeGate

	user      string
	methods   []string // the methods that the client tried
	refused   []string // fingerprints of offered keys that are not admitted
	skipped   bool     // skippedBanner was shown
	elsewhere error    // why an offered key was refused that is admitted from other addresses
	admitted  []string // fingerprints of offered keys that are admitted
	failures  int      // refused attempts
	last      error    // why the last of them was refused
	denied    error    // why a proved key was refused
}

// config returns the library's configuration for this connection.
func (h *handshake) config(hosts *hostKeys, cfg Config) *ssh.ServerConfig {
	config := &ssh.ServerConfig{
		Config:                    compatible,
		PublicKeyAuthAlgorithms:   signatures,
		MaxAuthTries:              cfg.Limits.AuthAttempts,
		PublicKeyCallback:         h.offered,
		VerifiedPublicKeyCallback: h.verified,
		AuthLogCallback:           h.attempted,
		ServerVersion:             serverVersion,
	}
	if cfg.Algorithms == Strict {
		config.Config = strict
	}
	config.Config.Rand = h.gate
	config.PreAuthConnCallback = h.pending.setPreAuth
	signers, _ := hosts.signers()
	for _, signer := range signers {
		config.AddHostKey(notingSigner{signer, h.signing})
	}
	return config
}

// signing is called when the key exchange is computed and the host key is asked to sign.
func (h *handshake) signing() {
	h.gate.release()
	h.connections.reach(h.pending, stageSigned)
}

// offered returns an error if an offered key is not admitted. An offer proves nothing: a
// client can offer a key without having the private key.
func (h *handshake) offered(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	h.user = meta.User()
	h.methods = note(h.methods, "publickey")
	fingerprint := ssh.FingerprintSHA256(key)
	keys := h.connections.admittedKeys()
	switch err := keys.check(string(key.Marshal()), h.pending.from).(type) {
	case nil:
		h.admitted = note(h.admitted, fingerprint)
		return nil, nil
	case *elsewhereError:
		h.refused = note(h.refused, fingerprint)
		if h.elsewhere != nil || h.denied != nil {
			return nil, err
		}
		h.elsewhere = err
		return nil, &ssh.BannerError{Err: err, Message: fmt.Sprintf(elsewhereBanner, fingerprint, h.pending.from)}
	}
	h.refused = note(h.refused, fingerprint)
	err := fmt.Errorf("key %s is not admitted", fingerprint)
	if h.skipped || h.denied != nil {
		return nil, err
	}
	h.skipped = true
	return nil, &ssh.BannerError{Err: err, Message: fmt.Sprintf(skippedBanner, keys.accepted(h.pending.from), fingerprint)}
}

// skippedBanner is shown once, with the first offered key that is not admitted. The client
// may have other keys, and the server cannot know which offer is the last. So the banner
// must be true, and its advice right, both for a login that then succeeds and for one that
// then fails.
const skippedBanner = "bastion: this bastion accepts %s.\n" +
	"Your client offered %s, and continues with its other keys, if it has any.\n" +
	"If the right key is not among them, name its file as IdentityFile, or request the bastion with a key that you have.\n"

// elsewhereBanner is shown once, with the first offered key that is admitted from other
// addresses only. It does not name them: everybody can offer a key, and the addresses show
// where a person is.
const elsewhereBanner = "bastion: this bastion accepts the key %s, but not from your address %s.\n" +
	"Your client continues with its other keys, if it has any.\n" +
	"To use this key from here, request the bastion again with it, from here.\n"

// verified is called after the library has verified the client's signature. It checks
// the key again, because the key may have been removed or its sources changed since the
// offer. Its refusal is final: no other key of the client can be the right one. It may name
// the sources, because the client has proved that the key is its own.
func (h *handshake) verified(_ ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, _ string) (*ssh.Permissions, error) {
	blob := string(key.Marshal())
	if err := h.connections.prove(h.pending, blob); err != nil {
		h.denied = err
		return nil, &ssh.BannerError{Err: err, Message: h.deniedBanner(err)}
	}
	return &ssh.Permissions{Extensions: map[string]string{keyPermission: blob, fingerprintPermission: ssh.FingerprintSHA256(key)}}, nil
}

// deniedBanner returns the text for a client whose key is right, or was until now.
func (h *handshake) deniedBanner(err error) string {
	next := "Connect again."
	switch {
	case errors.Is(err, errClosed):
		next = "Request it again."
	case errors.Is(err, errKeyRemoved):
		next = fmt.Sprintf("This bastion now accepts %s. Request the bastion with a key that you have.", h.connections.admittedKeys().accepted(h.pending.from))
	case errors.As(err, new(*elsewhereError)):
		next = "To use this key from here, request the bastion again with it, from here."
	case errors.Is(err, errTooManyOpen):
		next = "Close some, and connect again."
	}
	return fmt.Sprintf("bastion: login refused: %v. %s\n", err, next)
}

// attempted records the result of one attempt.
func (h *handshake) attempted(meta ssh.ConnMetadata, method string, err error) {
	h.user = meta.User()
	h.methods = note(h.methods, clip(method))
	if err != nil && !errors.Is(err, ssh.ErrNoAuth) {
		h.failures++
		h.last = err
	}
}

// note appends an item, unless the list has it already or is full.
func note(list []string, item string) []string {
	if slices.Contains(list, item) || len(list) >= maxOffers {
		return list
	}
	return append(list, item)
}

// failure returns why a connection was not authenticated. err is the library's error.
func (h *handshake) failure(err error, limits Limits) string {
	switch {
	case h.denied != nil:
		return h.denied.Error()
	case h.failures >= limits.AuthAttempts:
		return fmt.Sprintf("limit of %d refused attempts reached", h.failures)
	case len(h.admitted) > 0 && h.last == nil:
		return "admitted key offered but not proved"
	case h.elsewhere != nil:
		return h.elsewhere.Error()
	case h.last != nil:
		return clip(h.last.Error())
	case len(h.methods) > 0:
		return "no key offered"
	}
	return "no authentication attempted: " + clip(err.Error())
}

// attrs returns the audit attributes: what was offered, and the library's error.
func (h *handshake) attrs(err error) []slog.Attr {
	// The library returns one error for each attempt. Only the last is logged; the
	// attribute keys_refused lists the refused keys.
	if auth := (*ssh.ServerAuthError)(nil); errors.As(err, &auth) && len(auth.Errors) > 0 {
		err = auth.Errors[len(auth.Errors)-1]
	}
	attrs := []slog.Attr{slog.String("error", clip(err.Error()))}
	for _, list := range []struct {
		name  string
		items []string
	}{{"methods", h.methods}, {"keys_refused", h.refused}, {"keys_admitted", h.admitted}} {
		if len(list.items) > 0 {
			attrs = append(attrs, slog.Any(list.name, list.items))
		}
	}
	return attrs
}
