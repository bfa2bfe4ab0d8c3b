package api

import (
	"net/netip"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// InternalCall is one request of the HTTP API that the Slack function makes for a
// Slack user. The call itself contains its owner, which no authorizer has checked. It is
// therefore accepted only if the owner begins with slack:, and only through an entry
// point that IAM reserves for the Slack function.
type InternalCall struct {
	Owner  string     `json:"owner"`  // slack:TEAM:USER
	Source netip.Addr `json:"source"` // the user's address; zero except in a call that starts a bastion
	Method string     `json:"method"`
	Path   string     `json:"path"` // such as /bastions
	Body   string     `json:"body,omitempty"`
}

// InternalReply is the API's response to an [InternalCall]. Its body is always
// JSON: a bastion, a list or a problem document.
type InternalReply struct {
	Status int    `json:"status"`
	Body   string `json:"body"`
}

// Notice tells the Slack function that something changed about a bastion whose
// owner uses Slack. Notices may arrive late, twice or out of order; Version orders
// them.
type Notice struct {
	Bastion Bastion  `json:"bastion"`
	Version int64    `json:"version"` // of the record
	Warning bool     `json:"warning"` // the deadline is near
	Receipt *Receipt `json:"receipt"` // of a bastion that has ended; nil if it never ran
}

// Receipt is a summary of how a bastion was used.
type Receipt struct {
	StartedAt    time.Time `json:"started_at"`
	EndedAt      time.Time `json:"ended_at"`
	Connections  int       `json:"connections"`
	Forwards     int       `json:"forwards"`
	Refusals     int       `json:"refusals"`
	BytesIn      int64     `json:"bytes_in"`
	BytesOut     int64     `json:"bytes_out"`
	Destinations []string  `json:"destinations"` // "host:port", in order of first use; at most MaxDestinations
	Unnamed      int       `json:"unnamed"`      // number of forwards to destinations that are not in Destinations
}

// MaxDestinations is the largest number of destinations in a receipt. It keeps the
// message short enough to read, and the notice small: Lambda accepts events of at most
// 256 KB.
const MaxDestinations = 20

// NewNotice returns the notice of a record; document is the bastion as the API
// returns it to its owner.
func NewNotice(rec bastion.Record, notice bastion.Notice, document Bastion) Notice {
	n := Notice{Bastion: document, Version: rec.Version, Warning: notice.Warning}
	if notice.State == bastion.Closed || notice.State == bastion.Failed {
		n.Receipt = newReceipt(rec.Receipt)
	}
	return n
}

// newReceipt returns the receipt of a record, or nil for a bastion that never ran.
func newReceipt(r bastion.Receipt) *Receipt {
	if r.StartedAt.IsZero() {
		return nil
	}
	receipt := Receipt{
		StartedAt: r.StartedAt, EndedAt: r.EndedAt,
		Connections: r.Connections, Forwards: r.Forwards, Refusals: r.Refusals,
		BytesIn: r.BytesIn, BytesOut: r.BytesOut, Unnamed: r.Unnamed,
	}
	for i, d := range r.Destinations {
		if i < MaxDestinations {
			receipt.Destinations = append(receipt.Destinations, d.Name)
		} else {
			receipt.Unnamed += d.Forwards
		}
	}
	return &receipt
}
