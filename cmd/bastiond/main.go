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

	// The CA roots with which TLS clients check AWS's certificates if the system has no
	// roots, as in the image.
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
