package slack

import (
	"crypto/subtle"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
)

const (
	maxForm        = 4 << 10         // bytes of the start page's form
	enqueueTimeout = 2 * time.Second // of one attempt to enqueue a job
)

// startPage is what a start link shows before the button is pressed.
type startPage struct {
	Alert   *alert
	Address netip.Addr // of this visit; the form sends it back
	Family  string
	Proof   string // the cookie holds the same value

	User, Team           named
	Name                 string
	KeyType, Fingerprint string
	Reason               string
	TTL                  string
	Until, ExpiresAt     time.Time
	Left                 time.Duration // until ExpiresAt
}

// named is a user or a workspace of Slack. Name may be empty.
type named struct{ Name, ID string }

// alert is the text that says why the page is shown again.
type alert struct{ Title, Heading, Text string }

var (
	alertNotProven = &alert{"Please press the button again", "Nothing was started",
		"We couldn't verify that the request came from this page. It may be open in another tab, or cookies may be blocked. Check the details and press the button again."}
	alertAddressChanged = &alert{"Your address has changed", "Your address has changed",
		"Your request came from a different address than the one shown. Nothing was started. Check the new address below and, if it is right, press the button again."}
	alertNotEnqueued = &alert{"Not started: press the button again", "The request couldn't be submitted",
		"As far as we can tell, nothing was started. Press the button again: the link still works, and you won't get two bastions."}
)

// Title returns the title of the alert, or one with the address.
func (p startPage) Title() string {
	if p.Alert != nil {
		return p.Alert.Title
	}
	return "Start a bastion for " + p.Address.String() + "?"
}

// Follow reports whether the page updates itself.
func (startPage) Follow() bool { return false }

// serveStartLink serves the page of a start link. GET and HEAD change nothing, because
// programs also fetch links that are in Slack. POST uses the link.
func (a *App) serveStartLink(x *httpedge.Exchange, token string) {
	methods := []string{http.MethodGet, http.MethodHead, http.MethodPost}
	a.servePage(x, token, startLinkRoute, methods, func(v *visit) pageResponse {
		link, version, err := a.openStartLink(v.Context(), v.token)
		if errors.Is(err, bastion.ErrNotFound) {
			if location, ok := a.statusPageOf(v); ok {
				return pageResponse{status: http.StatusSeeOther, location: location}
			}
		}
		if err != nil {
			return v.failed(err)
		}
		v.Owner = link.Owner
		if v.Method != http.MethodPost {
			return a.showStartLink(v, http.StatusOK, link, nil)
		}
		switch address, proven := a.readForm(v); {
		case !proven:
			return a.showStartLink(v, http.StatusForbidden, link, alertNotProven)
		case address != v.Source:
			return a.showStartLink(v, http.StatusConflict, link, alertAddressChanged)
		}
		return a.submitStart(v, link, version)
	})
}

func (a *App) showStartLink(v *visit, status int, link startLink, why *alert) pageResponse {
	proof, err := a.giveProof(v)
	if err != nil {
		return v.failed(err)
	}
	team, user, _ := bastion.ParseSlackOwner(link.Owner)
	keyType, _, _ := strings.Cut(link.Key, " ")
	now := a.Now()
	page := startPage{
		Alert: why, Address: v.Source, Family: family(v.Source), Proof: proof,
		User: named{shortName(link.UserName), user},
		Team: named{shortName(link.TeamDomain), team},
		Name: oneLine(link.Name), KeyType: oneLine(keyType), Fingerprint: bastion.Key(link.Key).Fingerprint(),
		Reason: oneLine(link.Reason), TTL: inWords(link.TTL),
		Until: now.Add(link.TTL), ExpiresAt: link.ExpiresAt, Left: link.ExpiresAt.Sub(now),
	}
	return pageResponse{status: status, page: "start", data: page}
}

// submitStart uses the link and enqueues the start. If that fails, the link is
// unused again, so the person can press the button again.
func (a *App) submitStart(v *visit, link startLink, version int64) pageResponse {
	now := a.Now()
	page := statusPage{Owner: link.Owner, StartLink: hashOf(v.token), Source: v.Source, StartedAt: now, EnqueuedAt: now, ExpiresAt: now.Add(statusPageLife)}
	token, err := a.newStatusPage(v.Context(), page)
	if err != nil {
		return v.failed(err)
	}
	hash := hashOf(token)
	if err := a.useStartLink(v.Context(), link, version, hash, page); err != nil {
		a.dropStatusPage(v.Context(), hash)
		return v.failed(err)
	}
	if err := a.enqueue(v.Context(), page.startJob()); err != nil {
		a.dropStatusPage(v.Context(), hash)
		if undo := a.unuseStartLink(v.Context(), link, version+1, page); undo != nil {
			return v.failed(errors.Join(err, undo))
		}
		response := a.showStartLink(v, http.StatusServiceUnavailable, link, alertNotEnqueued)
		v.Cause = err
		return response
	}
	a.setCookie(v, proofCookie, "", -1, http.SameSiteStrictMode)
	// The cookie is Lax so that the browser sends it when the link is opened again from
	// Slack. Its token only permits reading.
	a.setCookie(v, statusCookie, token, int(statusPageLife.Seconds()), http.SameSiteLaxMode)
	return pageResponse{status: http.StatusSeeOther, location: statusPath + token}
}

// startJob returns the job of a status page: to start the bastion of its link.
func (page statusPage) startJob() Job {
	return Job{Action: JobStart, Owner: page.Owner, StartLink: page.StartLink}
}

// statusPageOf returns the path of the status page if this browser has used the link.
func (a *App) statusPageOf(v *visit) (path string, ok bool) {
	cookies := v.CookiesNamed(a.cookieName(statusCookie, v.token))
	if len(cookies) != 1 || !isToken(cookies[0].Value) {
		return "", false
	}
	page, err := a.openStatusPage(v.Context(), cookies[0].Value)
	if err != nil || page.StartLink != hashOf(v.token) {
		return "", false
	}
	v.Owner = page.Owner
	return statusPath + cookies[0].Value, true
}

// readForm returns the address that the form showed, and reports whether the form
// was sent from our page in this browser. The proof is that the form and the cookie
// hold the same value: another site can make a browser send a form, but can neither
// read nor set that cookie. The headers about a request's origin are checked too.
func (a *App) readForm(v *visit) (shown netip.Addr, proven bool) {
	v.Request.Body = http.MaxBytesReader(nil, v.Request.Body, maxForm)
	if err := v.ParseForm(); err != nil {
		return netip.Addr{}, false
	}
	if err := new(http.CrossOriginProtection).Check(v.Request); err != nil {
		v.Cause = err
		return netip.Addr{}, false
	}
	cookies := v.CookiesNamed(a.cookieName(proofCookie, v.token))
	proofs, addresses := v.PostForm["proof"], v.PostForm["address"]
	if len(cookies) != 1 || len(proofs) != 1 || len(addresses) != 1 || !isToken(cookies[0].Value) {
		return netip.Addr{}, false
	}
	if subtle.ConstantTimeCompare([]byte(cookies[0].Value), []byte(proofs[0])) != 1 {
		return netip.Addr{}, false
	}
	shown, err := netip.ParseAddr(addresses[0])
	return shown, err == nil
}

// giveProof returns the proof for the form, and sets the cookie with the same value. It
// keeps an existing cookie, so a page that is open in two tabs works in both.
func (a *App) giveProof(v *visit) (string, error) {
	if have := v.CookiesNamed(a.cookieName(proofCookie, v.token)); len(have) == 1 && isToken(have[0].Value) {
		return have[0].Value, nil
	}
	proof, err := a.newToken()
	if err != nil {
		return "", err
	}
	a.setCookie(v, proofCookie, proof, int(startLinkLife.Seconds()), http.SameSiteStrictMode)
	return proof, nil
}

// The cookies of a start link.
const (
	proofCookie  = "bastion-start"  // its form's proof
	statusCookie = "bastion-status" // the token of its status page
)

func (a *App) setCookie(v *visit, kind, value string, maxAge int, sameSite http.SameSite) {
	cookie := http.Cookie{
		Name: a.cookieName(kind, v.token), Value: value, MaxAge: maxAge,
		Path: "/", Secure: !a.Plain, HttpOnly: true, SameSite: sameSite,
	}
	v.header.Add("Set-Cookie", cookie.String())
}

// cookieName returns a name that differs for each link, so two links can be open at the
// same time. It contains a part of the token's hash, which reveals nothing.
func (a *App) cookieName(kind, token string) string {
	name := kind + "-" + hashOf(token)[:16]
	if a.Plain {
		return name
	}
	return "__Host-" + name
}
