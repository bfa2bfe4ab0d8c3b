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
	DefaultTTL  time.Duration // for a request without a ttl
	MaxTTL      time.Duration // maximum lifetime, counted from creation
	IdleTimeout time.Duration // end after this long without an authenticated connection; 0 for never
	WarnBefore  time.Duration // send owners a warning this long before the deadline; 0 for never

	AllowedDestinations []netip.Prefix // destinations that bastions may connect to
	SourceOverride      []netip.Prefix // sources that a caller may name; empty for none
	RequireSource       bool           // bastions are private, so the caller's public address cannot be the source
	IPv4, IPv6          bool           // families in which bastions have an address
	Quota               Quota
	Subnets             []string // attempts use them in turn
	TaskDefinition      string
	MaxAttempts         int // failed attempts in a row before the bastion fails

	Timing Timing
}

// Timing holds the intervals and limits of the control plane.
type Timing struct {
	// CallTimeout limits one converge. Settle is longer than the longest function
	// timeout plus the time for which reads can be stale.
	CallTimeout time.Duration
	Settle      time.Duration
	// ReadLag is the time for which a read can be stale, so that a thing that was
	// just created is not found.
	ReadLag time.Duration
	// Backoff is the pause after the second failed attempt in a row. It doubles
	// after each further one.
	Backoff time.Duration
	// StableAfter is how long a bastion must have been ready for the count of
	// failed attempts to start again.
	StableAfter time.Duration
	// PollInterval is how often a waiting request looks. WatchInterval is how
	// often the reaper looks at a bastion that is starting or closing,
	// CheckInterval at one that is ready, because an event may have been lost.
	PollInterval, WatchInterval, CheckInterval time.Duration
	// SweepGrace is how long an orphan must have been marked before it is ended.
	SweepGrace time.Duration
	// TombstoneLife is how long an ended lease refuses writes.
	TombstoneLife time.Duration
}

// Validate returns everything that is wrong with the configuration, joined into
// one error.
func (c Config) Validate() error {
	var wrong []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	refuse(c.DefaultTTL <= 0, "the default ttl must be more than zero, not %s", c.DefaultTTL)
	refuse(c.MaxTTL <= 0, "the maximum lifetime must be more than zero, not %s", c.MaxTTL)
	refuse(c.IdleTimeout < 0, "the idle timeout must be zero (never) or more, not %s", c.IdleTimeout)
	refuse(c.WarnBefore < 0, "the time to warn before a deadline must be zero (never) or more, not %s", c.WarnBefore)
	refuse(c.WarnBefore > 0 && c.WarnBefore >= c.MaxTTL, "the time to warn before a deadline (%s) must be shorter than the maximum lifetime (%s), or no warning is ever sent", FormatTTL(c.WarnBefore), FormatTTL(c.MaxTTL))
	refuse(!c.IPv4 && !c.IPv6, "bastions must have an address in at least one family")
	refuse(c.RequireSource && len(c.SourceOverride) == 0, "bastions without a public address need the prefixes that callers may name as source")
	refuse(c.Quota.PerOwner < 1, "an owner must be allowed at least one bastion, not %d", c.Quota.PerOwner)
	refuse(c.Quota.Total < c.Quota.PerOwner, "the total quota (%d) must not be less than the quota of one owner (%d)", c.Quota.Total, c.Quota.PerOwner)
	refuse(len(c.Subnets) == 0, "there must be at least one subnet")
	refuse(c.TaskDefinition == "", "there must be a task definition")
	refuse(c.MaxAttempts < 1, "there must be at least one attempt, not %d", c.MaxAttempts)
	c.Timing.validate(refuse)
	for _, p := range slices.Concat(c.AllowedDestinations, c.SourceOverride) {
		refuse(p != p.Masked(), "%s has bits set after its prefix length; write %s", p, p.Masked())
	}
	return errors.Join(wrong...)
}

func (t Timing) validate(refuse func(bool, string, ...any)) {
	for _, required := range []struct {
		name string
		d    time.Duration
	}{
		{"call timeout", t.CallTimeout}, {"poll interval", t.PollInterval}, {"watch interval", t.WatchInterval},
		{"check interval", t.CheckInterval}, {"sweep grace", t.SweepGrace}, {"tombstone life", t.TombstoneLife},
	} {
		refuse(required.d <= 0, "the %s must be more than zero, not %s", required.name, required.d)
	}
	refuse(t.Settle <= t.CallTimeout+t.ReadLag, "the settle time (%s) must be longer than the call timeout (%s) and the read lag (%s) together", t.Settle, t.CallTimeout, t.ReadLag)
}
