package bastion

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Config is what the operator decides.
type Config struct {
	DefaultTTL  time.Duration // for a request that names none
	MaxTTL      time.Duration // longest lifetime, counted from creation
	IdleTimeout time.Duration // end after this long without use; 0 for never
	WarnBefore  time.Duration // tell owners who are told things this long before the deadline; 0 for never

	AllowedDestinations []netip.Prefix // destinations that bastions may connect to
	SourceOverride      []netip.Prefix // sources that a caller may name; empty for none
	RequireSource       bool           // bastions are private: the caller's public address is no use
	IPv4, IPv6          bool           // families in which bastions have an address
	Quota               Quota
	Subnets             []string // attempts take turns
	TaskDefinition      string
	MaxAttempts         int // in a row without a bastion that stays ready

	Timing Timing
}

// Timing is how patient the control plane is.
type Timing struct {
	// CallTimeout bounds one converge's effects; Settle is longer than the
	// longest function time-out plus the time for which reads may be stale.
	CallTimeout time.Duration
	Settle      time.Duration
	// Young is for how long NotFound may only mean that the read was stale.
	ReadLag time.Duration
	// Backoff is the pause after the second failed attempt in a row; it doubles.
	Backoff time.Duration
	// Stable is for how long a task must have been ready for its death not to
	// count as a failed attempt.
	StableAfter time.Duration
	// Poll is how often a waiting request looks, Watch how often the reaper
	// looks at a bastion that is starting or closing, Check at one that is
	// ready (an event may have been lost).
	PollInterval, WatchInterval, CheckInterval time.Duration
	// SweepGrace is for how long an orphan must have been marked.
	SweepGrace time.Duration
	// Tombstone is for how long an ended lease refuses writes.
	TombstoneLife time.Duration
}

// Validate names everything that is wrong with the configuration, joined into
// one error.
func (c Config) Validate() error {
	var wrong []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	refuse(c.DefaultTTL <= 0, "the default ttl must be more than zero, not %s", c.DefaultTTL)
	refuse(c.MaxTTL <= 0, "the longest lifetime must be more than zero, not %s", c.MaxTTL)
	refuse(c.IdleTimeout < 0, "the idle time must be zero (never) or more, not %s", c.IdleTimeout)
	refuse(c.WarnBefore < 0, "the time to warn ahead of a deadline must be zero (never) or more, not %s", c.WarnBefore)
	refuse(c.WarnBefore > 0 && c.WarnBefore >= c.MaxTTL, "the time to warn ahead of a deadline (%s) must be shorter than the longest lifetime (%s), else nobody is ever warned", c.WarnBefore, c.MaxTTL)
	refuse(!c.IPv4 && !c.IPv6, "bastions must have an address in at least one family")
	refuse(c.RequireSource && len(c.SourceOverride) == 0, "bastions without a public address need the prefixes that callers may name as source")
	refuse(c.Quota.PerOwner < 1, "an owner must be allowed at least one bastion, not %d", c.Quota.PerOwner)
	refuse(c.Quota.Total < c.Quota.PerOwner, "the total quota (%d) is less than one owner's (%d)", c.Quota.Total, c.Quota.PerOwner)
	refuse(len(c.Subnets) == 0, "there must be at least one subnet")
	refuse(c.TaskDefinition == "", "there must be a task definition")
	refuse(c.MaxAttempts < 1, "there must be at least one attempt, not %d", c.MaxAttempts)
	c.Timing.validate(refuse)
	for _, p := range slices.Concat(c.AllowedDestinations, c.SourceOverride) {
		refuse(p != p.Masked(), "%s has bits set behind its prefix length; write %s", p, p.Masked())
	}
	return errors.Join(wrong...)
}

func (t Timing) validate(refuse func(bool, string, ...any)) {
	for _, required := range []struct {
		name string
		d    time.Duration
	}{
		{"call time-out", t.CallTimeout}, {"poll interval", t.PollInterval}, {"watch interval", t.WatchInterval},
		{"check interval", t.CheckInterval}, {"sweep's grace", t.SweepGrace}, {"tombstone's life", t.TombstoneLife},
	} {
		refuse(required.d <= 0, "the %s must be more than zero, not %s", required.name, required.d)
	}
	refuse(t.Settle <= t.CallTimeout+t.ReadLag, "a changed intent must stay unsettled (%s) for longer than a call (%s) and a stale read (%s)", t.Settle, t.CallTimeout, t.ReadLag)
}
