//go:build conformance

package sshd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// together runs n stock clients at the same time, and returns how many got in.
func (s openSSH) together(n int, args ...string) (in int) {
	s.t.Helper()
	var wg sync.WaitGroup
	results := make([]outcome, n)
	for i := range n {
		wg.Go(func() { results[i] = s.ssh("", append(args, "bastion", "status")...) })
	}
	wg.Wait()
	for _, result := range results {
		if result.status == 0 {
			in++
		} else {
			s.t.Log(result.stderr)
		}
	}
	return in
}

// 200 clients log in at once, with their favourite key exchange and with group 14.
func Test200ClientsLogInAtOnce(t *testing.T) {
	r := start(t)
	s := r.openSSH()
	for _, args := range [][]string{nil, {"-o", "KexAlgorithms=diffie-hellman-group14-sha256"}} {
		began := time.Now()
		if in := s.together(200, args...); in != 200 {
			t.Errorf("%v: %d of 200 clients got in", args, in)
		}
		t.Logf("%v: %s", args, time.Since(began))
	}
}

// The client thinks about the host key for longer than the key exchange may take.
func TestClientThatAsksAboutTheHostKeyFor30SecondsGetsIn(t *testing.T) {
	t.Parallel()
	r := start(t)
	s := r.openSSH()
	s.write("ask", []byte("#!/bin/sh\n[ \"$1\" = ORDER ] || { sleep 30; cat "+s.path("known_hosts")+"; }\n"))
	if err := os.Chmod(s.path("ask"), 0o700); err != nil {
		t.Fatal(err)
	}
	got := s.ssh("", "-o", "UserKnownHostsFile=none", "-o", "KnownHostsCommand="+s.path("ask")+" %I", "bastion", "status")
	if got.status != 0 {
		t.Errorf("%+v", got)
	}
}

// 64 threads take more places than there are, again and again, while 20 clients log in.
func TestClientsLogInWhile64ThreadsReconnect(t *testing.T) {
	for name, attack := range map[string]func(net.Conn){
		"silent": func(net.Conn) {},
		"half a handshake": func(conn net.Conn) {
			_, _ = io.WriteString(conn, "SSH-2.0-half\r\n")
			_, _ = conn.Read(make([]byte, 1024))
		},
		"key exchange": func(conn net.Conn) {
			// It stops when the server has signed, and leaves the connection open.
			_, _, _, _ = ssh.NewClientConn(neverClosed{conn}, "", &ssh.ClientConfig{
				HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return errors.New("enough") },
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			s := r.openSSH()
			stop := make(chan struct{})
			var threads sync.WaitGroup
			var mu sync.Mutex
			total := 0
			for range 64 {
				threads.Go(func() {
					var held []net.Conn
					defer func() {
						for _, conn := range held {
							conn.Close()
						}
					}()
					for {
						select {
						case <-stop:
							return
						default:
						}
						conn, err := net.Dial("tcp", r.address)
						if err != nil {
							continue
						}
						mu.Lock()
						total++
						mu.Unlock()
						attack(conn)
						if held = append(held, conn); len(held) > 16 {
							held[0].Close()
							held = held[1:]
						}
					}
				})
			}
			in := 0
			for range 20 {
				if got := s.ssh("", "bastion", "status"); got.status == 0 {
					in++
				} else {
					t.Log(got.stderr)
				}
			}
			close(stop)
			threads.Wait()
			if in != 20 {
				t.Errorf("%d of 20 clients got in", in)
			}
			t.Logf("the threads connected %d times", total)
		})
	}
}

// neverClosed is a connection that its user does not close.
type neverClosed struct{ net.Conn }

func (neverClosed) Close() error { return nil }

// 1,000 connections leave no socket, no goroutine and no memory.
func Test1000ConnectionsLeaveNothing(t *testing.T) {
	r := start(t, func(r *fixture) { r.cfg.Limits.Connections = 1000 })
	r.dial().Close()
	r.connected(0)
	before := use(t)
	var clients []*ssh.Client
	for range 1000 {
		client, err := r.dialWith(r.client(ssh.PublicKeys(r.key))) // not dial, which keeps the client until the end
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, client)
	}
	r.connected(1000)
	during := use(t)
	for _, client := range clients {
		client.Close()
	}
	clients = nil
	r.connected(0)
	r.log.await(t, msgConnection, 1001)
	after := use(t)
	for after.goroutines > before.goroutines+5 && t.Context().Err() == nil { // the clients' end a little later
		time.Sleep(10 * time.Millisecond)
		after = use(t)
	}
	t.Logf("before %+v, with 1,000 connections %+v, after %+v", before, during, after)
	if after.files > before.files+5 || after.memory > before.memory+16<<20 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

type inUse struct {
	files, goroutines int
	memory            uint64
}

func use(t *testing.T) inUse {
	t.Helper()
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return inUse{len(files), runtime.NumGoroutine(), memory.HeapAlloc}
}

// A client is stopped for 65 seconds. Its tunnel works afterwards.
func TestStoppedClientContinues(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.echo("10.0.0.1:7")
	s := r.openSSH()
	cmd := s.hold("-N", "-L", s.path("l")+":10.0.0.1:7", "bastion")
	r.connected(1)
	conn := dialUntil(t, "unix", s.path("l"))
	defer conn.Close()
	ping(t, conn)
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(65 * time.Second)
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	woken := time.Now()
	ping(t, conn)
	t.Logf("the tunnel works %s after waking", time.Since(woken))
}

func ping(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := io.WriteString(conn, "ping"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
}

const asLaboratory = "BASTION_TEST_IN_A_NETWORK"

// All packets between client and server are dropped for three minutes. The test runs in a
// network namespace of its own, and its client in another. To drop packets, each side sends
// to a link address that the other does not have.
func TestClientWhosePacketsAreDroppedContinues(t *testing.T) {
	t.Parallel()
	if os.Getenv(asLaboratory) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), asLaboratory+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
		output, err := cmd.CombinedOutput()
		if t.Logf("%s", output); err != nil {
			t.Error(err)
		}
		return
	}
	run := func(name string, args ...string) {
		t.Helper()
		if output, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, output)
		}
	}
	holder := exec.Command("sleep", "600")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Process.Kill(); _ = holder.Wait() }()
	pid := fmt.Sprint(holder.Process.Pid)
	inside := func(args ...string) { run("nsenter", append([]string{"-t", pid, "-n"}, args...)...) }
	const here, there = "02:00:00:00:00:01", "02:00:00:00:00:02"
	run("ip", "link", "set", "lo", "up")
	run("ip", "link", "add", "here", "address", here, "type", "veth", "peer", "name", "there", "address", there, "netns", pid)
	run("ip", "address", "add", "10.77.0.1/24", "dev", "here")
	run("ip", "link", "set", "here", "up")
	inside("ip", "link", "set", "lo", "up")
	inside("ip", "address", "add", "10.77.0.2/24", "dev", "there")
	inside("ip", "link", "set", "there", "up")
	reach := func(hereTo, thereTo string) {
		run("ip", "neigh", "replace", "10.77.0.2", "lladdr", hereTo, "dev", "here", "nud", "permanent")
		inside("ip", "neigh", "replace", "10.77.0.1", "lladdr", thereTo, "dev", "there", "nud", "permanent")
	}
	reach(there, here)

	conns := make(chan net.Conn, 1)
	r := start(t, func(r *fixture) {
		r.table.Lease.Source = prefixes("10.77.0.2/32")[0]
		r.cfg.Listen = func() (net.Listener, error) {
			listener, err := net.Listen("tcp", "10.77.0.1:0")
			if err == nil {
				r.address = listener.Addr().String()
			}
			return recordingListener{listener, conns}, err
		}
	})
	r.echo("10.0.0.1:7")
	s := r.openSSH()
	cmd := s.command("ssh", "-N", "-L", s.path("l")+":10.0.0.1:7", "bastion")
	client := exec.Command("nsenter", append([]string{"-t", pid, "-n"}, cmd.Args...)...)
	client.Env = cmd.Env
	client.Stderr = os.Stderr
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Process.Kill(); _ = client.Wait() }()
	r.connected(1)
	conn := dialUntil(t, "unix", s.path("l"))
	defer conn.Close()
	ping(t, conn)
	time.Sleep(16 * time.Second) // after a keepalive
	reach("02:00:00:00:00:99", "02:00:00:00:00:99")
	time.Sleep(3 * time.Minute)
	server := <-conns
	t.Logf("%d bytes wait for the client, which was last heard %s ago", sendQueue(server), sinceAcknowledged(server))
	reach(there, here)
	woken := time.Now()
	ping(t, conn)
	t.Logf("the tunnel works %s after waking", time.Since(woken))
}
