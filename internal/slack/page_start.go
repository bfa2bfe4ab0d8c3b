package slack

import (
	"crypto/subtle"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

const (
	maxForm        = 4 << 10         // bytes of the claim page's form
	enqueueTimeout = 2 * time.Second // is how long handing a job over may take
)

// claimPage is what a person sees before they press the button.
type startPage struct {
	Alert   *alert
	Address netip.Addr // seen now, and shown back by the form
	Family  string
	Proof   string // is also in a cookie

	User, Team, Name     string
	KeyType, Fingerprint string
	Reason               string
	TTL                  string
	Until, Expires       time.Time
	Left                 time.Duration // until Expires
}

// alert says why the page is shown again.
type alert struct{ Title, Heading, Text string }

var (
	alertNotProven = &alert{"Press the button once more", "Nothing has been started",
		"It could not be told that this page is where the button was pressed: it was open elsewhere too, or your browser keeps no cookies here. Check what it says and press again."}
	alertAddressChanged = &alert{"Your address has changed", "Your address has changed",
		"The button was pressed from another address than the one that was shown. Nothing has been started. Check the new one below; if you are where you want to be, press again."}
	alertNotEnqueued = &alert{"Not started: press again", "The service did not take this up",
		"Nothing has been started as far as is known. Press again: this link still works, and you will not get two bastions."}
)

// Title changes with what the page has to say.
func (p startPage) Title() string {
	if p.Alert != nil {
		return p.Alert.Title
	}
	return "Start a bastion for " + p.Address.String() + "?"
}

// Follow: the page changes only when the person does something.
func (startPage) Follow() bool { return false }

// serveClaim is the page of a claim's link. GET and HEAD show it and change
// nothing, for links in Slack are fetched by machines; POST uses it up.
func (a *App) serveStartLink(w http.ResponseWriter, r *http.Request) {
	methods := []string{http.MethodGet, http.MethodHead, http.MethodPost}
	a.servePage(w, r, startLinkRoute, methods, func(v *visit) pageResponse {
		c, version, err := a.openStartLink(v.Context(), v.token)
		if err != nil {
			return v.failed(err)
		}
		v.owner = c.Owner
		if v.Method != http.MethodPost {
			return a.showStartLink(v, http.StatusOK, c, nil)
		}
		switch address, proven := a.readForm(v); {
		case !proven:
			return a.showStartLink(v, http.StatusForbidden, c, alertNotProven)
		case address != v.source:
			return a.showStartLink(v, http.StatusConflict, c, alertAddressChanged)
		}
		return a.followStartLink(v, c, version)
	})
}

func (a *App) showStartLink(v *visit, status int, c startLink, why *alert) pageResponse {
	proof, err := a.giveProof(v)
	if err != nil {
		return v.failed(err)
	}
	team, user := teamAndUser(c.Owner)
	keyType, _, _ := strings.Cut(c.Key, " ")
	now := a.Now()
	page := startPage{
		Alert: why, Address: v.source, Family: family(v.source), Proof: proof,
		User: user, Team: team, Name: oneLine(c.Name),
		KeyType: oneLine(keyType), Fingerprint: bastion.Key(c.Key).Fingerprint(),
		Reason: oneLine(c.Reason), TTL: inWords(c.TTL),
		Until: now.Add(c.TTL), Expires: c.ExpiresAt, Left: c.ExpiresAt.Sub(now),
	}
	return pageResponse{status: status, page: "claim", data: page}
}

// startClaim uses the claim and hands the start over. If that fails the claim is as if
// it had not been used, so that the button can be pressed again.
func (a *App) followStartLink(v *visit, c startLink, version int64) pageResponse {
	now := a.Now()
	seen := statusPage{Owner: c.Owner, StartLink: hashOf(v.token), Source: v.source, StartedAt: now, EnqueuedAt: now, ExpiresAt: now.Add(statusPageLife)}
	token, err := a.newStatusPage(v.Context(), seen)
	if err != nil {
		return v.failed(err)
	}
	viewHash := hashOf(token)
	if err := a.useStartLink(v.Context(), c, version, viewHash, seen); err != nil {
		a.dropStatusPage(v.Context(), viewHash)
		return v.failed(err)
	}
	if err := a.enqueue(v.Context(), startJob(c, seen.StartLink)); err != nil {
		a.dropStatusPage(v.Context(), viewHash)
		if back := a.unuseStartLink(v.Context(), c, version+1, seen); back != nil {
			return v.failed(errors.Join(err, back))
		}
		ans := a.showStartLink(v, http.StatusServiceUnavailable, c, alertNotEnqueued)
		v.cause = err
		return ans
	}
	a.endProof(v)
	return pageResponse{status: http.StatusSeeOther, location: "/slack/status/" + token}
}

// startOf is the job that starts what a claim asked for.
func startJob(c startLink, hash string) Job {
	return Job{Action: JobStart, Owner: c.Owner, ResponseURL: c.ResponseURL, StartLink: hash, Name: c.Name, TTL: c.TTL}
}

// readForm is the address that the form showed, and whether it was our page, in
// this browser, that it was sent from. The proof is that the form holds what the
// cookie does: another site can make a browser send forms, but neither read nor
// set that cookie. What browsers say of a request's origin is the second line.
func (a *App) readForm(v *visit) (shown netip.Addr, proven bool) {
	v.Body = http.MaxBytesReader(nil, v.Body, maxForm)
	if err := v.ParseForm(); err != nil {
		return netip.Addr{}, false
	}
	if err := new(http.CrossOriginProtection).Check(v.Request); err != nil {
		v.cause = err
		return netip.Addr{}, false
	}
	cookies := v.CookiesNamed(a.cookieName(v.token))
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

// giveProof sets the cookie that the form's answer must come with. The one that is
// there stays, so that a page which is open twice works in both places.
func (a *App) giveProof(v *visit) (string, error) {
	name := a.cookieName(v.token)
	if have := v.CookiesNamed(name); len(have) == 1 && isToken(have[0].Value) {
		return have[0].Value, nil
	}
	proof, err := a.newToken()
	if err != nil {
		return "", err
	}
	a.setCookie(v, proof, int(startLinkLife.Seconds()))
	return proof, nil
}

func (a *App) endProof(v *visit) { a.setCookie(v, "", -1) }

func (a *App) setCookie(v *visit, value string, maxAge int) {
	cookie := http.Cookie{
		Name: a.cookieName(v.token), Value: value, MaxAge: maxAge,
		Path: "/", Secure: !a.Plain, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
	v.header.Add("Set-Cookie", cookie.String())
}

// cookieName is a name for each claim, so that two links can be open at once. It
// tells nothing: it is made of the token's hash.
func (a *App) cookieName(token string) string {
	name := "bastion-start-" + hashOf(token)[:16]
	if a.Plain {
		return name
	}
	return "__Host-" + name
}

// isToken reports whether a value is of the form that newToken makes.
func isToken(value string) bool {
	return len(value) == 43 && strings.Trim(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}
