package slack

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

const (
	statusPageLife    = time.Hour        // longest lifetime of a page
	statusPageGrace   = 10 * time.Minute // lifetime after the bastion is ready or has ended
	enqueueAgainAfter = 10 * time.Second // a job without a result is enqueued again after this time
	startTimeout      = 5 * time.Minute  // after this time, a job no longer starts the bastion
)

// statusPage is the stored state of the page that shows the progress of one start. Its
// token permits reading only.
type statusPage struct {
	Owner      string     `json:"owner"`
	StartLink  string     `json:"start_link"` // the hash of the link's token
	Source     netip.Addr `json:"source"`
	ID         string     `json:"id,omitempty"`      // of the bastion, once known
	Problem    string     `json:"problem,omitempty"` // why no bastion was started
	StartedAt  time.Time  `json:"started_at"`        // when the button was pressed
	EnqueuedAt time.Time  `json:"enqueued_at"`       // when the job was last enqueued
	ExpiresAt  time.Time  `json:"expires_at"`        // at most statusPageGrace after the bastion is ready or has ended
}

func statusPageKey(hash string) string { return "statuspage#" + hash }

// newStatusPage stores a status page and returns its token.
func (a *App) newStatusPage(ctx context.Context, page statusPage) (token string, err error) {
	token, err = a.newToken()
	if err != nil {
		return "", err
	}
	return token, a.write(ctx, statusPageKey(hashOf(token)), 0, page, page.ExpiresAt)
}

// dropStatusPage deletes a page whose token nobody has received. If the deletion fails,
// the page stays until it expires, and nobody can open it.
func (a *App) dropStatusPage(ctx context.Context, hash string) {
	if err := a.Table.Delete(ctx, statusPageKey(hash)); err != nil {
		a.Log.WarnContext(ctx, "status page not deleted", "cause", err)
	}
}

// openStatusPage returns the status page of a token, or bastion.ErrNotFound if it is
// unknown or has expired.
func (a *App) openStatusPage(ctx context.Context, token string) (statusPage, error) {
	var page statusPage
	version, err := a.fetch(ctx, statusPageKey(hashOf(token)), &page)
	if err != nil {
		return statusPage{}, err
	}
	if version == 0 || !a.Now().Before(page.ExpiresAt) {
		return statusPage{}, bastion.ErrNotFound
	}
	return page, nil
}

// storeBastion stores the ID of the started bastion in its status page.
func (a *App) storeBastion(ctx context.Context, hash, id string) error {
	return a.editStatusPage(ctx, hash, func(page *statusPage) bool {
		changed := page.ID != id || page.Problem != ""
		page.ID, page.Problem = id, ""
		return changed
	})
}

// storeProblem stores in a status page why the start failed. It does nothing if the page
// has a bastion: then only a second run of the job has failed.
func (a *App) storeProblem(ctx context.Context, hash, sentence string) error {
	return a.editStatusPage(ctx, hash, func(page *statusPage) bool {
		if page.ID != "" || page.Problem != "" {
			return false
		}
		page.Problem = sentence
		page.ExpiresAt = bastion.Earlier(page.ExpiresAt, a.Now().Add(statusPageGrace))
		return true
	})
}

// until returns the time at which a page expires: statusPageGrace after end, the time at
// which the bastion was ready or ended. If end is before StartedAt, StartedAt counts. If
// the page expires earlier anyway, that time stays.
func (page statusPage) until(end time.Time) time.Time {
	if end.Before(page.StartedAt) {
		end = page.StartedAt
	}
	return bastion.Earlier(page.ExpiresAt, end.Add(statusPageGrace))
}

// endStatusPage makes a page expire at the given time, unless it expires earlier.
func (a *App) endStatusPage(ctx context.Context, hash string, until time.Time) error {
	return a.editStatusPage(ctx, hash, func(page *statusPage) bool {
		sooner := until.Before(page.ExpiresAt)
		page.ExpiresAt = bastion.Earlier(page.ExpiresAt, until)
		return sooner
	})
}

// acquireEnqueue reports whether the caller must enqueue a page's job again. Of several
// concurrent calls, only one returns true.
func (a *App) acquireEnqueue(ctx context.Context, hash string) (bool, error) {
	var acquired bool
	err := a.editStatusPage(ctx, hash, func(page *statusPage) bool {
		acquired = page.ID == "" && page.Problem == "" && a.Now().Sub(page.EnqueuedAt) >= enqueueAgainAfter
		page.EnqueuedAt = a.Now()
		return acquired
	})
	return acquired && err == nil, err
}

// editStatusPage changes a page if it exists. change reports whether the page must be
// written.
func (a *App) editStatusPage(ctx context.Context, hash string, change func(*statusPage) bool) error {
	_, err := edit(ctx, a, statusPageKey(hash), func(page *statusPage) (time.Time, error) {
		if page.ExpiresAt.IsZero() || !change(page) {
			return time.Time{}, errKeep
		}
		return page.ExpiresAt, nil
	})
	if err != nil {
		return fmt.Errorf("edit a status page: %w", err)
	}
	return nil
}
