package localcloud

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Config says how the cloud behaves. Its zero value is a cloud where everything
// happens at once and tasks do nothing until they are stopped.
type Config struct {
	// LaunchDelay is the time from RunTask to RUNNING. PROVISIONING takes half
	// of it, PENDING and ACTIVATING a quarter each. The network is attached, and
	// the address known, when PROVISIONING is over.
	LaunchDelay time.Duration
	// Linger is for how long a stopped task's interface still holds its group.
	Linger time.Duration
	// StopTimeout is the time from SIGTERM to SIGKILL.
	StopTimeout time.Duration
	// Staleness is how old everything is that Groups and Tasks show; 0 for the
	// present. What was made since then is missing, also to a call that changes
	// it by id: Authorize and Run answer ErrNotFound, while Revoke, Delete and
	// Stop take it for gone, answer nil and do nothing.
	Staleness time.Duration

	// Host is where tasks listen, on a port that the kernel chooses. Zero: there
	// are no sockets, and tasks have made-up addresses in both families.
	Host netip.Addr
	// Runner is what runs in a task; nil for a process that waits for SIGTERM.
	Runner Runner

	// OnTask hears of each change of a task's state, as the observer does from
	// EventBridge: in no certain order. OnReport hears of each report that a task
	// writes, as from the lease table's stream. Each call has a goroutine of its
	// own, for which Close waits; none begins after Close did.
	OnTask   func(bastionID, taskID string)
	OnReport func(bastionID, taskID string)

	Now func() time.Time // nil for time.Now
}

// Cloud is the cloud. Its ports may be used by any number of goroutines.
type Cloud struct {
	cfg    Config
	store  *store
	leases *leases

	background sync.WaitGroup
	closing    chan struct{} // closed when Close begins

	mu        sync.Mutex // guards what follows
	closed    bool
	serial    int // of the latest id
	addresses int // made up so far
	groups    map[string]*group
	named     map[string][]*group // by lower-case name; those gone may still show
	tasks     map[string]*task
	tasksOf   map[string][]*task // by bastion
	pruned    time.Time
	launched  map[string]*token // by clientToken
	refusals  int               // attempts still to be refused
	throttle  int               // calls still to be throttled
}

// New makes an empty cloud. Close it.
func New(cfg Config) *Cloud {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Runner == nil {
		cfg.Runner = idleRunner{}
	}
	c := &Cloud{
		cfg:      cfg,
		store:    newStore(),
		closing:  make(chan struct{}),
		groups:   map[string]*group{},
		named:    map[string][]*group{},
		tasks:    map[string]*task{},
		tasksOf:  map[string][]*task{},
		launched: map[string]*token{},
	}
	c.leases = newLeases(cfg.Now, func(bastionID, taskID string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.notify(cfg.OnReport, bastionID, taskID)
	})
	return c
}

// Store is the table of records.
func (c *Cloud) Store() bastion.Store { return c.store }

// Groups is EC2's part.
func (c *Cloud) Groups() bastion.Groups { return groupsPort{c} }

// Tasks is ECS's part.
func (c *Cloud) Tasks() bastion.Tasks { return tasksPort{c} }

// Leases is the control plane's side of the table of leases.
func (c *Cloud) Leases() bastion.Leases { return c.leases }

// Close stops every task as StopTask does, and waits until all processes have
// ended and all callbacks have returned. It must not be called from one of them.
func (c *Cloud) Close() {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.closing)
		for _, t := range c.tasks {
			t.terminate("The local cloud is closing.")
		}
	}
	c.mu.Unlock()
	c.background.Wait()
}

// notify calls an event's receiver on a goroutine of its own. c.mu is held.
func (c *Cloud) notify(receiver func(bastionID, taskID string), bastionID, taskID string) {
	if receiver == nil || c.closed {
		return
	}
	c.background.Go(func() { receiver(bastionID, taskID) })
}

// id makes the next id of the kind and length that the cloud has. c.mu is held.
func (c *Cloud) id(prefix string, digits int) string {
	c.serial++
	return fmt.Sprintf("%s%0*x", prefix, digits, c.serial)
}

// now is the present as records of the cloud keep it.
func (c *Cloud) now() time.Time { return c.cfg.Now().UTC().Round(0) }

// call begins a call to EC2 or ECS: it may be throttled. c.mu is held.
func (c *Cloud) call(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if c.throttle > 0 {
		c.throttle--
		return fmt.Errorf("%s: %w", name, errThrottled)
	}
	return nil
}

var errThrottled = errors.New("ThrottlingException: rate exceeded")
