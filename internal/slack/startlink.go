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
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

const (
	startLinkLife = 10 * time.Minute // lifetime of an unused link
	maxStartLinks = 5                // largest number of unused links of one person
	tokenBytes    = 32               // random bytes in a token
)

// The prefixes of the pages' paths, and the routes in the log.
const (
	startPath       = "/slack/start/"
	statusPath      = "/slack/status/"
	startLinkRoute  = startPath + "{token}"
	statusPageRoute = statusPath + "{token}"
)

// startLink is a request to start one bastion, with the values of the command. It is
// stored under the hash of its token, so the table contains no usable link.
type startLink struct {
	Owner string `json:"owner"`
	// UserName and TeamDomain are the names of the owner and the workspace in Slack. They
	// are only shown: no decision depends on them.
	UserName    string        `json:"user_name,omitempty"`
	TeamDomain  string        `json:"team_domain,omitempty"`
	Name        string        `json:"name"`
	Key         string        `json:"key"` // as a line of authorized_keys
	TTL         time.Duration `json:"ttl"`
	Reason      string        `json:"reason,omitempty"`
	ResponseURL string        `json:"response_url,omitempty"`
	ExpiresAt   time.Time     `json:"expires_at"`

	// These fields are set when the link is used:
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

// newToken returns a random secret for a path, a cookie or a form.
func (a *App) newToken() (string, error) {
	random := make([]byte, tokenBytes)
	if _, err := io.ReadFull(a.Rand, random); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(random), nil
}

// isToken reports whether a value has the form of a token.
func isToken(value string) bool {
	return len(value) == base64.RawURLEncoding.EncodedLen(tokenBytes) &&
		strings.Trim(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// issueStartLink stores a start link that is valid for startLinkLife from now, and
// returns its token. If the person now has more than maxStartLinks unused links, it
// voids the oldest ones.
func (a *App) issueStartLink(ctx context.Context, link startLink) (token string, err error) {
	token, err = a.newToken()
	if err != nil {
		return "", err
	}
	link.ExpiresAt = a.Now().Add(startLinkLife)
	added := openLink{StartLink: hashOf(token), ExpiresAt: link.ExpiresAt}
	if err := a.write(ctx, startLinkKey(added.StartLink), 0, link, link.ExpiresAt); err != nil {
		return "", err
	}
	_, err = edit(ctx, a, personKey(link.Owner), func(p *person) (time.Time, error) {
		p.StartLinks = append(slices.DeleteFunc(p.StartLinks, func(l openLink) bool {
			return l.StartLink == added.StartLink || !a.Now().Before(l.ExpiresAt)
		}), added)
		// A link is voided before it is removed from the list. Otherwise, if the function
		// died in between, the person would have an open link that is not counted.
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

// voidStartLink makes an unused link expire now. It leaves a used link unchanged,
// because the link's job may still read it.
func (a *App) voidStartLink(ctx context.Context, hash string) error {
	_, err := edit(ctx, a, startLinkKey(hash), func(link *startLink) (time.Time, error) {
		if !link.open(a.Now()) {
			return time.Time{}, errKeep
		}
		link.ExpiresAt = a.Now()
		return link.ExpiresAt, nil
	})
	return err
}

// open reports whether a link may be used. The zero value is not open.
func (link startLink) open(now time.Time) bool {
	return link.UsedAt.IsZero() && now.Before(link.ExpiresAt)
}

// startLinkURL returns the URL of a token's page, on the host that Slack's request
// was sent to.
func (a *App) startLinkURL(r *http.Request, token string) string {
	scheme := "https"
	if a.Plain {
		scheme = "http"
	}
	return scheme + "://" + r.Host + startPath + token
}

// openStartLink returns the link of a token, and its version. It returns
// bastion.ErrNotFound if the link is unknown, void, used or expired. It also does so if
// the owner has replaced the key since, because somebody else may have the old key.
func (a *App) openStartLink(ctx context.Context, token string) (link startLink, version int64, err error) {
	version, err = a.fetch(ctx, startLinkKey(hashOf(token)), &link)
	if err != nil {
		return startLink{}, 0, err
	}
	if !link.open(a.Now()) {
		return startLink{}, 0, bastion.ErrNotFound
	}
	var p person
	if _, err := a.fetch(ctx, personKey(link.Owner), &p); err != nil {
		return startLink{}, 0, err
	}
	if p.Key != link.Key {
		return startLink{}, 0, bastion.ErrNotFound
	}
	return link, version, nil
}

// usedStartLink returns the used link of a job. It returns bastion.ErrNotFound if the
// link is unknown or unused; then the job must start nothing. The queue can have a job for
// an unused link: if an enqueue takes effect but returns an error, unuseStartLink makes
// the link unused again.
func (a *App) usedStartLink(ctx context.Context, hash string) (startLink, error) {
	var link startLink
	if _, err := a.fetch(ctx, startLinkKey(hash), &link); err != nil {
		return startLink{}, err
	}
	if link.UsedAt.IsZero() {
		return startLink{}, bastion.ErrNotFound
	}
	return link, nil
}

// useStartLink marks a link as used. Of several concurrent calls, one succeeds and the
// others return bastion.ErrNotFound. The caller must store the status page first,
// because the job reads it.
func (a *App) useStartLink(ctx context.Context, link startLink, version int64, pageHash string, page statusPage) error {
	link.UsedAt, link.Source, link.StatusPage = page.StartedAt, page.Source, pageHash
	err := a.write(ctx, startLinkKey(page.StartLink), version, link, page.ExpiresAt)
	if err == nil {
		return nil
	}
	// The write may have taken effect in spite of the error, and a conflict may be with
	// an earlier try of this write. If so, the stored link has this status page.
	var stored startLink
	if _, again := a.fetch(ctx, startLinkKey(page.StartLink), &stored); again == nil && stored.StatusPage == pageHash {
		return nil
	}
	if errors.Is(err, bastion.ErrConflict) {
		return bastion.ErrNotFound
	}
	return err
}

// unuseStartLink undoes useStartLink, which wrote the given version, after an enqueue
// has failed. If the job was enqueued in spite of the error, it finds an unused link and
// starts nothing.
func (a *App) unuseStartLink(ctx context.Context, link startLink, version int64, page statusPage) error {
	link.UsedAt, link.Source, link.StatusPage = time.Time{}, netip.Addr{}, ""
	return a.write(ctx, startLinkKey(page.StartLink), version, link, link.ExpiresAt)
}
