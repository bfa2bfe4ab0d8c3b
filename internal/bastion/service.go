package bastion

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"time"
)

// Service is the control plane: the operations that people and schedules call.
type Service struct {
	Config Config
	Store  Store
	Groups Groups
	Tasks  Tasks
	Leases Leases

	Now  func() time.Time
	Rand io.Reader // ids come from here
	Log  *slog.Logger
}

// Caller is who makes a request, as the authenticated transport tells it.
type Caller struct {
	Owner   string     // prefixed; never taken from a request's body
	Admin   bool       // sees and closes everybody's bastions
	Address netip.Addr // where the request came from
}

// CreateRequest asks for the caller's bastion of a name.
type CreateRequest struct {
	Caller Caller
	Name   string         // empty: "default"
	Key    Key            // empty: the remembered one, or the running bastion's
	TTL    *time.Duration // nil: the operator's default
	Reason string
	Source netip.Prefix  // zero: the caller's address
	Wait   time.Duration // hold the answer until ready, or for this long
}

// now is the present, in the form that records keep.
func (s *Service) now() time.Time { return s.Now().UTC().Round(0) }

// sleep waits for d, or for the end of ctx, whose error it then answers.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
