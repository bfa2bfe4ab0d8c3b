package httpapi_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// sshServer is an SSH server that lets in userKey, answers every command with its
// own name, and forwards "private.internal:22" to another one that has no port.
type sshServer struct {
	name    string
	config  *ssh.ServerConfig
	private *sshServer // nil: it forwards nothing
	done    *sync.WaitGroup
}

// newBastion listens on loopback, in front of a private host whose key is that of
// privateHost; it is gone when the test ends.
func newBastion(t *testing.T) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := &sync.WaitGroup{}
	bastion := &sshServer{"bastion", serverConfig("bastion", 2), &sshServer{"private host", serverConfig(privateHost.User, 4), nil, done}, done}
	done.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			done.Go(func() { bastion.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		done.Wait()
	})
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

func serverConfig(user string, hostKeySeed byte) *ssh.ServerConfig {
	config := &ssh.ServerConfig{PublicKeyCallback: func(conn ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if conn.User() != user || !bytes.Equal(key.Marshal(), signerOf(1).PublicKey().Marshal()) {
			return nil, errors.New("another user or key")
		}
		return &ssh.Permissions{}, nil
	}}
	config.AddHostKey(signerOf(hostKeySeed))
	return config
}

func (s *sshServer) serve(conn net.Conn) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	s.done.Go(func() { ssh.DiscardRequests(requests) })
	for offered := range channels {
		switch {
		case offered.ChannelType() == "session":
			s.done.Go(func() { s.answer(offered) })
		case offered.ChannelType() == "direct-tcpip" && s.private != nil:
			s.done.Go(func() { s.forward(offered) })
		default:
			_ = offered.Reject(ssh.UnknownChannelType, "not here")
		}
	}
}

// answer says the server's name to the first command, or shell, and hangs up.
func (s *sshServer) answer(offered ssh.NewChannel) {
	channel, requests, err := offered.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	for request := range requests {
		started := request.Type == "exec" || request.Type == "shell"
		_ = request.Reply(started, nil)
		if started {
			fmt.Fprintf(channel, "the %s answers\n", s.name)
			_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
			return
		}
	}
}

func (s *sshServer) forward(offered ssh.NewChannel) {
	var to struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}
	if err := ssh.Unmarshal(offered.ExtraData(), &to); err != nil || to.Host != privateHost.Name || to.Port != 22 {
		_ = offered.Reject(ssh.ConnectionFailed, "no such host")
		return
	}
	channel, requests, err := offered.Accept()
	if err != nil {
		return
	}
	s.done.Go(func() { ssh.DiscardRequests(requests) })
	here, there := net.Pipe()
	s.done.Go(func() { s.private.serve(there) })
	s.done.Go(func() {
		_, _ = io.Copy(here, channel)
		_ = here.Close()
	})
	_, _ = io.Copy(channel, here)
	_ = channel.Close()
}
