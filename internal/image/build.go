package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Source says what to build.
type Source struct {
	Module   string // the folder of go.mod
	Package  string // the main package, such as "./cmd/bastiond"
	Revision string // of the source, for the labels; empty if not known
}

// Build compiles the program for all [Platforms] with the go command, and makes
// the index of it.
func Build(ctx context.Context, source Source, progress Progress) (v1.ImageIndex, error) {
	folder, err := os.MkdirTemp("", "bastion-image-")
	if err != nil {
		return nil, fmt.Errorf("make a folder to compile into: %w", err)
	}
	defer os.RemoveAll(folder)
	return assemble(source.Revision, func(platform v1.Platform) (executable []byte, err error) {
		err = progress.Step("compile "+source.Package+" for "+platform.String(), nil, func() error {
			executable, err = source.compile(ctx, platform, filepath.Join(folder, platform.Architecture))
			return err
		})
		return executable, err
	})
}

// compile answers the executable. Nothing of this machine gets into it: no paths
// (trimpath), no state of the checkout (buildvcs), no ids of the build.
func (s Source) compile(ctx context.Context, platform v1.Platform, into string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", into, s.Package)
	cmd.Dir = s.Module
	cmd.Env = append(os.Environ(),
		"GOOS="+platform.OS, "GOARCH="+platform.Architecture,
		// Whoever builds may have set these for themselves, and they change the result.
		"CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOAMD64=v1", "GOARM64=v8.0",
		"GOFIPS140=off", "GOEXPERIMENT=", "GOWORK=off",
	)
	var said bytes.Buffer
	cmd.Stderr = &said
	// The go command ends its compilers when it is interrupted.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("compile %s for %s: %w", s.Package, platform, ctx.Err())
		}
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("compile %s: %w; install Go from https://go.dev/dl", s.Package, err)
		}
		return nil, fmt.Errorf("compile %s for %s: %w\n%s", s.Package, platform, err, strings.TrimSpace(said.String()))
	}
	return os.ReadFile(into)
}
