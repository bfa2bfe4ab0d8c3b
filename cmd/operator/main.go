// Command operator is for the person who deploys: it builds bastiond's image,
// pushes it, deploys the service and takes it away.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	root := &cobra.Command{
		Use:           "operator",
		Short:         "Deploy bastions on demand",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(imageCommand(), pushCommand(), deployCommand(), undeployCommand())
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "operator:", err)
		if failed := new(failure); errors.As(err, &failed) {
			os.Exit(1)
		}
		os.Exit(2) // cobra refused how it was called
	}
}

// failure is what went wrong with a command that was called rightly.
type failure struct{ error }

func (f *failure) Unwrap() error { return f.error }
