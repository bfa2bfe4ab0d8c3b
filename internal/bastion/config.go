package bastion

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Config holds the settings of the operator.
type Config struct {
	DefaultTTL  time.Duration // for a request without a ttl
	MaxTTL      time.Duration // maximum lifetime, counted from creation
	IdleTimeout time.Duration // end after this long without an authenticated connection; 0 for never
	WarnBefore  time.Duration // send owners a warning this long before the deadline; 0 for never

	AllowedDestinations []DestinationRule // destinations that bastions may connect to
	SourceOverride      []netip.Prefix    // addresses that a caller may name as sources; empty for none
	WidestIPv4          int               // the shortest prefix length that a caller may name; 32 for single addresses only
	WidestIPv6          int               // the same for IPv6, with 128
	RequireSource       bool              // a request must name its source, because owners reach a private bastion from an address that the API does not see
	IPv4, IPv6          bool              // address families of bastions
	Quota               Quota
	Subnets             []string // attempts use them in turn
	TaskDefinition      string
	Tags                []Tag // the operator's tags on every group and task
	MaxAttempts         int   // when Record.Failures reaches this number, the bastion fails

	Timing Timing
}

// Timing holds the intervals and limits of the control plane.
type Timing struct {
	// CallTimeout limits one converge.
	CallTimeout time.Duration
	// StepTimeout limits each read and each action of a converge, so that a service that
	// does not respond leaves time for the calls to the others.
	StepTimeout time.Duration
	// GiveUpAfter is how long the converges of a starting bastion can fail without a
	// break. Then the bastion fails.
	GiveUpAfter time.Duration
	// Settle is how long a record stays unsettled after a change of intent. It is
	// longer than the sum of the longest timeout of a function and ReadLag.
	Settle time.Duration
	// ReadLag is how long a read can miss a group or task that was just created.
	ReadLag time.Duration
	// Backoff is the pause after the second failed attempt in a row. After each
	// further failed attempt the pause is twice as long as before.
	Backoff time.Duration
	// StableAfter is how long a bastion must have been ready before the count of
	// failed attempts starts again.
	StableAfter time.Duration
	// PollInterval is the time between two reads by a request that waits.
	PollInterval time.Duration
	// WatchInterval is the time between two converges of a bastion that is starting
	// or closing. CheckInterval is the time between two converges of a bastion that is
	// ready; they find changes whose event was lost.
	WatchInterval, CheckInterval time.Duration
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
	refuse(c.WarnBefore < 0, "the warning time before a deadline must be zero (never) or more, not %s", c.WarnBefore)
	refuse(c.WarnBefore > 0 && c.WarnBefore >= c.MaxTTL, "the warning time before a deadline (%s) must be shorter than the maximum lifetime (%s), or no warning is ever sent", FormatTTL(c.WarnBefore), FormatTTL(c.MaxTTL))
	refuse(!c.IPv4 && !c.IPv6, "bastions must have an address of at least one family, IPv4 or IPv6")
	refuse(c.RequireSource && len(c.SourceOverride) == 0, "requests must name their source, so at least one prefix of allowed sources is needed")
	refuse(c.WidestIPv4 < 1 || c.WidestIPv4 > 32, "the widest IPv4 source must have a prefix length from 1 to 32, not %d", c.WidestIPv4)
	refuse(c.WidestIPv6 < 1 || c.WidestIPv6 > 128, "the widest IPv6 source must have a prefix length from 1 to 128, not %d", c.WidestIPv6)
	refuse(c.Quota.PerOwner < 1, "the quota of one owner must be at least one bastion, not %d", c.Quota.PerOwner)
	refuse(c.Quota.Total < c.Quota.PerOwner, "the total quota (%d) must not be less than the quota of one owner (%d)", c.Quota.Total, c.Quota.PerOwner)
	refuse(len(c.Subnets) == 0, "there must be at least one subnet")
	refuse(c.TaskDefinition == "", "there must be a task definition")
	refuse(c.MaxAttempts < 1, "the maximum of failed attempts must be at least one, not %d", c.MaxAttempts)
	c.Timing.validate(refuse)
	for _, p := range c.SourceOverride {
		refuse(p != p.Masked(), "the prefix %s has bits set after the prefix length; write %s", p, p.Masked())
	}
	return errors.Join(wrong...)
}

func (t Timing) validate(refuse func(bool, string, ...any)) {
	for _, required := range []struct {
		name string
		d    time.Duration
	}{
		{"call timeout", t.CallTimeout}, {"step timeout", t.StepTimeout}, {"limit of a failing start", t.GiveUpAfter}, {"poll interval", t.PollInterval}, {"watch interval", t.WatchInterval},
		{"check interval", t.CheckInterval}, {"sweep grace", t.SweepGrace}, {"tombstone life", t.TombstoneLife},
	} {
		refuse(required.d <= 0, "the %s must be more than zero, not %s", required.name, required.d)
	}
	refuse(t.Settle <= t.CallTimeout+t.ReadLag, "the settle time (%s) must be longer than the call timeout (%s) and the read lag (%s) together", t.Settle, t.CallTimeout, t.ReadLag)
}
