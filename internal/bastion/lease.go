package bastion

import (
	"net/netip"
	"strings"
	"time"
	"unicode"
)

// Lease is what the control plane tells one running task. A task obeys the
// lease with the highest generation it has seen, and nothing else.
type Lease struct {
	BastionID           string
	Owner               string
	Name                string
	Generation          int64
	Open                bool      // false: end now
	EndReason           EndReason // why, when Open is false
	Source              netip.Prefix
	Keys                []Key
	Deadline            time.Time
	IdleTimeout         time.Duration  // end after this long without an authenticated connection; 0 for never
	AllowedDestinations []netip.Prefix // the destinations the operator allows
	ConsoleReply        ConsoleReply   // to the task's latest Request
}

// Report is what a task tells back. The task alone writes it.
type Report struct {
	HostKey        Key
	Generation     int64          // of the lease in force
	Connections    int            // authenticated and open
	LastUse        time.Time      // when the last of them was open
	ConsoleRequest ConsoleRequest // zero: none was made
	Ending         Ending         // zero: not ending
	Receipt        Receipt        // written once, at the end
}

// Request is what somebody typed in the status console. The control plane
// answers it in the lease; the task never changes its own deadline.
type ConsoleRequest struct {
	Number int           // counts the task's requests from 1; 0 for none
	Verb   Verb          // VerbExtend or VerbClose
	TTL    time.Duration // of VerbExtend: at least this long from now
}

// Verb is what a console may ask for.
type Verb string

// The verbs.
const (
	VerbExtend Verb = "extend"
	VerbClose  Verb = "close"
)

// Answer is the control plane's answer to the Request of the same number.
type ConsoleReply struct {
	Number  int
	Code    Code   // empty when the request was granted
	Message string // a sentence for the console
}

// Ending says that a task has decided to end itself. It is written on condition
// that the lease is still the one of Generation.
type Ending struct {
	Reason     EndReason // EndIdle or EndDeadline; empty for no ending
	Generation int64
}

// LeaseItem is what the table of leases holds for one task.
type LeaseItem struct {
	TaskID    string
	BastionID string
	Lease     Lease  // Generation 0: none was ever written
	Report    Report // zero until the task reports
	Ended     bool   // a tombstone: it takes no lease and no report any more
}

// The limits of a report. With them, a record that holds everything it may hold
// fits into its table.
const (
	MaxDestinations    = 200  // destinations that a receipt names; further ones are only counted
	MaxDestinationName = 300  // bytes; a host name has at most 253, and a port 5
	MaxHostKey         = 1024 // bytes
)

// bastiond's exit codes. An ending that it reported is believed before them.
const (
	ExitOK         = 0   // the deadline, idle, or a lease that was closed
	ExitFailure    = 1   // it could not do its work
	ExitNoLease    = 10  // no lease came in time
	ExitTerminated = 143 // told to stop from outside, by SIGTERM
)

// bounded is the report without what no honest task reports.
func (r Report) bounded() Report {
	if len(r.HostKey) > MaxHostKey || r.HostKey.Fingerprint() == "" || strings.ContainsFunc(string(r.HostKey), unicode.IsControl) {
		r.HostKey = ""
	}
	if r.Ending.Reason != EndIdle && r.Ending.Reason != EndDeadline {
		r.Ending = Ending{}
	}
	all := r.Receipt.Destinations
	r.Receipt.Destinations = nil
	for _, d := range all[:min(len(all), MaxDestinations)] {
		d.Name = d.Name[:min(len(d.Name), MaxDestinationName)]
		r.Receipt.Destinations = append(r.Receipt.Destinations, d)
	}
	return r
}

// Receipt says what a bastion was used for.
type Receipt struct {
	StartedAt    time.Time // when the first task took its lease
	EndedAt      time.Time
	Connections  int           // authenticated ones
	Forwards     int           // connections made to destinations
	Refusals     int           // refused connections, forwards and requests
	BytesIn      int64         // from the owner to destinations
	BytesOut     int64         // from destinations to the owner
	Destinations []Destination // at most MaxDestinations, in order of first use
	Unnamed      int           // forwards to further destinations
}

// Destination is one place a bastion was used to reach.
type Destination struct {
	Name     string // as asked for, "host:port"
	Forwards int
	BytesIn  int64
	BytesOut int64
}

// Merge adds what a later task did.
func (r Receipt) Merge(later Receipt) Receipt {
	if r.StartedAt.IsZero() {
		return later
	}
	if later.StartedAt.IsZero() {
		return r
	}
	r.EndedAt = later.EndedAt
	r.Connections += later.Connections
	r.Forwards += later.Forwards
	r.Refusals += later.Refusals
	r.BytesIn += later.BytesIn
	r.BytesOut += later.BytesOut
	r.Unnamed += later.Unnamed
	merged := append([]Destination(nil), r.Destinations...)
	for _, d := range later.Destinations {
		merged = addDestination(merged, d, &r.Unnamed)
	}
	r.Destinations = merged
	return r
}

// Add counts one forward to a destination.
func (r *Receipt) Add(d Destination) {
	r.Forwards += d.Forwards
	r.BytesIn += d.BytesIn
	r.BytesOut += d.BytesOut
	r.Destinations = addDestination(r.Destinations, d, &r.Unnamed)
}

func addDestination(all []Destination, d Destination, unnamed *int) []Destination {
	for i := range all {
		if all[i].Name == d.Name {
			all[i].Forwards += d.Forwards
			all[i].BytesIn += d.BytesIn
			all[i].BytesOut += d.BytesOut
			return all
		}
	}
	if len(all) == MaxDestinations {
		*unnamed += d.Forwards
		return all
	}
	return append(all, d)
}
