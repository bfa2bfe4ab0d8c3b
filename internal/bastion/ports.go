package bastion

import (
	"context"
	"net/netip"
	"time"
)

// Records stores the records. Reads are strongly consistent unless said otherwise.
// Every write is atomic. A write that returns an error other than the ones named
// here may have taken effect.
type Records interface {
	// Create writes a new record, reserves its name among the owner's open
	// bastions and counts it against the quota, all or nothing. rec.Version must
	// be 1. ErrNameTaken, ErrQuotaOwner, ErrQuotaTotal: nothing was written.
	Create(ctx context.Context, rec Record, quota Quota) error
	// Fetch returns ErrNotFound for an ID that was never created.
	Fetch(ctx context.Context, id string) (Record, error)
	// FetchByName returns the owner's open bastion of that name, or ErrNotFound.
	FetchByName(ctx context.Context, owner, name string) (Record, error)
	// Replace writes next in place of prev. next.Version must be
	// prev.Version + 1. ErrConflict: the stored version is not prev.Version.
	// If next closes an open bastion, the same write frees its name and its
	// place in the quota. If next is the first with FinishedAt set, the same
	// write removes it from the lists.
	Replace(ctx context.Context, prev, next Record) error
	// ListByOwner lists the owner's bastions that are not finished, oldest first.
	ListByOwner(ctx context.Context, owner string) ([]Record, error)
	// List lists all bastions that are not finished, oldest first. It can be
	// stale.
	List(ctx context.Context) ([]Record, error)
}

// DueList finds the records that are due.
type DueList interface {
	// Due lists the IDs of at most limit records whose DueAt is not after now,
	// the most overdue first. It can be stale. Its cost grows with the number of
	// records that are due, not with the number that exist.
	Due(ctx context.Context, now time.Time, limit int) ([]string, error)
}

// RememberedKeys stores the latest public key of each owner, for requests that
// send none. Reads are strongly consistent.
type RememberedKeys interface {
	RememberKey(ctx context.Context, owner string, key Key) error
	// RememberedKey returns ErrNotFound if the owner has none.
	RememberedKey(ctx context.Context, owner string) (Key, error)
}

// OrphanMarks stores when the sweep first saw each orphan. Reads are strongly
// consistent.
type OrphanMarks interface {
	// Mark stores the time for an orphan that has no mark yet, and returns the
	// time that is stored.
	Mark(ctx context.Context, orphan string, at time.Time) (time.Time, error)
	// Unmark removes the mark. If there is none, it does nothing.
	Unmark(ctx context.Context, orphan string) error
	// Marks lists the orphans that have a mark.
	Marks(ctx context.Context) ([]string, error)
}

// Store is everything that one table of records implements.
type Store interface {
	Records
	DueList
	RememberedKeys
	OrphanMarks
}

// Quota limits how many bastions may be open at once.
type Quota struct {
	PerOwner int
	Total    int
}

// Groups are the security groups of this stack's bastions. What is read may be
// stale: something just made may be missing, something just changed may look as
// it was. Nothing waits, but for its turn: any call may answer [ErrNoTime].
type Groups interface {
	// Create creates the bastion's group, or returns the one that exists: its name
	// is derived from the bastion's ID. A new group can have a default egress rule.
	// ErrNotFound: it exists but does not show yet.
	Create(ctx context.Context, spec GroupSpec) (Group, error)
	// Describe finds the bastion's group by its own id, or by the derived name
	// when groupID is empty. ErrNotFound may be stale.
	Describe(ctx context.Context, bastionID, groupID string) (Group, error)
	// Authorize admits the source to the SSH port. A rule that is there already
	// is fine.
	Authorize(ctx context.Context, groupID string, source netip.Prefix) error
	// Revoke removes one rule. A rule or group that is gone already is fine.
	// Open connections are not cut.
	Revoke(ctx context.Context, groupID string, rule Rule) error
	// Delete answers ErrInUse while an interface carries the group, and
	// ErrNotFound for one that is gone already or does not show yet.
	Delete(ctx context.Context, groupID string) error
	// List lists all groups that carry this stack's tag.
	List(ctx context.Context) ([]Group, error)
}

// GroupSpec is what CreateSecurityGroup's parameters follow from.
type GroupSpec struct {
	BastionID string
}

// Group is a security group made for a bastion.
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
	// Source is the one address prefix that an ingress rule admits to the SSH
	// port; zero for a rule of any other kind.
	Source netip.Prefix
}

// RunTaskReplayWindow is for how long after its creation an attempt's RunTask can
// be sent again. ECS remembers a clientToken for an hour after the task's end; a
// RunTask that is sent later would start a second task.
const RunTaskReplayWindow = 55 * time.Minute

// Tasks are the Fargate tasks of this stack's bastions. What is read may be
// stale, as with Groups. Nothing waits, but for its turn; see [ErrNoTime].
type Tasks interface {
	// Run starts the task of an attempt. Everything that is sent follows from the
	// spec, so that a repeat within RunTaskReplayWindow returns the same task,
	// whatever its state is by then. *RefusedError: there is no task, and this
	// attempt never will have one. ErrNotFound: the group does not show yet.
	Run(ctx context.Context, spec TaskSpec) (Task, error)
	// Describe answers the bastion's tasks: those found by startedBy, running or
	// stopped within the hour, and those of the known ids.
	Describe(ctx context.Context, bastionID string, known ...string) ([]Task, error)
	// Fetch answers one task by its id, running or stopped within the hour. It is
	// one call where Describe is several. ErrNotFound may be stale.
	Fetch(ctx context.Context, taskID string) (Task, error)
	// Stop asks a task to end: SIGTERM, and later SIGKILL. A task that is
	// stopped or gone already is fine.
	Stop(ctx context.Context, taskID, reason string) error
	// List lists all tasks of this stack that are not stopped.
	List(ctx context.Context) ([]Task, error)
}

// TaskSpec is what RunTask's parameters follow from.
type TaskSpec struct {
	BastionID        string
	Attempt          int
	GroupID          string
	Subnet           string
	TaskDefinition   string
	AttemptCreatedAt time.Time
}

// Task is what ECS says of one task.
type Task struct {
	ID        string
	BastionID string
	Attempt   int
	Status    TaskStatus
	Endpoints []netip.AddrPort // known once the network is attached; at most one per family
	CreatedAt time.Time

	// Of a stopped task:
	StopCode   string // as ECS has it: TaskFailedToStart, EssentialContainerExited, …
	StopReason string // ECS's own words
	ExitCode   *int   // of the container, if it ever ran
}

// TaskStatus is a task's lastStatus.
type TaskStatus string

// The life of a task, in order.
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

// Leases is the control plane's side of the table of leases: one item for each
// task. Reads are strongly consistent.
type Leases interface {
	// Fetch answers ErrNotFound for a task that was never leased anything.
	Fetch(ctx context.Context, taskID string) (LeaseItem, error)
	// Write writes the lease if the item has none or an older generation. It
	// answers ErrConflict if the item has this generation or a newer one, if it
	// is a tombstone, or if an open lease meets a task that is ending.
	Write(ctx context.Context, taskID string, lease Lease) error
	// End puts a tombstone in the item's place, whether or not there is one. The
	// table's TTL takes it away after the time given.
	End(ctx context.Context, taskID, bastionID string, until time.Time) error
	// List lists all items that are not tombstones.
	List(ctx context.Context) ([]LeaseItem, error)
}

// Notices reaches owners who want to be told what becomes of their bastions.
type Notifier interface {
	// Tell hands a notice of the record over to whoever brings it to the owner, and
	// does not wait for that. After an error it may have been handed over all the
	// same. A notice may be told more than once, and after a later one: of two, the
	// one with the lower rec.Version is the older. Two of one version are the same.
	Notify(ctx context.Context, rec Record, notice Notice) error
}

// TaskLease is a task's own side of its item in the table of leases. It reaches
// no other item.
type TaskLease interface {
	// Read answers the lease, strongly consistent. ErrNotFound: there is none
	// yet, or it has ended.
	Read(ctx context.Context) (Lease, error)
	// Report replaces the report. ErrNotFound: the item is gone or a tombstone,
	// and nothing was written. When the report carries an Ending that the stored
	// one does not have, it is written on condition that the lease's generation
	// is still Ending.Generation, else ErrConflict.
	Report(ctx context.Context, report Report) error
}
