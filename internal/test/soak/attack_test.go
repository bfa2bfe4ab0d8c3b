//go:build conformance

package soak

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// intrude tries to get into a bastion without the right key and address: that of another
// owner, or an earlier one of the same owner.
func (p *person) intrude(random *rand.Rand) {
	b := p.s.some(random, func(k known) bool { return k.latest.Host != "" })
	if b.ID == "" {
		return
	}
	defer p.s.usage(b.ID)()
	// The keys and addresses of the owner's people, in any combination, and the person's own.
	keys, sources := []ssh.Signer{p.key}, []netip.Addr{p.from}
	var o *owner
	for _, other := range p.s.people {
		if "local:"+other.owner.name == b.Owner {
			o, keys, sources = other.owner, append(keys, other.key), append(sources, other.from)
		}
	}
	a, key, from := o.access(b.Name), pick(random, keys), pick(random, sources)
	if random.IntN(3) == 0 { // without a key
		began := time.Now()
		client, _, reached, err := connect(from, serverOf(b), ssh.Password("secret"),
			ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil }))
		p.s.judge(a, b.ID, "none", from, began, reached, err)
		if client != nil {
			_ = client.Close()
		}
		return
	}
	if l, err := p.s.login(a, from, serverOf(b), key); err == nil {
		l.close()
	}
}

// garbage sends to the port of a bastion what no SSH client sends.
func (p *person) garbage(random *rand.Rand) {
	b := p.s.some(random, func(k known) bool { return k.latest.Host != "" })
	if b.ID == "" {
		return
	}
	done := p.s.usage(b.ID)
	defer done()
	u := p.s.usageOf(b.ID)
	if random.IntN(4) == 0 {
		p.manyKeys(b.ID, serverOf(b), random)
		return
	}
	for range 1 + random.IntN(4) {
		from := p.s.people[random.IntN(len(p.s.people))].from
		u.count(&u.refusals, false)
		p.s.strays.Add(1) // the port may have another server now
		conn, err := dialFrom(context.Background(), from, serverOf(b).address)
		if err != nil {
			continue
		}
		p.s.garbage.Add(1)
		p.babble(conn, random)
	}
}

// babble sends one kind of garbage, and closes the connection in one of several ways.
func (p *person) babble(conn net.Conn, random *rand.Rand) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	noise := make([]byte, 1+random.IntN(100_000))
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	switch random.IntN(6) {
	case 0:
		_, _ = conn.Write(noise)
	case 1:
		_, _ = conn.Write([]byte("GET / HTTP/1.1\r\nHost: bastion\r\n\r\n"))
	case 2:
		_, _ = conn.Write([]byte("SSH-2.0-garbage\r\n"))
		_, _ = conn.Write(noise)
	case 3:
		_, _ = conn.Write([]byte("SSH-2.0-silent\r\n"))
		p.s.sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
	case 4:
		p.s.sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
	case 5:
		_, _ = io.CopyN(io.Discard, conn, int64(random.IntN(600)))
	}
	if tcp, ok := conn.(*net.TCPConn); ok && random.IntN(2) == 0 {
		_ = tcp.SetLinger(0)
	}
}

var errEnough = errors.New("enough")

// manyKeys offers more keys than a server tries, or leaves at the host key.
func (p *person) manyKeys(id string, to server, random *rand.Rand) {
	u := p.s.usageOf(id)
	u.count(&u.refusals, false)
	p.s.strays.Add(1)
	conn, err := dialFrom(context.Background(), p.from, to.address)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	config := &ssh.ClientConfig{User: "root", HostKeyCallback: ssh.InsecureIgnoreHostKey()} // an attacker accepts every host key
	if random.IntN(2) == 0 {
		config.HostKeyCallback = func(string, net.Addr, ssh.PublicKey) error { return errEnough }
	}
	private, err := sshclient.NewKey("ed25519")
	if err != nil {
		p.s.fail("%v", err)
		return
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		p.s.fail("%v", err)
		return
	}
	many := make([]ssh.Signer, 70)
	for i := range many {
		many[i] = signer
	}
	config.Auth = []ssh.AuthMethod{ssh.PublicKeys(many...)}
	if client, _, _, err := ssh.NewClientConn(conn, to.address, config); err == nil {
		_ = client.Close()
		p.s.fail("a new key got into a server at %s", to.address)
	}
	p.s.garbage.Add(1)
}
