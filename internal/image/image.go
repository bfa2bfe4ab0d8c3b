// Package image builds bastiond's container image without a container engine, and
// pushes it.
//
// The image is an OCI index with one image for each of [Platforms]. Each image has one
// layer with one file, the program: there is no shell and no package in it, so nothing
// but bastiond can run in the task, and only bastiond and its modules need updates. The
// roots of the public CAs are compiled into the program.
//
// The same source, modules and Go release give the same digest on every machine: times
// are fixed, and the compiler leaves out paths. So a digest in a task definition can be
// checked with another build.
//
// Layers are compressed with zstd, which unpacks faster than gzip while a person waits
// for the task. ECR stores it, and Fargate reads it since platform version 1.4
// ("Reducing AWS Fargate Startup Times with zstd Compressed Container Images", AWS
// Containers Blog).
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The image's configuration. The user is a number, because the image has no passwd
// file to look up a name in. The port is bastiond's default.
const (
	programPath = "bastiond"
	user        = "65532:65532"
	port        = "2222/tcp"
	homepage    = "https://github.com/bastion-on-demand/bastion"
	license     = "Apache-2.0"
)

// zstdLevel is the library's best compression.
const zstdLevel = 19

// epoch is the time of everything in the image.
var epoch = time.Unix(0, 0).UTC()

// Platforms are the platforms of the index, in its order.
var Platforms = []v1.Platform{
	{OS: "linux", Architecture: "amd64"},
	{OS: "linux", Architecture: "arm64"},
}

// Source is the program to build.
type Source struct {
	Module   string // the folder of go.mod
	Package  string // the main package, such as "./cmd/bastiond"
	Revision string // the commit, for the labels; empty if unknown
}

// Build compiles the program for all [Platforms] with the go command, and returns an
// index of the images.
func Build(ctx context.Context, source Source, progress Progress) (v1.ImageIndex, error) {
	folder, err := os.MkdirTemp("", "bastion-image-")
	if err != nil {
		return nil, fmt.Errorf("create a folder for the programs: %w", err)
	}
	defer os.RemoveAll(folder)
	return assemble(source.Revision, func(platform v1.Platform) (program []byte, err error) {
		err = progress.Step("compile "+source.Package+" for "+platform.String(), nil, func() error {
			program, err = source.compile(ctx, platform, filepath.Join(folder, platform.Architecture))
			return err
		})
		return program, err
	})
}

// compile returns the program. It contains nothing of this machine: no paths
// (trimpath), no state of the checkout (buildvcs), no build ID.
func (s Source) compile(ctx context.Context, platform v1.Platform, output string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", output, s.Package)
	cmd.Dir = s.Module
	cmd.Env = append(os.Environ(),
		"GOOS="+platform.OS, "GOARCH="+platform.Architecture,
		// These change the result, and may be set in the environment.
		"CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOAMD64=v1", "GOARM64=v8.0",
		"GOFIPS140=off", "GOEXPERIMENT=", "GOWORK=off",
	)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	// The go command stops its compilers when it is interrupted.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("compile %s for %s: %w", s.Package, platform, ctx.Err())
		}
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("compile %s: %w; install Go from https://go.dev/dl", s.Package, err)
		}
		return nil, fmt.Errorf("compile %s for %s: %w\n%s", s.Package, platform, err, strings.TrimSpace(stderr.String()))
	}
	return os.ReadFile(output)
}

// assemble returns the index of the programs that compile returns for each platform.
func assemble(revision string, compile func(v1.Platform) ([]byte, error)) (v1.ImageIndex, error) {
	labels := map[string]string{
		"org.opencontainers.image.title":    "bastiond",
		"org.opencontainers.image.source":   homepage,
		"org.opencontainers.image.licenses": license,
	}
	if revision != "" {
		labels["org.opencontainers.image.revision"] = revision
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range Platforms {
		program, err := compile(platform)
		if err != nil {
			return nil, err
		}
		image, err := newImage(platform, labels, program)
		if err != nil {
			return nil, fmt.Errorf("build the image for %s: %w", platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	return mutate.Annotations(index, labels).(v1.ImageIndex), nil // which it is for an index
}

func newImage(platform v1.Platform, labels map[string]string, program []byte) (v1.Image, error) {
	layer, err := newLayer(program)
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	base, err = mutate.ConfigFile(base, &v1.ConfigFile{
		Created:      v1.Time{Time: epoch},
		OS:           platform.OS,
		Architecture: platform.Architecture,
		RootFS:       v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User:         user,
			Entrypoint:   []string{"/" + programPath},
			WorkingDir:   "/",
			ExposedPorts: map[string]struct{}{port: {}},
			Labels:       labels,
		},
	})
	if err != nil {
		return nil, err
	}
	history := v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "bastiond"}
	return mutate.Append(base, mutate.Addendum{Layer: layer, History: history})
}

// newLayer returns a layer whose only file is the program, which no user can change.
func newLayer(program []byte) (v1.Layer, error) {
	var packed bytes.Buffer
	out := tar.NewWriter(&packed)
	header := tar.Header{Typeflag: tar.TypeReg, Name: programPath, Mode: 0o555, Size: int64(len(program)), ModTime: epoch, Format: tar.FormatUSTAR}
	if err := out.WriteHeader(&header); err != nil {
		return nil, err
	}
	if _, err := out.Write(program); err != nil {
		return nil, err
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithCompression(compression.ZStd), tarball.WithCompressionLevel(zstdLevel),
		tarball.WithMediaType(types.OCILayerZStd), tarball.WithCompressedCaching)
}
