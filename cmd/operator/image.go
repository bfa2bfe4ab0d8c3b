package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/bastion-on-demand/bastion/internal/image"
)

const defaultFolder = ".image"

func imageCommand() *cobra.Command {
	var source image.Source
	var folder string
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Build bastiond's image into a folder",
		Long: `Build bastiond's image for linux/amd64 and linux/arm64, and write it to a folder
as an OCI image layout. This needs the go command, but no Docker. The same source
and the same Go release give the same digest.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return failed(makeImage(cmd.Context(), source, folder, cmd.OutOrStdout(), cmd.ErrOrStderr()))
		},
	}
	cmd.Flags().StringVar(&source.Module, "module", ".", "the `FOLDER` of the source, with go.mod")
	cmd.Flags().StringVar(&source.Package, "package", "./cmd/bastiond", "the `PACKAGE` of bastiond")
	cmd.Flags().StringVar(&source.Revision, "revision", "", "the `COMMIT` of the source, for the image's label")
	cmd.Flags().StringVar(&folder, "output", defaultFolder, "the `FOLDER` to write to; an image in it is replaced")
	return cmd
}

func makeImage(ctx context.Context, source image.Source, folder string, out, progress io.Writer) error {
	index, err := image.Build(ctx, source, image.Progress{W: progress})
	if err != nil {
		return err
	}
	if err := image.Write(folder, index); err != nil {
		return err
	}
	digest, images, err := image.Summarize(index)
	if err != nil {
		return err
	}
	return printSummary(out, digest, images)
}

func printSummary(out io.Writer, digest v1.Hash, images []image.Summary) error {
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(table, "index\t%s\n", digest)
	for _, one := range images {
		fmt.Fprintf(table, "%s\t%s\t%.2f MB compressed\n", one.Platform, one.Digest, float64(one.Size)/1e6)
	}
	return table.Flush()
}

func pushCommand() *cobra.Command {
	var folder string
	cmd := &cobra.Command{
		Use:   "push REPOSITORY",
		Short: "Push the image to a registry",
		Long: `Push the image to a repository, such as
111122223333.dkr.ecr.eu-west-1.amazonaws.com/bastiond, verify it, and print its name
by digest. ECR uses your AWS credentials, and another registry those of docker login.
It is safe to repeat: what the registry has already is not sent again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return failed(push(cmd.Context(), folder, args[0], cmd.OutOrStdout(), cmd.ErrOrStderr()))
		},
	}
	cmd.Flags().StringVar(&folder, "image", defaultFolder, "the `FOLDER` of the image")
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

// failure is an error of a command that was called correctly.
type failure struct{ error }

func failed(err error) error {
	if err == nil {
		return nil
	}
	return &failure{err}
}

func (f *failure) Unwrap() error { return f.error }
