package bastion

import (
	"net/netip"
	"time"
)

// Config is what the operator decides.
type Config struct {
	DefaultTTL time.Duration // for a request that names none
	MaxTTL     time.Duration // longest lifetime, counted from creation
	Idle       time.Duration // end after this long without use; 0 for never

	Allowed        []netip.Prefix // destinations that bastions may connect to
	SourceOverride []netip.Prefix // sources that a caller may name; empty for none
	RequireSource  bool           // bastions are private: the caller's public address is no use
	IPv4, IPv6     bool           // families in which bastions have an address
	Quota          Quota
	Subnets        []string // attempts take turns
	TaskDefinition string
	MaxAttempts    int // in a row without a bastion that stays ready

	Timing Timing
}

// Timing is how patient the control plane is.
type Timing struct {
	// CallTimeout bounds one converge's effects; Settle is longer than the
	// longest function time-out plus the time for which reads may be stale.
	CallTimeout time.Duration
	Settle      time.Duration
	// Young is for how long NotFound may only mean that the read was stale.
	Young time.Duration
	// Backoff is the pause after the second failed attempt in a row; it doubles.
	Backoff time.Duration
	// Stable is for how long a task must have been ready for its death not to
	// count as a failed attempt.
	Stable time.Duration
	// Poll is how often a waiting request looks, Watch how often the reaper
	// looks at a bastion that is starting or closing, Check at one that is
	// ready (an event may have been lost).
	Poll, Watch, Check time.Duration
	// SweepGrace is for how long an orphan must have been marked.
	SweepGrace time.Duration
	// Tombstone is for how long an ended lease refuses writes.
	Tombstone time.Duration
}

// maxReplay is how old an attempt may be for its RunTask to be sent again: ECS
// forgets a clientToken an hour after the task's end.
const maxReplay = 55 * time.Minute
