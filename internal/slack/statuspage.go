package slack

import (
	"context"
	"fmt"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The limits of views.
const (
	viewLife   = time.Hour        // of one whose bastion never becomes ready
	viewAfter  = 10 * time.Minute // how long the page stays when there is nothing more to follow
	handAgain  = 10 * time.Second // of silence, until the job is handed over again
	handGiveUp = 5 * time.Minute  // of silence, until the page gives up
)

// newView stores a view of what a claim is about to start, and answers its token.
func (a *App) newStatusPage(ctx context.Context, v statusPage) (token string, err error) {
	token, err = a.newToken()
	if err != nil {
		return "", err
	}
	return token, a.write(ctx, statusPageKey(hashOf(token)), 0, v, v.Expires)
}

// dropView forgets a view that nobody was given. One that stays is no harm.
func (a *App) dropStatusPage(ctx context.Context, hash string) {
	if err := a.Table.Delete(ctx, statusPageKey(hash)); err != nil {
		a.Log.WarnContext(ctx, "a view stays until it expires", "cause", err)
	}
}

// viewOf is what a view's token may see. bastion.ErrNotFound: unknown, or over.
func (a *App) statusPageOf(ctx context.Context, token string) (statusPage, error) {
	var v statusPage
	version, err := a.fetch(ctx, statusPageKey(hashOf(token)), &v)
	if err != nil {
		return statusPage{}, err
	}
	if version == 0 || !a.Now().Before(v.Expires) {
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
		v.Expires = earlier(v.Expires, a.Now().Add(viewAfter))
		return true
	})
}

// until is when a view ends of which there is nothing more to follow since a time.
// What was so already when the button was pressed counts from then.
func (v statusPage) until(end time.Time) time.Time {
	if end.Before(v.Started) {
		end = v.Started
	}
	return earlier(v.Expires, end.Add(viewAfter))
}

// endView lets a view end, and never later than it would.
func (a *App) endStatusPage(ctx context.Context, hash string, until time.Time) error {
	return a.editStatusPage(ctx, hash, func(v *statusPage) bool {
		sooner := until.Before(v.Expires)
		v.Expires = earlier(v.Expires, until)
		return sooner
	})
}

// takeHandOver reports whether it is for the caller to hand a view's job over
// again: among many who look at the page at once, it is one.
func (a *App) takeEnqueue(ctx context.Context, viewHash string) (bool, error) {
	var mine bool
	err := a.editStatusPage(ctx, viewHash, func(v *statusPage) bool {
		mine = v.ID == "" && v.Problem == "" && a.Now().Sub(v.Handed) >= handAgain
		v.Handed = a.Now()
		return mine
	})
	return mine && err == nil, err
}

// editView changes a view if it is there; change says whether there is anything to
// write.
func (a *App) editStatusPage(ctx context.Context, hash string, change func(*statusPage) bool) error {
	_, err := edit(ctx, a, statusPageKey(hash), func(v *statusPage) (time.Time, error) {
		if v.Expires.IsZero() || !change(v) {
			return time.Time{}, errKeep
		}
		return v.Expires, nil
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
