package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// Write puts the index into a folder as an OCI image layout, in place of the
// layout that is there. What is there and is no layout stays, and is an error.
func Write(folder string, index v1.ImageIndex) error {
	if err := replaceable(folder); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(folder), filepath.Base(folder)+"-")
	if err != nil {
		return fmt.Errorf("make a folder beside %s: %w", folder, err)
	}
	defer os.RemoveAll(fresh)
	if err := os.Chmod(fresh, 0o755); err != nil {
		return fmt.Errorf("open up %s: %w", fresh, err)
	}
	in, err := layout.Write(fresh, empty.Index)
	if err != nil {
		return fmt.Errorf("write the layout %s: %w", fresh, err)
	}
	if err := in.AppendIndex(index); err != nil {
		return fmt.Errorf("write the image into %s: %w", fresh, err)
	}
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("remove the layout that was there: %w", err)
	}
	if err := os.Rename(fresh, folder); err != nil {
		return fmt.Errorf("put the layout in place: %w", err)
	}
	return nil
}

func replaceable(folder string) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look into %s: %w", folder, err)
	}
	if _, err := os.Stat(filepath.Join(folder, "oci-layout")); err != nil {
		return fmt.Errorf("%s holds something that is no image; name another folder, or empty it", folder)
	}
	return nil
}

// Read answers the index that a folder holds.
func Read(folder string) (v1.ImageIndex, error) {
	root, err := layout.ImageIndexFromPath(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: there is no image; make image makes one", folder)
	}
	if err != nil {
		return nil, fmt.Errorf("read the layout %s: %w", folder, err)
	}
	list, err := root.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("read the layout %s: %w", folder, err)
	}
	if len(list.Manifests) != 1 || !list.Manifests[0].MediaType.IsIndex() {
		return nil, fmt.Errorf("%s does not hold one index, as make image writes it", folder)
	}
	index, err := root.ImageIndex(list.Manifests[0].Digest)
	if err != nil {
		return nil, fmt.Errorf("read the index in %s: %w", folder, err)
	}
	return index, nil
}
