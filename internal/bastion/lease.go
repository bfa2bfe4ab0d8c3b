package bastion

import (
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Lease holds the control plane's instructions to one task. A task follows the
// lease with the highest generation that it has read, and nothing else.
//
// Leases and reports are stored as JSON documents. A field can be added; the JSON
// name of a field never changes.
type Lease struct {
	BastionID           string            `json:"bastion_id"`
	Owner               string            `json:"owner"`
	Name                string            `json:"name"`
	Generation          int64             `json:"generation"`
	Open                bool              `json:"open"`                 // false: the task must end now
	EndReason           EndReason         `json:"end_reason,omitempty"` // set if Open is false
	Source              netip.Prefix      `json:"source,omitzero"`
	Keys                []Key             `json:"keys,omitempty"`
	KeySources          []KeySources      `json:"key_sources,omitempty"` // of each key; see Admissions
	Deadline            time.Time         `json:"deadline,omitzero"`
	IdleTimeout         time.Duration     `json:"idle_timeout_ns,omitempty"`      // end after this long without an authenticated connection; 0 for never
	AllowedDestinations []DestinationRule `json:"allowed_destinations,omitempty"` // destinations that the bastion may connect to
	ConsoleReply        ConsoleReply      `json:"console_reply,omitzero"`
}

// Report is what a task reports to the control plane. Only the task writes it.
type Report struct {
	HostKey        Key            `json:"host_key,omitempty"`       // the ed25519 key, which all current clients accept
	MoreHostKeys   []Key          `json:"more_host_keys,omitempty"` // for clients that do not; at most MaxMoreHostKeys
	Generation     int64          `json:"generation"`               // generation of the lease that the task follows
	Connections    int            `json:"connections,omitempty"`    // open and authenticated
	LastUsedAt     time.Time      `json:"last_used_at,omitzero"`    // when a connection was last open
	ConsoleRequest ConsoleRequest `json:"console_request,omitzero"` // zero: none
	Ending         Ending         `json:"ending,omitzero"`          // zero: the task is not ending
	Receipt        Receipt        `json:"receipt,omitzero"`         // written once, at the end
}

// HostKeys returns all host keys; nil if the task has reported none.
func (r Report) HostKeys() []Key { return hostKeys(r.HostKey, r.MoreHostKeys) }

func hostKeys(first Key, more []Key) []Key {
	if first == "" {
		return nil
	}
	return append([]Key{first}, more...)
}

// ConsoleRequest is a request from a task's status console. The control plane
// replies in the lease; the task never changes its own deadline.
type ConsoleRequest struct {
	Number int           `json:"number"` // counts the task's requests from 1; 0: none
	Verb   Verb          `json:"verb,omitempty"`
	TTL    time.Duration `json:"ttl_ns,omitempty"` // for VerbExtend: how far away the deadline must be, at least
}

// Verb is the kind of a console request.
type Verb string

// The verbs.
const (
	VerbExtend Verb = "extend"
	VerbClose  Verb = "close"
)

// ConsoleReply is the control plane's reply to the console request with the same
// Number.
type ConsoleReply struct {
	Number  int    `json:"number"`
	Code    Code   `json:"code,omitempty"`    // empty if the request was granted
	Message string `json:"message,omitempty"` // a sentence for the console
}

// Ending reports that the task has decided to end. A new Ending is written only if
// the generation of the stored lease is Ending.Generation.
type Ending struct {
	Reason     EndReason `json:"reason"` // EndIdle or EndDeadline; empty: not ending
	Generation int64     `json:"generation"`
}

// LeaseItem is the item of one task in the table of leases.
type LeaseItem struct {
	TaskID    string
	BastionID string
	Lease     Lease  // its Generation is 0 if no lease was ever written
	Report    Report // zero until the task reports
	Ended     bool   // the item is a tombstone, which accepts neither lease nor report
}

// The exit codes of bastiond. An Ending in the report has precedence over them. With a
// code from 10 to 13, the task has had no lease.
const (
	ExitOK          = 0   // the deadline, the idle timeout, or a closed lease
	ExitFailure     = 1   // an error
	ExitNoLease     = 10  // no lease was found in time
	ExitUnreachable = 11  // the table of leases did not respond in time
	ExitDenied      = 12  // the task may not read its lease
	ExitNoTable     = 13  // the table of leases does not exist
	ExitTerminated  = 143 // SIGTERM
)

// The limits of a report. The record stores parts of the report, and the limits keep
// the record small enough for one item of the table of records.
const (
	MaxDestinations    = 200  // destinations in a receipt; Receipt.Unnamed counts the forwards to all others
	MaxDestinationName = 300  // bytes; a host name has at most 253, and a port 5
	MaxHostKey         = 1024 // bytes; an RSA key of 3,072 bits has 552
	MaxMoreHostKeys    = 3    // host keys besides the first
)

// Bounded returns the report without the parts that are invalid or too long. A
// compromised task can write anything into its report. Without Bounded, such a report
// could make the record too large to write, or impossible to encode as JSON.
func (r Report) Bounded() Report {
	more := r.MoreHostKeys[:min(len(r.MoreHostKeys), MaxMoreHostKeys)]
	r.MoreHostKeys = nil
	if !validHostKey(r.HostKey) {
		r.HostKey, more = "", nil
	}
	for _, key := range more {
		if validHostKey(key) && !slices.Contains(r.HostKeys(), key) {
			r.MoreHostKeys = append(r.MoreHostKeys, key)
		}
	}
	if r.ConsoleRequest.Verb != VerbExtend && r.ConsoleRequest.Verb != VerbClose {
		r.ConsoleRequest.Verb = ""
	}
	if r.Ending.Reason != EndIdle && r.Ending.Reason != EndDeadline {
		r.Ending = Ending{}
	}
	for _, t := range []*time.Time{&r.LastUsedAt, &r.Receipt.StartedAt, &r.Receipt.EndedAt} {
		// A time outside the years 1 to 9999 is removed. JSON stores times in the form of
		// RFC 3339, which has no year below 0 or above 9999.
		if *t = t.UTC(); t.Year() < 1 || t.Year() > 9999 {
			*t = time.Time{}
		}
	}
	all := r.Receipt.Destinations
	r.Receipt.Destinations = nil
	for _, n := range []*int{&r.Receipt.Connections, &r.Receipt.Forwards, &r.Receipt.Refusals, &r.Receipt.Unnamed} {
		*n = within(*n, maxCount)
	}
	r.Receipt.BytesIn, r.Receipt.BytesOut = within(r.Receipt.BytesIn, maxBytes), within(r.Receipt.BytesOut, maxBytes)
	for _, d := range all[:min(len(all), MaxDestinations)] {
		d.Name = withoutControls(strings.ToValidUTF8(d.Name[:min(len(d.Name), MaxDestinationName)], ""))
		d.Forwards, d.BytesIn, d.BytesOut = within(d.Forwards, maxCount), within(d.BytesIn, maxBytes), within(d.BytesOut, maxBytes)
		r.Receipt.Destinations = append(r.Receipt.Destinations, d)
	}
	return r
}

// validHostKey reports whether the record may store a host key. Package httpapi checks it
// completely before a person sees it.
func validHostKey(key Key) bool {
	return len(key) <= MaxHostKey && key.Fingerprint() != "" && !strings.ContainsFunc(string(key), unicode.IsControl)
}

// The largest numbers in the receipt of one task. The numbers of a bastion's tasks are
// added, and with these limits the sums cannot overflow.
const (
	maxCount = 1 << 30
	maxBytes = 1 << 50
)

// within returns n, or 0 if n is negative, or limit if n is greater than limit.
func within[T int | int64](n, limit T) T { return min(max(n, 0), limit) }

// withoutControls removes control characters, which take six bytes each in JSON.
func withoutControls(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
}

// Receipt holds what a bastion was used for.
type Receipt struct {
	StartedAt    time.Time     `json:"started_at,omitzero"` // when the first task received its lease
	EndedAt      time.Time     `json:"ended_at,omitzero"`
	Connections  int           `json:"connections,omitempty"`  // authenticated SSH connections
	Forwards     int           `json:"forwards,omitempty"`     // connections from the bastion to destinations
	Refusals     int           `json:"refusals,omitempty"`     // refused connections, forwards and requests
	BytesIn      int64         `json:"bytes_in,omitempty"`     // from the owner to destinations
	BytesOut     int64         `json:"bytes_out,omitempty"`    // from destinations; more than the owner received if a client left during a download
	Destinations []Destination `json:"destinations,omitempty"` // at most MaxDestinations, in order of first use
	Unnamed      int           `json:"unnamed,omitempty"`      // forwards to destinations beyond MaxDestinations
}

// Destination holds how much a bastion forwarded to one destination.
type Destination struct {
	Name     string `json:"name"` // "host:port", as the client requested it
	Forwards int    `json:"forwards,omitempty"`
	BytesIn  int64  `json:"bytes_in,omitempty"`
	BytesOut int64  `json:"bytes_out,omitempty"`
}

// Merge returns the sum of the receipt and the receipt of a later task.
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

// Add adds a destination's forwards and bytes to the receipt.
func (r *Receipt) Add(d Destination) {
	r.Forwards += d.Forwards
	r.BytesIn += d.BytesIn
	r.BytesOut += d.BytesOut
	r.Destinations = addDestination(r.Destinations, d, &r.Unnamed)
}

// addDestination adds d to the list of destinations and returns the list. If d is not
// in the list and the list is full (MaxDestinations), it only adds d's forwards to
// unnamed.
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
