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
	// window is the largest difference between a request's time and ours, either way.
	// Slack recommends this value.
	window = 5 * time.Minute
	// seenFor is how long a signature is remembered, from its timestamp. After the
	// window it is refused anyway; the extra minute allows for differing clocks.
	seenFor = window + time.Minute
)

// The errors of [verify]. They go to the log; the client learns only that the
// signature was refused.
var (
	errHeaders   = errors.New("the signature or timestamp header is missing or repeated")
	errTimestamp = errors.New("the timestamp is not a number of seconds")
	errStale     = errors.New("the timestamp is too far from the current time")
	errSignature = errors.New("the signature does not match")
	errNoSecret  = errors.New("no signing secret is configured")
)

// seconds matches a decimal number that time.Unix accepts.
var seconds = regexp.MustCompile(`^[0-9]{1,12}$`)

// signed is the signature of a request from Slack, and when it was made.
type signed struct {
	signature string
	at        time.Time
}

// verify returns the signature of a request if Slack has signed exactly this body.
// Nothing may parse the body before.
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
	// The text is compared, not the decoded bytes: a signature that can be written in
	// two ways could be replayed once.
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
