package image

import (
	"bytes"
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// verify asks the registry for everything that a task would: the index by tag and
// by digest, each platform's manifest, and whether its blobs are there.
func (r Registry) verify(ctx context.Context, repository name.Repository, index v1.ImageIndex, want Summary) error {
	puller, err := remote.NewPuller(r.options(ctx)...)
	if err != nil {
		return err
	}
	digest := want.Digest
	for _, reference := range []name.Reference{repository.Tag(tag(digest)), repository.Digest(digest.String())} {
		if err := wantManifest(ctx, puller, reference, digest); err != nil {
			return err
		}
	}
	for _, image := range want.Images {
		if err := wantManifest(ctx, puller, repository.Digest(image.Digest.String()), image.Digest); err != nil {
			return fmt.Errorf("%s: %w", image.Platform, err)
		}
		local, err := index.Image(image.Digest)
		if err != nil {
			return err
		}
		if err := wantBlobs(ctx, puller, repository, local); err != nil {
			return fmt.Errorf("%s: %w", image.Platform, err)
		}
	}
	return nil
}

// wantManifest reads the manifest itself; its digest is that of what was read.
func wantManifest(ctx context.Context, puller *remote.Puller, reference name.Reference, want v1.Hash) error {
	got, err := puller.Get(ctx, reference)
	if err != nil {
		return err
	}
	read, _, err := v1.SHA256(bytes.NewReader(got.Manifest))
	if err != nil {
		return err
	}
	if read != want {
		return fmt.Errorf("%s is %s there, and %s here; push again", reference.Identifier(), read, want)
	}
	return nil
}

func wantBlobs(ctx context.Context, puller *remote.Puller, repository name.Repository, image v1.Image) error {
	manifest, err := image.Manifest()
	if err != nil {
		return err
	}
	for _, blob := range append([]v1.Descriptor{manifest.Config}, manifest.Layers...) {
		layer, err := puller.Layer(ctx, repository.Digest(blob.Digest.String()))
		if err != nil {
			return err
		}
		there, err := partial.Exists(layer)
		if err != nil {
			return fmt.Errorf("ask for %s: %w", blob.Digest, err)
		}
		if !there {
			return fmt.Errorf("the registry has lost %s; delete the image there and push again", blob.Digest)
		}
	}
	return nil
}
