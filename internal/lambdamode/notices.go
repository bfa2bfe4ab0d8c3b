package lambdamode

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

// invoker invokes Lambda functions asynchronously.
type invoker interface {
	InvokeAsync(ctx context.Context, function string, payload []byte) error
}

// notifyOwners makes the service send notices, if the stack has Slack. Only the reaper
// and the observer call it, because only their roles may invoke the Slack function.
func (a *App) notifyOwners() {
	if a.Config.Slack != "" {
		a.Service.Notifier = notices{a.invoker, a.Config.Slack}
	}
}

// notices sends notices to the Slack function.
type notices struct {
	invoker  invoker
	function string
}

// Notify implements bastion.Notifier.
func (n notices) Notify(ctx context.Context, rec bastion.Record, notice bastion.Notice) error {
	payload, err := encodeNotice(rec, notice)
	if err != nil {
		return err
	}
	return n.invoker.InvokeAsync(ctx, n.function, payload)
}

// encodeNotice returns the payload of a notice: the bastion as the API returns it,
// and the receipt, which the API does not return.
func encodeNotice(rec bastion.Record, notice bastion.Notice) ([]byte, error) {
	n := api.NewNotice(rec, notice, httpapi.Document(rec))
	payload, err := json.Marshal(queued{Notice: &n})
	if err != nil {
		return nil, fmt.Errorf("encode the notice of bastion %s: %w", rec.ID, err)
	}
	return payload, nil
}
