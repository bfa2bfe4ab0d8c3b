package bastion

import (
	"net/netip"
	"strings"
	"time"
	"unicode"
)

// Lease is what the control plane tells one running task. A task obeys the lease
// with the highest generation that it has read, and nothing else.
//
// Leases and reports are stored as JSON documents. A field can be added; a name
// that is in use never changes.
type Lease struct {
	BastionID           string         `json:"bastion_id"`
	Owner               string         `json:"owner"`
	Name                string         `json:"name"`
	Generation          int64          `json:"generation"`
	Open                bool           `json:"open"`                 // false: end now
	EndReason           EndReason      `json:"end_reason,omitempty"` // why, if Open is false
	Source              netip.Prefix   `json:"source,omitzero"`
	Keys                []Key          `json:"keys,omitempty"`
	Deadline            time.Time      `json:"deadline,omitzero"`
	IdleTimeout         time.Duration  `json:"idle_timeout_ns,omitempty"`      // end after this long without an authenticated connection; 0 for never
	AllowedDestinations []netip.Prefix `json:"allowed_destinations,omitempty"` // destinations that the bastion may connect to
	ConsoleReply        ConsoleReply   `json:"console_reply,omitzero"`
}

// Report is what a task reports to the control plane. Only the task writes it.
type Report struct {
	HostKey        Key            `json:"host_key,omitempty"`
	Generation     int64          `json:"generation"`               // of the lease in force
	Connections    int            `json:"connections,omitempty"`    // open and authenticated
	LastUsedAt     time.Time      `json:"last_used_at,omitzero"`    // when a connection was last open
	ConsoleRequest ConsoleRequest `json:"console_request,omitzero"` // zero: none
	Ending         Ending         `json:"ending,omitzero"`          // zero: the task is not ending
	Receipt        Receipt        `json:"receipt,omitzero"`         // written once, at the end
}

// ConsoleRequest is a request from a task's status console. The control plane
// replies in the lease; the task never changes its own deadline.
type ConsoleRequest struct {
	Number int           `json:"number"` // counts the task's requests from 1; 0: none
	Verb   Verb          `json:"verb,omitempty"`
	TTL    time.Duration `json:"ttl_ns,omitempty"` // of VerbExtend: at least this long from now
}

// Verb is what a console can request.
type Verb string

// The verbs.
const (
	VerbExtend Verb = "extend"
	VerbClose  Verb = "close"
)

// ConsoleReply is the control plane's reply to the console request of that number.
type ConsoleReply struct {
	Number  int    `json:"number"`
	Code    Code   `json:"code,omitempty"`    // empty if the request was granted
	Message string `json:"message,omitempty"` // a sentence for the console
}

// Ending says that the task has decided to end. It is written on condition that
// the lease still has that generation.
type Ending struct {
	Reason     EndReason `json:"reason"` // EndIdle or EndDeadline; empty: not ending
	Generation int64     `json:"generation"`
}

// LeaseItem is the item of one task in the table of leases.
type LeaseItem struct {
	TaskID    string
	BastionID string
	Lease     Lease  // Generation 0: none was ever written
	Report    Report // zero until the task reports
	Ended     bool   // the item is a tombstone, which accepts neither lease nor report
}

// bastiond's exit codes. An ending in the report has precedence over them.
const (
	ExitOK         = 0   // the deadline, the idle timeout, or a closed lease
	ExitFailure    = 1   // an error
	ExitNoLease    = 10  // no lease came in time
	ExitTerminated = 143 // SIGTERM
)

// The limits of a report. With them, a full record fits into one item of its
// table.
const (
	MaxDestinations    = 200  // named destinations in a receipt; further ones are only counted
	MaxDestinationName = 300  // bytes; a host name has at most 253, and a port 5
	MaxHostKey         = 1024 // bytes
)

// Bounded returns the report without what bastiond never reports. A task that was
// taken over can write anything into its report; nothing of that may make the
// record too large to write.
func (r Report) Bounded() Report {
	if len(r.HostKey) > MaxHostKey || r.HostKey.Fingerprint() == "" || strings.ContainsFunc(string(r.HostKey), unicode.IsControl) {
		r.HostKey = ""
	}
	if r.ConsoleRequest.Verb != VerbExtend && r.ConsoleRequest.Verb != VerbClose {
		r.ConsoleRequest.Verb = ""
	}
	if r.Ending.Reason != EndIdle && r.Ending.Reason != EndDeadline {
		r.Ending = Ending{}
	}
	all := r.Receipt.Destinations
	r.Receipt.Destinations = nil
	for _, d := range all[:min(len(all), MaxDestinations)] {
		d.Name = strings.ToValidUTF8(d.Name[:min(len(d.Name), MaxDestinationName)], "")
		r.Receipt.Destinations = append(r.Receipt.Destinations, d)
	}
	return r
}

// Receipt says what a bastion was used for.
type Receipt struct {
	StartedAt    time.Time     `json:"started_at,omitzero"` // when the first task received its lease
	EndedAt      time.Time     `json:"ended_at,omitzero"`
	Connections  int           `json:"connections,omitempty"`  // authenticated SSH connections
	Forwards     int           `json:"forwards,omitempty"`     // connections made to destinations
	Refusals     int           `json:"refusals,omitempty"`     // refused connections, forwards and requests
	BytesIn      int64         `json:"bytes_in,omitempty"`     // from the owner to destinations
	BytesOut     int64         `json:"bytes_out,omitempty"`    // from destinations to the owner
	Destinations []Destination `json:"destinations,omitempty"` // at most MaxDestinations, in order of first use
	Unnamed      int           `json:"unnamed,omitempty"`      // forwards to further destinations
}

// Destination is one destination that a bastion connected to.
type Destination struct {
	Name     string `json:"name"` // "host:port", as the client requested it
	Forwards int    `json:"forwards,omitempty"`
	BytesIn  int64  `json:"bytes_in,omitempty"`
	BytesOut int64  `json:"bytes_out,omitempty"`
}

// Merge returns the receipt with a later task's receipt added.
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

// Add counts a destination's forwards and bytes.
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
