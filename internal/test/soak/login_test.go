//go:build conformance

package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/api"
)

// login is one SSH connection of Go's library.
type login struct {
	s      *soak
	usage  *usage
	client *ssh.Client
	conn   net.Conn
	key    string
	since  time.Time
	ended  chan struct{} // closed when the connection has ended
	left   bool          // the client has closed it
}

// server is where a client connects to, and which host keys it accepts.
type server struct {
	id, address string
	hostKeys    []string
}

func serverOf(b api.Bastion) server {
	return server{b.ID, net.JoinHostPort(b.Host, fmt.Sprint(b.Port)), b.HostKeys}
}

var errOtherServer = errors.New("another server has the port now")

// connect logs in with the methods. reached reports whether the server, with its host key,
// was reached.
func connect(from netip.Addr, to server, methods ...ssh.AuthMethod) (client *ssh.Client, conn net.Conn, reached bool, err error) {
	conn, err = dialFrom(context.Background(), from, to.address)
	if err != nil {
		return nil, nil, false, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	config := &ssh.ClientConfig{
		User: "bastion", Auth: methods, HostKeyAlgorithms: algorithms(to.hostKeys),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			reached = slices.Contains(to.hostKeys, string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key))))
			if !reached {
				return errOtherServer
			}
			return nil
		},
	}
	sshConn, channels, requests, err := ssh.NewClientConn(conn, to.address, config)
	if err != nil {
		_ = conn.Close()
		return nil, nil, reached, err
	}
	_ = conn.SetDeadline(time.Time{})
	return ssh.NewClient(sshConn, channels, requests), conn, true, nil
}

// algorithms returns the signature algorithms of the host keys. A client that does not know
// the RSA key yet must not ask for it; OpenSSH looks into its known hosts.
func algorithms(hostKeys []string) (all []string) {
	for _, key := range hostKeys {
		switch kind, _, _ := strings.Cut(key, " "); kind {
		case ssh.KeyAlgoRSA:
			all = append(all, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			all = append(all, kind)
		}
	}
	return all
}

// login logs in to a bastion, and compares the result with the access that requests have
// asked for.
func (s *soak) login(a *access, from netip.Addr, to server, key ssh.Signer) (*login, error) {
	u, fingerprint, began := s.usageOf(to.id), ssh.FingerprintSHA256(key.PublicKey()), time.Now()
	client, conn, reached, err := connect(from, to, ssh.PublicKeys(key))
	s.judge(a, to.id, fingerprint, from, began, reached, err)
	if err != nil {
		return nil, err
	}
	return s.newLogin(u, client, conn, fingerprint)
}

// newLogin returns the login of a client that believes that it has logged in.
func (s *soak) newLogin(u *usage, client *ssh.Client, conn net.Conn, key string) (*login, error) {
	l := &login{s: s, usage: u, client: client, conn: conn, key: key, since: time.Now(), ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		_ = client.Wait()
	}()
	alive := l.alive()
	u.count(&u.connections, alive)
	if !alive { // it can have been refused after all
		u.count(&u.refusals, false)
		l.close()
		return nil, errors.New("the connection ended at once")
	}
	s.logins.Add(1)
	return l, nil
}

// judge compares the result of a login with the access that requests have asked for.
func (s *soak) judge(a *access, id, key string, from netip.Addr, began time.Time, reached bool, err error) {
	now, u := time.Now(), s.usageOf(id)
	switch {
	case errors.Is(err, errOtherServer):
		s.strays.Add(1)
	case err != nil:
		u.count(&u.refusals, false)
	}
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		s.fail("a login at %s from %s neither succeeded nor failed within %s", id, from, patience)
	}
	if err == nil && !a.mayEnter(id, key, from, began, now) {
		s.fail("the key %s got into %s from %s, which no request in force has asked for", key, id, from)
	}
	if reached && !a.mayReach(id, from, began, now) {
		s.fail("%s was reached from %s, which no request in force has asked for", id, from)
	}
	if err != nil && !a.mayEnter(id, key, from, began, now) {
		s.keptOut.Add(1)
	}
}

// alive reports whether the server still replies.
func (l *login) alive() bool {
	result := make(chan error, 1)
	go func() {
		_, _, err := l.client.SendRequest("keepalive@openssh.com", true, nil)
		result <- err
	}()
	select {
	case err := <-result:
		return err == nil
	case <-time.After(patience):
		l.s.fail("no reply to a keepalive within %s", patience)
		_ = l.conn.Close()
		<-result
		return false
	}
}

// close ends the connection in order.
func (l *login) close() {
	l.left = true
	_ = l.client.Close()
	<-l.ended
}

// abort resets the connection, as the crash of a client does.
func (l *login) abort() {
	l.left = true
	if tcp, ok := l.conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = l.conn.Close()
	<-l.ended
}

// open opens a forward. forbidden means that the bastion must refuse it.
func (l *login) open(to string) (ssh.Channel, error) {
	host, port, err := net.SplitHostPort(to)
	if err != nil {
		return nil, err
	}
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		return nil, err
	}
	channel, requests, err := l.client.OpenChannel("direct-tcpip", ssh.Marshal(struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}{host, uint32(number), "127.0.0.1", 1}))
	if err == nil {
		go ssh.DiscardRequests(requests)
	}
	return channel, err
}

// transfer moves data to and from the target, and checks every byte. If leaveAfter is not
// negative, the client closes the forward after it has received that many bytes. The error
// is nil if everything arrived.
func (l *login) transfer(kind int, size, leaveAfter int64) error {
	x := l.s.target.expect(kind, size)
	defer l.usage.transfer(x)
	channel, err := l.open(l.s.target.address())
	if err != nil {
		l.s.target.take(x.id)
		return err
	}
	x.opened, x.sent = true, x.outgoingSize()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(channel, onlyReader{x.outgoing()})
		if err == nil {
			err = channel.CloseWrite()
		}
		sent <- err
	}()
	var reader io.Reader = channel
	if leaveAfter >= 0 {
		reader = io.LimitReader(channel, leaveAfter)
	}
	limit := time.AfterFunc(patience, func() {
		l.s.fail("%s did not end within %s", x, patience)
		_ = l.conn.Close()
	})
	err = compare(reader, x.incoming(), func(n int) { x.received += int64(n) })
	_ = channel.Close()
	sendErr := <-sent
	limit.Stop()
	l.s.bytes.Add(x.sent + x.received)
	switch {
	case errors.Is(err, errDifferent):
		l.s.fail("%s: the client received other data than was sent", x)
		return err
	case leaveAfter >= 0 || kind == reset:
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", x, err)
	case sendErr != nil:
		return fmt.Errorf("%s: %w", x, sendErr)
	}
	l.s.transfers.Add(1)
	return nil
}

// command runs a command of the console.
func (l *login) command(line string) (output string, err error) {
	session, err := l.client.NewSession()
	if err != nil {
		return "", err
	}
	defer session.Close()
	out, err := session.CombinedOutput(line)
	return string(out), err
}
