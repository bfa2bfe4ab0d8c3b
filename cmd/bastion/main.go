// Command bastion runs the service on one machine ("bastion local") and prints the
// manifest of the Slack app ("bastion slack manifest").
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/bastion-on-demand/bastion/internal/localmode"
)

// version is set by the Makefile.
var version = "devel"

func main() {
	root := &cobra.Command{
		Use:           "bastion",
		Short:         "SSH bastions that exist only while you need them",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(localmode.Command(), slackCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintln(cmd.OutOrStdout(), "bastion", version, runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
		},
	})
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "bastion:", err)
		if failed := new(localmode.FailedError); errors.As(err, &failed) {
			os.Exit(1)
		}
		os.Exit(2) // the command line was wrong
	}
}
