package sshd

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

func TestForbiddenDestinationsAreRefused(t *testing.T) {
	for _, c := range []struct{ host, why string }{
		{"127.0.0.1", "a loopback address"},
		{"169.254.170.2", "a link-local address"},
		{"169.254.169.254", "a link-local address"},
		{"::1", "a loopback address"},
		{"::ffff:169.254.170.2", "a link-local address"},
		{"64:ff9b::a9fe:aa02", "an IPv6 form of an IPv4 address"},
		{"fd00:ec2::254", "an address of AWS's instance services"},
		{"0.0.0.0", "not the address of any host"},
		{"10.9.9.9", "the bastion's own address"},
		{"192.168.7.7", "not among the destinations"},
		{"loopback.internal", "a loopback address"},
		{"credentials.internal", "a link-local address"},
		{"own.internal", "the bastion's own address"},
		{"2130706433", "not a valid host name or IP address"},
		{"127.1", "not a valid host name or IP address"},
	} {
		t.Run(c.host, func(t *testing.T) {
			r := start(t, func(r *fixture) {
				r.table.Lease.AllowedDestinations = append(r.table.Lease.AllowedDestinations, rules("::/0", "169.254.0.0/16", "127.0.0.0/8", "0.0.0.0/8")...)
				r.resolver.results["loopback.internal"] = [][]netip.Addr{addrs("127.0.0.1", "::1")}
				r.resolver.results["credentials.internal"] = [][]netip.Addr{addrs("169.254.170.2")}
				r.resolver.results["own.internal"] = [][]netip.Addr{addrs("10.9.9.9")}
			})
			address := netJoin(c.host, "80")
			refused := wantOpenError(t, r.dial(), address)
			if refused.Reason != ssh.Prohibited || !strings.Contains(refused.Message, c.why) {
				t.Errorf("error %v, want %q", refused, c.why)
			}
			if dialed := r.network.dials(); dialed != "" {
				t.Errorf("dialled %s", dialed)
			}
			l := r.refusal(kindForward, c.why)
			if l.text("requested") != address || l.text("key") == "" || l.text("user") != "bastion" {
				t.Errorf("line %v", l)
			}
			if lines := r.log.all(msgForward); len(lines) > 0 {
				t.Errorf("forward lines of a refused forward: %v", lines)
			}
		})
	}
}

func netJoin(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}

// Each unsupported request of an OpenSSH client is refused, with a message in the client
// and an audit line.
func TestUnsupportedRequestsOfOpenSSHAreRefused(t *testing.T) {
	for _, c := range []struct {
		name         string
		args         []string
		shown        string // on standard error
		status       int
		kind, reason string
		requested    string
	}{
		{"command", []string{"bastion", "id"}, `bastion: unknown command "id". Commands: status, extend 30m, close, help
A bastion has no shell. To log in to a private host, or to run a command there: ssh [-F FILE] -J bastion-default HOST
`, 127,
			kindCommand, "unknown command", "id"},
		{"remote forward", []string{"-N", "-o", "ExitOnForwardFailure=yes", "-R", "8022:localhost:22", "bastion"}, "remote port forwarding failed", 255,
			kindRequest, "not supported", "tcpip-forward"},
		{"remote stream", []string{"-N", "-o", "ExitOnForwardFailure=yes", "-R", "/tmp/s:localhost:22", "bastion"}, "remote port forwarding failed", 255,
			kindRequest, "not supported", "streamlocal-forward@openssh.com"},
		{"X11", []string{"-Y", "bastion", "status"}, "X11 forwarding request failed", 0,
			kindRequest, "not supported", "x11-req"},
		{"subsystem", []string{"-s", "bastion", "sftp"}, "subsystem request failed", 255,
			kindRequest, "not supported", "subsystem sftp"},
		{"destination", []string{"-W", "169.254.170.2:80", "bastion"}, "administratively prohibited: This bastion does not connect there: 169.254.170.2 is a link-local address", 255,
			kindForward, "link-local", "169.254.170.2:80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t)
			s := r.openSSH()
			cmd := s.command("ssh", c.args...)
			cmd.Env = append(cmd.Env, "DISPLAY=127.0.0.1:99")
			got := s.finish(cmd, "")
			if !strings.Contains(got.stderr, c.shown) || got.status != c.status {
				t.Errorf("%+v, want status %d and %q", got, c.status, c.shown)
			}
			if l := r.refusal(c.kind, c.reason); l.text("requested") != c.requested {
				t.Errorf("requested %q, want %q", l.text("requested"), c.requested)
			}
		})
	}
}

func TestSFTPIsRefused(t *testing.T) {
	r := start(t)
	s := r.openSSH()
	got := s.finish(s.command("sftp", "bastion"), "")
	if got.status == 0 || !strings.Contains(got.stderr, "subsystem request failed") {
		t.Errorf("%+v", got)
	}
	r.refusal(kindRequest, "not supported")
}

func TestSCPIsToldToJump(t *testing.T) {
	r := start(t)
	s := r.openSSH()
	got := s.finish(s.command("scp", "-O", s.path("config"), "bastion:"), "") // -O uses a command, not sftp
	const advice = "A bastion has no files. To copy to a private host: scp [-F FILE] -J bastion-default SOURCE HOST:TARGET\n"
	if got.status == 0 || !strings.Contains(got.stderr, advice) {
		t.Errorf("%+v, want %q", got, advice)
	}
	r.refusal(kindCommand, "unknown command")
}

func TestAgentForwardingIsRefused(t *testing.T) {
	r := start(t)
	s := r.openSSH()
	socket := s.agent(t)
	cmd := s.command("ssh", "-A", "-o", "IdentityAgent="+socket, "bastion", "status")
	if got := s.finish(cmd, ""); got.status != 0 {
		t.Errorf("%+v", got)
	}
	if l := r.refusal(kindRequest, "not supported"); l.text("requested") != "auth-agent-req@openssh.com" {
		t.Errorf("line %v", l)
	}
}

func TestOtherChannelTypesAreRefused(t *testing.T) {
	for kind, reason := range map[string]ssh.RejectionReason{
		"direct-streamlocal@openssh.com": ssh.Prohibited,
		"tun@openssh.com":                ssh.Prohibited,
		"x11":                            ssh.UnknownChannelType,
		"forwarded-tcpip":                ssh.UnknownChannelType,
		"auth-agent@openssh.com":         ssh.UnknownChannelType,
	} {
		t.Run(kind, func(t *testing.T) {
			r := start(t)
			_, _, err := r.dial().OpenChannel(kind, nil)
			if refused, ok := err.(*ssh.OpenChannelError); !ok || refused.Reason != reason {
				t.Errorf("error %v, want %v", err, reason)
			}
			if l := r.refusal(kindChannel, "not supported"); l.text("requested") != kind {
				t.Errorf("line %v", l)
			}
		})
	}
}

func TestMalformedForwardIsRefused(t *testing.T) {
	r := start(t)
	if _, _, err := r.dial().OpenChannel("direct-tcpip", []byte("junk")); err == nil {
		t.Error("the channel was opened")
	}
	r.refusal(kindForward, "malformed")
}

func TestEnvironmentIsIgnored(t *testing.T) {
	r := start(t)
	s := r.openSSH()
	cmd := s.command("ssh", "-o", "SetEnv=LANG=C FOO=bar", "bastion", "status")
	if got := s.finish(cmd, ""); got.status != 0 || got.stderr != "" {
		t.Errorf("%+v", got)
	}
	r.stop()
	if lines := r.log.all(msgRefusal); len(lines) > 0 {
		t.Errorf("refusals %v", lines)
	}
}

func TestOpenSSHWithoutTheOwnersKeyIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		args   []string
		shown  string
		reason string
	}{
		"wrong key": {[]string{"-i", "wrong"}, "this bastion accepts", "is not admitted"},
		"ssh-rsa only": {[]string{"-i", "rsa", "-o", "PubkeyAcceptedAlgorithms=ssh-rsa"}, "Permission denied",
			"no key offered"}, // the server lists its algorithms, so the client does not offer the key
		"password": {[]string{"-o", "PreferredAuthentications=password,keyboard-interactive", "-o", "NumberOfPasswordPrompts=1"},
			"Permission denied (publickey)", "no key offered"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			s := r.openSSH()
			s.keygen("wrong", "ed25519")
			s.keygen("rsa", "rsa")
			for i, arg := range c.args {
				if arg == "wrong" || arg == "rsa" {
					c.args[i] = s.path(arg)
				}
			}
			// The configuration has the owner's key: use a copy without it.
			got := s.ssh("", append(append([]string{"-F", s.withoutKey()}, c.args...), "bastion", "status")...)
			if got.status != 255 || !strings.Contains(got.stderr, c.shown) {
				t.Errorf("%+v, want %q", got, c.shown)
			}
			r.log.await(t, msgRefusal, 1)
			r.refusal(kindAuthentication, c.reason)
		})
	}
}

func (s openSSH) keygen(name, kind string) {
	s.t.Helper()
	out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", s.path(name)).CombinedOutput()
	if err != nil {
		s.t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
}

// Tools and people read the standard error of ssh. If the login succeeds, nothing there may
// say that it failed; if it fails, the last line says so.
func TestOpenSSHThatOffersAWrongKeyFirst(t *testing.T) {
	for name, c := range map[string]struct {
		keys   []string
		last   string
		status int
	}{
		"the right one is next":  {[]string{"wrong", "other", "id"}, "", 0},
		"no right one":           {[]string{"wrong", "other"}, "bastion@127.0.0.1: Permission denied (publickey).\r\n", 255},
		"the right one is first": {[]string{"id", "wrong"}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			s := r.openSSH()
			s.keygen("wrong", "ed25519")
			s.keygen("other", "rsa")
			args := []string{"-F", s.withoutKey()}
			for _, key := range c.keys {
				args = append(args, "-i", s.path(key))
			}
			want := c.last
			if c.keys[0] == "wrong" {
				want = r.skipped(s.publicKey("wrong")) + c.last
			}
			if got := s.ssh("", append(args, "bastion", "status")...); got.stderr != want || got.status != c.status {
				t.Errorf("status %d, want %d; standard error:\n%s\nwant:\n%s", got.status, c.status, got.stderr, want)
			}
		})
	}
}

func (s openSSH) publicKey(name string) ssh.PublicKey {
	s.t.Helper()
	text, err := os.ReadFile(s.path(name) + ".pub")
	if err != nil {
		s.t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return key
}

// Keepalives of all libraries, and what PuTTY says about its window, are no refusals.
func TestHarmlessRequestsAreNoRefusals(t *testing.T) {
	r := start(t)
	client := r.dial()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	for _, name := range []string{
		"keepalive@lag.net",     // paramiko
		"keepalive@libssh2.org", // libssh2
		"keepalive@jcraft.com",  // JSch
		"keepalive@openssh.com",
		"keepalive@example.com",
		"keep-alive@bitvise.com",
		"trilead-ping",
	} {
		for _, wantReply := range []bool{true, false} {
			if ok, _, err := client.SendRequest(name, wantReply, nil); ok || err != nil {
				t.Errorf("%s on the connection: %t, %v", name, ok, err)
			}
			if ok, err := session.SendRequest(name, wantReply, nil); ok || err != nil {
				t.Errorf("%s on a session: %t, %v", name, ok, err)
			}
		}
	}
	for _, name := range []string{"simple@putty.projects.tartarus.org", "winadj@putty.projects.tartarus.org"} {
		if ok, err := session.SendRequest(name, true, nil); ok || err != nil {
			t.Errorf("%s: %t, %v", name, ok, err)
		}
	}
	r.stop()
	if lines := r.log.all(msgRefusal); len(lines) > 0 {
		t.Errorf("refusal lines: %v", lines)
	}
	if n := r.table.LastReport().Receipt.Refusals; n != 0 {
		t.Errorf("the receipt has %d refusals", n)
	}
}

// A ProxyCommand that runs nc on the bastion gets the advice to use -W.
func TestProxyCommandWithNetcatIsToldToUseW(t *testing.T) {
	r := start(t)
	s := r.openSSH()
	got := s.ssh("", "-o", "ProxyCommand=ssh -F "+s.path("config")+" bastion nc %h %p", "10.0.0.1")
	const advice = "As ProxyCommand, use: ssh [-F FILE] -W %h:%p bastion-default\n"
	if got.status != 255 || !strings.Contains(got.stderr, `bastion: unknown command "nc 10.0.0.1 22".`) || !strings.Contains(got.stderr, advice) {
		t.Errorf("%+v, want %q", got, advice)
	}
	if l := r.log.await(t, msgRefusal, 1); l.text("kind") != kindCommand || l.text("requested") != "nc 10.0.0.1 22" {
		t.Errorf("line %v", l)
	}
	client := r.dial()
	for command, forwards := range map[string]bool{
		"nc db.internal 22":                    true,
		"nc -q0 -w 5 db.internal 22":           true,
		"exec /usr/bin/nc db.internal 22":      true,
		"ncat --no-shutdown db.internal 22":    true,
		"netcat -N db.internal 22 2>/dev/null": true,
		"nc.openbsd db.internal 22":            true,
		"socat - TCP:db.internal:22":           true,
		`sh -c "nc db.internal 22"`:            true,
		"bash":                                 false,
		"psql -h db.internal":                  false,
		"ls nc.tar.gz":                         false,
	} {
		console := r.command(client, command)
		if status := console.status(); status != 127 {
			t.Errorf("%s: status %d, want 127", command, status)
		}
		w, j := strings.Contains(console.text(), "ssh [-F FILE] -W %h:%p bastion-default\n"), strings.Contains(console.text(), "ssh [-F FILE] -J bastion-default HOST\n")
		if w != forwards || j == forwards {
			t.Errorf("%s: output:\n%s", command, console.text())
		}
	}
}

func TestAgentWithTenWrongKeysFirstIsAdmitted(t *testing.T) {
	r := start(t)
	s := r.openSSH()
	var keys []any
	for range 10 {
		private := newPrivateKey(t)
		keys = append(keys, &private)
	}
	socket := s.agent(t, append(keys, &r.private)...)
	got := s.ssh("", "-F", s.withoutKey(), "-o", "IdentitiesOnly=no", "-o", "IdentityAgent="+socket, "bastion", "status")
	if got.status != 0 {
		t.Errorf("%+v", got)
	}
	if n := strings.Count(got.stderr, "this bastion accepts"); n != 1 {
		t.Errorf("%d banners, want one: %s", n, got.stderr)
	}
	r.stop()
	if lines := r.log.all(msgRefusal); len(lines) > 0 {
		t.Errorf("refusal lines of an admitted client: %v", lines)
	}
}

// agent starts an OpenSSH agent with the keys, and returns the path of its socket.
func (s openSSH) agent(t testing.TB, keys ...any) string {
	t.Helper()
	socket := s.path("agent")
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	conn := dialUntil(t, "unix", socket)
	defer conn.Close()
	client := agent.NewClient(conn)
	for _, key := range keys {
		if err := client.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			t.Fatal(err)
		}
	}
	return socket
}
