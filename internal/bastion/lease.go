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
	BastionID           string         `json:"bastion_id"`
	Owner               string         `json:"owner"`
	Name                string         `json:"name"`
	Generation          int64          `json:"generation"`
	Open                bool           `json:"open"`                 // false: end now
	EndReason           EndReason      `json:"end_reason,omitempty"` // why, when Open is false
	Source              netip.Prefix   `json:"source,omitzero"`
	Keys                []Key          `json:"keys,omitempty"`
	Deadline            time.Time      `json:"deadline,omitzero"`
	IdleTimeout         time.Duration  `json:"idle_timeout_ns,omitempty"`      // end after this long without an authenticated connection; 0 for never
	AllowedDestinations []netip.Prefix `json:"allowed_destinations,omitempty"` // the destinations the operator allows
	ConsoleReply        ConsoleReply   `json:"console_reply,omitzero"`         // to the task's latest Request
}

// Report is what a task tells back. The task alone writes it.
type Report struct {
	HostKey        Key            `json:"host_key,omitempty"`
	Generation     int64          `json:"generation"`               // of the lease in force
	Connections    int            `json:"connections,omitempty"`    // authenticated and open
	LastUsedAt     time.Time      `json:"last_used_at,omitzero"`    // when the last of them was open
	ConsoleRequest ConsoleRequest `json:"console_request,omitzero"` // zero: none was made
	Ending         Ending         `json:"ending,omitzero"`          // zero: not ending
	Receipt        Receipt        `json:"receipt,omitzero"`         // written once, at the end
}

// Request is what somebody typed in the status console. The control plane
// answers it in the lease; the task never changes its own deadline.
type ConsoleRequest struct {
	Number int           `json:"number"`           // counts the task's requests from 1; 0 for none
	Verb   Verb          `json:"verb,omitempty"`   // VerbExtend or VerbClose
	TTL    time.Duration `json:"ttl_ns,omitempty"` // of VerbExtend: at least this long from now
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
	Number  int    `json:"number"`
	Code    Code   `json:"code,omitempty"`    // empty when the request was granted
	Message string `json:"message,omitempty"` // a sentence for the console
}

// Ending says that a task has decided to end itself. It is written on condition
// that the lease is still the one of Generation.
type Ending struct {
	Reason     EndReason `json:"reason"` // EndIdle or EndDeadline; empty for no ending
	Generation int64     `json:"generation"`
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
	StartedAt    time.Time     `json:"started_at,omitzero"` // when the first task took its lease
	EndedAt      time.Time     `json:"ended_at,omitzero"`
	Connections  int           `json:"connections,omitempty"`  // authenticated ones
	Forwards     int           `json:"forwards,omitempty"`     // connections made to destinations
	Refusals     int           `json:"refusals,omitempty"`     // refused connections, forwards and requests
	BytesIn      int64         `json:"bytes_in,omitempty"`     // from the owner to destinations
	BytesOut     int64         `json:"bytes_out,omitempty"`    // from destinations to the owner
	Destinations []Destination `json:"destinations,omitempty"` // at most MaxDestinations, in order of first use
	Unnamed      int           `json:"unnamed,omitempty"`      // forwards to further destinations
}

// Destination is one place a bastion was used to reach.
type Destination struct {
	Name     string `json:"name"` // as asked for, "host:port"
	Forwards int    `json:"forwards,omitempty"`
	BytesIn  int64  `json:"bytes_in,omitempty"`
	BytesOut int64  `json:"bytes_out,omitempty"`
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
