package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

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
as an OCI image layout. It needs the go command, and no Docker. The same source
and the same Go release give the same digest.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return failed(makeImage(cmd.Context(), source, folder, cmd.OutOrStdout(), cmd.ErrOrStderr()))
		},
	}
	cmd.Flags().StringVar(&source.Module, "module", ".", "the `FOLDER` of the source, where go.mod is")
	cmd.Flags().StringVar(&source.Package, "package", "./cmd/bastiond", "the `PACKAGE` of bastiond")
	cmd.Flags().StringVar(&source.Revision, "revision", "", "the source's `COMMIT`, for the image's label")
	cmd.Flags().StringVar(&folder, "output", defaultFolder, "the `FOLDER` to write to; an image there is replaced")
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
	summary, err := image.Summarize(index)
	if err != nil {
		return err
	}
	return printSummary(out, summary)
}

func printSummary(out io.Writer, summary image.Summary) error {
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(table, "index\t%s\n", summary.Digest)
	for _, one := range summary.Images {
		fmt.Fprintf(table, "%s\t%s\t%.2f MB compressed\n", one.Platform, one.Digest, float64(one.Size)/1e6)
	}
	return table.Flush()
}

// failed marks what was not the caller's mistake.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return &failure{err}
}
