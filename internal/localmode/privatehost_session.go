package localmode

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"
)

// session is one session channel of the private host: something like a shell,
// without any program behind it.
type session struct {
	channel   ssh.Channel
	user      string
	bastionID string
	up        func() time.Duration
	pty       bool
}

// serve answers the channel's requests until the client has closed it.
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

// run is the session's program. It ends the channel with an exit status.
func (s *session) run(one bool, line string) {
	status := 0
	if one {
		status = s.command(s.output(), s.stderr(), line)
	} else {
		s.shell()
	}
	_ = s.channel.CloseWrite()
	_, _ = s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
	_ = s.channel.Close()
}

// output is where a command's text goes; a terminal wants its line ends whole.
func (s *session) output() io.Writer {
	if s.pty {
		return term.NewTerminal(s.channel, "")
	}
	return s.channel
}

// stderr is the terminal, when there is one.
func (s *session) stderr() io.Writer {
	if s.pty {
		return s.output()
	}
	return s.channel.Stderr()
}

// shell reads commands, with or without a terminal, until exit or the end.
func (s *session) shell() {
	out, errs, next := s.output(), s.stderr(), s.plainLines()
	if s.pty {
		terminal := term.NewTerminal(s.channel, s.user+"@"+privateName+"$ ")
		out, errs, next = terminal, terminal, terminal.ReadLine
	}
	fmt.Fprintf(out, `Welcome to %s, a demonstration host in a private network.
You are %s and came through bastion %s. Any key is welcome here; nothing is kept.
Type help for what it knows, exit to leave.
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

// command answers one command and gives its exit status.
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
		fmt.Fprintln(out, "hostname, whoami, uptime, echo TEXT, help, exit: it is a demonstration, there is no real shell")
	default:
		fmt.Fprintf(errs, "%s: command not found; this is a demonstration host, try help\n", printable(name))
		return 127
	}
	return 0
}

// printable keeps what a client sent from driving the terminal that shows it.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, text)
}
