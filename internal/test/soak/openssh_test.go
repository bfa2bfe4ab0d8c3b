//go:build conformance

package soak

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// marker is in the environment of every process of the soak.
const marker = "BASTION_SOAK"

// openSSH uses OpenSSH with the configuration of the API's response. Sometimes the client
// is killed, or frozen before.
func (p *person) openSSH(random *rand.Rand) {
	b, ok := p.mine(random)
	if !ok {
		return
	}
	defer p.s.usage(b.ID)()
	fate, kind, size := random.IntN(4), random.IntN(reset), randomSize(random)
	delay := time.Duration(random.IntN(1500)) * time.Millisecond
	p.must(b, "OpenSSH", func() error {
		got, ok := p.s.call(p, request{method: "GET", path: "/bastions/" + b.ID, text: true}, http.StatusOK)
		if !ok {
			return errors.New("no configuration")
		}
		config := filepath.Join(p.dir, "config")
		text := got.text + fmt.Sprintf("  BindAddress %s\n", p.from)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return err
		}
		if fate == 0 {
			return p.jump(config, b.ID, b.Name)
		}
		return p.pipe(config, b.ID, b.Name, kind, size, fate, delay)
	})
}

// jump runs a command on the private host, through the bastion.
func (p *person) jump(config, id, name string) error {
	u := p.s.usageOf(id)
	out, errs, err := p.run(nil, config, 0, 0, "-J", "bastion-"+name, privateHost, "hostname")
	u.count(&u.connections, err == nil)
	u.count(&u.others, err == nil)
	u.count(&u.refusals, false)
	if err != nil {
		return fmt.Errorf("ssh -J: %w: %s", err, errs)
	}
	if string(out) != privateHost+"\n" {
		p.s.fail("ssh -J hostname printed %q", out)
	}
	return nil
}

// The fates of a client of pipe, from 1.
const (
	killed = 1
	frozen = 2 // and then killed
)

// pipe makes a transfer with ssh -W.
func (p *person) pipe(config, id, name string, kind int, size int64, fate int, delay time.Duration) error {
	u := p.s.usageOf(id)
	x := p.s.target.expect(kind, size)
	defer u.transfer(x)
	x.sent = x.outgoingSize()
	out, errs, err := p.run(x.outgoing(), config, fate, delay, "-W", p.s.target.address(), "bastion-"+name)
	different := compare(bytes.NewReader(out), x.incoming(), func(n int) { x.received += int64(n) })
	p.s.bytes.Add(x.sent + x.received)
	u.count(&u.refusals, false)
	u.count(&u.connections, err == nil)
	if errors.Is(different, errDifferent) {
		p.s.fail("%s: ssh -W received other data than was sent", x)
	}
	if fate == killed || fate == frozen {
		p.s.killedClients.Add(1)
		return nil
	}
	if err != nil {
		return fmt.Errorf("ssh -W: %w: %s", err, errs)
	}
	x.opened = true
	if different != nil {
		return fmt.Errorf("ssh -W: %s: %w", x, different)
	}
	p.s.logins.Add(1)
	p.s.transfers.Add(1)
	return nil
}

// run runs ssh with input, and lets it end in the given way.
func (p *person) run(input io.Reader, config string, fate int, delay time.Duration, args ...string) (out, errs []byte, err error) {
	command := p.ssh.SSH(config, args...)
	command.Env = append(command.Env, marker+"="+p.s.mark)
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = input, &stdout, &stderr
	if err := command.Start(); err != nil {
		return nil, nil, err
	}
	p.s.processes.Add(1)
	kill := func() { _ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	hangs := time.AfterFunc(patience, func() {
		p.s.fail("ssh %q did not end within %s", args, patience)
		kill()
	})
	if fate == killed || fate == frozen {
		p.s.sleep(delay)
		if fate == frozen {
			_ = syscall.Kill(-command.Process.Pid, syscall.SIGSTOP)
			p.s.sleep(delay)
		}
		kill()
	}
	err = command.Wait()
	hangs.Stop()
	return stdout.Bytes(), stderr.Bytes(), err
}
