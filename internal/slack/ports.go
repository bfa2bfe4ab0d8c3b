package slack

import (
	"context"
	"time"
)

// Table is what this package remembers: values under keys, each with a version
// and a time after which it is as if it had never been. Reads are strongly
// consistent. A write that answers with an error other than ErrConflict may have
// taken effect.
type Table interface {
	// Fetch answers the value and its version. bastion.ErrNotFound: there is none,
	// or it has expired.
	Fetch(ctx context.Context, key string) (value []byte, version int64, err error)
	// Write writes the value on condition that the present version is still prev;
	// prev 0 means that there must be no value, or an expired one. The new version
	// is prev+1. bastion.ErrConflict: it is another. A zero time is never.
	Write(ctx context.Context, key string, prev int64, value []byte, expires time.Time) error
	// Delete removes the value; one that is not there is fine.
	Delete(ctx context.Context, key string) error
}

// Functions are the service's own functions, through the door that they have for
// this package: it lets in owners that begin with "slack:" only.
type Functions interface {
	// Call makes one request of the HTTP API. A problem document is an answer. An
	// error means that there is none: the function is down, or did not answer
	// before the end of ctx; what was asked for may have been begun.
	Call(ctx context.Context, call Call) (Reply, error)
}

// Work takes jobs that are done apart from the request that they came with, at
// least once each.
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
	BotToken      string // one for each workspace
}
