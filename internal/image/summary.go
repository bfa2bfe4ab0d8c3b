package image

import (
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Summary is what a person wants to know of an index.
type Summary struct {
	Digest v1.Hash
	Images []ImageSummary // in the order of the index
}

// ImageSummary is the image for one platform.
type ImageSummary struct {
	Platform string // as "linux/arm64"
	Digest   v1.Hash
	Size     int64 // bytes to download: layer and configuration, compressed
}

// Summarize reads an index.
func Summarize(index v1.ImageIndex) (Summary, error) {
	digest, err := index.Digest()
	if err != nil {
		return Summary{}, fmt.Errorf("find the index's digest: %w", err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		return Summary{}, fmt.Errorf("read the index: %w", err)
	}
	all := Summary{Digest: digest}
	for _, listed := range list.Manifests {
		if listed.Platform == nil {
			return Summary{}, fmt.Errorf("the index does not say what platform %s is for", listed.Digest)
		}
		image, err := index.Image(listed.Digest)
		if err != nil {
			return Summary{}, fmt.Errorf("read the image %s: %w", listed.Digest, err)
		}
		manifest, err := image.Manifest()
		if err != nil {
			return Summary{}, fmt.Errorf("read the image %s: %w", listed.Digest, err)
		}
		size := manifest.Config.Size
		for _, layer := range manifest.Layers {
			size += layer.Size
		}
		all.Images = append(all.Images, ImageSummary{Platform: listed.Platform.String(), Digest: listed.Digest, Size: size})
	}
	return all, nil
}
