package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// useConsole connects to the bastion with SSH, and opens its console. If this machine
// cannot reach the bastion, useConsole prints what is not proven.
func (t *trial) useConsole(ctx context.Context) error {
	if t.source.remote != "" {
		t.printf("NOT PROVEN: a connection with SSH. The reason: %s. The bastion admits %s instead", t.source.remote, t.source.address)
		return nil
	}
	began := time.Now()
	conn, err := t.connect(ctx)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		t.printf("NOT PROVEN: a connection with SSH. No TCP connection to %s within %s: %v", t.address(), dialLimit, err)
		t.printf("  The bastion runs, and its security group admits %s. Possible reasons: your network blocks outgoing connections to port %d (set SshPort to a port that it allows), it uses another address for them, or a network ACL of the subnet blocks them", t.source.address, t.bastion.Port)
		return nil
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, consoleLimit)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })() // ends all that waits for the bastion
	text, err := t.runConsole(conn)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the console at %s did not open within %s, although the TCP connection did", t.address(), consoleLimit)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = t.checkStatus(text)
	}
	if err != nil {
		return fmt.Errorf("open the console at %s with SSH: %w", t.address(), err)
	}
	t.printf("opened the console with SSH; the host key is the one of the document: %s", seconds(began))
	return nil
}

// connect opens a TCP connection. It tries again for dialLimit.
func (t *trial) connect(ctx context.Context) (net.Conn, error) {
	for began := time.Now(); ; {
		try, cancel := context.WithTimeout(ctx, dialTimeout)
		conn, err := t.d.Dial(try, "tcp", t.address())
		cancel()
		if err == nil || time.Since(began)+readyPause >= dialLimit {
			return conn, err
		}
		if err := bastion.Sleep(ctx, readyPause); err != nil {
			return nil, err
		}
	}
}

// runConsole opens the console, leaves it, and returns what it printed.
func (t *trial) runConsole(conn net.Conn) ([]byte, error) {
	hostKeys, err := t.hostKeys()
	if err != nil {
		return nil, err
	}
	sshConn, channels, requests, err := ssh.NewClientConn(conn, t.address(), &ssh.ClientConfig{
		User: t.bastion.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(t.signer)},
		HostKeyCallback: func(_ string, _ net.Addr, offered ssh.PublicKey) error {
			if slices.Contains(hostKeys, ssh.FingerprintSHA256(offered)) {
				return nil
			}
			return fmt.Errorf("wrong host key: the server has %s, and the document %s; another server may have answered",
				ssh.FingerprintSHA256(offered), strings.Join(hostKeys, " and "))
		},
	})
	if err != nil {
		return nil, err
	}
	client := ssh.NewClient(sshConn, channels, requests)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	session.Stdin = strings.NewReader("exit\n")
	var text bytes.Buffer
	session.Stdout = &text
	if err := session.Shell(); err != nil {
		return nil, fmt.Errorf("open a shell: %w", err)
	}
	if err := session.Wait(); err != nil {
		return nil, fmt.Errorf("%w; it printed:\n%s", err, &text)
	}
	return text.Bytes(), nil
}

// hostKeys returns the fingerprints of the document's host keys.
func (t *trial) hostKeys() (fingerprints []string, err error) {
	for _, key := range t.bastion.HostKeys {
		parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key))
		if err != nil {
			return nil, fmt.Errorf("read the host key %q of the document: %w", key, err)
		}
		fingerprints = append(fingerprints, ssh.FingerprintSHA256(parsed))
	}
	if len(fingerprints) == 0 {
		return nil, errors.New("the document has no host key")
	}
	return fingerprints, nil
}

// checkStatus returns an error if the text is not what the console of the bastion prints.
func (t *trial) checkStatus(text []byte) error {
	missing := slices.DeleteFunc([]string{
		t.name + " (" + t.bastion.ID + ")", t.bastion.Owner, string(bastion.Ready), "from " + t.source.address.String(), "Commands: ",
	}, func(want string) bool { return bytes.Contains(text, []byte(want)) })
	if len(missing) > 0 {
		return fmt.Errorf("the console does not show %q; it printed:\n%s", missing, text)
	}
	return nil
}
