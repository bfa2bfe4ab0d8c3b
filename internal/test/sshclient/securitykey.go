package sshclient

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/big"
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Flags of a security key's signature.
const (
	UserPresent  = 0x01
	UserVerified = 0x04
)

// securityKey is a FIDO security key in software. Its public key and its signatures have
// the wire form of OpenSSH's PROTOCOL.u2f.
type securityKey struct {
	public ssh.PublicKey
	flags  byte
	count  uint32
	sign   func(data []byte) ([]byte, error)
}

const application = "ssh:"

// NewSecurityKey returns a new security key of type ssh.KeyAlgoSKED25519 or
// ssh.KeyAlgoSKECDSA256. Its signatures have the flags.
func NewSecurityKey(t testing.TB, kind string, flags byte) ssh.Signer {
	t.Helper()
	key := &securityKey{flags: flags}
	var blob []byte
	switch kind {
	case ssh.KeyAlgoSKED25519:
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		blob = ssh.Marshal(struct {
			Type        string
			Key         []byte
			Application string
		}{kind, public, application})
		key.sign = func(data []byte) ([]byte, error) { return ed25519.Sign(private, data), nil }
	case ssh.KeyAlgoSKECDSA256:
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := private.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		blob = ssh.Marshal(struct {
			Type, Curve string
			Key         []byte
			Application string
		}{kind, "nistp256", point, application})
		key.sign = func(data []byte) ([]byte, error) {
			digest := sha256.Sum256(data)
			r, s, err := ecdsa.Sign(rand.Reader, private, digest[:])
			return ssh.Marshal(struct{ R, S *big.Int }{r, s}), err
		}
	}
	public, err := ssh.ParsePublicKey(blob)
	if err != nil {
		t.Fatal(err)
	}
	key.public = public
	return key
}

func (k *securityKey) PublicKey() ssh.PublicKey { return k.public }

// Sign signs what a security key signs: the hashes of application and data, the flags
// and the counter.
func (k *securityKey) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	k.count++
	state := binary.BigEndian.AppendUint32([]byte{k.flags}, k.count)
	forApplication, message := sha256.Sum256([]byte(application)), sha256.Sum256(data)
	blob, err := k.sign(slices.Concat(forApplication[:], state, message[:]))
	if err != nil {
		return nil, err
	}
	return &ssh.Signature{Format: k.public.Type(), Blob: blob, Rest: state}, nil
}
