package sshd

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Run is a bastion's whole life: it waits for a lease, serves, and ends. It
// answers the exit code. When ctx is done (SIGTERM) it ends cleanly, with
// bastion.ExitTerminated. When it returns, nothing that it started is left.
func Run(ctx context.Context, cfg Config) int {
	cfg = cfg.withDefaults()
	log := cfg.Log.With("bastion", cfg.BastionID)
	if err := cfg.check(); err != nil {
		log.Error("bad configuration", "error", err)
		return bastion.ExitFailure
	}
	host, err := newHostKey(cfg.Rand)
	if err != nil {
		log.Error("no host key", "error", err)
		return bastion.ExitFailure
	}
	lease, code := firstLease(ctx, cfg, log)
	if code != 0 || !lease.Open {
		return code
	}
	log = cfg.Log.With("bastion", lease.BastionID, "owner", lease.Owner)
	k := newLeaseLoop(newServer(cfg, log, host))
	return k.keep(ctx, lease)
}

// newHostKey makes the host key. It exists in memory only.
func newHostKey(rand io.Reader) (ssh.Signer, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, fmt.Errorf("make a host key: %w", err)
	}
	return ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed))
}

// publicKey is a host key as the report has it.
func publicKey(key ssh.PublicKey) bastion.Key {
	return bastion.Key(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))
}

// firstLease waits for a lease. A code other than 0 says that none will come.
func firstLease(ctx context.Context, cfg Config, log *slog.Logger) (bastion.Lease, int) {
	limit := time.NewTimer(cfg.Timing.FirstLease)
	defer limit.Stop()
	poll := time.NewTicker(cfg.Timing.Poll)
	defer poll.Stop()
	failed := false
	for {
		call, cancel := context.WithTimeout(ctx, cfg.Timing.Call)
		lease, err := cfg.Lease.Read(call)
		cancel()
		if err == nil && lease.Generation > 0 {
			if !lease.Open {
				log.Info("the lease was closed before it began", "reason", lease.EndReason)
			}
			return lease, 0
		}
		if err != nil && !errors.Is(err, bastion.ErrNotFound) && ctx.Err() == nil && !failed {
			failed = true
			log.Warn("the lease could not be read; trying on", "error", err)
		}
		select {
		case <-ctx.Done():
			log.Info("told to stop before there was a lease")
			return bastion.Lease{}, bastion.ExitTerminated
		case <-limit.C:
			log.Error("no lease came", "waited", cfg.Timing.FirstLease.String(), "error", err)
			return bastion.Lease{}, bastion.ExitNoLease
		case <-poll.C:
		}
	}
}
