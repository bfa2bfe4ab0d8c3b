package slack

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
)

// Job is one thing to do for a person of Slack. All of it was in a signed request
// of Slack's, or is in the table.
type Job struct {
	Action      JobAction `json:"do"`
	Owner       string    `json:"owner"`
	ResponseURL string    `json:"response_url,omitempty"` // where the answer goes

	StartLink string        `json:"start_link,omitempty"` // of start: the hash of the link's token
	Name      string        `json:"name,omitempty"`       // of down and extend: which one; empty for the only one
	ID        string        `json:"id,omitempty"`         // of down and extend by button
	TTL       time.Duration `json:"ttl,omitempty"`        // of extend: this long from At
	// At is when it was asked for. What was asked for later is not undone by a job
	// that comes late, or twice.
	At time.Time `json:"at,omitzero"`
}

// Do says what a job does.
type JobAction string

// The jobs.
const (
	JobStart  JobAction = "start"  // what a start link describes
	JobDown   JobAction = "down"   // close
	JobStatus JobAction = "status" // say what there is
	JobExtend JobAction = "extend" // more time
)

// The types that this package shares with the API and with those who send notices.
type (
	Bastion = api.Bastion
	Notice  = api.Notice
	Receipt = api.Receipt
	Call    = api.InternalCall
	Reply   = api.InternalReply
)

// person is what is remembered of one user.
type person struct {
	Key        string     `json:"key,omitempty"`
	StartLinks []openLink `json:"start_links,omitempty"` // the latest, oldest first
	// The commands since Since, for the rate limit.
	Since    time.Time `json:"since,omitzero"`
	Commands int       `json:"commands,omitempty"`
}

// opened is where Slack takes what is said in place of a link that its person has
// pressed in Slack. A command's own response_url need not replace anything: Slack
// documents that for buttons only.
type opened struct {
	ResponseURL string `json:"response_url"`
}

// asked is where a person last asked to start their bastion of one name. What is
// heard of a bastion before the job that started it could say where, is said there.
type replyTarget struct {
	ResponseURL string    `json:"response_url"`
	Since       time.Time `json:"since"` // when Slack gave the URL
}

// askedFor is what is remembered of that.
type askedFor struct {
	replyTarget
	// ID is of the bastion that was made since, if a notice told of it before the job
	// could: a job that comes again must not make another.
	ID string `json:"id,omitempty"`
}

// talk is the conversation about one bastion: where to speak, and what was said.
type conversation struct {
	ResponseURL   string    `json:"response_url,omitempty"`
	Since         time.Time `json:"since,omitzero"`   // when Slack gave the URL
	Uses          int       `json:"uses,omitempty"`   // of the URL
	Stages        int       `json:"stages,omitempty"` // of the uses, those for a stage
	LastDelivered int       `json:"landed,omitempty"` // the latest of the uses that Slack has taken

	Delivering int64     `json:"telling,omitempty"` // version of the latest notice that telling of has begun
	Version    int64     `json:"version,omitempty"` // of the latest notice that was told of
	LastDigest string    `json:"said,omitempty"`    // the hash of the letter that stands there
	Warned     time.Time `json:"warned,omitzero"`   // the deadline that was warned of
	Ended      bool      `json:"ended,omitempty"`   // its end was told
}

// What is under which key of the table. Owners hold no '#'.
func personKey(owner string) string            { return "person#" + owner }
func seenKey(signature string) string          { return "seen#" + hashOf(signature) }
func openedKey(startLink string) string        { return "opened#" + startLink }
func replyTargetKey(owner, name string) string { return "asked#" + owner + "#" + name }
func conversationKey(id string) string         { return "talk#" + id }

// hashOf is what is stored of a secret instead of the secret.
func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
