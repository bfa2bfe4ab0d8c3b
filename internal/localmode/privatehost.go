package localmode

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// privateHost is the host private.internal, a first destination to try. It serves
// HTTP on port 80 and SSH on port 22.
type privateHost struct {
	hostKey bastion.Key
	config  *ssh.ServerConfig
	web     *http.Server
	ports   []*pipeListener
	now     func() time.Time
	started time.Time

	running sync.WaitGroup
	mu      sync.Mutex
	closed  bool
	conns   map[net.Conn]struct{} // SSH connections
}

// startPrivateHost adds the host to the network, with a new SSH host key.
func startPrivateHost(n *network, rand io.Reader, now func() time.Time) (*privateHost, error) {
	_, private, err := ed25519.GenerateKey(rand)
	if err != nil {
		return nil, fmt.Errorf("make the host key of %s: %w", privateName, err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		return nil, fmt.Errorf("make the host key of %s: %w", privateName, err)
	}
	h := &privateHost{
		hostKey: publickey.Of(signer.PublicKey()),
		config:  demonstrationConfig(signer),
		now:     now,
		started: now(),
		conns:   map[net.Conn]struct{}{},
	}
	h.web = &http.Server{
		Handler:           http.HandlerFunc(h.page),
		ReadHeaderTimeout: 10 * time.Second,
		ConnContext:       withBastion,
	}
	web, shell := n.listen(80), n.listen(22)
	h.ports = []*pipeListener{web, shell}
	h.running.Go(func() { _ = h.web.Serve(web) })
	h.running.Go(func() { h.acceptSSH(shell) })
	return h, nil
}

// Close removes the host from the network, closes its connections and waits for
// their goroutines.
func (h *privateHost) Close() {
	for _, listener := range h.ports {
		_ = listener.Close()
	}
	_ = h.web.Close()
	h.mu.Lock()
	h.closed = true
	for conn := range h.conns {
		_ = conn.Close()
	}
	h.mu.Unlock()
	h.running.Wait()
}

type bastionKey struct{}

// withBastion adds the ID of the bastion that a connection came through.
func withBastion(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, bastionKey{}, bastionOf(conn))
}

func bastionOf(conn net.Conn) string {
	if pipe, ok := conn.(*pipeConn); ok {
		return pipe.bastionID
	}
	return "unknown"
}

// page shows an HTTP request and the bastion that it came through.
func (h *privateHost) page(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	fmt.Fprintf(w, `It works: this is %s, a host in a private network.

    your request    %s %s
    came through    bastion %s

You cannot connect to this host directly. The bastion resolved its name inside
the private network and connected for you. After the bastion has closed, you
cannot reach this host.
`, privateName, r.Method, r.URL.Path, r.Context().Value(bastionKey{}))
}

// loginTimeout is how long a client of the private host may take to log in.
const loginTimeout = 30 * time.Second

// demonstrationConfig accepts every public key, because the host has nothing to
// protect.
func demonstrationConfig(hostKey ssh.Signer) *ssh.ServerConfig {
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			return &ssh.Permissions{}, nil
		},
	}
	config.AddHostKey(hostKey)
	return config
}

func (h *privateHost) acceptSSH(listener net.Listener) {
	for {
		conn, err := listener.Accept()
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
	_ = conn.SetDeadline(time.Now().Add(loginTimeout))
	server, channels, requests, err := ssh.NewServerConn(conn, h.config)
	if err != nil {
		return
	}
	_ = conn.SetDeadline(time.Time{})
	var sessions sync.WaitGroup
	sessions.Go(func() { ssh.DiscardRequests(requests) })
	for request := range channels {
		if request.ChannelType() != "session" {
			_ = request.Reject(ssh.UnknownChannelType, privateName+" supports sessions only")
			continue
		}
		channel, requests, err := request.Accept()
		if err != nil {
			continue
		}
		s := &session{channel: channel, user: server.User(), bastionID: bastionOf(conn), up: h.up}
		sessions.Go(func() { s.serve(requests) })
	}
	sessions.Wait()
}

func (h *privateHost) up() time.Duration { return h.now().Sub(h.started).Round(time.Second) }

// session is one session channel of the private host. Its shell is a handful of
// built-in commands; no process is started.
type session struct {
	channel   ssh.Channel
	user      string
	bastionID string
	up        func() time.Duration
	pty       bool
}

// serve handles the channel's requests until the client closes it.
func (s *session) serve(requests <-chan *ssh.Request) {
	var program sync.WaitGroup
	defer program.Wait()
	started := false
	for request := range requests {
		switch {
		case request.Type == "pty-req" && !started:
			s.pty = true
			_ = request.Reply(true, nil)
		case (request.Type == "shell" || request.Type == "exec") && !started:
			started = true
			_ = request.Reply(true, nil)
			var command struct{ Line string }
			_ = ssh.Unmarshal(request.Payload, &command) // a shell has no payload
			program.Go(func() { s.run(request.Type == "exec", command.Line) })
		default:
			_ = request.Reply(false, nil)
		}
	}
	_ = s.channel.Close()
}

// run executes the command or the shell, then closes the channel with its exit
// status.
func (s *session) run(isCommand bool, line string) {
	status := 0
	if isCommand {
		status = s.command(s.output(), s.stderr(), line)
	} else {
		s.shell()
	}
	_ = s.channel.CloseWrite()
	_, _ = s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
	_ = s.channel.Close()
}

// output returns the writer for a command's output. A terminal needs CRLF.
func (s *session) output() io.Writer {
	if s.pty {
		return term.NewTerminal(s.channel, "")
	}
	return s.channel
}

// stderr returns the writer for a command's errors.
func (s *session) stderr() io.Writer {
	if s.pty {
		return s.output()
	}
	return s.channel.Stderr()
}

// shell runs commands, with or without a terminal, until exit or end of file.
func (s *session) shell() {
	out, errs, next := s.output(), s.stderr(), s.plainLines()
	if s.pty {
		terminal := term.NewTerminal(s.channel, s.user+"@"+privateName+"$ ")
		out, errs, next = terminal, terminal, terminal.ReadLine
	}
	fmt.Fprintf(out, `Welcome to %s, a demonstration host in a private network.
You are %s and came through bastion %s. This host accepts any key and stores nothing.
Type help for the list of commands, exit to leave.
`, privateName, printable(s.user), s.bastionID)
	for {
		line, err := next()
		if err != nil || strings.TrimSpace(line) == "exit" {
			return
		}
		s.command(out, errs, line)
	}
}

func (s *session) plainLines() func() (string, error) {
	scanner := bufio.NewScanner(s.channel)
	return func() (string, error) {
		if !scanner.Scan() {
			return "", io.EOF
		}
		return scanner.Text(), nil
	}
}

// command runs one command and returns its exit status.
func (s *session) command(out, errs io.Writer, line string) int {
	name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch name {
	case "", "exit", "true":
	case "hostname":
		fmt.Fprintln(out, privateName)
	case "whoami":
		fmt.Fprintln(out, printable(s.user))
	case "uptime":
		fmt.Fprintln(out, "up", s.up())
	case "echo":
		fmt.Fprintln(out, strings.TrimSpace(rest))
	case "help":
		fmt.Fprintln(out, "hostname, whoami, uptime, echo TEXT, help, exit (a demonstration, not a real shell)")
	default:
		fmt.Fprintf(errs, "%s: command not found; this is a demonstration host, type help\n", printable(name))
		return 127
	}
	return 0
}
