package slack

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
)

// Options are the parts of an [App]. All are required, except where a comment allows
// an empty value.
type Options struct {
	Table       Table
	Functions   Functions
	Queue       Queue
	Credentials Secrets
	// Transport sends requests to Slack. The app passes it only https URLs of Slack's
	// own hosts.
	Transport http.RoundTripper

	Teams    []string // IDs of the allowed workspaces, such as T0123ABCD
	Channels []string // if not empty, IDs of the channels in which commands are accepted
	Users    []string // if not empty, IDs of the allowed users

	// DefaultTTL is the lifetime of a bastion whose command has no duration. MaxTTL is
	// the longest lifetime of any bastion. Both are the service's own settings, so a
	// start link shows the lifetime that the API will grant.
	DefaultTTL, MaxTTL time.Duration

	// Plain is for local mode only: it serves pages over http, so cookies cannot have
	// the __Host- prefix.
	Plain bool

	Now  func() time.Time
	Rand io.Reader // random bytes for tokens
	Log  *slog.Logger
}

// App handles Slack's requests, the pages, the jobs and the notices.
type App struct {
	Options
	checked sync.Map // the hash of each pair of a workspace and a bot token that Slack has confirmed
}

// New returns an app with these options.
func New(options Options) *App { return &App{Options: options} }

// Table stores values under keys. Each value has a version and may have an expiry.
// After the expiry, the table acts as if the value did not exist. Reads are strongly
// consistent. A write that returns an error other than bastion.ErrConflict may have
// taken effect.
type Table interface {
	// Fetch returns the value and its version. It returns bastion.ErrNotFound if there
	// is no value or it has expired.
	Fetch(ctx context.Context, key string) (value []byte, version int64, err error)
	// Write stores the value with version prev+1, on condition that the stored version
	// is prev. If prev is 0, there must be no value, or an expired one. Write returns
	// bastion.ErrConflict if the condition fails. If expires is zero, the value does
	// not expire.
	Write(ctx context.Context, key string, prev int64, value []byte, expires time.Time) error
	// Delete deletes the value, if there is one.
	Delete(ctx context.Context, key string) error
}

// Functions are the functions of the API, through the entry point that only this
// package uses: it accepts owners that begin with "slack:" and no others.
type Functions interface {
	// Call makes one request of the HTTP API. A problem document is a reply. An error
	// means that there was no reply: the function is down, or did not reply before ctx
	// ended. In that case the API may still have carried out the request.
	Call(ctx context.Context, call api.InternalCall) (api.InternalReply, error)
}

// Queue runs jobs apart from the requests that enqueue them. It runs each job at least
// once, and again some time later if the job fails.
type Queue interface {
	// Enqueue returns as soon as the job can no longer be lost.
	Enqueue(ctx context.Context, job Job) error
}

// Secrets returns the app's credentials for a workspace. If team is empty, it returns only
// the signing secret: the app knows the team of a request only after it has verified the
// signature.
type Secrets func(ctx context.Context, team string) (Credentials, error)

// Credentials are the secrets that the app shares with Slack.
type Credentials struct {
	SigningSecret string // the same for every workspace
	BotToken      string // of a workspace or of a whole organisation
}
