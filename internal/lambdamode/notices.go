package lambdamode

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/slack"
)

// maxNamed is how many destinations of a receipt a notice names: more than a person
// reads in a message.
const maxNamed = 20

// work takes events for functions, and does not wait for what becomes of them.
type work interface {
	HandOver(ctx context.Context, function string, payload []byte) error
}

// tell has the service tell owners what becomes of their bastions. It is for the
// functions that may; without Slack there is nobody to tell.
func (a *App) tell() {
	if a.Config.Slack != "" {
		a.Service.Notices = notices{a.work, a.Config.Slack}
	}
}

// notices hands notices over to the Slack function.
type notices struct {
	work     work
	function string
}

// notified is the event that the Slack function takes.
type notified struct {
	Notice slack.Notice `json:"notice"`
}

// Tell is of bastion.Notices.
func (n notices) Tell(ctx context.Context, rec bastion.Record, notice bastion.Notice) error {
	payload, err := noticeOf(rec, notice)
	if err != nil {
		return err
	}
	return n.work.HandOver(ctx, n.function, payload)
}

// noticeOf is the event for a notice: the bastion as the API answers it, and what
// the API does not.
func noticeOf(rec bastion.Record, notice bastion.Notice) ([]byte, error) {
	said := notified{slack.Notice{Version: rec.Version, Warning: notice.Warning}}
	if err := json.Unmarshal(httpapi.Document(rec), &said.Notice.Bastion); err != nil {
		return nil, fmt.Errorf("write the notice of %s: %w", rec.ID, err)
	}
	if notice.State == bastion.Closed || notice.State == bastion.Failed {
		said.Notice.Receipt = receiptOf(rec.Receipt)
	}
	payload, err := json.Marshal(said)
	if err != nil {
		return nil, fmt.Errorf("write the notice of %s: %w", rec.ID, err)
	}
	return payload, nil
}

// receiptOf is nil of a bastion that was never up.
func receiptOf(r bastion.Receipt) *slack.Receipt {
	if r.StartedAt.IsZero() {
		return nil
	}
	out := slack.Receipt{
		StartedAt: r.StartedAt, EndedAt: r.EndedAt, Connections: r.Connections, Forwards: r.Forwards, Refusals: r.Refusals,
		BytesIn: r.BytesIn, BytesOut: r.BytesOut, Unnamed: r.Unnamed,
	}
	for i, d := range r.Destinations {
		if i < maxNamed {
			out.Destinations = append(out.Destinations, d.Name)
		} else {
			out.Unnamed += d.Forwards
		}
	}
	return &out
}
