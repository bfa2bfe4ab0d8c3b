package config

import (
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// maxAttempts in a row without a bastion that stayed ready end in failed. With
// the backoff of timing they take about two and a half minutes of pauses, and
// each goes to another subnet: longer than a passing lack of capacity in one
// zone, shorter than a person's patience.
const maxAttempts = 5

// LongestFunction is the longest time-out of any function in template.yaml,
// which a test holds to it. It is less than the minute between two runs of the
// reaper, so that they do not pile up.
const LongestFunction = 55 * time.Second

// timing is how patient the control plane is on AWS.
var timing = bastion.Timing{
	// API Gateway gives up after 30 s, and the functions behind it after 28. One
	// converge takes a dozen calls of some tens of milliseconds; 20 s leave room
	// for throttled ones to be retried, and the answer its time.
	CallTimeout: 20 * time.Second,
	// A function that read the old intent may run for LongestFunction, and what
	// it did may be hidden from reads for Young; the rest is for clocks that
	// differ.
	Settle:  LongestFunction + young + 30*time.Second,
	ReadLag: young,
	// After the second failure in a row, 10 s, then 20, 40, 80: capacity comes
	// back in minutes, and RunTask may be called 20 times a second by all.
	Backoff: 10 * time.Second,
	// A task that was ready for a minute did start; what ends it later is no
	// reason to give the bastion up.
	StableAfter: time.Minute,
	// A waiting request sees a state at most a second late, and makes at most 25
	// rounds of reads in the time that it can wait.
	PollInterval: time.Second,
	// The reaper comes every minute and takes what is due. Fifteen seconds make
	// sure that a bastion on its way is due each time it comes.
	WatchInterval: 15 * time.Second,
	// Task events and the leases' stream bring nearly all news. Five minutes is
	// how late a lost one is noticed, at a dozen cheap reads each time.
	CheckInterval: 5 * time.Minute,
	// An orphan is marked, and ended by the next sweep but one at the latest (one
	// comes every ten minutes): far longer than any start takes to be on record.
	SweepGrace: 10 * time.Minute,
	// An ended lease refuses writes for longer than any function or task of that
	// bastion can still be running.
	TombstoneLife: 24 * time.Hour,
}

// young is for how long EC2 and ECS may not show what was just made: usually
// seconds, in published reports up to a minute. Twice that costs only patience.
const young = 2 * time.Minute
