package sshd

import (
	"context"
	"log/slog"

	"golang.org/x/crypto/ssh"
)

// session is one session channel. The client's requests on it set up a terminal, if any,
// and start the console or one command.
type session struct {
	*connection
	channel ssh.Channel

	pty     bool
	command *string     // the command that the client has started; "" is the console
	begin   chan string // receives the command after the reply to its request is sent
	sizes   chan size   // holds the terminal's latest size until the console takes it
}

type size struct{ width, height int }

// session serves one session channel.
func (c *connection) session(channel ssh.NewChannel, _ func()) {
	accepted, requests, err := channel.Accept()
	if err != nil {
		return
	}
	defer c.wire.inflow.session()()
	s := &session{connection: c, channel: accepted, begin: make(chan string, 1), sizes: make(chan size, 1)}
	ctx, cancel := context.WithCancel(c.clientCtx)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		defer cancel()
		for request := range requests {
			before := s.command
			_ = request.Reply(s.handle(request), nil)
			if s.command != before {
				// After the reply: otherwise a command could finish and close the
				// channel before the client has received the reply.
				s.begin <- *s.command
			}
		}
	}()
	select {
	case command := <-s.begin:
		s.exit(newConsole(s).run(ctx, command))
	case <-ctx.Done():
	}
	_ = accepted.Close()
	<-closed
}

// handle handles one request, and reports whether it is accepted. It must not wait for
// the console: while handle runs, the library can stop reading the data of all channels.
func (s *session) handle(r *ssh.Request) bool {
	if isKeepalive(r.Type) {
		return false
	}
	switch r.Type {
	case "env", "signal", "break", "eow@openssh.com",
		// The manual of PuTTY describes these two in "SSH-2 names specified for PuTTY".
		"simple@putty.projects.tartarus.org", "winadj@putty.projects.tartarus.org":
		return false // common and harmless: no audit line
	case "pty-req":
		var pty struct {
			Term                         string
			Width, Height, Pixels, Lines uint32
			Modes                        string
		}
		if s.command != nil || ssh.Unmarshal(r.Payload, &pty) != nil {
			return false
		}
		s.pty = true
		s.resize(pty.Width, pty.Height)
		return true
	case "window-change":
		var window struct{ Width, Height, Pixels, Lines uint32 }
		if ssh.Unmarshal(r.Payload, &window) != nil {
			return false
		}
		s.resize(window.Width, window.Height)
		return true
	case "shell":
		return s.start("")
	case "exec":
		var exec struct{ Command string }
		return ssh.Unmarshal(r.Payload, &exec) == nil && s.start(exec.Command)
	}
	s.refuse(r)
	return false
}

// refuse writes the audit line of a request that is not supported.
func (s *session) refuse(r *ssh.Request) {
	requested := r.Type
	var subsystem struct{ Name string }
	if r.Type == "subsystem" && ssh.Unmarshal(r.Payload, &subsystem) == nil {
		requested += " " + subsystem.Name
	}
	s.audit.refusal(s.actor, kindRequest, "request type not supported", slog.String("requested", clip(requested)))
}

// start starts a command or the console. A session starts only one of them, once.
func (s *session) start(command string) bool {
	if s.command != nil {
		return false
	}
	s.command = &command
	return true
}

// resize stores the terminal's size for the console. A client without a terminal of
// its own sends 0 by 0.
func (s *session) resize(width, height uint32) {
	latest := size{80, 24}
	if width > 0 && height > 0 {
		latest = size{int(min(width, 1000)), int(min(height, 1000))}
	}
	select {
	case <-s.sizes: // drop the older size
	default:
	}
	s.sizes <- latest
}

// exit sends the exit status to the client.
func (s *session) exit(status int) {
	_, _ = s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
}
