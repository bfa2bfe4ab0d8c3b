package localmode

import (
	"context"
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Failed is an error of a command at work. Every other error that cobra answers
// says that the command was called wrongly.
type Failed struct{ Err error }

func (f *Failed) Error() string { return f.Err.Error() }
func (f *Failed) Unwrap() error { return f.Err }

const about = `Run the whole service on this machine: the API over HTTP, bastions as real SSH
servers for a stock ssh, and a private host to connect to. Nothing else is
needed, and nothing is left when it ends.

Standard output carries the URL of the API on its first line, and then the
commands to paste. Logs go to standard error, one JSON object a line.

Owners are names, not identities. The owner of a bastion is the user name of
HTTP basic authentication (curl -u alice:), or "local"; there are no passwords,
and whoever can reach the API can claim any name. So it listens on loopback
only, and answers neither foreign Host headers nor web pages of other origins.

Bastions reach private.internal, at port 80 (HTTP) and port 22 (SSH). The name
exists inside bastions only. Further destinations, and names that resolve to
them, need --allow.

Ctrl-C ends everything it started.`

// Command is "bastion local".
func Command() *cobra.Command {
	o := Defaults()
	command := &cobra.Command{
		Use:   "local",
		Short: "Run the whole service on this machine",
		Long:  about,
		Example: `  bastion local
  bastion local --listen 127.0.0.1:0 --launch-delay 30s
  bastion local --allow 192.168.1.0/24`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := o.check(); err != nil {
				return err
			}
			// The first Ctrl-C ends everything in order, and the second at once.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			context.AfterFunc(ctx, stop)
			o.Log = slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
			if err := Run(ctx, o, cmd.OutOrStdout()); err != nil {
				return &Failed{err}
			}
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVar(&o.Listen, "listen", o.Listen, "loopback `address` and port of the API; port 0 for any free one")
	flags.DurationVar(&o.LaunchDelay, "launch-delay", o.LaunchDelay, "how long a task takes to start")
	flags.DurationVar(&o.DefaultTTL, "default-ttl", o.DefaultTTL, "lifetime of a bastion whose request names none, up to the longest")
	flags.DurationVar(&o.MaxTTL, "max-ttl", o.MaxTTL, "longest lifetime, counted from the first request")
	flags.DurationVar(&o.Idle, "idle", o.Idle, "end a bastion after this long without an authenticated connection; 0 for never")
	flags.DurationVar(&o.ReapEvery, "reap-every", o.ReapEvery, "how often the reaper runs; the sweep for orphans runs a tenth as often")
	flags.StringArrayVar(&o.Allow, "allow", nil, "`CIDR` of further destinations, real ones; may be given again; may name loopback,\nand then every owner can reach what listens on this machine alone")
	flags.StringVar(&o.SlackSigningSecret, "slack-signing-secret", "", "for trying only: serve Slack's routes too, to requests signed with this `secret`, as\nscripts/slack signs them; what Slack would be sent is logged and goes nowhere")
	return command
}
