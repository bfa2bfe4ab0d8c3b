package slack

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// An unsigned request is not parsed. The app does not even look for a private key in it.
func TestUnsignedPrivateKeyIsRefusedAsUnsigned(t *testing.T) {
	for _, route := range []string{commandRoute, interactionRoute} {
		d := newFixture(t)
		form := url.Values{"text": {"key -----BEGIN OPENSSH PRIVATE KEY-----"}, "payload": {"-----BEGIN OPENSSH PRIVATE KEY-----"}}
		r := d.signedRequest(route, form)
		r.Header.Set(signatureHeader, "v0="+strings.Repeat("0", 64))
		if w := d.serve(r); w.Code != 401 || !strings.Contains(w.Body.String(), string(codeSignature)) {
			t.Errorf("%s: %d %s", route, w.Code, w.Body)
		}
	}
}

// If the owner opens an unused link with the button in Slack, the reply of the start goes
// to the button's response_url and replaces the message with the button. After any other
// press, the reply goes to the response_url of the command.
func TestReplyReplacesThePressedLink(t *testing.T) {
	for name, test := range map[string]struct {
		press func(d *fixture, hash string)
		where string
	}{
		"not pressed":      {func(*fixture, string) {}, hookA},
		"pressed":          {func(d *fixture, hash string) { d.push(actionOpen, hash) }, hookB},
		"another link":     {func(d *fixture, _ string) { d.push(actionOpen, hashOf("another")) }, hookA},
		"by somebody else": {func(d *fixture, hash string) { d.pushAs("U0BOB", actionOpen, hash) }, hookA},
		"when no team is allowed": {func(d *fixture, hash string) {
			d.Teams = nil
			d.push(actionOpen, hash)
		}, hookA},
		"once it is used": {func(d *fixture, hash string) {
			if _, err := edit(d.t.Context(), d.App, startLinkKey(hash), d.use); err != nil {
				d.t.Fatal(err)
			}
			d.push(actionOpen, hash)
		}, hookA},
	} {
		d := withKey(t)
		token, err := d.issueStartLink(t.Context(), startLink{Owner: ann, Name: "web", Key: annsKey, TTL: d.DefaultTTL, ResponseURL: hookA})
		if err != nil {
			t.Fatal(err)
		}
		hash := hashOf(token)
		test.press(d, hash)
		if _, err := edit(t.Context(), d.App, startLinkKey(hash), d.use); err != nil {
			t.Fatal(err)
		}
		if err := d.RunJob(t.Context(), Job{Action: JobStart, Owner: ann, ResponseURL: hookA, StartLink: hash}); err != nil {
			t.Fatal(err)
		}
		if got := d.slack.last(test.where); !strings.Contains(got, "Your link was used from "+annsHome) {
			t.Errorf("%s: the last message is %q", name, got)
		}
	}
}

// use marks a link as used from ann's home just now.
func (d *fixture) use(c *startLink) (time.Time, error) {
	c.UsedAt, c.StatusPage = d.clock, "the-pages-hash"
	return d.clock.Add(time.Hour), c.Source.UnmarshalText([]byte(annsHome))
}
