package bastion

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Record holds everything that the control plane knows about one bastion: the
// state that it should have (Intent), the state that the latest converge observed
// (Group, Attempt), and the time of the next converge (DueAt). All times are UTC.
//
// Records are stored as JSON documents. A field can be added; the JSON name of a
// field never changes.
type Record struct {
	ID    string `json:"id"`    // see ValidID
	Owner string `json:"owner"` // see ValidOwner
	Name  string `json:"name"`  // see ValidName; unique among the owner's open bastions

	CreatedAt      time.Time `json:"created_at,omitzero"`
	LatestDeadline time.Time `json:"latest_deadline,omitzero"` // the latest time that Intent.Deadline can have

	Intent Intent `json:"intent"`
	// UnsettledUntil is set by each change of intent. When this time comes, every
	// function that read an older intent has ended. DueAt stays set until a converge
	// that begins after UnsettledUntil finds nothing to do. Then the record is settled,
	// and UnsettledUntil is zero.
	UnsettledUntil time.Time `json:"unsettled_until,omitzero"`

	// End is zero while the bastion is open.
	End End `json:"end,omitzero"`
	// FinishedAt is when a converge found that nothing of the closed bastion was
	// left in the cloud. Before that it is zero.
	FinishedAt time.Time `json:"finished_at,omitzero"`

	Group   GroupStatus `json:"group,omitzero"`
	Attempt Attempt     `json:"attempt,omitzero"` // the latest attempt; its Number is 0 before the first one
	// SeenAt is when a converge last saw that the group, the task and its report match
	// the intent. A change of intent makes it zero. It is stored with every write of the
	// record, and at least with each regular check (Timing.CheckInterval).
	SeenAt time.Time `json:"seen_at,omitzero"`
	// Failing is zero unless the latest converges of the record failed.
	Failing Failing `json:"failing,omitzero"`
	// Failures counts the failed attempts and the refused steps of the group, in a row. The
	// end of an attempt that had been ready for Timing.StableAfter starts the count again.
	// The next attempt or try of the step does not begin before NextAttemptAt.
	Failures int `json:"failures,omitempty"`
	// FailureCodes has the codes of these failures, the latest last. An earlier version
	// counted failures without storing their codes, so there can be fewer codes.
	FailureCodes  []FailureCode `json:"failure_codes,omitempty"`
	NextAttemptAt time.Time     `json:"next_attempt_at,omitzero"`

	Receipt Receipt `json:"receipt,omitzero"` // the sum over all attempts that have ended

	// Notify is true if the owner receives a notice of each change that they can see.
	Notify bool `json:"notify,omitempty"`
	// LastNotice is the latest notice that a converge sent or tried to send.
	// LastNoticeVersion is the version of the record in which LastNotice was stored.
	// NotifyPendingSince is zero if the latest try to send a notice is confirmed.
	// Otherwise it is the time at which the current series of unconfirmed tries began.
	LastNotice         Notice    `json:"last_notice,omitzero"`
	LastNoticeVersion  int64     `json:"last_notice_version,omitempty"`
	NotifyPendingSince time.Time `json:"notify_pending_since,omitzero"`

	DueAt   time.Time `json:"due_at,omitzero"` // when the reaper must converge the record; zero for never
	Version int64     `json:"version"`         // counts the writes; the compare-and-swap token
}

// Intent is the state that the bastion should have. Each change that a
// running task must follow raises Generation.
type Intent struct {
	Generation   int64        `json:"generation"`
	Open         bool         `json:"open"`
	Source       netip.Prefix `json:"source,omitzero"` // the first source of the latest request
	Keys         []Key        `json:"keys,omitempty"`
	KeySources   []KeySources `json:"key_sources,omitempty"` // of each key; see Admissions
	Deadline     time.Time    `json:"deadline,omitzero"`     // a whole second
	Reason       string       `json:"reason,omitempty"`      // see CleanReason
	ConsoleReply ConsoleReply `json:"console_reply,omitzero"`

	DeadlineSetAt time.Time `json:"deadline_set_at,omitzero"` // when the deadline last moved
}

// End holds why and when a bastion was closed.
type End struct {
	Reason  EndReason `json:"reason"`
	At      time.Time `json:"at,omitzero"`
	Failure Failure   `json:"failure,omitzero"` // set if Reason is EndFailed
}

// EndReason is why a bastion was closed.
type EndReason string

// The reasons.
const (
	EndClosed   EndReason = "closed"   // its owner, or an admin, closed it
	EndConsole  EndReason = "console"  // its console received the command close
	EndDeadline EndReason = "deadline" // it reached its deadline
	EndIdle     EndReason = "idle"     // no connection was open for the idle timeout
	EndFailed   EndReason = "failed"   // Record.Failures reached MaxAttempts, or the converges of its start failed for Timing.GiveUpAfter
	EndTask     EndReason = "task"     // its task exited with code 0 and reported no other reason
)

// String returns the reason, and the code of the failure if there is one.
func (e End) String() string {
	if e.Reason == EndFailed {
		return fmt.Sprintf("%s (%s)", e.Reason, e.Failure.Code)
	}
	return string(e.Reason)
}

// Failure describes to people why a task did not start or did not keep running: a
// stable code, and a sentence that says what happened and what to do next.
type Failure struct {
	Code    FailureCode `json:"code"`
	Message string      `json:"message,omitempty"`
}

// FailureCode is the stable name of the cause of a failure.
type FailureCode string

// Failing holds since when the converges of a record have failed without a break. A
// converge fails if it cannot read a part of the cloud, or if an action returns an error
// and the next round still needs that action. A lack of time and a notice that was not
// sent are not failures. Failing becomes zero when a converge sees every part and takes
// every action that is needed without an error.
type Failing struct {
	Since   time.Time `json:"since"`
	Refusal Failure   `json:"refusal,omitzero"` // AWS's definite refusal of a step of the group; zero if there was none
}

// GroupStatus is the state of the bastion's security group that the latest converge
// observed.
type GroupStatus struct {
	ID          string    `json:"id"`
	FirstSeenAt time.Time `json:"first_seen_at,omitzero"`
	// Ingress and MoreIngress are the sources that the group admits; see Sources. An
	// earlier version stores Ingress only.
	Ingress     netip.Prefix   `json:"ingress,omitzero"`
	MoreIngress []netip.Prefix `json:"more_ingress,omitempty"`
}

// Sources returns the sources that the group admits, sorted. It is empty if the group has
// no rule, two rules for one source, or a rule of another kind.
func (g GroupStatus) Sources() []netip.Prefix {
	if !g.Ingress.IsValid() {
		return nil
	}
	return append([]netip.Prefix{g.Ingress}, g.MoreIngress...)
}

func (g *GroupStatus) setSources(sources []netip.Prefix) {
	g.Ingress, g.MoreIngress = netip.Prefix{}, nil
	if len(sources) > 0 {
		g.Ingress, g.MoreIngress = sources[0], append([]netip.Prefix(nil), sources[1:]...)
	}
}

// Attempt is one try to run a task. The fields up to CreatedAt are in the record
// before RunTask is called, and do not change with the configuration, because ECS refuses a
// known clientToken with other parameters. The fields after it hold what was observed later.
type Attempt struct {
	Number         int       `json:"number"`
	GroupID        string    `json:"group_id,omitempty"`
	Subnet         string    `json:"subnet,omitempty"`
	TaskDefinition string    `json:"task_definition,omitempty"`
	Tags           []Tag     `json:"tags,omitempty"`
	CreatedAt      time.Time `json:"created_at,omitzero"`

	TaskID       string           `json:"task_id,omitempty"`
	TaskSeenAt   time.Time        `json:"task_seen_at,omitzero"` // when the task was first seen
	Status       TaskStatus       `json:"status,omitempty"`
	Endpoints    []netip.AddrPort `json:"endpoints,omitempty"` // the task's addresses, at most one for each family
	HostKey      Key              `json:"host_key,omitempty"`
	MoreHostKeys []Key            `json:"more_host_keys,omitempty"` // see Report
	Generation   int64            `json:"generation,omitempty"`     // generation in the task's latest report
	ReadyAt      time.Time        `json:"ready_at,omitzero"`        // when a converge first saw that group, task and report match the intent
	EndedAt      time.Time        `json:"ended_at,omitzero"`        // zero until the end is known
	Failure      Failure          `json:"failure,omitzero"`         // why the attempt failed; zero if it ended on purpose
}

// HostKeys returns all host keys of the task; nil while they are not known.
func (a Attempt) HostKeys() []Key { return hostKeys(a.HostKey, a.MoreHostKeys) }

// active reports whether the attempt has begun and is not known to have ended.
func (a Attempt) active() bool { return a.Number > 0 && a.EndedAt.IsZero() }

// served reports whether the current attempt's task was ready and has not ended, so that
// it can have open connections.
func (r Record) served() bool { return r.Attempt.active() && !r.Attempt.ReadyAt.IsZero() }

// State is the state of a bastion as people see it.
type State string

// The states.
const (
	Starting State = "starting"
	Ready    State = "ready"
	Closing  State = "closing"
	Closed   State = "closed"
	Failed   State = "failed"
)

// State returns the state, which follows from the record alone.
func (r Record) State() State {
	switch {
	case r.End.Reason == EndFailed:
		return Failed
	case !r.Intent.Open && !r.FinishedAt.IsZero():
		return Closed
	case !r.Intent.Open:
		return Closing
	case r.matchesIntent() && !r.SeenAt.IsZero():
		return Ready
	}
	return Starting
}

// matchesIntent reports whether the bastion is open, its group admits the sources, it has
// an endpoint in each family of the sources, and its task reports that it follows the
// intent's generation, all as far as the record knows.
func (r Record) matchesIntent() bool {
	a := r.Attempt
	return r.Intent.Open && a.active() && r.hasEndpoints() && a.HostKey != "" &&
		r.admitsSources() && a.Generation == r.Intent.Generation
}

// admitsSources reports whether the group admits the sources of the intent and nothing
// else.
func (r Record) admitsSources() bool {
	return slices.Equal(r.Group.Sources(), r.Intent.Sources())
}

// Stage returns what a starting bastion waits for: "security group", "capacity",
// "image", "network" or "host key". If its task was ready before, Stage returns
// "address" or "lease". Stage returns "delayed" in two cases: AWS does not carry out the
// next step of a starting or closing bastion, but may do so later; or the bastion was
// ready, and the converge of the present request could not see whether it still is. Stage
// returns "" in every other state.
func (r Record) Stage() string {
	a, state := r.Attempt, r.State()
	delayed := !r.Failing.Since.IsZero() && r.Failing.Refusal.Code == ""
	switch {
	case state != Starting && state != Closing:
		return ""
	case delayed || state == Starting && r.served() && r.matchesIntent(): // the latest converge did not see that it matches
		return "delayed"
	case state == Closing:
		return ""
	case r.served() && !r.admitsSources():
		return "address"
	case r.served():
		return "lease"
	case !r.Group.Ingress.IsValid():
		return "security group"
	case !a.active() || a.TaskID == "" || a.Status == "" || a.Status == TaskProvisioning:
		return "capacity"
	case a.Status == TaskPending:
		return "image"
	case !r.hasEndpoints():
		return "network"
	}
	return "host key"
}

// Refusal returns AWS's latest definite refusal of a step of a starting or closing
// bastion's group. It is zero if there is none.
func (r Record) Refusal() Failure {
	if state := r.State(); state != Starting && state != Closing {
		return Failure{}
	}
	return r.Failing.Refusal
}

// Endpoint returns the address that the caller of the latest request connects to, in the
// family of that request's first source. It is zero until the address is known.
func (r Record) Endpoint() netip.AddrPort { return r.endpointFor(r.Intent.Source) }

// Endpoints returns the addresses that people connect to, one for each family of the
// sources, as far as they are known. The first is Endpoint, if it is known.
func (r Record) Endpoints() []netip.AddrPort {
	var known []netip.AddrPort
	for _, source := range append([]netip.Prefix{r.Intent.Source}, r.Intent.Sources()...) {
		if e := r.endpointFor(source); e.IsValid() && !slices.Contains(known, e) {
			known = append(known, e)
		}
	}
	return known
}

// hasEndpoints reports whether an endpoint is known for each family of the sources.
func (r Record) hasEndpoints() bool {
	return r.Endpoint().IsValid() && !slices.ContainsFunc(r.Intent.Sources(), func(source netip.Prefix) bool { return !r.endpointFor(source).IsValid() })
}

// endpointFor returns the task's endpoint in the family of the source.
func (r Record) endpointFor(source netip.Prefix) netip.AddrPort {
	for _, e := range r.Attempt.Endpoints {
		if e.Addr().Is4() == source.Addr().Is4() && r.Attempt.active() {
			return e
		}
	}
	return netip.AddrPort{}
}

// Key is a public key in the form of authorized_keys: the type, one space, and
// the key in base64, without options and comment.
type Key string

// Fingerprint returns the key's SHA-256 fingerprint as OpenSSH prints it. It is
// empty if the part after the type is missing or not valid base64.
func (k Key) Fingerprint() string {
	_, b64, _ := strings.Cut(string(k), " ")
	blob, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(blob) == 0 {
		return ""
	}
	sum := sha256.Sum256(blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}
