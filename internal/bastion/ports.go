package bastion

import (
	"context"
	"net/netip"
	"time"
)

// Records stores the records of bastions. Reads are strongly consistent, except
// List. Every write is atomic. A write that returns an error other than the ones
// named here may have taken effect. ListByOwner and List leave out a record that
// cannot be decoded; Fetch returns an error for it.
type Records interface {
	// Create writes a new record, reserves its name among the owner's open
	// bastions and counts the bastion against the quota, all in one write.
	// rec.Version must be 1. ErrNameTaken, ErrQuotaOwner, ErrQuotaTotal: nothing
	// was written.
	Create(ctx context.Context, rec Record, quota Quota) error
	// Fetch returns ErrNotFound for an ID that was never created.
	Fetch(ctx context.Context, id string) (Record, error)
	// FetchByName returns the owner's open bastion of that name, or ErrNotFound.
	FetchByName(ctx context.Context, owner, name string) (Record, error)
	// Replace writes next in place of prev. next.Version must be
	// prev.Version + 1. ErrConflict: the stored version is not prev.Version.
	// If next closes an open bastion, the same write releases its name and lowers
	// the counts of open bastions. If next sets FinishedAt, the same write removes
	// the record from ListByOwner and List.
	Replace(ctx context.Context, prev, next Record) error
	// ListByOwner lists the owner's bastions that are not finished, oldest first.
	ListByOwner(ctx context.Context, owner string) ([]Record, error)
	// List lists the bastions of all owners that are not finished, oldest first.
	// The list can be stale.
	List(ctx context.Context) ([]Record, error)
	// CountOpen returns the number of open bastions of all owners, which Quota.Total
	// limits.
	CountOpen(ctx context.Context) (int, error)
}

// DueList finds the records that are due.
type DueList interface {
	// Due lists the IDs of at most limit records whose DueAt is not after now, the
	// earliest DueAt first. The list can be stale. The cost of a call grows with
	// the number of records that are due, not with the number that exist.
	Due(ctx context.Context, now time.Time, limit int) ([]string, error)
}

// RememberedKeys stores the latest public key of each owner, for requests without
// a key. Reads are strongly consistent.
type RememberedKeys interface {
	RememberKey(ctx context.Context, owner string, key Key) error
	// RememberedKey returns ErrNotFound if no key of the owner is stored.
	RememberedKey(ctx context.Context, owner string) (Key, error)
}

// OrphanMarks stores for each orphan when a sweep first saw it. Reads are strongly
// consistent.
type OrphanMarks interface {
	// Mark stores the time for an orphan that has no mark yet, and returns the
	// time that is stored.
	Mark(ctx context.Context, orphan string, at time.Time) (time.Time, error)
	// Unmark removes the orphan's mark. If there is no mark, it does nothing.
	Unmark(ctx context.Context, orphan string) error
	// Marks lists the orphans that have a mark.
	Marks(ctx context.Context) ([]string, error)
}

// Store combines the ports that the table of records implements.
type Store interface {
	Records
	DueList
	RememberedKeys
	OrphanMarks
}

// Quota limits how many bastions can be open at once.
type Quota struct {
	PerOwner int
	Total    int
}

// Groups manages the security groups of this stack's bastions. Reads can be stale:
// a new group can be missing, and a changed group can have its old state. A call
// returns before its effect is visible everywhere. It may wait for its turn within
// the rate limits, and can return [ErrNoTime]. A call that changes something can return
// a [*RefusedError].
type Groups interface {
	// Create creates the bastion's group. The group's name follows from the
	// bastion's ID, so if the group exists already, Create returns it. A new group
	// can have a default egress rule. ErrNotFound: the group exists, but a stale
	// read does not show it yet.
	Create(ctx context.Context, spec GroupSpec) (Group, error)
	// Describe returns the group with the ID groupID. If groupID is empty, it finds
	// the group by the name that follows from the bastion's ID. ErrNotFound: the
	// group does not exist, or a stale read does not show it yet.
	Describe(ctx context.Context, bastionID, groupID string) (Group, error)
	// Authorize adds the rule that admits the source to the SSH port. If the rule
	// exists, it does nothing.
	Authorize(ctx context.Context, groupID string, source netip.Prefix) error
	// Revoke removes one rule. If the rule or the group is gone, it does nothing.
	// Open connections stay open.
	Revoke(ctx context.Context, groupID string, rule Rule) error
	// Delete deletes the group. ErrInUse: a network interface still has the group.
	// ErrNotFound: the group is gone, or a stale read does not show it yet.
	Delete(ctx context.Context, groupID string) error
	// List lists all groups that have this stack's tag.
	List(ctx context.Context) ([]Group, error)
}

// GroupSpec holds everything that CreateSecurityGroup's parameters depend on.
type GroupSpec struct {
	BastionID string
	Tags      []Tag
}

// Tag is a tag that the operator wants on groups and tasks. The service has tags of its
// own in addition.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
}

// Group is the security group of one bastion.
type Group struct {
	ID        string
	BastionID string
	Ingress   []Rule
	Egress    []Rule
}

// Rule is one rule of a group.
type Rule struct {
	ID     string
	Egress bool
	// Source is the prefix that an ingress rule admits to the SSH port. It is zero
	// for every other kind of rule.
	Source netip.Prefix
}

// RunTaskReplayWindow is how long RunTask can be sent for one attempt, counted from
// the attempt's CreatedAt. ECS remembers a clientToken for an hour after the task's
// end; a RunTask that is sent later would start a second task.
const RunTaskReplayWindow = 55 * time.Minute

// Tasks manages the Fargate tasks of this stack's bastions. Reads can be stale, and
// any call can return [ErrNoTime]; see [Groups].
type Tasks interface {
	// Run starts the task of an attempt. All parameters of RunTask follow from the
	// spec, so that a repeat within RunTaskReplayWindow returns the same task, also
	// if that task has stopped. *RefusedError: the attempt has no task and never
	// will have one. ErrNotFound: a stale read does not show the group yet.
	Run(ctx context.Context, spec TaskSpec) (Task, error)
	// Describe returns the bastion's tasks, running or stopped within the last
	// hour. It searches by startedBy, and adds the tasks with the known IDs, which a
	// stale search can miss.
	Describe(ctx context.Context, bastionID string, known ...string) ([]Task, error)
	// Fetch returns the task with the ID, running or stopped within the last hour.
	// It makes one call to ECS where Describe makes several. ErrNotFound: the task
	// is gone, or a stale read does not show it yet.
	Fetch(ctx context.Context, taskID string) (Task, error)
	// Stop makes ECS send SIGTERM to the task, and later SIGKILL. If the task has
	// stopped or is gone, it does nothing.
	Stop(ctx context.Context, taskID, reason string) error
	// List lists all tasks of this stack that have not stopped.
	List(ctx context.Context) ([]Task, error)
}

// TaskSpec holds everything that RunTask's parameters depend on.
type TaskSpec struct {
	BastionID        string
	Attempt          int
	GroupID          string
	Subnet           string
	TaskDefinition   string
	Tags             []Tag
	AttemptCreatedAt time.Time
}

// Task is one task as ECS describes it.
type Task struct {
	ID        string
	BastionID string
	Attempt   int
	Status    TaskStatus
	Endpoints []netip.AddrPort // known once the network is attached; at most one for each family
	CreatedAt time.Time
	// EndpointsErr is why the endpoints could not be read. The other fields are known.
	EndpointsErr error

	// Of a stopped task:
	StopCode   string // ECS's stopCode, such as TaskFailedToStart or EssentialContainerExited
	StopReason string // ECS's stoppedReason
	ExitCode   *int   // of the container; nil if it never ran
}

// TaskStatus is the lastStatus of a task in ECS.
type TaskStatus string

// The statuses, in the order in which a task has them.
const (
	TaskProvisioning   TaskStatus = "PROVISIONING"
	TaskPending        TaskStatus = "PENDING"
	TaskActivating     TaskStatus = "ACTIVATING"
	TaskRunning        TaskStatus = "RUNNING"
	TaskDeactivating   TaskStatus = "DEACTIVATING"
	TaskStopping       TaskStatus = "STOPPING"
	TaskDeprovisioning TaskStatus = "DEPROVISIONING"
	TaskStopped        TaskStatus = "STOPPED"
)

// Leases is the control plane's side of the table of leases, which has one item for
// each task. Reads are strongly consistent.
type Leases interface {
	// Fetch returns ErrNotFound for a task that never had a lease.
	Fetch(ctx context.Context, taskID string) (LeaseItem, error)
	// Write writes the lease if the item has none or an older generation.
	// ErrConflict: the item has this generation or a newer one, the item is a
	// tombstone, or the lease is open and the task has reported its ending.
	Write(ctx context.Context, taskID string, lease Lease) error
	// End writes a tombstone in place of the item, also if there is no item. The
	// parameter until is when the tombstone expires; then the table's TTL deletes it.
	End(ctx context.Context, taskID, bastionID string, until time.Time) error
	// List lists all items that are not tombstones.
	List(ctx context.Context) ([]LeaseItem, error)
}

// Notifier sends notices to the owners of bastions.
type Notifier interface {
	// Notify accepts a notice for delivery and does not wait for the delivery. A
	// call that returns an error may have accepted the notice. A notice can be
	// delivered twice, and notices can be delivered in another order. A notice with
	// a lower rec.Version is older; notices with the same version are equal.
	Notify(ctx context.Context, rec Record, notice Notice) error
}

// TaskLease is a task's side of its own item in the table of leases. It has no
// access to other items.
type TaskLease interface {
	// Read returns the lease; the read is strongly consistent. ErrNotFound: the
	// lease does not exist yet, or it has ended. ErrDenied, ErrNoTable, ErrUnreachable:
	// nothing is known about the lease.
	Read(ctx context.Context) (Lease, error)
	// Report replaces the stored report. An Ending is new if the stored report has no
	// Ending or another one. A report with a new Ending is written only if the lease's
	// generation is Ending.Generation. ErrConflict: the lease has another generation.
	// ErrNotFound: the item is gone or a tombstone. After either error, nothing was
	// written.
	Report(ctx context.Context, report Report) error
}
