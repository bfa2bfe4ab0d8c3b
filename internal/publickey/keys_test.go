package publickey_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"testing"

	"golang.org/x/crypto/ssh"
)

// signer returns an ed25519 key from a seed of equal bytes.
func signer(t testing.TB, seed byte) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// line returns the line of a .pub file, without the comment.
func line(key ssh.PublicKey) string {
	return key.Type() + " " + base64.StdEncoding.EncodeToString(key.Marshal())
}

func ed25519Line(t testing.TB, seed byte) string { return line(signer(t, seed).PublicKey()) }

// rsaLine returns the line of an RSA key of that many bits. There is no private
// key: the modulus is only a number of the right length.
func rsaLine(t testing.TB, bits int) string {
	t.Helper()
	n := new(big.Int).SetBit(big.NewInt(1), bits-1, 1)
	return convert(t, &rsa.PublicKey{N: n, E: 65537})
}

func ecdsaLine(t testing.TB, curve elliptic.Curve) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return convert(t, &key.PublicKey)
}

// dsaLine returns a line in the form of a DSA key; the numbers are not a key.
func dsaLine(t testing.TB) string {
	t.Helper()
	bit := func(n int) *big.Int { return new(big.Int).SetBit(new(big.Int), n-1, 1) }
	return blobLine("ssh-dss", ssh.Marshal(struct {
		Type       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", bit(1024), bit(160), big.NewInt(2), big.NewInt(4)}))
}

func convert(t testing.TB, pub any) string {
	t.Helper()
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return line(key)
}

func certificateLine(t testing.TB) string {
	t.Helper()
	cert := &ssh.Certificate{Key: signer(t, 1).PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, signer(t, 2)); err != nil {
		t.Fatal(err)
	}
	return line(cert)
}

// An sk key has the same point as a plain key, and the name of an application.
func skEd25519Line(t testing.TB) string {
	t.Helper()
	point := signer(t, 1).PublicKey().(ssh.CryptoPublicKey).CryptoPublicKey().(ed25519.PublicKey)
	return blobLine(ssh.KeyAlgoSKED25519, ssh.Marshal(struct {
		Type  string
		Point []byte
		App   string
	}{ssh.KeyAlgoSKED25519, point, "ssh:"}))
}

func skECDSALine(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	return blobLine(ssh.KeyAlgoSKECDSA256, ssh.Marshal(struct {
		Type, Curve string
		Point       []byte
		App         string
	}{ssh.KeyAlgoSKECDSA256, "nistp256", public.Bytes(), "ssh:"}))
}

func blobLine(typ string, blob []byte) string {
	return typ + " " + base64.StdEncoding.EncodeToString(blob)
}

// rawRSALine returns an RSA key with the given bytes as its numbers.
func rawRSALine(e, n []byte) string {
	return blobLine(ssh.KeyAlgoRSA, ssh.Marshal(struct {
		Type string
		E, N []byte
	}{ssh.KeyAlgoRSA, e, n}))
}
