// Package simtask runs the tasks of bastions in a local cloud without sockets, so that
// a simulation can have thousands of them. A task runs the product's lease loop,
// [leaseloop.Run], with a [Server] in memory.
package simtask

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
)

// Runner is a [localcloud.Runner]. One Runner runs any number of tasks. Its zero
// value works.
type Runner struct {
	Timing leaseloop.Timing

	// BrokenTimer makes tasks see a deadline that never comes and no idle time-out,
	// so that they never end by themselves.
	BrokenTimer bool
	// CrashAfter is the time from the first lease until the task's process crashes; 0
	// for never.
	CrashAfter time.Duration
	// SecondHostKeyAfter is the time from the first lease until the second host key has
	// been made; 0 if it has been made before.
	SecondHostKeyAfter time.Duration
	// Now returns the time by a task's own clock; nil for time.Now.
	Now func(taskID string) time.Time

	mu    sync.Mutex
	tasks map[string]*Server // by task ID; running tasks with a lease only
}

// exitCrash is the exit code of a Go process that panics.
const exitCrash = 2

// Run runs one task's process, and returns its exit code.
func (r *Runner) Run(ctx context.Context, task localcloud.Process) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lease := &taskLease{TaskLease: task.Lease, brokenTimer: r.BrokenTimer}
	now := time.Now
	if r.Now != nil {
		now = func() time.Time { return r.Now(task.TaskID) }
	}
	cfg := leaseloop.Config{
		BastionID: task.BastionID, Lease: lease, Timing: r.Timing,
		Now: now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	code := leaseloop.Run(ctx, cfg, func(bastion.Lease, *slog.Logger) leaseloop.Server {
		server := NewServer(HostKey(task.TaskID))
		setHostKeys := func() { server.SetHostKeys(HostKey(task.TaskID), HostKey(task.TaskID+", second")) }
		if r.SecondHostKeyAfter > 0 {
			timer := time.AfterFunc(r.SecondHostKeyAfter, setHostKeys)
			context.AfterFunc(ctx, func() { timer.Stop() })
		} else {
			setHostKeys()
		}
		r.set(task.TaskID, server)
		if r.CrashAfter > 0 {
			timer := time.AfterFunc(r.CrashAfter, func() {
				lease.crash()
				cancel()
			})
			context.AfterFunc(ctx, func() { timer.Stop() })
		}
		return server
	})
	r.set(task.TaskID, nil)
	if lease.crashed() {
		return exitCrash
	}
	return code
}

func (r *Runner) set(taskID string, server *Server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tasks == nil {
		r.tasks = map[string]*Server{}
	}
	r.tasks[taskID] = server
	if server == nil {
		delete(r.tasks, taskID)
	}
}

// Server returns the server of a task; nil if the task does not run or has had no
// lease yet.
func (r *Runner) Server(taskID string) *Server {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tasks[taskID]
}

// Use makes a task have n authenticated connections. It reports whether the task
// accepted them; without a lease, or after its end, a task does not.
func (r *Runner) Use(taskID string, n int) bool {
	server := r.Server(taskID)
	return server != nil && server.Use(n)
}

// Request makes a console request. It reports whether the task accepted it.
func (r *Runner) Request(taskID string, verb bastion.Verb, ttl time.Duration) bool {
	server := r.Server(taskID)
	return server != nil && server.Request(verb, ttl)
}

// taskLease is the lease of a task whose process can crash or ignore its deadline.
type taskLease struct {
	bastion.TaskLease
	brokenTimer bool

	mu   sync.Mutex
	down bool
}

var errCrashed = errors.New("the process has crashed")

func (l *taskLease) crash() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
}

func (l *taskLease) crashed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down
}

func (l *taskLease) Read(ctx context.Context) (bastion.Lease, error) {
	if l.crashed() {
		return bastion.Lease{}, errCrashed
	}
	lease, err := l.TaskLease.Read(ctx)
	if l.brokenTimer {
		lease.Deadline, lease.IdleTimeout = lease.Deadline.AddDate(100, 0, 0), 0
	}
	return lease, err
}

func (l *taskLease) Report(ctx context.Context, report bastion.Report) error {
	if l.crashed() {
		return errCrashed
	}
	return l.TaskLease.Report(ctx, report)
}

// HostKey returns a well-formed ed25519 public key, which depends on the name only. It
// has no private key.
func HostKey(name string) bastion.Key {
	const kind = "ssh-ed25519"
	public := sha256.Sum256([]byte(name))
	var blob []byte
	for _, part := range [][]byte{[]byte(kind), public[:]} {
		blob = binary.BigEndian.AppendUint32(blob, uint32(len(part)))
		blob = append(blob, part...)
	}
	return bastion.Key(kind + " " + base64.StdEncoding.EncodeToString(blob))
}
