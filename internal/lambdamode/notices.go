package lambdamode

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

// work takes events for functions, and does not wait for what becomes of them.
type work interface {
	InvokeAsync(ctx context.Context, function string, payload []byte) error
}

// tell has the service tell owners what becomes of their bastions. It is for the
// functions that may; without Slack there is nobody to tell.
func (a *App) notifyOwners() {
	if a.Config.Slack != "" {
		a.Service.Notifier = notices{a.work, a.Config.Slack}
	}
}

// notices hands notices over to the Slack function.
type notices struct {
	work     work
	function string
}

// Tell is of bastion.Notices.
func (n notices) Notify(ctx context.Context, rec bastion.Record, notice bastion.Notice) error {
	payload, err := noticeOf(rec, notice)
	if err != nil {
		return err
	}
	return n.work.InvokeAsync(ctx, n.function, payload)
}

// noticeOf is the event for a notice: the bastion as the API answers it, and what
// the API does not.
func noticeOf(rec bastion.Record, notice bastion.Notice) ([]byte, error) {
	n := api.NewNotice(rec, notice, httpapi.Document(rec))
	payload, err := json.Marshal(slackEvent{Notice: &n})
	if err != nil {
		return nil, fmt.Errorf("write the notice of %s: %w", rec.ID, err)
	}
	return payload, nil
}
