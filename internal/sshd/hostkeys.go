package sshd

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"log/slog"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// rsaBits is the length of the RSA host key. NIST SP 800-57 Part 1 (table 2) rates it at
// 128 bits of security, as it does curve25519 and AES-128.
const rsaBits = 3072

// makeRSAKey makes an RSA host key. On a quarter of a vCPU, this can take seconds.
func makeRSAKey() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, rsaBits) }

// hostKeys has the host keys of one server, which are kept in memory only. The ed25519
// key exists from the beginning, and the RSA key follows.
type hostKeys struct {
	ed25519 ssh.MultiAlgorithmSigner
	rsa     ssh.MultiAlgorithmSigner // nil if there is none; may be read after made is closed
	made    chan struct{}            // closed when no further key will follow
}

// newHostKeys makes the ed25519 key. The caller then calls addRSA.
func newHostKeys(rand io.Reader) (*hostKeys, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, fmt.Errorf("make a host key: %w", err)
	}
	signer, err := signerWith(ed25519.NewKeyFromSeed(seed), ssh.KeyAlgoED25519)
	if err != nil {
		return nil, fmt.Errorf("make a host key: %w", err)
	}
	return &hostKeys{ed25519: signer, made: make(chan struct{})}, nil
}

// addRSA adds the key that makeKey returns. The key signs with SHA-2 only. If makeKey is
// nil or fails, the ed25519 key remains the only one.
func (k *hostKeys) addRSA(makeKey func() (*rsa.PrivateKey, error), log *slog.Logger) {
	defer close(k.made)
	if makeKey == nil {
		return
	}
	key, err := makeKey()
	if err == nil {
		k.rsa, err = signerWith(key, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
	}
	if err != nil {
		log.Error("no RSA host key", "error", err)
	}
}

func signerWith(key any, algorithms ...string) (ssh.MultiAlgorithmSigner, error) {
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerWithAlgorithms(signer.(ssh.AlgorithmSigner), algorithms)
}

// signers returns the keys that exist, ed25519 first. complete is false if a key may
// follow.
func (k *hostKeys) signers() (all []ssh.MultiAlgorithmSigner, complete bool) {
	select {
	case <-k.made:
	default:
		return []ssh.MultiAlgorithmSigner{k.ed25519}, false
	}
	if k.rsa == nil {
		return []ssh.MultiAlgorithmSigner{k.ed25519}, true
	}
	return []ssh.MultiAlgorithmSigner{k.ed25519, k.rsa}, true
}

// public returns the public keys in the order of signers.
func (k *hostKeys) public() (keys []bastion.Key, complete bool) {
	all, complete := k.signers()
	for _, signer := range all {
		keys = append(keys, publickey.Of(signer.PublicKey()))
	}
	return keys, complete
}
