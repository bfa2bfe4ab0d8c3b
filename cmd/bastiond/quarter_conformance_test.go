//go:build conformance

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leasefile"
	"github.com/bastion-on-demand/bastion/internal/test/freeport"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// 200 stock clients log in at once while bastiond runs for a quarter of the time only, as
// with a task's quarter of a vCPU: signals stop it for 15 of every 20 milliseconds. It has
// the task's settings of Go, too: one thread.
func Test200ClientsLogInOnAQuarterOfACore(t *testing.T) {
	client := sshclient.New(t)
	key := strings.Join(strings.Fields(client.AddKey("ed25519"))[:2], " ")
	dir := leasefile.Dir(t.TempDir())
	grant(t, dir, func(l *bastion.Lease) { l.Keys = []bastion.Key{bastion.Key(key)} })
	port := fmt.Sprint(freeport.Port(t))
	for _, variable := range taskEnvironment(t) {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	cmd := process(t, dir, "--listen", "127.0.0.1:"+port)
	ready(t, dir)
	report, err := dir.Reported()
	if err != nil {
		t.Fatal(err)
	}
	known := ""
	for _, hostKey := range report.HostKeys() {
		known += "bastion " + string(hostKey) + "\n"
	}
	files := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(files, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := write("config", "Host bastion\n HostName 127.0.0.1\n Port "+port+"\n HostKeyAlias bastion\n User bastion\n"+
		" StrictHostKeyChecking yes\n UserKnownHostsFile "+write("known_hosts", known)+"\n")

	done := make(chan struct{})
	var slowing sync.WaitGroup
	slowing.Go(func() {
		defer func() { _ = cmd.Process.Signal(syscall.SIGCONT) }()
		for {
			_ = cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(15 * time.Millisecond)
			_ = cmd.Process.Signal(syscall.SIGCONT)
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	defer func() { close(done); slowing.Wait() }()
	for _, args := range [][]string{nil, {"-o", "KexAlgorithms=diffie-hellman-group14-sha256"}} {
		began := time.Now()
		var clients sync.WaitGroup
		var mu sync.Mutex
		in := 0
		for range 200 {
			clients.Go(func() {
				_, stderr, err := client.Run("", client.Command("ssh", append(append([]string{"-F", config}, args...), "bastion", "status")...))
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Logf("%v: %s", err, stderr)
					return
				}
				in++
			})
		}
		clients.Wait()
		if in != 200 {
			t.Errorf("%v: %d of 200 clients got in", args, in)
		}
		t.Logf("%v: %s", args, time.Since(began))
	}
}
