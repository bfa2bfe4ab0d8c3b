package main

import (
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/bastion-on-demand/bastion/internal/localmode"
	"github.com/bastion-on-demand/bastion/internal/slack"
)

// slackCommand returns the command "bastion slack".
func slackCommand() *cobra.Command {
	command := &cobra.Command{Use: "slack", Short: "Set up the Slack app", Args: cobra.NoArgs}
	command.AddCommand(manifestCommand())
	return command
}

func manifestCommand() *cobra.Command {
	var url string
	command := &cobra.Command{
		Use:   "manifest --url URL",
		Short: "Print the manifest of the Slack app",
		Long: `Print the manifest of the Slack app as YAML, for api.slack.com/apps, "Create New
App", "From a manifest". The URL is the output Url of the stack. SLACK.md has all
steps.`,
		Example: `  bastion slack manifest --url https://….execute-api.eu-west-1.amazonaws.com/bastions`,
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
	command.Flags().StringVar(&url, "url", "", "URL of the service: `https://HOST/bastions`")
	_ = command.MarkFlagRequired("url") // fails only for an unknown flag
	return command
}
