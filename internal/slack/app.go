package slack

import (
	"io"
	"log/slog"
	"net/http"
	"time"
)

// Options is what [New] is made from. All are required but those that say
// otherwise.
type Options struct {
	Table       Table
	Functions   Functions
	Queue       Queue
	Credentials Secrets
	// Outside reaches Slack. It is given https URLs of Slack's own hosts only.
	Transport http.RoundTripper

	Teams    []string // workspaces whose people are let in, as T0123ABCD
	Channels []string // if not empty, the channels in which commands are taken
	Users    []string // if not empty, the people who are let in

	// DefaultTTL is how long a bastion lives whose command does not say it, up to
	// MaxTTL, which is the longest for any: the service's own settings, so that a link
	// says what will be and none is given for what will be refused.
	DefaultTTL, MaxTTL time.Duration

	// Plain is for local mode alone: pages are served over http, so the cookie
	// cannot have the __Host- prefix.
	Plain bool

	Now  func() time.Time
	Rand io.Reader // tokens come from here
	Log  *slog.Logger
}

// App is what Slack's requests, people's browsers, jobs and notices are given to.
type App struct{ Options }

// New makes the app.
func New(options Options) *App { return &App{options} }
