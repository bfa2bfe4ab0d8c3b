package sshd

import (
	"context"
	"log/slog"

	"golang.org/x/crypto/ssh"
)

// session is one session channel: it waits to be told whether it is to be a
// console or one command, and whether there is a terminal.
type session struct {
	*connection
	channel ssh.Channel

	pty    bool
	wanted *string     // what the client asked to start, "" for a console; nil before
	begin  chan string // gets it, once the client has been told yes
	sizes  chan size   // holds the terminal's latest size until the console takes it
}

type size struct{ width, height int }

// session serves one session channel.
func (c *connection) session(channel ssh.NewChannel) {
	accepted, requests, err := channel.Accept()
	if err != nil {
		return
	}
	s := &session{connection: c, channel: accepted, begin: make(chan string, 1), sizes: make(chan size, 1)}
	ctx, cancel := context.WithCancel(c.present)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer cancel()
		for request := range requests {
			before := s.wanted
			_ = request.Reply(s.request(request), nil)
			if s.wanted != before {
				// Not sooner: a command may be done, and the channel closed, before
				// the client is told that it began.
				s.begin <- *s.wanted
			}
		}
	}()
	select {
	case command := <-s.begin:
		s.exit(newConsole(s).run(ctx, command))
	case <-ctx.Done():
	}
	_ = accepted.Close()
	<-gone
}

// request decides about one request; it is called for one at a time, in their
// order. It must not wait for the console: while it does, nothing that the
// client sends is read, on any channel.
func (s *session) request(r *ssh.Request) bool {
	switch r.Type {
	case "env", "signal", "break", "eow@openssh.com":
		return false // harmless, and of no use here
	case "pty-req":
		var ask struct {
			Term                         string
			Width, Height, Pixels, Lines uint32
			Modes                        string
		}
		if s.wanted != nil || ssh.Unmarshal(r.Payload, &ask) != nil {
			return false
		}
		s.pty = true
		s.resize(ask.Width, ask.Height)
		return true
	case "window-change":
		var ask struct{ Width, Height, Pixels, Lines uint32 }
		if ssh.Unmarshal(r.Payload, &ask) != nil {
			return false
		}
		s.resize(ask.Width, ask.Height)
		return true
	case "shell":
		return s.start("")
	case "exec":
		var ask struct{ Command string }
		return ssh.Unmarshal(r.Payload, &ask) == nil && s.start(ask.Command)
	}
	s.refuse(r)
	return false
}

// refuse writes the line for a request that is not served.
func (s *session) refuse(r *ssh.Request) {
	asked := r.Type
	var subsystem struct{ Name string }
	if r.Type == "subsystem" && ssh.Unmarshal(r.Payload, &subsystem) == nil {
		asked += " " + subsystem.Name
	}
	s.audit.refusal(s.who, kindRequest, "this request is not served", slog.String("asked", clip(asked)))
}

// start has the console or the command begin; a session has one.
func (s *session) start(command string) bool {
	if s.wanted != nil {
		return false
	}
	s.wanted = &command
	return true
}

// resize leaves the terminal's size for the console. A client without a
// terminal of its own says 0 by 0.
func (s *session) resize(width, height uint32) {
	latest := size{80, 24}
	if width > 0 && height > 0 {
		latest = size{int(min(width, 1000)), int(min(height, 1000))}
	}
	select {
	case <-s.sizes: // an older one
	default:
	}
	s.sizes <- latest
}

// exit tells the client how it ended.
func (s *session) exit(status int) {
	_, _ = s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
}
