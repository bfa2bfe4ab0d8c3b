package slack

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The limits of links.
const (
	claimLife  = 10 * time.Minute // of a link that nobody has used
	tokenBytes = 32               // of randomness in a token
	maxClaims  = 5                // open links of one person
)

// The patterns of the pages' paths.
const (
	claimRoute = "/slack/claim/{token}"
	viewRoute  = "/slack/view/{token}"
)

// newToken makes what only its bearer knows.
func (a *App) newToken() (string, error) {
	random := make([]byte, tokenBytes)
	if _, err := io.ReadFull(a.Rand, random); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(random), nil
}

// issue stores a claim, for ten minutes from now, and answers the token of its
// link. A person's sixth open link makes their oldest void.
func (a *App) issue(ctx context.Context, c startLink) (token string, err error) {
	token, err = a.newToken()
	if err != nil {
		return "", err
	}
	c.Expires = a.Now().Add(claimLife)
	link := openLink{StartLink: hashOf(token), Expires: c.Expires}
	if err := a.write(ctx, startLinkKey(link.StartLink), 0, c, c.Expires); err != nil {
		return "", err
	}
	_, err = edit(ctx, a, personKey(c.Owner), func(p *person) (time.Time, error) {
		p.StartLinks = append(slices.DeleteFunc(p.StartLinks, func(l openLink) bool {
			return l.StartLink == link.StartLink || !a.Now().Before(l.Expires)
		}), link)
		// Void before they are forgotten: one that is forgotten but open would be a
		// sixth.
		for len(p.StartLinks) > maxClaims {
			if err := a.void(ctx, p.StartLinks[0].StartLink); err != nil {
				return time.Time{}, err
			}
			p.StartLinks = p.StartLinks[1:]
		}
		return time.Time{}, nil
	})
	if err != nil {
		return "", err
	}
	return token, nil
}

// void ends an open claim. One that was used stays: a job may need it yet, which
// is why the claim is not just deleted.
func (a *App) void(ctx context.Context, hash string) error {
	_, err := edit(ctx, a, startLinkKey(hash), func(c *startLink) (time.Time, error) {
		if !c.open(a.Now()) {
			return time.Time{}, errKeep
		}
		c.Expires = a.Now()
		return c.Expires, nil
	})
	return err
}

// open reports whether a claim may be used. A claim that is not there is not open.
func (c startLink) open(now time.Time) bool { return c.UsedAt.IsZero() && now.Before(c.Expires) }

// claimURL is the link that a token is given out in. The host is the one that
// Slack's own request came to.
func (a *App) startLinkURL(r *http.Request, token string) string {
	scheme := "https"
	if a.Plain {
		scheme = "http"
	}
	return scheme + "://" + r.Host + "/slack/claim/" + token
}

// openClaim is what the token of an open link stands for, and the version that it
// has. bastion.ErrNotFound: unknown, void, used, too old, or for a key that its
// person has replaced since, perhaps because somebody else has it; nothing tells
// which.
func (a *App) openStartLink(ctx context.Context, token string) (c startLink, version int64, err error) {
	version, err = a.fetch(ctx, startLinkKey(hashOf(token)), &c)
	if err != nil {
		return startLink{}, 0, err
	}
	if !c.open(a.Now()) {
		return startLink{}, 0, bastion.ErrNotFound
	}
	var p person
	if _, err := a.fetch(ctx, personKey(c.Owner), &p); err != nil {
		return startLink{}, 0, err
	}
	if p.Key != c.Key {
		return startLink{}, 0, bastion.ErrNotFound
	}
	return c, version, nil
}

// usedClaim is the claim of a job. bastion.ErrNotFound: there is none, or its use
// was taken back because the job seemed not to have been handed over; nothing is
// to be started then.
func (a *App) usedStartLink(ctx context.Context, hash string) (startLink, error) {
	var c startLink
	if _, err := a.fetch(ctx, startLinkKey(hash), &c); err != nil {
		return startLink{}, err
	}
	if c.UsedAt.IsZero() {
		return startLink{}, bastion.ErrNotFound
	}
	return c, nil
}

// use is the one step that consumes a claim: of any number of tries at once, one
// gets through, and the others get bastion.ErrNotFound. The view must be there
// before, because the job looks for it.
func (a *App) use(ctx context.Context, c startLink, version int64, viewHash string, v statusPage) error {
	c.UsedAt, c.Source, c.StatusPage = v.Started, v.Source, viewHash
	err := a.write(ctx, startLinkKey(v.StartLink), version, c, v.Expires)
	if err == nil {
		return nil
	}
	// A write that answers with an error may have taken effect, and a conflict may
	// be one with itself, sent twice. The view in it says whose it is.
	var there startLink
	if _, again := a.fetch(ctx, startLinkKey(v.StartLink), &there); again == nil && there.StatusPage == viewHash {
		return nil
	}
	if errors.Is(err, bastion.ErrConflict) {
		return bastion.ErrNotFound
	}
	return err
}

// takeBack undoes use, which left the claim at the given version, because the job
// seems not to have been handed over. If it was after all, it finds a claim that
// nobody has used.
func (a *App) takeBack(ctx context.Context, c startLink, version int64, v statusPage) error {
	c.UsedAt, c.Source, c.StatusPage = time.Time{}, netip.Addr{}, ""
	return a.write(ctx, startLinkKey(v.StartLink), version, c, c.Expires)
}
