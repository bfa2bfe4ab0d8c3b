package slack

import (
	"encoding/json"
	"fmt"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// MaxNamed is how many destinations of a receipt a notice names: more than a person
// reads in a message.
const MaxNamed = 20

// NoticeOf makes a notice of a record: document is the bastion as the API answers
// it, and the rest is what the API does not.
func NoticeOf(rec bastion.Record, notice bastion.Notice, document []byte) (Notice, error) {
	n := Notice{Version: rec.Version, Warning: notice.Warning}
	if err := json.Unmarshal(document, &n.Bastion); err != nil {
		return Notice{}, fmt.Errorf("write the notice of %s: %w", rec.ID, err)
	}
	if notice.State == bastion.Closed || notice.State == bastion.Failed {
		n.Receipt = receiptOf(rec.Receipt)
	}
	return n, nil
}

// receiptOf is nil of a bastion that was never up.
func receiptOf(r bastion.Receipt) *Receipt {
	if r.StartedAt.IsZero() {
		return nil
	}
	out := Receipt{
		StartedAt: r.StartedAt, EndedAt: r.EndedAt, Connections: r.Connections, Forwards: r.Forwards, Refusals: r.Refusals,
		BytesIn: r.BytesIn, BytesOut: r.BytesOut, Unnamed: r.Unnamed,
	}
	for i, d := range r.Destinations {
		if i < MaxNamed {
			out.Destinations = append(out.Destinations, d.Name)
		} else {
			out.Unnamed += d.Forwards
		}
	}
	return &out
}
