package localmode

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// testHost returns a private host and a dialer for it through bastion b1.
func testHost(t *testing.T) (*privateHost, func(port uint16) net.Conn) {
	t.Helper()
	n, err := newNetwork(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	ticks := 0
	h, err := startPrivateHost(n, rand.Reader, func() time.Time {
		ticks++
		return start.Add(time.Duration(ticks) * time.Second)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h, func(port uint16) net.Conn {
		t.Helper()
		conn, err := n.from("b1").Dial(t.Context(), netip.AddrPortFrom(n.address, port))
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
}

func TestPrivateHostPageShowsRequestAndBastion(t *testing.T) {
	_, dial := testHost(t)
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(80), nil }}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport}
	resp, err := client.Get("http://private.internal/some/path")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d, %v", resp.StatusCode, err)
	}
	for _, want := range []string{"private.internal", "GET /some/path", "bastion b1"} {
		if !strings.Contains(string(body), want) {
			t.Errorf("the page does not contain %q:\n%s", want, body)
		}
	}
}

// login connects with a new key.
func login(t *testing.T, h *privateHost, conn net.Conn) *ssh.Client {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(h.hostKey))
	if err != nil {
		t.Fatal(err)
	}
	c, channels, requests, err := ssh.NewClientConn(conn, "private.internal:22", &ssh.ClientConfig{
		User:            "alice",
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.FixedHostKey(host),
	})
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(c, channels, requests)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestPrivateHostRunsItsCommands(t *testing.T) {
	h, dial := testHost(t)
	client := login(t, h, dial(22))
	for _, test := range []struct {
		command, stdout, stderr string
		status                  int
	}{
		{"hostname", "private.internal\n", "", 0},
		{"whoami", "alice\n", "", 0},
		{"uptime", "up 1s\n", "", 0},
		{"echo hello  there", "hello  there\n", "", 0},
		{"rm -rf /", "", "rm: command not found; this is a demonstration host, type help\n", 127},
		{"\x1b[2J", "", "?[2J: command not found; this is a demonstration host, type help\n", 127},
	} {
		session, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		session.Stdout, session.Stderr = &stdout, &stderr
		err = session.Run(test.command)
		status := 0
		var exit *ssh.ExitError
		if errors.As(err, &exit) {
			status = exit.ExitStatus()
		} else if err != nil {
			t.Errorf("%s: %v", test.command, err)
		}
		if stdout.String() != test.stdout || stderr.String() != test.stderr || status != test.status {
			t.Errorf("%s: %q, %q, status %d", test.command, stdout.String(), stderr.String(), status)
		}
	}
}

func TestPrivateHostHasAShellWithAndWithoutTerminal(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		h, dial := testHost(t)
		client := login(t, h, dial(22))
		session, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if terminal {
			if err := session.RequestPty("xterm", 24, 80, ssh.TerminalModes{}); err != nil {
				t.Fatal(err)
			}
		}
		var out bytes.Buffer
		session.Stdout = &out
		session.Stdin = strings.NewReader(map[bool]string{false: "hostname\nnope\nexit\n", true: "hostname\rexit\r"}[terminal])
		if err := session.Shell(); err != nil {
			t.Fatal(err)
		}
		if err := session.Wait(); err != nil {
			t.Errorf("terminal %v: %v", terminal, err)
		}
		lines := "demonstration host in a private network.\nYou are alice and came through bastion b1."
		if terminal {
			lines = strings.ReplaceAll(lines, "\n", "\r\n")
		}
		if got := out.String(); !strings.Contains(got, lines) || !strings.Contains(got, "private.internal\n") && !terminal {
			t.Errorf("terminal %v: %q", terminal, got)
		}
	}
}

func TestPrivateHostRefusesForwardsAndSubsystems(t *testing.T) {
	h, dial := testHost(t)
	client := login(t, h, dial(22))
	if _, err := client.Dial("tcp", "127.0.0.1:22"); err == nil || !strings.Contains(err.Error(), "sessions only") {
		t.Errorf("a forward: %v", err)
	}
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := session.RequestSubsystem("sftp"); err == nil {
		t.Error("sftp was accepted")
	}
}

func TestPrivateHostCloseEndsItsConnections(t *testing.T) {
	h, dial := testHost(t)
	client := login(t, h, dial(22))
	half := dial(22) // a client that sends nothing
	defer half.Close()
	h.Close()
	if err := client.Wait(); err == nil {
		t.Error("the connection ended without an error")
	}
}
