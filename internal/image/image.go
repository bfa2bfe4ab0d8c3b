package image

import (
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// What the image says of itself. The port is bastiond's default; the user is
// nobody's in particular, and is a number because there is no passwd to look a
// name up in.
const (
	user     = "65532:65532"
	port     = "2222/tcp"
	homepage = "https://github.com/bastion-on-demand/bastion"
	license  = "Apache-2.0"
)

// Platforms are what the index holds, in its order.
var Platforms = []v1.Platform{
	{OS: "linux", Architecture: "amd64"},
	{OS: "linux", Architecture: "arm64"},
}

// assemble makes the index. program answers the executable for a platform.
func assemble(revision string, program func(v1.Platform) ([]byte, error)) (v1.ImageIndex, error) {
	roots, err := certificates()
	if err != nil {
		return nil, err
	}
	labels := labels(revision)
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range Platforms {
		executable, err := program(platform)
		if err != nil {
			return nil, err
		}
		layer, err := newLayer([]file{{programPath, 0o555, executable}, {certificatesPath, 0o444, roots}})
		if err != nil {
			return nil, err
		}
		image, err := newImage(platform, labels, layer)
		if err != nil {
			return nil, fmt.Errorf("make the image for %s: %w", platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	annotated, ok := mutate.Annotations(index, labels).(v1.ImageIndex)
	if !ok {
		return nil, fmt.Errorf("annotate the index: it is none any more")
	}
	return annotated, nil
}

func newImage(platform v1.Platform, labels map[string]string, layer v1.Layer) (v1.Image, error) {
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	described, err := mutate.ConfigFile(base, &v1.ConfigFile{
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
	made := v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "bastiond and CA certificates"}
	return mutate.Append(described, mutate.Addendum{Layer: layer, History: made})
}

// labels has no revision where it is not known.
func labels(revision string) map[string]string {
	all := map[string]string{
		"org.opencontainers.image.title":    "bastiond",
		"org.opencontainers.image.source":   homepage,
		"org.opencontainers.image.licenses": license,
	}
	if revision != "" {
		all["org.opencontainers.image.revision"] = revision
	}
	return all
}
