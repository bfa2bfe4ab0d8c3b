package config

import (
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// maxAttempts is the number of attempts in a row after which a bastion fails. The pauses
// between five attempts (Backoff) are about two and a half minutes together. A short lack
// of capacity in one zone is over by then, and a person still waits. Each attempt uses
// the next subnet.
const maxAttempts = 5

// LongestFunction is the longest time-out of any function in template.yaml; a test
// compares the two. It is shorter than the shortest reaper period, so that two runs
// of the reaper never overlap.
const LongestFunction = 55 * time.Second

// readLag is how long EC2 and ECS may not show a new resource: usually seconds, in
// published reports up to a minute.
const readLag = 2 * time.Minute

// OverdueAfter is how long after DueAt a record counts as overdue. The reaper runs twice
// in this time: the first run should have converged the record.
func (c Config) OverdueAfter() time.Duration { return 2 * c.ReaperPeriod }

// timing returns the times of the control plane on AWS. The reaper's period is the
// only one that the operator can change; template.yaml derives the schedule and the
// alarms from the same parameter.
func timing(reaperPeriod time.Duration) bastion.Timing {
	return bastion.Timing{
		// API Gateway gives up after 30 s, and the API's functions after 28. One
		// converge makes a dozen calls of some tens of milliseconds; 20 s leave time to
		// retry throttled calls, and to send the response.
		CallTimeout: 20 * time.Second,
		// If one service does not respond, at most three calls of a converge wait this
		// long, and the calls to the others still run within CallTimeout. A call takes tens
		// of milliseconds, and RunTask about two seconds. With 3.5 s, a start could get no
		// turn within the rates while a thousand bastions were closed.
		StepTimeout: 6 * time.Second,
		// Longer than most short outages, and as long as a person would wait before they
		// look for another way.
		GiveUpAfter: 15 * time.Minute,
		// A function that read the old intent may run for LongestFunction, and its
		// effects may be hidden from reads for readLag. The rest is for clock skew.
		Settle:  LongestFunction + readLag + 30*time.Second,
		ReadLag: readLag,
		// After the second failure in a row, 10 s, then 20, 40, 80: capacity returns in
		// minutes, and RunTask is limited to 20 calls a second.
		Backoff: 10 * time.Second,
		// A task that was ready for a minute has started successfully. Its end is not a
		// failed attempt.
		StableAfter: time.Minute,
		// A waiting request sees a state at most a second late, and makes at most 25
		// rounds of reads.
		PollInterval: time.Second,
		// A quarter of the period makes sure that a bastion that is starting or closing
		// is due at each run of the reaper.
		WatchInterval: reaperPeriod / 4,
		// Task events and the leases' stream bring nearly all changes. A lost event is
		// noticed after at most five minutes, at a dozen cheap reads each time.
		CheckInterval: 5 * time.Minute,
		// A sweep runs every ten minutes. The first sweep that sees an orphan marks it;
		// the next sweep, or the one after that, ends it. A record names a new task or
		// group much earlier than that.
		SweepGrace: 10 * time.Minute,
		// The tombstone must last until no function and no task that could still write
		// the item is running.
		TombstoneLife: 24 * time.Hour,
	}
}
