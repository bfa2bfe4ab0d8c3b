package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// Write writes the index into a folder as an OCI image layout, and replaces a layout
// that is there. A folder with other content is an error, and stays as it is.
func Write(folder string, index v1.ImageIndex) error {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", folder, err)
	}
	if _, err := os.Stat(filepath.Join(folder, "oci-layout")); err != nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty and has no image in it; use another folder, or empty it", folder)
	}
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("remove the previous image: %w", err)
	}
	// index.json comes last, so an interrupted write leaves no image that can be read.
	if _, err := layout.Write(folder, index); err != nil {
		return fmt.Errorf("write the image into %s: %w", folder, err)
	}
	return nil
}

// Read returns the index in a folder that [Write] wrote.
func Read(folder string) (v1.ImageIndex, error) {
	index, err := layout.ImageIndexFromPath(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no image in %s; run make image", folder)
	}
	if err != nil {
		return nil, fmt.Errorf("read the image in %s: %w", folder, err)
	}
	return index, nil
}

// Summary describes one image of an index.
type Summary struct {
	Platform string // such as "linux/arm64"
	Digest   v1.Hash
	Size     int64 // bytes to download: layer and configuration, compressed
}

// Summarize returns the digest of an index and the summaries of its images, in its
// order.
func Summarize(index v1.ImageIndex) (digest v1.Hash, images []Summary, err error) {
	digest, err = index.Digest()
	if err != nil {
		return v1.Hash{}, nil, fmt.Errorf("read the index: %w", err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		return v1.Hash{}, nil, fmt.Errorf("read the index: %w", err)
	}
	for _, listed := range list.Manifests {
		image, err := index.Image(listed.Digest)
		if err != nil {
			return v1.Hash{}, nil, fmt.Errorf("read the image %s: %w", listed.Digest, err)
		}
		manifest, err := image.Manifest()
		if err != nil {
			return v1.Hash{}, nil, fmt.Errorf("read the image %s: %w", listed.Digest, err)
		}
		size := manifest.Config.Size
		for _, layer := range manifest.Layers {
			size += layer.Size
		}
		images = append(images, Summary{Platform: listed.Platform.String(), Digest: listed.Digest, Size: size})
	}
	return digest, images, nil
}
