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
	startLinkLife = 10 * time.Minute // of a link that nobody has used
	tokenBytes    = 32               // of randomness in a token
	maxStartLinks = 5                // open links of one person
)

// The patterns of the pages' paths.
const (
	startLinkRoute  = "/slack/start/{token}"
	statusPageRoute = "/slack/status/{token}"
)

// startLink is a request to start one bastion, as the command described it. It is
// stored under the hash of its token, so reading the table gives nobody a usable
// link.
type startLink struct {
	Owner string `json:"owner"`
	// UserName and TeamDomain are what Slack calls the owner and the workspace. They
	// are for display only: nothing is ever decided by them.
	UserName    string        `json:"user_name,omitempty"`
	TeamDomain  string        `json:"team_domain,omitempty"`
	Name        string        `json:"name"`
	Key         string        `json:"key"` // as a line of authorized_keys
	TTL         time.Duration `json:"ttl"`
	Reason      string        `json:"reason,omitempty"`
	ResponseURL string        `json:"response_url,omitempty"`
	ExpiresAt   time.Time     `json:"expires_at"`

	// Set when the link is used:
	UsedAt     time.Time  `json:"used_at,omitzero"`
	Source     netip.Addr `json:"source,omitzero"`
	StatusPage string     `json:"status_page,omitempty"` // the hash of the page's token
}

// openLink is an entry in a person's list of unused start links.
type openLink struct {
	StartLink string    `json:"start_link"` // the hash of the link's token
	ExpiresAt time.Time `json:"expires_at"`
}

func startLinkKey(hash string) string { return "startlink#" + hash }

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
func (a *App) issueStartLink(ctx context.Context, c startLink) (token string, err error) {
	token, err = a.newToken()
	if err != nil {
		return "", err
	}
	c.ExpiresAt = a.Now().Add(startLinkLife)
	link := openLink{StartLink: hashOf(token), ExpiresAt: c.ExpiresAt}
	if err := a.write(ctx, startLinkKey(link.StartLink), 0, c, c.ExpiresAt); err != nil {
		return "", err
	}
	_, err = edit(ctx, a, personKey(c.Owner), func(p *person) (time.Time, error) {
		p.StartLinks = append(slices.DeleteFunc(p.StartLinks, func(l openLink) bool {
			return l.StartLink == link.StartLink || !a.Now().Before(l.ExpiresAt)
		}), link)
		// Void before they are forgotten: one that is forgotten but open would be a
		// sixth.
		for len(p.StartLinks) > maxStartLinks {
			if err := a.voidStartLink(ctx, p.StartLinks[0].StartLink); err != nil {
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
func (a *App) voidStartLink(ctx context.Context, hash string) error {
	_, err := edit(ctx, a, startLinkKey(hash), func(c *startLink) (time.Time, error) {
		if !c.open(a.Now()) {
			return time.Time{}, errKeep
		}
		c.ExpiresAt = a.Now()
		return c.ExpiresAt, nil
	})
	return err
}

// open reports whether a claim may be used. A claim that is not there is not open.
func (c startLink) open(now time.Time) bool { return c.UsedAt.IsZero() && now.Before(c.ExpiresAt) }

// claimURL is the link that a token is given out in. The host is the one that
// Slack's own request came to.
func (a *App) startLinkURL(r *http.Request, token string) string {
	scheme := "https"
	if a.Plain {
		scheme = "http"
	}
	return scheme + "://" + r.Host + "/slack/start/" + token
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
func (a *App) useStartLink(ctx context.Context, c startLink, version int64, viewHash string, v statusPage) error {
	c.UsedAt, c.Source, c.StatusPage = v.StartedAt, v.Source, viewHash
	err := a.write(ctx, startLinkKey(v.StartLink), version, c, v.ExpiresAt)
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
func (a *App) unuseStartLink(ctx context.Context, c startLink, version int64, v statusPage) error {
	c.UsedAt, c.Source, c.StatusPage = time.Time{}, netip.Addr{}, ""
	return a.write(ctx, startLinkKey(v.StartLink), version, c, c.ExpiresAt)
}
