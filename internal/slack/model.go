package slack

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
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

// Bastion is what the API answers of one, as far as it is of use here.
type Bastion struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Owner   string `json:"owner"`
	State   string `json:"state"`
	Stage   string `json:"stage"`
	Reason  string `json:"reason"`
	Failure *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"failure"`
	Ended *struct {
		Reason string    `json:"reason"`
		At     time.Time `json:"at"`
	} `json:"ended"`
	Source         string    `json:"source"`
	Keys           []string  `json:"keys"` // fingerprints
	Host           string    `json:"host"`
	Port           int       `json:"port"`
	SSHConfig      string    `json:"ssh_config"`
	SSH            string    `json:"ssh"`
	CreatedAt      time.Time `json:"created_at"`
	ReadyAt        time.Time `json:"ready_at"`
	Deadline       time.Time `json:"deadline"`
	LatestDeadline time.Time `json:"latest_deadline"`
}

// Notice says what has become of a bastion whose owner asked through Slack. It
// may come late, twice, or behind a newer one: Version tells.
type Notice struct {
	Bastion Bastion  `json:"bastion"`
	Version int64    `json:"version"` // of the record
	Warning bool     `json:"warning"` // the deadline is near
	Receipt *Receipt `json:"receipt"` // of one that has ended
}

// Receipt is what a bastion was used for.
type Receipt struct {
	StartedAt    time.Time `json:"started_at"`
	EndedAt      time.Time `json:"ended_at"`
	Connections  int       `json:"connections"`
	Forwards     int       `json:"forwards"`
	Refusals     int       `json:"refusals"`
	BytesIn      int64     `json:"bytes_in"`
	BytesOut     int64     `json:"bytes_out"`
	Destinations []string  `json:"destinations"` // "host:port", in order of first use
	Unnamed      int       `json:"unnamed"`      // forwards to further destinations
}

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
