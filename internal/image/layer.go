package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// Where things are in the image. The second is the first place that crypto/x509
// looks for CAs on Linux.
const (
	programPath      = "bastiond"
	certificatesPath = "etc/ssl/certs/ca-certificates.crt"
)

// epoch is when everything in the image was made.
var epoch = time.Unix(0, 0).UTC()

// file is one file of the layer; nobody may write to it.
type file struct {
	path string // without a slash at the start
	mode int64
	data []byte
}

// newLayer packs the files, and the folders they need, into a layer. The same
// files give the same bytes, in whatever order they come.
func newLayer(files []file) (v1.Layer, error) {
	packed, err := pack(files)
	if err != nil {
		return nil, err
	}
	compressed, err := compress(packed)
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(compressed)), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayerZStd))
	if err != nil {
		return nil, fmt.Errorf("make the layer: %w", err)
	}
	return layer, nil
}

func pack(files []file) ([]byte, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	var packed bytes.Buffer
	out := tar.NewWriter(&packed)
	made := map[string]bool{".": true}
	for _, f := range files {
		if err := packFolders(out, path.Dir(f.path), made); err != nil {
			return nil, err
		}
		header := tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: f.mode, Size: int64(len(f.data)), ModTime: epoch, Format: tar.FormatUSTAR}
		if err := out.WriteHeader(&header); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.path, err)
		}
		if _, err := out.Write(f.data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.path, err)
		}
	}
	if err := out.Close(); err != nil {
		return nil, fmt.Errorf("pack the layer: %w", err)
	}
	return packed.Bytes(), nil
}

// packFolders writes the folders that are not there yet, the outermost first.
func packFolders(out *tar.Writer, folder string, made map[string]bool) error {
	if made[folder] {
		return nil
	}
	if err := packFolders(out, path.Dir(folder), made); err != nil {
		return err
	}
	made[folder] = true
	header := tar.Header{Typeflag: tar.TypeDir, Name: folder + "/", Mode: 0o755, ModTime: epoch, Format: tar.FormatUSTAR}
	if err := out.WriteHeader(&header); err != nil {
		return fmt.Errorf("pack %s: %w", folder, err)
	}
	return nil
}

// compress does all in one piece: with several writers the result would depend
// on how they took turns.
func compress(data []byte) ([]byte, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("compress the layer: %w", err)
	}
	defer encoder.Close()
	return encoder.EncodeAll(data, nil), nil
}
