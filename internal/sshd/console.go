package sshd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
)

const (
	commandList = "status, extend 30m, close, help"
	help        = `status       show this bastion's status
extend 30m   keep it open for at least 30 minutes from now (or 1h30m, 2d, ...)
close        close it now and disconnect everyone
help         show this help
exit         leave the console, as Ctrl-D does
`
	prompt     = "bastion> "
	maxNotices = 16 // unread notices of one console; further ones are dropped
	maxLine    = 4096
)

// endNotices is what consoles print when the bastion ends.
var endNotices = map[leaseloop.Cause]string{
	leaseloop.Deadline:          "This bastion reached its deadline.",
	leaseloop.Idle:              "This bastion was closed because it was idle.",
	leaseloop.Closed:            "This bastion was closed by its owner or an administrator.",
	leaseloop.ClosedFromConsole: "This bastion was closed from its console.",
	leaseloop.LeaseRemoved:      "This bastion was closed.",
	leaseloop.Terminated:        "This bastion was stopped. Request it again if you still need it.",
	leaseloop.ListenerFailed:    "This bastion failed and is being restarted. Request it again to get its new host key.",
}

// console is the status console of one session. One goroutine runs it and does all
// writing; another reads lines, one at a time. With a terminal both use
// term.Terminal, which has a lock of its own.
type console struct {
	*session
	notices  chan string // from connection.notify, to be printed
	out      io.Writer
	terminal *term.Terminal // nil without a pty
	endShown bool           // showEnd has printed the cause
}

func newConsole(s *session) *console {
	return &console{session: s, notices: make(chan string, maxNotices), out: s.channel}
}

// run runs one command or, without one, the console, and returns the exit status.
// ctx is done when the client has closed the channel or the connection must end.
func (c *console) run(ctx context.Context, line string) int {
	if strings.TrimSpace(line) != "" {
		return c.runCommand(ctx, line)
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

// runCommand runs a command that came with the session.
func (c *console) runCommand(ctx context.Context, line string) int {
	command, err := parseCommand(line)
	if errors.As(err, new(unknownCommand)) {
		c.audit.refusal(c.actor, kindCommand, "unknown command", slog.String("requested", clip(line)))
		fmt.Fprintf(c.channel.Stderr(), "bastion: %v\n%s", err, c.instead(line))
		return 127
	}
	if err != nil {
		fmt.Fprintf(c.channel.Stderr(), "bastion: %v\n", err)
		return 1
	}
	return c.execute(ctx, command)
}

// interact shows the status and runs the lines that the client sends, until the client
// leaves or the connection must end.
func (c *console) interact(ctx context.Context) {
	lines, next := make(chan string), make(chan struct{})
	defer close(next)
	read := c.lineReader()
	c.helpers.Go(func() { // ends when the channel is closed
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
	c.showStatus()
	fmt.Fprintf(c.out, "\nCommands: %s, exit.\n%s", commandList, c.instead(""))
	readNext := next
	for {
		select {
		case readNext <- struct{}{}:
			readNext = nil
		case line, ok := <-lines:
			if !ok || c.runLine(ctx, line) {
				return
			}
			readNext = next
		case notice := <-c.notices:
			fmt.Fprintf(c.out, "bastion: %s\n", notice)
		case size := <-c.sizes:
			c.setSize(size)
		case <-ctx.Done():
			c.showEnd()
			return
		}
	}
}

// runLine runs one line, and reports whether the console ends with it.
func (c *console) runLine(ctx context.Context, line string) (last bool) {
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
		if errors.As(err, new(unknownCommand)) {
			fmt.Fprint(c.out, c.instead(line))
		}
		return false
	}
	c.execute(ctx, command)
	return false
}

// lineReader returns a function that reads a line, from the terminal if there is one.
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

// showEnd prints, once, why the connection ends.
func (c *console) showEnd() {
	var why *cause
	if c.endShown || !errors.As(context.Cause(c.ctx), &why) || why.notice == "" {
		return
	}
	c.endShown = true
	if c.terminal != nil {
		c.terminal.SetPrompt("")
	}
	fmt.Fprintf(c.out, "bastion: %s\n", why.notice)
}

// command is a parsed command line.
type command struct {
	name string        // status, extend, close or help
	ttl  time.Duration // of extend
}

// unknownCommand is the error of parseCommand for a command that does not exist.
type unknownCommand struct{ line string }

func (u unknownCommand) Error() string {
	return fmt.Sprintf("unknown command %q. Commands: %s", clip(u.line), commandList)
}

// netcats are the programs that a ProxyCommand runs on a bastion that has a shell.
var netcats = []string{"nc", "ncat", "netcat", "nc.openbsd", "nc.traditional", "socat"}

// copiers are the programs that a client runs on a host to copy files.
var copiers = []string{"scp", "sftp-server", "rsync"}

// instead returns the line that tells a person who expected a shell what to do. line is
// the command that the person's client wanted to run, or empty.
func (c *console) instead(line string) string {
	alias := bastion.HostAlias(clip(c.lease.Load().Name))
	runs := func(programs []string) bool {
		return slices.ContainsFunc(strings.Fields(line), func(word string) bool {
			return slices.Contains(programs, path.Base(strings.Trim(word, `"'`)))
		})
	}
	switch {
	case runs(netcats):
		return fmt.Sprintf("A bastion runs no programs; it forwards connections itself. As ProxyCommand, use: ssh [-F FILE] -W %%h:%%p %s\n", alias)
	case runs(copiers):
		return fmt.Sprintf("A bastion has no files. To copy to a private host: scp [-F FILE] -J %s SOURCE HOST:TARGET\n", alias)
	}
	return fmt.Sprintf("A bastion has no shell. To log in to a private host, or to run a command there: ssh [-F FILE] -J %s HOST\n", alias)
}

// parseCommand parses a line. Its errors are shown to the person at the console.
func parseCommand(line string) (command, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return command{}, unknownCommand{line}
	}
	name, args := words[0], words[1:]
	switch {
	case (name == "status" || name == "close" || name == "help") && len(args) == 0:
		return command{name: name}, nil
	case name == "extend" && len(args) == 1:
		ttl, err := bastion.ParseTTL(args[0])
		if err != nil {
			return command{}, fmt.Errorf("%q is not a duration, such as 30m, 1h30m or 2d", clip(args[0]))
		}
		return command{name: name, ttl: ttl}, nil
	case name == "extend":
		return command{}, errors.New("usage: extend 30m")
	}
	return command{}, unknownCommand{line}
}

// execute runs a command, and returns its exit status.
func (c *console) execute(ctx context.Context, command command) int {
	switch command.name {
	case "status":
		c.showStatus()
		return 0
	case "help":
		fmt.Fprint(c.out, help)
		return 0
	case "extend":
		return c.sendRequest(ctx, bastion.VerbExtend, command.ttl)
	default:
		return c.sendRequest(ctx, bastion.VerbClose, 0)
	}
}

// sendRequest sends a request to the control plane, waits for the reply and prints it.
func (c *console) sendRequest(ctx context.Context, verb bastion.Verb, ttl time.Duration) int {
	replies, err := c.requests.submit(verb, ttl)
	if err != nil {
		fmt.Fprintf(c.out, "bastion: %v\n", err)
		return 1
	}
	defer c.requests.release()
	late := time.NewTimer(c.cfg.Timing.Reply)
	defer late.Stop()
	select {
	case reply := <-replies:
		return c.showReply(reply)
	case <-late.C:
		fmt.Fprintf(c.out, "bastion: no reply within %s. The request may still succeed: check the status, or try again.\n", spelledOut(c.cfg.Timing.Reply))
	case <-ctx.Done():
		// The lease that contains the reply to close also ends the connection. The reply
		// may therefore be here already.
		select {
		case reply := <-replies:
			return c.showReply(reply)
		default:
		}
		c.showEnd()
		if verb == bastion.VerbClose && c.ctx.Err() != nil {
			return 0
		}
	}
	return 1
}

// showReply prints a reply and returns the exit status. It adds the code of a refusal,
// for scripts.
func (c *console) showReply(reply bastion.ConsoleReply) int {
	if reply.Code == "" {
		fmt.Fprintf(c.out, "bastion: %s\n", clip(reply.Message))
		return 0
	}
	fmt.Fprintf(c.out, "bastion: %s (%s)\n", clip(reply.Message), reply.Code)
	return 1
}

func (c *console) showStatus() {
	open, _ := c.connections.use()
	fmt.Fprint(c.out, statusText(*c.lease.Load(), open, c.connections.keyUse(), c.actor.key, c.cfg.Now()))
}

// statusText returns what status prints. own is the fingerprint of the client's key.
func statusText(lease bastion.Lease, open int, keys []keyUse, own string, now time.Time) string {
	idle := "never closed for being idle"
	if lease.IdleTimeout > 0 {
		idle = fmt.Sprintf("closes after %s without a connection", bastion.FormatTTL(lease.IdleTimeout))
	}
	left := bastion.FormatTTL(max(0, lease.Deadline.Sub(now)))
	rows := [][2]string{
		{"bastion", fmt.Sprintf("%s (%s)", clip(lease.Name), clip(lease.BastionID))},
		{"owner", clip(lease.Owner)},
		{"state", string(bastion.Ready)},
		{"deadline", fmt.Sprintf("%s, %s from now", lease.Deadline.UTC().Format(time.RFC3339), left)},
		{"idle", idle},
		{"connections", fmt.Sprintf("%d open", open)},
		{"destinations", joinRules(lease.AllowedDestinations)},
	}
	for _, key := range keys {
		yours, connections := "", "connections"
		if key.fingerprint == own {
			yours = " (yours)"
		}
		if key.open == 1 {
			connections = "connection"
		}
		rows = append(rows, [2]string{"key", fmt.Sprintf("%s%s, %d %s, from %s", key.fingerprint, yours, key.open, connections, bastion.SourceList(key.sources))})
	}
	var b strings.Builder
	for _, row := range rows {
		fmt.Fprintf(&b, "%-13s%s\n", row[0], row[1])
	}
	return b.String()
}

func joinRules(rules []bastion.DestinationRule) string {
	if len(rules) == 0 {
		return "none"
	}
	var all []string
	for _, r := range rules {
		all = append(all, r.String())
	}
	return strings.Join(all, ", ")
}

// warning returns the notice that consoles print before the deadline.
func warning(lease bastion.Lease, before time.Duration) string {
	return fmt.Sprintf("This bastion closes in %s, at %s. To keep it open, type: extend 30m",
		spelledOut(before), lease.Deadline.UTC().Format(time.RFC3339))
}

// spelledOut formats a duration for a sentence, such as "10 minutes".
func spelledOut(d time.Duration) string {
	switch {
	case d == time.Minute:
		return "1 minute"
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	}
	return d.String()
}

// consoleRequests holds the latest request of a console to the control plane. The report
// contains the request, and the lease contains the reply. Only one console can wait for
// a reply at a time.
type consoleRequests struct {
	changed func() // wakes the lease loop, which reports the request

	mu      sync.Mutex
	latest  bastion.ConsoleRequest
	waiting chan bastion.ConsoleReply // nil if no console waits
}

var errRequestPending = errors.New("another console's request is pending; try again in a moment")

// submit makes a request. The returned channel receives the reply, if one comes. The
// caller must call release when it does not wait any more.
func (r *consoleRequests) submit(verb bastion.Verb, ttl time.Duration) (<-chan bastion.ConsoleReply, error) {
	defer r.changed()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting != nil {
		return nil, errRequestPending
	}
	r.latest = bastion.ConsoleRequest{Number: r.latest.Number + 1, Verb: verb, TTL: ttl}
	r.waiting = make(chan bastion.ConsoleReply, 1)
	return r.waiting, nil
}

// release ends the wait for a reply, so that submit accepts the next request.
func (r *consoleRequests) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = nil
}

// deliver passes a reply to the waiting console, if it is the reply to the latest request.
func (r *consoleRequests) deliver(reply bastion.ConsoleReply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil || reply.Number != r.latest.Number {
		return
	}
	select {
	case r.waiting <- reply:
	default: // it was delivered before
	}
}

// current returns the latest request.
func (r *consoleRequests) current() bastion.ConsoleRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.latest
}
