package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// maxTries bounds how often an edit begins anew because another was first.
const maxTries = 20

// fetch reads what is under a key into v. Version 0: nothing is, and v is as it
// was.
func (a *App) fetch(ctx context.Context, key string, v any) (version int64, err error) {
	value, version, err := a.Table.Fetch(ctx, key)
	switch {
	case errors.Is(err, bastion.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("fetch from Slack's table: %w", err)
	}
	if err := json.Unmarshal(value, v); err != nil {
		return 0, fmt.Errorf("decode a value of Slack's table: %w", err)
	}
	return version, nil
}

// write writes v under a key if the version there is still prev, else
// bastion.ErrConflict.
func (a *App) write(ctx context.Context, key string, prev int64, v any, expires time.Time) error {
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a value of Slack's table: %w", err)
	}
	if err := a.Table.Write(ctx, key, prev, value, expires); err != nil {
		return fmt.Errorf("write to Slack's table: %w", err)
	}
	return nil
}

// errKeep ends an edit that has nothing to write.
var errKeep = errors.New("nothing to write")

// edit changes what is under a key, however many others do at the same time. The
// change is made to a zero T if there is nothing, and says when the value expires;
// errKeep leaves what is there, and is no error.
func edit[T any](ctx context.Context, a *App, key string, change func(*T) (expires time.Time, err error)) (T, error) {
	for range maxTries {
		var v T
		version, err := a.fetch(ctx, key, &v)
		if err != nil {
			return v, err
		}
		expires, err := change(&v)
		if errors.Is(err, errKeep) {
			return v, nil
		}
		if err != nil {
			return v, err
		}
		if err := a.write(ctx, key, version, v, expires); !errors.Is(err, bastion.ErrConflict) {
			return v, err
		}
	}
	var none T
	return none, errors.New("too many writers of one value of Slack's table")
}
