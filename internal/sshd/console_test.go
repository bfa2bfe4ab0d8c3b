package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

// testConsole is a client's side of a session.
type testConsole struct {
	t       testing.TB
	session *ssh.Session
	stdin   io.WriteCloser

	mu      sync.Mutex
	output  strings.Builder
	changed chan struct{}
}

func (c *testConsole) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
	return c.output.Write(b)
}

func (c *testConsole) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.output.String()
}

// await waits until the output contains the text.
func (c *testConsole) await(text string) {
	c.t.Helper()
	late := time.After(patience)
	for {
		c.mu.Lock()
		shown, changed := strings.Contains(c.output.String(), text), c.changed
		c.mu.Unlock()
		if shown {
			return
		}
		select {
		case <-changed:
		case <-late:
			c.t.Fatalf("the console did not print %q:\n%s", text, c.text())
		}
	}
}

func (c *testConsole) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.stdin, text); err != nil {
		c.t.Fatal(err)
	}
}

// status waits for the end of the session and returns the exit status.
func (c *testConsole) status() int {
	c.t.Helper()
	err := c.session.Wait()
	if exit, ok := err.(*ssh.ExitError); ok {
		return exit.ExitStatus()
	}
	if err != nil {
		c.t.Errorf("the session ended with %v", err)
	}
	return 0
}

func (r *fixture) session(client *ssh.Client) *testConsole {
	r.t.Helper()
	session, err := client.NewSession()
	if err != nil {
		r.t.Fatal(err)
	}
	c := &testConsole{t: r.t, session: session, changed: make(chan struct{})}
	if c.stdin, err = session.StdinPipe(); err != nil {
		r.t.Fatal(err)
	}
	session.Stdout, session.Stderr = c, c
	return c
}

// console opens a console, with or without a terminal.
func (r *fixture) console(client *ssh.Client, pty bool) *testConsole {
	r.t.Helper()
	c := r.session(client)
	if pty {
		if err := c.session.RequestPty("xterm", 24, 80, ssh.TerminalModes{}); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := c.session.Shell(); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// command starts a command in a session.
func (r *fixture) command(client *ssh.Client, command string) *testConsole {
	r.t.Helper()
	c := r.session(client)
	if err := c.session.Start(command); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// granting makes the table reply to console requests as a control plane does: it grants
// extensions of up to two hours, and close.
func granting(tb *simtask.Table) {
	tb.Around = func(report bastion.Report, apply func() error) error {
		err := apply()
		request := report.ConsoleRequest
		if request.Number == 0 {
			return err
		}
		_ = tb.Write(func(l *bastion.Lease) {
			if l.ConsoleReply.Number == request.Number {
				l.Generation-- // the lease has the reply already: no new generation
				return
			}
			l.ConsoleReply = bastion.ConsoleReply{Number: request.Number, Message: fmt.Sprintf("Granted %s.", request.TTL)}
			switch {
			case request.Verb == bastion.VerbClose:
				l.Open, l.EndReason, l.ConsoleReply.Message = false, bastion.EndConsole, "This bastion is being closed."
			case request.TTL > 2*time.Hour:
				l.ConsoleReply.Code, l.ConsoleReply.Message = bastion.CodeTTLBeyondCap, "Request less\x1b[2J."
			}
		})
		return err
	}
}

func TestCommandsPrintAResultAndReturnAStatus(t *testing.T) {
	r := start(t, func(r *fixture) { granting(r.table) })
	client := r.dial()
	for _, c := range []struct {
		command, shown string
		status         int
	}{
		{"status", "deadline", 0},
		{"status", "connections  1 open", 0},
		{"help", "extend 30m", 0},
		{"extend 30m", "bastion: Granted 30m0s.\n", 0},
		{"extend 1h30m", "bastion: Granted 1h30m0s.\n", 0},
		{"extend 3h", "bastion: Request less?[2J. (ttl_beyond_cap)\n", 1},
		{"extend soon", `bastion: "soon" is not a duration`, 1},
		{"extend", "bastion: usage: extend 30m", 1},
		{"rm -rf /", `bastion: unknown command "rm -rf /"`, 127},
	} {
		console := r.command(client, c.command)
		if status := console.status(); status != c.status || !strings.Contains(console.text(), c.shown) {
			t.Errorf("%s: status %d, want %d; output:\n%s\nwant %q", c.command, status, c.status, console.text(), c.shown)
		}
	}
	console := r.command(client, "close")
	if status := console.status(); status != 0 || !strings.Contains(console.text(), "is being closed") {
		t.Errorf("close: status %d; output:\n%s", status, console.text())
	}
	if code := r.exit(); code != bastion.ExitOK {
		t.Errorf("exit code %d, want 0", code)
	}
	if request := r.table.LastReport().ConsoleRequest; request != (bastion.ConsoleRequest{Number: 4, Verb: bastion.VerbClose}) {
		t.Errorf("last request %+v", request)
	}
}

func TestOpenSSHRunsCommands(t *testing.T) {
	r := start(t, func(r *fixture) { granting(r.table) })
	s := r.openSSH()
	if got := s.ssh("", "bastion", "extend", "30m"); got != (outcome{"bastion: Granted 30m0s.\n", "", 0}) {
		t.Errorf("%+v", got)
	}
	if got := s.ssh("", "bastion", "extend", "3h"); got.status != 1 {
		t.Errorf("%+v, want status 1", got)
	}
	if got := s.ssh("", "bastion", "close"); got.status != 0 || !strings.Contains(got.stdout, "is being closed") {
		t.Errorf("%+v", got)
	}
	r.exit()
}

func TestConsoleWithoutATerminal(t *testing.T) {
	r := start(t, func(r *fixture) { granting(r.table) })
	got := r.openSSH().ssh("help\n\nwhat\nextend 30m\nexit\nstatus\n", "-T", "bastion")
	if got.status != 0 {
		t.Errorf("%+v", got)
	}
	for _, want := range []string{"owner        local:alice", "Commands:", "leave the console", `unknown command "what"`, "Granted 30m0s"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("output without %q:\n%s", want, got.stdout)
		}
	}
	if n := strings.Count(got.stdout, "A bastion has no shell. To log in to a private host, or to run a command there: ssh [-F FILE] -J bastion-default HOST\n"); n != 2 {
		t.Errorf("%d times what to do instead, want 2, at the beginning and after the unknown command:\n%s", n, got.stdout)
	}
	if strings.Count(got.stdout, "owner ") != 1 {
		t.Errorf("a command after exit was run:\n%s", got.stdout)
	}
	if strings.ContainsAny(got.stdout, "\r\x1b") {
		t.Errorf("terminal control characters without a terminal: %q", got.stdout)
	}
}

func TestConsoleWithATerminal(t *testing.T) {
	r := start(t, func(r *fixture) { granting(r.table) })
	console := r.console(r.dial(), true)
	console.await(prompt)
	console.send("stat\x7f\x7f\x7f\x7fhelp\r") // the backspaces erase "stat"
	console.await("leave the console")
	if err := console.session.WindowChange(40, 120); err != nil {
		t.Fatal(err)
	}
	console.send("extend 30m\r")
	console.await("Granted 30m0s")
	console.send("\x04")
	if status := console.status(); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	if text := console.text(); strings.Contains(strings.ReplaceAll(text, "\r\n", ""), "\n") {
		t.Errorf("line feeds without carriage returns: %q", text)
	}
}

func TestOpenSSHConsoleWithATerminal(t *testing.T) {
	r := start(t)
	got := r.openSSH().ssh("help\rexit\r", "-tt", "bastion")
	if got.status != 0 || !strings.Contains(got.stdout, "leave the console") {
		t.Errorf("%+v", got)
	}
}

func TestConsoleEndsWithItsInput(t *testing.T) {
	r := start(t)
	if got := r.openSSH().ssh("", "-T", "bastion"); got.status != 0 || !strings.Contains(got.stdout, "owner ") {
		t.Errorf("%+v", got)
	}
}

func TestMissingReplyIsReported(t *testing.T) {
	r := start(t, func(r *fixture) { r.cfg.Timing.Reply = 20 * time.Millisecond })
	client := r.dial()
	console := r.command(client, "extend 30m")
	if status := console.status(); status != 1 || !strings.Contains(console.text(), "no reply within 20ms") {
		t.Errorf("status %d; output:\n%s", status, console.text())
	}
	// After the time limit, the next request is accepted.
	r.table.Change(granting)
	console = r.command(client, "extend 20m")
	if status := console.status(); status != 0 || !strings.Contains(console.text(), "Granted 20m0s") {
		t.Errorf("status %d; output:\n%s", status, console.text())
	}
}

func TestOneRequestAtATime(t *testing.T) {
	r := start(t)
	client := r.dial()
	first := r.command(client, "extend 30m")
	r.awaitReport("has the request", func(report bastion.Report) bool {
		return report.ConsoleRequest == bastion.ConsoleRequest{Number: 1, Verb: bastion.VerbExtend, TTL: 30 * time.Minute}
	})
	second := r.command(client, "close")
	if status := second.status(); status != 1 || !strings.Contains(second.text(), "another console's request is pending") {
		t.Errorf("status %d; output:\n%s", status, second.text())
	}
	if err := r.table.Write(func(l *bastion.Lease) { l.ConsoleReply = bastion.ConsoleReply{Number: 1, Message: "Yes."} }); err != nil {
		t.Fatal(err)
	}
	if status := first.status(); status != 0 || !strings.Contains(first.text(), "Yes.") {
		t.Errorf("status %d; output:\n%s", status, first.text())
	}
}

func TestReplyToAnotherRequestIsNotShown(t *testing.T) {
	r := start(t, func(r *fixture) {
		r.table.Lease.ConsoleReply = bastion.ConsoleReply{Number: 7, Message: "Not this."}
		r.cfg.Timing.Reply = 50 * time.Millisecond
	})
	console := r.command(r.dial(), "extend 30m")
	if status := console.status(); status != 1 || strings.Contains(console.text(), "Not this") {
		t.Errorf("status %d; output:\n%s", status, console.text())
	}
}

func TestCloseSucceedsWhenTheLeaseIsRemoved(t *testing.T) {
	r := start(t)
	console := r.command(r.dial(), "close")
	r.awaitReport("has the request", func(report bastion.Report) bool { return report.ConsoleRequest.Number == 1 })
	r.table.Change(func(tb *simtask.Table) { tb.Removed = true })
	if status := console.status(); status != 0 || !strings.Contains(console.text(), "was closed") {
		t.Errorf("status %d; output:\n%s", status, console.text())
	}
}

// A short command must not close its channel before the reply to its request is sent.
func TestShortCommandsAreAcceptedBeforeTheyEnd(t *testing.T) {
	r := start(t)
	client := r.dial()
	for range 1000 {
		if status := r.command(client, "help").status(); status != 0 {
			t.Fatalf("exit status %d", status)
		}
	}
}

func TestSecondCommandOfASessionIsRefused(t *testing.T) {
	r := start(t)
	console := r.console(r.dial(), false)
	console.await("Commands:")
	if ok, err := console.session.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{"status"})); ok || err != nil {
		t.Errorf("a second command is accepted: %v, %v", ok, err)
	}
}

func TestSessionThatNeverBeginsCanEnd(t *testing.T) {
	r := start(t)
	client := r.dial()
	console := r.session(client)
	console.session.Close()
	if status := r.command(client, "status").status(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// A client that reads nothing must not delay the end of the bastion.
func TestConsoleThatDoesNotReadDoesNotDelayTheEnd(t *testing.T) {
	r := start(t, func(r *fixture) { r.cfg.Timing.Grace = 20 * time.Millisecond })
	client := r.dial()
	channel, requests, err := client.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
	if ok, err := channel.SendRequest("shell", true, nil); !ok || err != nil {
		t.Fatal(ok, err)
	}
	go func() { _, _ = io.WriteString(channel, strings.Repeat("help\n", 1<<16)) }() // the output exceeds the window
	r.stop()
}

func TestParseCommand(t *testing.T) {
	for line, want := range map[string]command{
		"status":         {name: "status"},
		"  help  ":       {name: "help"},
		"close":          {name: "close"},
		"extend 30m":     {name: "extend", ttl: 30 * time.Minute},
		"extend  1h30m ": {name: "extend", ttl: 90 * time.Minute},
		"extend 2d":      {name: "extend", ttl: 48 * time.Hour},
	} {
		if got, err := parseCommand(line); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", line, got, err, want)
		}
	}
	for line, want := range map[string]string{
		"id":              `unknown command "id". Commands: status, extend 30m, close, help`,
		"":                `unknown command ""`,
		"status now":      `unknown command "status now"`,
		"close everybody": `unknown command "close everybody"`,
		"STATUS":          `unknown command "STATUS"`,
		"a\x1b[31mb":      `unknown command "a?[31mb"`,
		"extend":          "usage: extend 30m",
		"extend 1 hour":   "usage: extend 30m",
		"extend 30":       `"30" is not a duration`,
		"extend 0s":       `"0s" is not a duration`,
		"extend -1m":      `"-1m" is not a duration`,
		"extend \x1b]0;x": `"?]0;x" is not a duration`,
	} {
		_, err := parseCommand(line)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", line, err, want)
		}
		if unknown := errors.As(err, new(unknownCommand)); unknown != strings.HasPrefix(want, "unknown command") {
			t.Errorf("%q: unknownCommand is %t", line, unknown)
		}
	}
}

func TestStatusText(t *testing.T) {
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	lease := bastion.Lease{
		BastionID: "abcd", Name: "default", Owner: "slack:T1:\x1b[2Jalice",
		Deadline: now.Add(90*time.Minute + 300*time.Millisecond), IdleTimeout: 15 * time.Minute,
		AllowedDestinations: rules("10.0.0.0/8", "fd12::/64:8000-8099"),
	}
	want := `bastion      default (abcd)
owner        slack:T1:?[2Jalice
state        ready
deadline     2030-01-01T13:30:00Z, 1h30m from now
idle         closes after 15m without a connection
connections  2 open
destinations 10.0.0.0/8, fd12::/64:8000-8099
key          SHA256:one (yours), 1 connection, from 203.0.113.7
key          SHA256:two, 0 connections, from 198.51.100.0/28, 2001:db8::7
`
	keys := []keyUse{{admittedKey{0, "SHA256:one", prefixes("203.0.113.7/32")}, 1}, {admittedKey{1, "SHA256:two", prefixes("198.51.100.0/28", "2001:db8::7/128")}, 0}}
	if got := statusText(lease, 2, keys, "SHA256:one", now); got != want {
		t.Errorf("status:\n%swant:\n%s", got, want)
	}
	lease.IdleTimeout, lease.AllowedDestinations, lease.Deadline = 0, nil, now.Add(-time.Second)
	got := statusText(lease, 0, nil, "", now)
	for _, part := range []string{"0s from now", "never closed for being idle", "destinations none"} {
		if !strings.Contains(got, part) {
			t.Errorf("no %q in:\n%s", part, got)
		}
	}
}

func TestClip(t *testing.T) {
	for in, want := range map[string]string{
		"plain":             "plain",
		"ü and 漢":           "ü and 漢",
		"a\x1b[31m\r\n\x00": "a?[31m???",
		"\u202eevil":        "?evil", // U+202E reverses the direction of text
		"\xff\xfe":          "?",
	} {
		if got := clip(in); got != want {
			t.Errorf("clip(%q) = %q, want %q", in, got, want)
		}
	}
	if got := clip(strings.Repeat("ü", 1000)); len(got) > 300 {
		t.Errorf("a long text has %d bytes", len(got))
	}
}

func TestWarningSaysWhenAndWhatToDo(t *testing.T) {
	lease := bastion.Lease{Deadline: time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)}
	for before, want := range map[time.Duration]string{
		time.Minute: "1 minute,", 10 * time.Minute: "10 minutes,", 90 * time.Second: "1m30s,", 2 * time.Second: "2s,",
	} {
		got := warning(lease, before)
		if !strings.Contains(got, "in "+want) || !strings.Contains(got, "2030-01-01T12:00:00Z") || !strings.Contains(got, "extend 30m") {
			t.Errorf("warning of %v: %q", before, got)
		}
	}
}

func TestConsoleEndsAtALineThatIsTooLong(t *testing.T) {
	r := start(t)
	console := r.console(r.dial(), false)
	console.await("Commands:")
	console.send(strings.Repeat("a", maxLine-2) + "\n")
	console.await("unknown command")
	console.send(strings.Repeat("a", maxLine+1))
	if status := console.status(); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
}

func TestChangeOfTheWindowIsAccepted(t *testing.T) {
	r := start(t)
	console := r.console(r.dial(), true)
	console.await(prompt)
	size := struct{ Width, Height, Pixels, Lines uint32 }{100, 50, 0, 0}
	if accepted, err := console.session.SendRequest("window-change", true, ssh.Marshal(size)); err != nil || !accepted {
		t.Errorf("accepted %t, error %v", accepted, err)
	}
}

// memoryChannel is a session channel in memory.
type memoryChannel struct {
	ssh.Channel
	io.Reader
	output *strings.Builder
}

func (c memoryChannel) Read(b []byte) (int, error)  { return c.Reader.Read(b) }
func (c memoryChannel) Write(b []byte) (int, error) { return c.output.Write(b) }

// newTestSession returns a session in memory, and what it prints.
func newTestSession(t *testing.T, input io.Reader) (*session, *strings.Builder) {
	t.Helper()
	cfg := Config{}.withDefaults()
	hosts, err := newHostKeys(cfg.Rand)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(cfg, slog.New(slog.DiscardHandler), hosts)
	s.SetLease(bastion.Lease{BastionID: "b1"})
	c := &connection{server: s, consoles: map[*console]struct{}{}}
	c.ctx, c.cancel = context.WithCancelCause(s.ctx)
	t.Cleanup(func() {
		s.end(causeClientLeft)
		c.helpers.Wait()
		s.wg.Wait()
	})
	output := &strings.Builder{}
	return &session{connection: c, channel: memoryChannel{Reader: input, output: output}}, output
}

// A connection remembers its open consoles only. A client can open and leave any number of
// them one after another.
func TestConsoleThatEndedIsForgotten(t *testing.T) {
	for name, line := range map[string]string{"exit": "exit\n", "end of input": ""} {
		t.Run(name, func(t *testing.T) {
			input, client := io.Pipe()
			s, _ := newTestSession(t, input)
			open := func() int {
				s.mu.Lock()
				defer s.mu.Unlock()
				return len(s.consoles)
			}
			ended := make(chan int)
			go func() { ended <- newConsole(s).run(s.ctx, "") }()
			if _, err := io.WriteString(client, "help\n"); err != nil {
				t.Fatal(err)
			}
			if n := open(); n != 1 {
				t.Errorf("%d consoles are open, want 1", n)
			}
			if _, err := io.WriteString(client, line); err != nil {
				t.Fatal(err)
			}
			client.Close()
			if status := <-ended; status != 0 {
				t.Errorf("exit status %d, want 0", status)
			}
			if n := open(); n != 0 {
				t.Errorf("%d consoles are open after the end, want 0", n)
			}
		})
	}
}

func TestEndIsShownOnce(t *testing.T) {
	for name, test := range map[string]struct {
		why  *cause // nil if the connection continues
		want string
	}{
		"connection continues": {nil, ""},
		"client left":          {causeClientLeft, ""},
		"key removed":          {causeKeyRemoved, "bastion: " + causeKeyRemoved.notice + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s, output := newTestSession(t, strings.NewReader(""))
			if test.why != nil {
				s.end(test.why)
			}
			c := newConsole(s)
			c.showEnd()
			c.showEnd()
			if got := output.String(); got != test.want {
				t.Errorf("printed %q, want %q", got, test.want)
			}
		})
	}
}

// The bastion ends while a console waits for the reply to its request.
func TestConsoleThatWaitsForAReplyShowsTheEndOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.run()
		after(0)
		console := r.console(r.dial(), false)
		console.await("Commands:")
		console.send("close\n")
		after(time.Second)
		if err := r.table.Write(func(l *bastion.Lease) { l.Open, l.EndReason = false, bastion.EndConsole }); err != nil {
			t.Fatal(err)
		}
		if status := console.status(); status != 0 {
			t.Errorf("exit status %d, want 0", status)
		}
		if n := strings.Count(console.text(), "bastion: "); n != 1 || !strings.Contains(console.text(), "from its console") {
			t.Errorf("%d lines, want the reason once:\n%s", n, console.text())
		}
	})
}

func TestSizesOfTheTerminal(t *testing.T) {
	s := &session{sizes: make(chan size, 1)}
	for _, test := range []struct {
		width, height uint32
		want          size
	}{
		{100, 50, size{100, 50}}, {1, 1, size{1, 1}},
		{0, 0, size{80, 24}}, {0, 50, size{80, 24}}, {100, 0, size{80, 24}},
		{1 << 31, 1 << 31, size{1000, 1000}},
	} {
		s.resize(7, 7) // is replaced
		s.resize(test.width, test.height)
		if got := <-s.sizes; got != test.want {
			t.Errorf("%d by %d: %v, want %v", test.width, test.height, got, test.want)
		}
	}
}
