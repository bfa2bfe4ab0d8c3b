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
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/test/emulator"
	"github.com/bastion-on-demand/bastion/internal/test/freeport"
)

// stopTimeout is the time from SIGTERM to SIGKILL. It is one minute in template.yaml.
const stopTimeout = 5 * time.Second

// fargate plays Fargate: it runs a bastiond process for each task.
type fargate struct {
	aws       string // the endpoint URL of tasks, without the task's ID
	metadata  string // the URL of the metadata endpoint
	port      uint16 // the SSH port of the test's own ports
	resources stackResources
	moto      *moto
	changed   func(t *task, status string) // hears of every change of a task
	log       *emulator.Output

	// staleness is the age of the states that ECS shows, and the time for which EC2 does
	// not find a new group.
	staleness time.Duration

	background  sync.WaitGroup // running tasks and calls of changed
	mu          sync.Mutex
	definitions map[string]taskDefinition // by ARN
	closed      bool
	allTasks    []*task
	faults      []string // of what should not be
}

// taskDefinition has the parts of a task definition that moto does not need.
type taskDefinition struct {
	program string
	environ []string
	port    uint16 // where the program listens
}

// define sets the parts of a task definition. Tasks that start later have them.
func (f *fargate) define(arn string, d taskDefinition) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.definitions[arn] = d
}

// newFargate starts moto and creates the stack's resources in it.
func newFargate(t *testing.T, program string, changed func(*task, string)) *fargate {
	t.Helper()
	f := &fargate{
		definitions: map[string]taskDefinition{}, port: uint16(freeport.Port(t)), changed: changed, log: &emulator.Output{},
		staleness: 200 * time.Millisecond, moto: &moto{url: emulator.Moto(t), client: newHTTPClient()},
	}
	f.resources = f.moto.createStack(t)
	f.define(f.resources.definition, taskDefinition{program: program, port: f.port})
	f.metadata = serve(t, f)
	return f
}

// stackConfig returns the stack as package awscloud configures it.
func (f *fargate) stackConfig() awscloud.Stack {
	return awscloud.Stack{
		ID: stackID, VPC: f.resources.vpc, MemberGroup: f.resources.memberGroup, Cluster: f.resources.cluster,
		Container: "bastiond", Port: f.port, Public: true, IPv4: true,
	}
}

// runProcess runs the process of a task and returns the final state.
func (f *fargate) runProcess(t *task) taskState {
	// All tasks share this machine, so each bastiond listens on its own address.
	inside := netip.AddrPortFrom(processAddress(t.address), t.definition.port)
	listener, err := net.Listen("tcp", netip.AddrPortFrom(t.address, t.definition.port).String())
	if err != nil {
		return f.failToStart(t, err)
	}
	alive, died := context.WithCancel(context.Background())
	var proxy sync.WaitGroup
	proxy.Go(func() { f.forwardAll(alive, listener, t, inside) })
	defer proxy.Wait()
	defer listener.Close()
	defer died()
	command := exec.CommandContext(t.ctx, t.definition.program)
	command.Env = f.environment(t, inside)
	command.Stdout, command.Stderr = f.log, f.log
	command.Cancel = func() error {
		f.setStopping(t)
		return command.Process.Signal(syscall.SIGTERM)
	}
	command.WaitDelay = stopTimeout
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // ends with the test
	if err := command.Start(); err != nil {
		return f.failToStart(t, err)
	}
	t.setProcess(command.Process)
	_ = command.Wait() // the process state has the result
	t.setProcess(nil)
	return t.exitState(command.ProcessState.Sys().(syscall.WaitStatus))
}

// failToStart returns the final state of a task whose process did not start. That is a
// fault, unless the task was being stopped.
func (f *fargate) failToStart(t *task, err error) taskState {
	if t.ctx.Err() != nil {
		return t.stoppedState()
	}
	f.recordFault(t, err)
	return taskState{stopCode: "TaskFailedToStart", reason: "Task failed to start"}
}

// exitState returns the final state of a task whose process has exited.
func (t *task) exitState(status syscall.WaitStatus) taskState {
	end := taskState{stopCode: "EssentialContainerExited", reason: "Essential container in task exited"}
	if t.ctx.Err() != nil {
		end = t.stoppedState()
	}
	exit := status.ExitStatus()
	if status.Signaled() {
		exit = 128 + int(status.Signal())
	}
	end.exit = &exit
	return end
}

// environment returns the environment of a task: the variables of the task definition,
// those that Fargate adds, and those that differ in this test. Of a repeated variable, the
// last one counts.
func (f *fargate) environment(t *task, inside netip.AddrPort) []string {
	return slices.Concat(t.definition.environ, []string{
		"ECS_CONTAINER_METADATA_URI_V4=" + f.metadata + "/v4/" + t.id,
		"AWS_EXECUTION_ENV=AWS_ECS_FARGATE",
		"AWS_REGION=" + region, "AWS_DEFAULT_REGION=" + region,
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + f.metadata + "/credentials",

		"BASTIOND_LISTEN=" + inside.String(),
		"BASTIOND_ALLOW_LOOPBACK=" + privateNetworks,
		"AWS_ENDPOINT_URL=" + f.aws + "/" + t.id,
	}, t.environ)
}

// setProcess sets the task's process, or nil when it has exited.
func (t *task) setProcess(process *os.Process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.process = process
}

// signal sends a signal to the task's process.
func (t *task) signal(signal os.Signal) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.process == nil {
		return fmt.Errorf("task %s has no process", t.id)
	}
	return t.process.Signal(signal)
}

// countProcesses returns how many processes run and how many have exited.
func (f *fargate) countProcesses() (running, ended int) {
	for _, t := range f.tasks() {
		if t.currentState().exit != nil {
			ended++
		}
		t.mu.Lock()
		if t.process != nil {
			running++
		}
		t.mu.Unlock()
	}
	return running, ended
}

// ServeHTTP serves the tasks' metadata and credentials.
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
		"Cluster": f.resources.cluster, "TaskARN": taskARN(f.resources.cluster, id), "Family": "way-in", "Revision": "1",
		"Containers": []any{map[string]any{
			"Name": "bastiond", "Networks": []any{map[string]any{"NetworkMode": "awsvpc", "IPv4Addresses": []string{"10.0.0.7"}}},
		}},
	})
}

// processAddress returns the address on which the process of a task listens that has the
// public address outside.
func processAddress(outside netip.Addr) netip.Addr {
	four := outside.As4()
	four[1]++
	return netip.AddrFrom4(four)
}

// forwardAll forwards a task's connections to its process until the listener is closed. A
// new connection that no group of the task's interface allows is closed without a byte.
// Open connections are not checked again, as with security groups.
func (f *fargate) forwardAll(alive context.Context, l net.Listener, t *task, to netip.AddrPort) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		outer, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		all.Go(func() {
			defer outer.Close()
			from := outer.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
			admitted, err := f.moto.allowsConnection(alive, t.networkInterface, from, t.definition.port)
			if alive.Err() == nil {
				f.recordFault(t, err)
			}
			if admitted {
				forward(alive, outer, from, to)
			}
		})
	}
}

// halfCloser is a connection that can be closed for writing.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// forward connects a connection with a process for as long as the process runs. It keeps
// the source address.
func forward(alive context.Context, outer net.Conn, from netip.Addr, to netip.AddrPort) {
	dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
	inner, err := dialer.Dial("tcp", to.String())
	if err != nil {
		return // the process does not listen, yet or any more
	}
	defer inner.Close()
	defer context.AfterFunc(alive, func() { outer.Close() })()
	var both sync.WaitGroup
	both.Go(func() { pipe(inner.(halfCloser), outer) })
	both.Go(func() { pipe(outer.(halfCloser), inner) })
	both.Wait()
}

// pipe copies until EOF and closes the target for writing.
func pipe(to halfCloser, from net.Conn) {
	// Avoid splice, because the standard library keeps its pipes open.
	_, _ = io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
	_ = to.CloseWrite()
}
