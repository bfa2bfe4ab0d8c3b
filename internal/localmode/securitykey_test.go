package localmode

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// securityKey is an agent with a key that lives in hardware, done in software:
// what is signed and how follows OpenSSH's PROTOCOL.u2f.
type securityKey struct {
	agent.Agent // holds nothing
	private     ed25519.PrivateKey
	public      ssh.PublicKey
}

const application = "ssh:"

func newSecurityKey(t *testing.T) securityKey {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	blob := ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, public, application})
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		t.Fatal(err)
	}
	return securityKey{agent.NewKeyring(), private, key}
}

func (k securityKey) List() ([]*agent.Key, error) {
	return []*agent.Key{{Format: k.public.Type(), Blob: k.public.Marshal(), Comment: "touch me"}}, nil
}

func (k securityKey) Sign(_ ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	const userPresent = 1
	state := binary.BigEndian.AppendUint32([]byte{userPresent}, 7) // flags, and the counter
	forApplication, message := sha256.Sum256([]byte(application)), sha256.Sum256(data)
	signed := append(append(forApplication[:], state...), message[:]...)
	return &ssh.Signature{Format: ssh.KeyAlgoSKED25519, Blob: ed25519.Sign(k.private, signed), Rest: state}, nil
}

func TestASecurityKeyGetsIn(t *testing.T) {
	r, key := start(t, nil), newSecurityKey(t)
	w := newWalletOf(t, key)
	config := r.pasted(call{body: string(authorizedKey(key.public))})
	out, errs, err := w.run("", w.ssh(config, "-J", "bastion-default", "private.internal", "hostname"))
	if err != nil || out != "private.internal\n" {
		t.Errorf("%q, %v: %s", out, err, errs)
	}
}
