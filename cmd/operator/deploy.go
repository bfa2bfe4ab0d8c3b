package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/bastion-on-demand/bastion/internal/deploy"
	"github.com/bastion-on-demand/bastion/internal/image"
)

func deployCommand() *cobra.Command {
	var s deploy.Settings
	var parameters, tags, revision string
	cmd := &cobra.Command{
		Use:   "deploy",
		Short: "Deploy the service to AWS",
		Long: `Check the account and the network, deploy the registry, compile the functions, build,
push and verify the image, upload the functions, deploy the service, send it a request,
and try a bastion: request it, connect to it, and close it. It is safe to repeat. Run it
in the folder of the source, with AWS credentials in the environment. If the service
authenticates callers by tokens, the test request uses the one in BASTION_TOKEN.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			var wrongParameters, wrongTags error
			s.Parameters, wrongParameters = deploy.ParseParameters(parameters)
			s.Tags, wrongTags = deploy.ParseTags(tags)
			if err := errors.Join(wrongParameters, wrongTags, s.Validate()); err != nil {
				return err
			}
			s.Token = os.Getenv("BASTION_TOKEN")
			d, err := deployment(cmd.Context(), s, revision, cmd.OutOrStdout())
			if err != nil {
				return failed(err)
			}
			return failed(d.Deploy(cmd.Context()))
		},
	}
	flags(cmd, &s)
	cmd.Flags().StringVar(&s.VPC, "vpc", "", "the `ID` of the VPC that people want to reach")
	cmd.Flags().StringSliceVar(&s.Subnets, "subnets", nil, "the `IDS` of its subnets for bastions, separated by commas")
	cmd.Flags().StringVar(&parameters, "parameters", "", "more `PARAMETERS` of template.yaml, as \"Name=value Name=value\"")
	cmd.Flags().StringVar(&tags, "tags", "", "the `TAGS` of both stacks and their resources, as \"Key=Value Key=Value\"; if empty, the stacks keep theirs")
	cmd.Flags().BoolVar(&s.SkipTrial, "skip-trial", false, "do not try a bastion at the end")
	cmd.Flags().StringVar(&revision, "revision", "", "the `COMMIT` of the source, for the image's label")
	return cmd
}

func undeployCommand() *cobra.Command {
	var s deploy.Settings
	cmd := &cobra.Command{
		Use:   "undeploy",
		Short: "Remove the service from AWS",
		Long: `Refuse POST requests, close all bastions and wait until they are gone, check that
nothing else refers to the member group, delete the stacks, and list what is kept. It
is safe to repeat.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.ValidateStack(); err != nil {
				return err
			}
			d, err := deployment(cmd.Context(), s, "", cmd.OutOrStdout())
			if err != nil {
				return failed(err)
			}
			return failed(d.Undeploy(cmd.Context()))
		},
	}
	flags(cmd, &s)
	cmd.Flags().BoolVar(&s.Purge, "purge", false, "also delete the tables, the repository and the bucket, which are kept otherwise")
	return cmd
}

func flags(cmd *cobra.Command, s *deploy.Settings) {
	cmd.Flags().StringVar(&s.Stack, "stack", "", "the `NAME` of the service's stack")
	cmd.Flags().StringVar(&s.Region, "region", "", "the AWS `REGION`, if not the configured one")
	cmd.Flags().StringVar(&s.Module, "module", ".", "the `FOLDER` of the source")
	cmd.Flags().BoolVar(&s.DryRun, "dry-run", false, "print every step, without any call or change")
}

func deployment(ctx context.Context, s deploy.Settings, revision string, out io.Writer) (*deploy.Deployment, error) {
	cloud, err := deploy.Connect(ctx, s.Region, nil)
	if err != nil {
		return nil, err
	}
	progress := image.Progress{W: out}
	return &deploy.Deployment{
		Settings: s,
		Cloud:    cloud,
		Images:   images{image.Source{Module: s.Module, Package: "./cmd/bastiond", Revision: revision}, progress},
		Runner:   deploy.Processes{Folder: s.Module, Out: out},
		HTTP:     http.DefaultClient,
		Dial:     new(net.Dialer).DialContext,
		LookPath: exec.LookPath,
		Now:      time.Now,
		Progress: progress,
	}, nil
}

// images builds and pushes with the same folder as the commands image and push.
type images struct {
	source   image.Source
	progress image.Progress
}

func (i images) Build(ctx context.Context) (string, error) {
	index, err := image.Build(ctx, i.source, i.progress)
	if err != nil {
		return "", err
	}
	if err := image.Write(defaultFolder, index); err != nil {
		return "", err
	}
	digest, err := index.Digest()
	if err != nil {
		return "", fmt.Errorf("read the image: %w", err)
	}
	return digest.String(), nil
}

func (i images) Push(ctx context.Context, repository string) (string, error) {
	index, err := image.Read(defaultFolder)
	if err != nil {
		return "", err
	}
	return image.Registry{Repository: repository, Keychain: image.NewKeychain()}.Push(ctx, index, i.progress)
}

// interruptible returns a context that the first SIGINT or SIGTERM ends, so that the command
// can clean up. The second signal ends the process.
func interruptible() (context.Context, context.CancelFunc) {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, cancel)
	return ctx, cancel
}
