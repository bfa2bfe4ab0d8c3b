package localmode

import (
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// handshakeTime is how long a client of the private host may take to log in.
const handshakeTime = 30 * time.Second

// demonstrationConfig accepts every public key: there is nothing to protect on
// a host whose only purpose is to be reached.
func demonstrationConfig(hostKey ssh.Signer) *ssh.ServerConfig {
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			return &ssh.Permissions{}, nil
		},
	}
	config.AddHostKey(hostKey)
	return config
}

func authorizedKey(key ssh.PublicKey) bastion.Key {
	return bastion.Key(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))
}

func (h *privateHost) acceptSSH(door net.Listener) {
	for {
		conn, err := door.Accept()
		if err != nil {
			return
		}
		if !h.track(conn) {
			_ = conn.Close()
			return
		}
		h.running.Go(func() {
			defer h.untrack(conn)
			h.serveSSH(conn)
		})
	}
}

func (h *privateHost) track(conn net.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.conns[conn] = struct{}{}
	return true
}

func (h *privateHost) untrack(conn net.Conn) {
	_ = conn.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, conn)
}

func (h *privateHost) serveSSH(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(handshakeTime))
	server, channels, requests, err := ssh.NewServerConn(conn, h.config)
	if err != nil {
		return
	}
	_ = conn.SetDeadline(time.Time{})
	var sessions sync.WaitGroup
	sessions.Go(func() { ssh.DiscardRequests(requests) })
	for request := range channels {
		if request.ChannelType() != "session" {
			_ = request.Reject(ssh.UnknownChannelType, privateName+" has sessions only")
			continue
		}
		channel, requests, err := request.Accept()
		if err != nil {
			continue
		}
		s := &session{channel: channel, user: server.User(), bastionID: cameThrough(conn), up: h.up}
		sessions.Go(func() { s.serve(requests) })
	}
	sessions.Wait()
}

func (h *privateHost) up() time.Duration { return h.now().Sub(h.started).Round(time.Second) }
