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
	startLinkLife = 10 * time.Minute // of an unused link
	maxStartLinks = 5                // unused links of one person
	tokenBytes    = 32               // random bytes in a token
)

// The paths of the pages, and their patterns in the log.
const (
	startPath       = "/slack/start/"
	statusPath      = "/slack/status/"
	startLinkRoute  = startPath + "{token}"
	statusPageRoute = statusPath + "{token}"
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

// newToken returns a secret for a path, a cookie or a form.
func (a *App) newToken() (string, error) {
	random := make([]byte, tokenBytes)
	if _, err := io.ReadFull(a.Rand, random); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(random), nil
}

// isToken reports whether a value has the form of newToken's.
func isToken(value string) bool {
	return len(value) == base64.RawURLEncoding.EncodedLen(tokenBytes) &&
		strings.Trim(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// issueStartLink stores a start link, valid for startLinkLife from now, and returns
// its token. A person's sixth unused link voids the oldest.
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
		// A link is voided before it leaves the list: one that is open but not listed
		// would be a sixth.
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

// voidStartLink ends an unused link. A used link stays, because its job may still
// read it.
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
// bastion.ErrNotFound if the link is unknown, void, used or expired, or if its owner
// has replaced the key since: somebody else may have the old one.
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

// usedStartLink returns the link of a job. It returns bastion.ErrNotFound if the
// link is unknown, or unused because the job seemed not to be enqueued: then the job
// must start nothing.
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

// useStartLink marks a link as used. Of several concurrent calls one succeeds, and
// the others return bastion.ErrNotFound. The status page must be stored before,
// because the job reads it.
func (a *App) useStartLink(ctx context.Context, link startLink, version int64, pageHash string, page statusPage) error {
	link.UsedAt, link.Source, link.StatusPage = page.StartedAt, page.Source, pageHash
	err := a.write(ctx, startLinkKey(page.StartLink), version, link, page.ExpiresAt)
	if err == nil {
		return nil
	}
	// A write that returns an error may have taken effect, and the conflict may be
	// with this very write, sent twice. The stored status page tells.
	var stored startLink
	if _, again := a.fetch(ctx, startLinkKey(page.StartLink), &stored); again == nil && stored.StatusPage == pageHash {
		return nil
	}
	if errors.Is(err, bastion.ErrConflict) {
		return bastion.ErrNotFound
	}
	return err
}

// unuseStartLink undoes useStartLink, which wrote the given version, because the job
// seems not to be enqueued. If it was, it finds an unused link and starts nothing.
func (a *App) unuseStartLink(ctx context.Context, link startLink, version int64, page statusPage) error {
	link.UsedAt, link.Source, link.StatusPage = time.Time{}, netip.Addr{}, ""
	return a.write(ctx, startLinkKey(page.StartLink), version, link, link.ExpiresAt)
}
