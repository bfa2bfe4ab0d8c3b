package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/bastion-on-demand/bastion/internal/image"
)

func pushCommand() *cobra.Command {
	var folder string
	cmd := &cobra.Command{
		Use:   "push REPOSITORY",
		Short: "Push the image to a registry",
		Long: `Push the image to a repository, such as
111122223333.dkr.ecr.eu-west-1.amazonaws.com/bastiond, check that all of it is
there, and print its name by digest. At ECR you are whoever your AWS credentials
say; at another registry, whoever signed in with docker login or the like. It is
safe to repeat: what is there is not sent again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return failed(push(cmd.Context(), folder, args[0], cmd.OutOrStdout(), cmd.ErrOrStderr()))
		},
	}
	cmd.Flags().StringVar(&folder, "image", defaultFolder, "the `FOLDER` that holds the image")
	return cmd
}

func push(ctx context.Context, folder, repository string, out, progress io.Writer) error {
	index, err := image.Read(folder)
	if err != nil {
		return err
	}
	registry := image.Registry{Repository: repository, Keychain: image.NewKeychain()}
	reference, err := registry.Push(ctx, index, image.Progress{W: progress})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, reference)
	return err
}
