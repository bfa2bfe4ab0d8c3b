// Command bastiond is the SSH server that runs in a bastion's task. There its settings
// come from the environment. To run it manually:
//
//	bastiond --lease DIR --listen 127.0.0.1:2222
//
// with a lease.json in DIR; see package leasefile.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	// The CA roots that TLS to AWS is checked with where the system has none, as in
	// the image.
	_ "golang.org/x/crypto/x509roots/fallback"

	"github.com/bastion-on-demand/bastion/internal/sshd"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	settings, err := parse(ctx, os.Args[1:], os.Getenv, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bastiond: %v\n", err)
		os.Exit(2)
	}
	settings.Log = slog.New(slog.NewJSONHandler(os.Stdout, nil))
	os.Exit(sshd.Run(ctx, settings))
}
