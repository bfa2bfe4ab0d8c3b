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
	// window is the largest accepted difference between a request's timestamp and the
	// app's clock, in either direction. Slack recommends this value.
	window = 5 * time.Minute
	// seenFor is the time for which a signature is stored, counted from its timestamp.
	// After the window, the timestamp is refused anyway. The extra minute allows for
	// differing clocks.
	seenFor = window + time.Minute
)

// The errors of [verify]. They are only logged; the response does not contain them.
var (
	errHeaders   = errors.New("the signature or timestamp header is missing or repeated")
	errTimestamp = errors.New("the timestamp is not a number of seconds")
	errStale     = errors.New("the timestamp is too far from the current time")
	errSignature = errors.New("the signature does not match")
	errNoSecret  = errors.New("no signing secret is configured")
)

// seconds matches a decimal number that time.Unix accepts.
var seconds = regexp.MustCompile(`^[0-9]{1,12}$`)

// signed is the signature and the timestamp of a request from Slack.
type signed struct {
	signature string
	at        time.Time
}

// verify returns the signature of a request if Slack has signed exactly this body. Call
// it before the body is parsed.
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
	// The texts are compared instead of the decoded bytes, so that a request has only one
	// valid signature: the one in small letters.
	want := signatureOf(secret, timestamps[0], body)
	if !hmac.Equal([]byte(signatures[0]), []byte(want)) {
		return signed{}, errSignature
	}
	return signed{signature: want, at: at}, nil
}

// signatureOf returns Slack's signature of a body, as in its header.
func signatureOf(secret, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("v0:" + timestamp + ":"))
	mac.Write(body)
	return "v0=" + hex.EncodeToString(mac.Sum(nil))
}
