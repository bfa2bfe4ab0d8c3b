//go:build conformance

package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/referee"
)

// stopTimeout is the time from SIGTERM to SIGKILL. template.yaml says a minute.
const stopTimeout = 5 * time.Second

// fargate runs bastiond as a process for each task.
type fargate struct {
	program  string
	aws      string // the URL that a task calls, without its id
	metadata string // the URL that the environment of a task begins with
	log      *referee.Output

	mu      sync.Mutex
	running map[string]*os.Process // by task
	ended   int
}

// Run is [localcloud.Runner].
func (f *fargate) Run(ctx context.Context, task localcloud.Process) int {
	// One machine has one 0.0.0.0, so each bastiond has an address of its own.
	inside := netip.AddrPortFrom(insideOf(task.Addr.Addr()), task.Addr.Port())
	command := exec.CommandContext(ctx, f.program)
	command.Env = f.environment(task.TaskID, inside)
	command.Stdout, command.Stderr = f.log, f.log
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = stopTimeout
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it never outlives the test
	listener, err := task.Listen()
	if err != nil {
		fmt.Fprintf(f.log, "task %s: %v\n", task.TaskID, err)
		return 1
	}
	var proxy sync.WaitGroup
	proxy.Go(func() { forwardAll(listener, inside) })
	defer proxy.Wait()
	defer listener.Close()
	if err := command.Start(); err != nil {
		fmt.Fprintf(f.log, "task %s: %v\n", task.TaskID, err)
		return 1
	}
	f.note(task.TaskID, command.Process)
	defer f.note(task.TaskID, nil)
	_ = command.Wait() // its status says it all
	status := command.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// environment is what template.yaml's task definition says, then what Fargate
// adds, then what differs here.
func (f *fargate) environment(taskID string, inside netip.AddrPort) []string {
	return []string{
		"BASTIOND_LEASE_TABLE=" + leaseTable,
		"BASTIOND_TASK_ROLE_ID=" + taskRoleID,

		"ECS_CONTAINER_METADATA_URI_V4=" + f.metadata + "/v4/" + taskID,
		"AWS_EXECUTION_ENV=AWS_ECS_FARGATE",
		"AWS_REGION=" + region, "AWS_DEFAULT_REGION=" + region,
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + f.metadata + "/credentials",

		"BASTIOND_LISTEN=" + inside.String(),
		"BASTIOND_ALLOW_LOOPBACK=" + privateNetwork,
		"AWS_ENDPOINT_URL=" + f.aws + "/" + taskID,
	}
}

func (f *fargate) note(taskID string, process *os.Process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if process != nil {
		f.running[taskID] = process
		return
	}
	delete(f.running, taskID)
	f.ended++
}

// signal sends a signal to the process of a task.
func (f *fargate) signal(taskID string, signal os.Signal) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running[taskID] == nil {
		return fmt.Errorf("task %s has no process", taskID)
	}
	return f.running[taskID].Signal(signal)
}

// counts are how many processes run, and how many have ended.
func (f *fargate) counts() (running, ended int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.running), f.ended
}

// ServeHTTP is the endpoint of metadata and credentials.
func (f *fargate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/credentials" {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"RoleArn": "arn:aws:iam::" + account + ":role/task", "AccessKeyId": accessKey, "SecretAccessKey": accessKey,
			"Token": "session", "Expiration": time.Now().Add(6 * time.Hour).UTC().Format(time.RFC3339),
		})
		return
	}
	id, isTask := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/v4/"), "/task")
	if !isTask {
		http.NotFound(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"Cluster": cluster, "TaskARN": taskARN(id), "Family": "way-in", "Revision": "7",
		"Containers": []any{map[string]any{
			"Name": "bastiond", "Networks": []any{map[string]any{"NetworkMode": "awsvpc", "IPv4Addresses": []string{"10.0.0.7"}}},
		}},
	})
}

// insideOf is where the process of a task listens that is reached at an address.
func insideOf(outside netip.Addr) netip.Addr {
	four := outside.As4()
	four[1]++
	return netip.AddrFrom4(four)
}

// forwardAll takes a task's connections to its process, until it is closed. Each
// keeps the address that it came from.
func forwardAll(l net.Listener, to netip.AddrPort) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		outer, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			all.Go(func() { forward(outer, to) })
		}
	}
}

// half is a connection whose way out can be closed by itself.
type half interface {
	net.Conn
	CloseWrite() error
}

func forward(outer net.Conn, to netip.AddrPort) {
	defer outer.Close()
	from := outer.RemoteAddr().(*net.TCPAddr)
	dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: from.IP}}
	inner, err := dialer.Dial("tcp", to.String())
	if err != nil {
		return // it does not listen yet, or no longer
	}
	defer inner.Close()
	var both sync.WaitGroup
	both.Go(func() { pipe(inner.(half), outer) })
	both.Go(func() { pipe(outer.(half), inner) })
	both.Wait()
}

func pipe(to half, from net.Conn) {
	// Not through splice, whose pipes the standard library keeps.
	_, _ = io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
	_ = to.CloseWrite()
}
