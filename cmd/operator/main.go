// Command operator deploys and removes the service: it builds bastiond's image, pushes
// it, and creates and deletes the stacks.
package main

import (
	"errors"
	"fmt"
	"os"

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
	ctx, cancel := interruptible()
	defer cancel()
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "operator:", err)
		if failed := new(failure); errors.As(err, &failed) {
			os.Exit(1)
		}
		os.Exit(2) // wrong flags or arguments
	}
}
