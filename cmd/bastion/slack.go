package main

import (
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/bastion-on-demand/bastion/internal/localmode"
	"github.com/bastion-on-demand/bastion/internal/slack"
)

// slackCommand is "bastion slack".
func slackCommand() *cobra.Command {
	command := &cobra.Command{Use: "slack", Short: "Set up the Slack app", Args: cobra.NoArgs}
	command.AddCommand(manifestCommand())
	return command
}

func manifestCommand() *cobra.Command {
	var url string
	command := &cobra.Command{
		Use:   "manifest --url URL",
		Short: "Print the manifest that the Slack app is made from",
		Long: `Print, as YAML, the manifest that Slack makes the app from (api.slack.com/apps,
"Create New App", "From a manifest"). The URL is the stack's output Url.
SLACK.md leads through it.`,
		Example: `  bastion slack manifest --url https://….execute-api.eu-west-1.amazonaws.com/bastions > slack/manifest.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			manifest, err := slack.Manifest(url)
			if err != nil {
				return err
			}
			text, err := yaml.Marshal(manifest)
			if err != nil {
				return &localmode.FailedError{Err: err}
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	command.Flags().StringVar(&url, "url", "", "where the service is, as `https://HOST/bastions`")
	_ = command.MarkFlagRequired("url") // there is a flag of that name
	return command
}
