package slack

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The limits of views.
const (
	statusPageLife    = time.Hour        // of one whose bastion never becomes ready
	statusPageGrace   = 10 * time.Minute // how long the page stays when there is nothing more to follow
	enqueueAgainAfter = 10 * time.Second // of silence, until the job is handed over again
	startTimeout      = 5 * time.Minute  // of silence, until the page gives up
)

// statusPage is the state behind the page that follows one start. Its token lets
// its holder read and do nothing else.
type statusPage struct {
	Owner      string     `json:"owner"`
	StartLink  string     `json:"start_link"` // the hash of the link's token
	Source     netip.Addr `json:"source"`
	ID         string     `json:"id,omitempty"`      // of the bastion, once known
	Problem    string     `json:"problem,omitempty"` // why no bastion was started
	StartedAt  time.Time  `json:"started_at"`        // when the button was pressed
	EnqueuedAt time.Time  `json:"enqueued_at"`       // when the job was last enqueued
	ExpiresAt  time.Time  `json:"expires_at"`        // moves to statusPageGrace after the end
}

func statusPageKey(hash string) string { return "statuspage#" + hash }

// newView stores a view of what a claim is about to start, and answers its token.
func (a *App) newStatusPage(ctx context.Context, v statusPage) (token string, err error) {
	token, err = a.newToken()
	if err != nil {
		return "", err
	}
	return token, a.write(ctx, statusPageKey(hashOf(token)), 0, v, v.ExpiresAt)
}

// dropView forgets a view that nobody was given. One that stays is no harm.
func (a *App) dropStatusPage(ctx context.Context, hash string) {
	if err := a.Table.Delete(ctx, statusPageKey(hash)); err != nil {
		a.Log.WarnContext(ctx, "a view stays until it expires", "cause", err)
	}
}

// viewOf is what a view's token may see. bastion.ErrNotFound: unknown, or over.
func (a *App) openStatusPage(ctx context.Context, token string) (statusPage, error) {
	var v statusPage
	version, err := a.fetch(ctx, statusPageKey(hashOf(token)), &v)
	if err != nil {
		return statusPage{}, err
	}
	if version == 0 || !a.Now().Before(v.ExpiresAt) {
		return statusPage{}, bastion.ErrNotFound
	}
	return v, nil
}

// foundBastion tells a view which bastion its start has come to.
func (a *App) foundBastion(ctx context.Context, viewHash, id string) error {
	return a.editStatusPage(ctx, viewHash, func(v *statusPage) bool {
		changed := v.ID != id || v.Problem != ""
		v.ID, v.Problem = id, ""
		return changed
	})
}

// foundProblem tells a view why its start comes to nothing. A bastion that was
// found stays found: the problem is that of a job that came twice.
func (a *App) foundProblem(ctx context.Context, viewHash, sentence string) error {
	return a.editStatusPage(ctx, viewHash, func(v *statusPage) bool {
		if v.ID != "" || v.Problem != "" {
			return false
		}
		v.Problem = sentence
		v.ExpiresAt = earlier(v.ExpiresAt, a.Now().Add(statusPageGrace))
		return true
	})
}

// until is when a view ends of which there is nothing more to follow since a time.
// What was so already when the button was pressed counts from then.
func (v statusPage) until(end time.Time) time.Time {
	if end.Before(v.StartedAt) {
		end = v.StartedAt
	}
	return earlier(v.ExpiresAt, end.Add(statusPageGrace))
}

// endView lets a view end, and never later than it would.
func (a *App) endStatusPage(ctx context.Context, hash string, until time.Time) error {
	return a.editStatusPage(ctx, hash, func(v *statusPage) bool {
		sooner := until.Before(v.ExpiresAt)
		v.ExpiresAt = earlier(v.ExpiresAt, until)
		return sooner
	})
}

// takeHandOver reports whether it is for the caller to hand a view's job over
// again: among many who look at the page at once, it is one.
func (a *App) acquireEnqueue(ctx context.Context, viewHash string) (bool, error) {
	var mine bool
	err := a.editStatusPage(ctx, viewHash, func(v *statusPage) bool {
		mine = v.ID == "" && v.Problem == "" && a.Now().Sub(v.EnqueuedAt) >= enqueueAgainAfter
		v.EnqueuedAt = a.Now()
		return mine
	})
	return mine && err == nil, err
}

// editView changes a view if it is there; change says whether there is anything to
// write.
func (a *App) editStatusPage(ctx context.Context, hash string, change func(*statusPage) bool) error {
	_, err := edit(ctx, a, statusPageKey(hash), func(v *statusPage) (time.Time, error) {
		if v.ExpiresAt.IsZero() || !change(v) {
			return time.Time{}, errKeep
		}
		return v.ExpiresAt, nil
	})
	if err != nil {
		return fmt.Errorf("edit a view: %w", err)
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
