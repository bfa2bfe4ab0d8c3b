package slack

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"time"
)

// The headers of Slack's signature; see
// https://docs.slack.dev/authentication/verifying-requests-from-slack/.
const (
	signatureHeader = "X-Slack-Signature"
	timestampHeader = "X-Slack-Request-Timestamp"
)

const (
	// window is how far a request's time may be from ours, either way: what Slack
	// recommends.
	window = 5 * time.Minute
	// seenFor is for how long a signature is remembered from the time that Slack made
	// it. Beyond the window it passes no more; the rest is for clocks.
	seenFor = window + time.Minute
)

// What [verify] answers. A caller gets to know only that it did not pass.
var (
	errHeaders   = errors.New("not one value of each of the signature's two headers")
	errTimestamp = errors.New("the timestamp is not a number of seconds")
	errStale     = errors.New("the timestamp is too far from the present")
	errSignature = errors.New("the signature is another")
	errNoSecret  = errors.New("no signing secret is agreed")
)

// seconds are decimal digits and no more than time.Unix can take.
var seconds = regexp.MustCompile(`^[0-9]{1,12}$`)

// signed is a request that Slack has signed: what it is remembered by, and when it
// was made.
type signed struct {
	signature string
	at        time.Time
}

// verify reports whether body is exactly what Slack sent, and when. Nothing has
// looked into the body before.
func verify(header http.Header, body []byte, secret string, now time.Time) (signed, error) {
	if secret == "" {
		return signed{}, errNoSecret
	}
	signatures, timestamps := header.Values(signatureHeader), header.Values(timestampHeader)
	if len(signatures) != 1 || len(timestamps) != 1 {
		return signed{}, errHeaders
	}
	if !seconds.MatchString(timestamps[0]) {
		return signed{}, errTimestamp
	}
	unix, err := strconv.ParseInt(timestamps[0], 10, 64)
	if err != nil {
		return signed{}, errTimestamp
	}
	at := time.Unix(unix, 0)
	if now.Sub(at).Abs() > window {
		return signed{}, errStale
	}
	// The whole text is compared, so that one request has one signature: what can be
	// written in two ways can be replayed once.
	want := signatureOf(secret, timestamps[0], body)
	if !hmac.Equal([]byte(signatures[0]), []byte(want)) {
		return signed{}, errSignature
	}
	return signed{signature: want, at: at}, nil
}

// signatureOf is Slack's signature of a body, as its header has it.
func signatureOf(secret, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("v0:" + timestamp + ":"))
	mac.Write(body)
	return "v0=" + hex.EncodeToString(mac.Sum(nil))
}
