package sshd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// console is the status console. One goroutine runs it and does all writing;
// another reads lines, each when it is told to. With a terminal both go through
// term.Terminal, which has a lock of its own.
type console struct {
	*session
	notices  chan string // to be shown; filled by connection.tell
	out      io.Writer
	terminal *term.Terminal // nil without a pty
	parted   bool           // farewell was said
}

const (
	prompt     = "bastion> "
	maxNotices = 16 // that a console may leave unread
	maxLine    = 4096
)

func newConsole(s *session) *console {
	return &console{session: s, notices: make(chan string, maxNotices), out: s.channel}
}

// run runs one command, or without one the console, and answers the exit
// status. ctx ends when the client has closed the channel or the connection is
// to end.
func (c *console) run(ctx context.Context, line string) int {
	if strings.TrimSpace(line) != "" {
		return c.command(ctx, line)
	}
	c.mu.Lock()
	c.consoles[c] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.consoles, c)
		c.mu.Unlock()
	}()
	c.interact(ctx)
	return 0
}

// command runs a command that came with the session.
func (c *console) command(ctx context.Context, line string) int {
	command, err := parseCommand(line)
	if errors.As(err, new(noCommand)) {
		c.audit.refusal(c.who, kindCommand, "there is no such command", slog.String("asked", clip(line)))
		fmt.Fprintf(c.channel.Stderr(), "bastion: %v\n", err)
		return 127
	}
	if err != nil {
		fmt.Fprintf(c.channel.Stderr(), "bastion: %v\n", err)
		return 1
	}
	return c.do(ctx, command)
}

// interact shows the status and does what is typed, until the client leaves or
// the connection is to end.
func (c *console) interact(ctx context.Context) {
	lines, next := make(chan string), make(chan struct{})
	defer close(next)
	read := c.lineReader()
	c.helpers.Go(func() { // ends when the channel does
		defer close(lines)
		for range next {
			line, err := read()
			if err != nil {
				return
			}
			select {
			case lines <- line:
			case <-ctx.Done():
				return
			}
		}
	})
	c.status()
	fmt.Fprintf(c.out, "\nCommands: %s, exit.\n", commandList)
	ask := next
	for {
		select {
		case ask <- struct{}{}:
			ask = nil
		case line, ok := <-lines:
			if !ok || c.typed(ctx, line) {
				return
			}
			ask = next
		case notice := <-c.notices:
			fmt.Fprintf(c.out, "bastion: %s\n", notice)
		case size := <-c.sizes:
			c.setSize(size)
		case <-ctx.Done():
			c.farewell()
			return
		}
	}
}

// typed does one line, and reports whether it was the last.
func (c *console) typed(ctx context.Context, line string) (last bool) {
	line = strings.TrimSpace(line)
	if line == "" {
		return false
	}
	if line == "exit" || line == "quit" || line == "logout" {
		return true
	}
	command, err := parseCommand(line)
	if err != nil {
		fmt.Fprintf(c.out, "bastion: %v\n", err)
		return false
	}
	c.do(ctx, command)
	return false
}

// lineReader answers what reads a line, from the terminal if there is one.
func (c *console) lineReader() func() (string, error) {
	if !c.pty {
		scanner := bufio.NewScanner(c.channel)
		scanner.Buffer(nil, maxLine)
		return func() (string, error) {
			if !scanner.Scan() {
				return "", io.EOF
			}
			return scanner.Text(), nil
		}
	}
	c.terminal = term.NewTerminal(c.channel, prompt)
	c.out = c.terminal
	select {
	case size := <-c.sizes:
		c.setSize(size)
	default:
	}
	return func() (string, error) {
		line, err := c.terminal.ReadLine()
		if errors.Is(err, term.ErrPasteIndicator) {
			err = nil
		}
		return line, err
	}
}

func (c *console) setSize(s size) {
	if c.terminal != nil {
		_ = c.terminal.SetSize(s.width, s.height)
	}
}

// farewell says, once, why the connection ends.
func (c *console) farewell() {
	var why *cause
	if c.parted || !errors.As(context.Cause(c.ctx), &why) || why.notice == "" {
		return
	}
	c.parted = true
	if c.terminal != nil {
		c.terminal.SetPrompt("")
	}
	fmt.Fprintf(c.out, "bastion: %s\n", why.notice)
}

// do does a command, and answers its exit status.
func (c *console) do(ctx context.Context, command command) int {
	switch command.name {
	case "status":
		c.status()
		return 0
	case "help":
		fmt.Fprint(c.out, help)
		return 0
	case "extend":
		return c.request(ctx, bastion.VerbExtend, command.ttl)
	default:
		return c.request(ctx, bastion.VerbClose, 0)
	}
}

// request asks the control plane, waits for its answer, and prints that.
func (c *console) request(ctx context.Context, verb bastion.Verb, ttl time.Duration) int {
	answers, err := c.asks.submit(verb, ttl)
	if err != nil {
		fmt.Fprintf(c.out, "bastion: %v\n", err)
		return 1
	}
	defer c.asks.release()
	late := time.NewTimer(c.cfg.Timing.Answer)
	defer late.Stop()
	select {
	case answer := <-answers:
		return c.show(answer)
	case <-late.C:
		fmt.Fprintf(c.out, "bastion: no answer came within %s. The request may still be granted: look at the status, or try again.\n", c.cfg.Timing.Answer)
	case <-ctx.Done():
		// An answer that ends the bastion comes with the end.
		select {
		case answer := <-answers:
			return c.show(answer)
		default:
		}
		c.farewell()
		if verb == bastion.VerbClose && c.ctx.Err() != nil {
			return 0
		}
	}
	return 1
}

// show prints an answer; of a refusal also the code, which scripts can rely on.
func (c *console) show(answer bastion.ConsoleReply) int {
	if answer.Code == "" {
		fmt.Fprintf(c.out, "bastion: %s\n", clip(answer.Message))
		return 0
	}
	fmt.Fprintf(c.out, "bastion: %s (%s)\n", clip(answer.Message), answer.Code)
	return 1
}

func (c *console) status() {
	open, _ := c.connections.use()
	fmt.Fprint(c.out, statusText(*c.lease.Load(), open, c.cfg.Now()))
}
