package bastion

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Record is all that is known of one bastion: what should be (Intent), what a
// converge last saw of it (Group, Attempt), and when somebody must look again
// (DueAt). All times are UTC.
type Record struct {
	ID    string `json:"id"`    // 16 characters of lower-case base32
	Owner string `json:"owner"` // prefixed: iam:…, jwt:…, slack:…, local:…
	Name  string `json:"name"`  // unique among the owner's live bastions

	CreatedAt      time.Time `json:"created_at,omitzero"`
	LatestDeadline time.Time `json:"latest_deadline,omitzero"` // no intent moves the deadline past it

	Intent Intent `json:"intent"`
	// UnsettledUntil is when no function that read an older intent can still be
	// running. Until a converge that began later has seen agreement, the record
	// stays due. Zero when settled.
	UnsettledUntil time.Time `json:"unsettled_until,omitzero"`

	// End says why the bastion was closed; zero while it is open.
	End End `json:"end,omitzero"`
	// FinishedAt is when nothing of a closed bastion was left.
	FinishedAt time.Time `json:"finished_at,omitzero"`

	Group   GroupStatus `json:"group,omitzero"`
	Attempt Attempt     `json:"attempt,omitzero"` // the latest; Number 0 before the first
	// Failures counts the attempts in a row that ended without a bastion that
	// stayed ready; NextAttemptAt is the backoff that follows from it.
	Failures      int       `json:"failures,omitempty"`
	NextAttemptAt time.Time `json:"next_attempt_at,omitzero"`

	Receipt Receipt `json:"receipt,omitzero"` // of all attempts that ended

	// Notify: the owner is told what becomes of the bastion.
	Notify bool `json:"notify,omitempty"`
	// Told is the notice that somebody last began to tell the owner, in the record's
	// version ToldVersion. UntoldSince is since when nobody has been known to succeed
	// in that; zero when the owner has been told.
	LastNotice         Notice    `json:"last_notice,omitzero"`
	LastNoticeVersion  int64     `json:"last_notice_version,omitempty"`
	NotifyPendingSince time.Time `json:"notify_pending_since,omitzero"`

	DueAt   time.Time `json:"due_at,omitzero"` // when it must next be looked at; zero for never
	Version int64     `json:"version"`         // counts writes; the compare-and-swap token
}

// Intent is what the record says should be. Each change raises Generation.
type Intent struct {
	Generation   int64        `json:"generation"`
	Open         bool         `json:"open"`
	Source       netip.Prefix `json:"source,omitzero"` // a /32 or a /128
	Keys         []Key        `json:"keys,omitempty"`
	Deadline     time.Time    `json:"deadline,omitzero"`      // a whole second
	Reason       string       `json:"reason,omitempty"`       // the owner's own words; may be empty
	ConsoleReply ConsoleReply `json:"console_reply,omitzero"` // to the latest request of the current task's console

	DeadlineSetAt time.Time `json:"deadline_set_at,omitzero"` // when somebody last asked for time
}

// End says why and when a bastion was closed.
type End struct {
	Reason  EndReason `json:"reason"`
	At      time.Time `json:"at,omitzero"`
	Failure Failure   `json:"failure,omitzero"` // set when Reason is EndFailed
}

// EndReason says why a bastion ended.
type EndReason string

// The reasons.
const (
	EndClosed   EndReason = "closed"   // its owner, or an admin, closed it
	EndConsole  EndReason = "console"  // somebody typed close in its console
	EndDeadline EndReason = "deadline" // its time was up
	EndIdle     EndReason = "idle"     // nobody used it
	EndFailed   EndReason = "failed"   // it could not be started, or kept dying
	EndTask     EndReason = "task"     // its task ended on purpose but left no reason
)

// Failure is a failed start as a person reads it: a stable code and a sentence
// that says what to do.
type Failure struct {
	Code    FailureCode `json:"code"`
	Message string      `json:"message,omitempty"`
}

// FailureCode is the stable name of a reason that a start fails for.
type FailureCode string

// GroupFacts is what a converge last saw of the bastion's security group.
type GroupStatus struct {
	ID          string    `json:"id"`
	FirstSeenAt time.Time `json:"first_seen_at,omitzero"` // when it was first seen
	// Ingress is the source that the group admits; zero unless the group admits
	// exactly one, and nothing out.
	Ingress netip.Prefix `json:"ingress,omitzero"`
}

// Attempt is one try at a task. Everything up to AnnouncedAt is in the record
// before RunTask is called; the rest is what was seen since.
type Attempt struct {
	Number         int       `json:"number"`
	GroupID        string    `json:"group_id,omitempty"`
	Subnet         string    `json:"subnet,omitempty"`
	TaskDefinition string    `json:"task_definition,omitempty"`
	CreatedAt      time.Time `json:"created_at,omitzero"`

	TaskID     string           `json:"task_id,omitempty"`
	TaskSeenAt time.Time        `json:"task_seen_at,omitzero"` // when the task was first seen
	Status     TaskStatus       `json:"status,omitempty"`
	Endpoints  []netip.AddrPort `json:"endpoints,omitempty"` // where the task can be reached: at most one per family
	HostKey    Key              `json:"host_key,omitempty"`
	Generation int64            `json:"generation,omitempty"` // the generation that the task reports to be in force
	ReadyAt    time.Time        `json:"ready_at,omitzero"`    // when ingress and report first matched the intent
	EndedAt    time.Time        `json:"ended_at,omitzero"`    // zero while its end is not known
	Failure    Failure          `json:"failure,omitzero"`     // why it ended, unless on purpose
}

// running reports whether the attempt was announced and has no known end.
func (a Attempt) running() bool { return a.Number > 0 && a.EndedAt.IsZero() }

// State is what a person sees of a bastion.
type State string

// The states.
const (
	Starting State = "starting"
	Ready    State = "ready"
	Closing  State = "closing"
	Closed   State = "closed"
	Failed   State = "failed"
)

// State derives the state from the record alone.
func (r Record) State() State {
	switch {
	case r.End.Reason == EndFailed:
		return Failed
	case !r.Intent.Open && !r.FinishedAt.IsZero():
		return Closed
	case !r.Intent.Open:
		return Closing
	case r.agrees():
		return Ready
	}
	return Starting
}

// agrees reports whether ingress and the task's report match the intent.
func (r Record) agrees() bool {
	a := r.Attempt
	return r.Intent.Open && a.running() && r.Endpoint().IsValid() && a.HostKey != "" &&
		r.Group.Ingress == r.Intent.Source && a.Generation == r.Intent.Generation
}

// Stage says what a starting bastion waits for: "security group", "capacity",
// "image", "network" or "host key"; of one that was ready before, "address" or
// "lease". It is empty in every other state.
func (r Record) Stage() string {
	a := r.Attempt
	switch {
	case r.State() != Starting:
		return ""
	case a.running() && !a.ReadyAt.IsZero() && r.Group.Ingress != r.Intent.Source:
		return "address"
	case a.running() && !a.ReadyAt.IsZero():
		return "lease"
	case !r.Group.Ingress.IsValid():
		return "security group"
	case !a.running() || a.TaskID == "" || a.Status == "" || a.Status == TaskProvisioning:
		return "capacity"
	case a.Status == TaskPending:
		return "image"
	case !r.Endpoint().IsValid():
		return "network"
	}
	return "host key"
}

// Endpoint is where the owner connects to, in the family of the source. It is
// zero until it is known.
func (r Record) Endpoint() netip.AddrPort {
	for _, e := range r.Attempt.Endpoints {
		if e.Addr().Is4() == r.Intent.Source.Addr().Is4() && r.Attempt.running() {
			return e
		}
	}
	return netip.AddrPort{}
}

// Key is a public key as authorized_keys has it: the type and the base64 of the
// key, one space between them, no options, no comment.
type Key string

// Fingerprint is the key's SHA-256 fingerprint as OpenSSH prints it, or the
// empty string if the key is not of the documented form.
func (k Key) Fingerprint() string {
	_, b64, _ := strings.Cut(string(k), " ")
	blob, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(blob) == 0 {
		return ""
	}
	sum := sha256.Sum256(blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

func (e End) String() string {
	if e.Reason == EndFailed {
		return fmt.Sprintf("%s (%s)", e.Reason, e.Failure.Code)
	}
	return string(e.Reason)
}
