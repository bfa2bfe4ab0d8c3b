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

// Options are the parts of an [App]. All are required, except where they say
// otherwise.
type Options struct {
	Table       Table
	Functions   Functions
	Queue       Queue
	Credentials Secrets
	// Transport reaches Slack. It is given https URLs of Slack's own hosts only.
	Transport http.RoundTripper

	Teams    []string // workspaces whose people are allowed, as T0123ABCD
	Channels []string // if not empty, the channels in which commands are accepted
	Users    []string // if not empty, the people who are allowed

	// DefaultTTL is the lifetime of a bastion whose command names none, MaxTTL the
	// longest of any. They are the service's own settings, so that a link says what
	// will be, and none is given out for what will be refused.
	DefaultTTL, MaxTTL time.Duration

	// Plain is for local mode alone: pages are served over http, so the cookie
	// cannot have the __Host- prefix.
	Plain bool

	Now  func() time.Time
	Rand io.Reader // of tokens
	Log  *slog.Logger
}

// App handles Slack's requests, the pages, jobs and notices.
type App struct {
	Options
	checked sync.Map // digests of bot tokens that belong to their workspace
}

// New returns the app.
func New(options Options) *App { return &App{Options: options} }

// Table stores values under keys, each with a version, and an expiry after which it
// is as if it had never been. Reads are strongly consistent. A write that returns an
// error other than ErrConflict may have taken effect.
type Table interface {
	// Fetch returns the value and its version. bastion.ErrNotFound: there is none,
	// or it has expired.
	Fetch(ctx context.Context, key string) (value []byte, version int64, err error)
	// Write writes the value on condition that the present version is still prev;
	// prev 0 means that there must be no value, or an expired one. The new version
	// is prev+1. bastion.ErrConflict: it is another. A zero time is never.
	Write(ctx context.Context, key string, prev int64, value []byte, expires time.Time) error
	// Delete removes the value, if there is one.
	Delete(ctx context.Context, key string) error
}

// Functions are the functions of the API, through the entry point that only this
// package uses: it accepts owners that begin with "slack:" and no others.
type Functions interface {
	// Call makes one request of the HTTP API. A problem document is a reply. An error
	// means that there is none: the function is down, or did not reply before the end
	// of ctx. Then the request may have been carried out.
	Call(ctx context.Context, call api.InternalCall) (api.InternalReply, error)
}

// Queue runs jobs apart from the request that they come from, each at least once,
// and again some time later if it fails.
type Queue interface {
	// Enqueue returns as soon as the job cannot get lost any more.
	Enqueue(ctx context.Context, job Job) error
}

// Secrets returns the app's credentials for a workspace. For the empty team it
// returns the signing secret alone: the team of a request is known only after its
// signature is verified.
type Secrets func(ctx context.Context, team string) (Credentials, error)

// Credentials are the secrets that the app shares with Slack.
type Credentials struct {
	SigningSecret string // one for the app
	BotToken      string // one for each workspace, or for an organisation
}
