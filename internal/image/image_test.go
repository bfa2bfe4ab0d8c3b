package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func TestCompilerOutputIsInTheError(t *testing.T) {
	module := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":  "module example.com/broken\n\ngo 1.26\n",
		"main.go": "package main\n\nfunc main() { oops\n",
	} {
		if err := os.WriteFile(filepath.Join(module, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var printed strings.Builder
	_, err := Build(t.Context(), Source{Module: module, Package: "."}, Progress{W: &printed})
	if err == nil || !strings.Contains(err.Error(), "./main.go:") || !strings.Contains(err.Error(), "compile . for linux/amd64") {
		t.Errorf("%v", err)
	}
	if !strings.Contains(printed.String(), "compile . for linux/amd64\n") {
		t.Errorf("%s", printed.String())
	}
}

func TestBuildCanBeInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Build(ctx, Source{Module: t.TempDir(), Package: "."}, quiet); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestBuildWithoutGoSaysWhereToGetIt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Build(t.Context(), Source{Module: t.TempDir(), Package: "."}, quiet)
	if err == nil || !strings.Contains(err.Error(), "install Go") {
		t.Errorf("%v", err)
	}
}

// The library compresses with as many goroutines as there are processors, and the
// digest must be the same on every machine. The program is larger than several of the
// compressor's blocks, and compresses to about a half.
func TestDigestDoesNotDependOnTheMachine(t *testing.T) {
	program := make([]byte, 600_000)
	source := rand.New(rand.NewPCG(1, 2))
	for i := range program {
		program[i] = byte(source.Uint32() & 0x1f)
	}
	digests := map[v1.Hash]bool{}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, processors := range []int{1, 2, 7} {
		runtime.GOMAXPROCS(processors)
		layer, err := newLayer(program)
		if err != nil {
			t.Fatal(err)
		}
		digest, err := layer.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests[digest] = true
	}
	if len(digests) != 1 {
		t.Errorf("the digests differ: %v", digests)
	}
}

func TestSameProgramsGiveTheSameIndex(t *testing.T) {
	again, err := assembleFake()
	if err != nil {
		t.Fatal(err)
	}
	if one, other := summarize(t, fake(t)), summarize(t, again); !reflect.DeepEqual(one, other) {
		t.Errorf("%+v\n%+v", one, other)
	}
}

// The layer has no other file, so there is no shell and no library in the image.
func TestLayerHasOnlyTheProgram(t *testing.T) {
	for i, image := range images(t, fake(t)) {
		layers, err := image.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%d layers, %v", len(layers), err)
		}
		files := 0
		read(t, layers[0], func(header *tar.Header, data []byte) {
			files++
			if got := header.Name + " " + header.FileInfo().Mode().String(); got != "bastiond -r-xr-xr-x" {
				t.Errorf("the layer has %s", got)
			}
			if header.Uid != 0 || header.Gid != 0 || !header.ModTime.Equal(epoch) {
				t.Errorf("the file's user is %d, its group %d and its time %s", header.Uid, header.Gid, header.ModTime)
			}
			if string(data) != "a program for "+Platforms[i].String() {
				t.Errorf("the program is %q", data)
			}
		})
		if kind, err := layers[0].MediaType(); err != nil || kind != types.OCILayerZStd || files != 1 {
			t.Errorf("%d files, %s, %v", files, kind, err)
		}
	}
}

// read unpacks a layer, and calls each for every file.
func read(t *testing.T, layer v1.Layer, each func(*tar.Header, []byte)) {
	t.Helper()
	packed, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	for in := tar.NewReader(packed); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		each(header, bytes.Clone(data))
	}
}

func TestConfigurationRunsTheProgramAsAnOrdinaryUser(t *testing.T) {
	for i, image := range images(t, fake(t)) {
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		want := v1.Config{
			User: "65532:65532", Entrypoint: []string{"/bastiond"}, WorkingDir: "/",
			ExposedPorts: map[string]struct{}{"2222/tcp": {}},
			Labels: map[string]string{
				"org.opencontainers.image.title":    "bastiond",
				"org.opencontainers.image.source":   "https://github.com/bastion-on-demand/bastion",
				"org.opencontainers.image.licenses": "Apache-2.0",
				"org.opencontainers.image.revision": "0123abc",
			},
		}
		if !reflect.DeepEqual(config.Config, want) {
			t.Errorf("%+v\nwant %+v", config.Config, want)
		}
		if !config.Platform().Equals(Platforms[i]) || !config.Created.Equal(epoch) || len(config.History) != 1 {
			t.Errorf("%+v", config)
		}
	}
}

func TestUnknownRevisionIsNotInTheLabels(t *testing.T) {
	index, err := assemble("", func(v1.Platform) ([]byte, error) { return []byte("a program"), nil })
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if _, named := list.Annotations["org.opencontainers.image.revision"]; err != nil || named {
		t.Errorf("%v, %v", list.Annotations, err)
	}
}

func TestIndexIsOCIThroughout(t *testing.T) {
	index := fake(t)
	wantConsistent(t, index)
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if list.MediaType != types.OCIImageIndex || len(list.Manifests) != len(Platforms) || list.Annotations["org.opencontainers.image.revision"] != "0123abc" {
		t.Errorf("%+v", list)
	}
	for i, one := range list.Manifests {
		if one.MediaType != types.OCIManifestSchema1 || !one.Platform.Equals(Platforms[i]) {
			t.Errorf("%+v", one)
		}
	}
	for _, image := range images(t, index) {
		manifest, err := image.Manifest()
		if err != nil || manifest.MediaType != types.OCIManifestSchema1 || manifest.Config.MediaType != types.OCIConfigJSON {
			t.Errorf("%+v, %v", manifest, err)
		}
	}
}

// wantConsistent compares every layer with its digests. The library's own validation
// reads gzip only.
func wantConsistent(t *testing.T, index v1.ImageIndex) {
	t.Helper()
	for _, image := range images(t, index) {
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		layers, err := image.Layers()
		if err != nil || len(layers) != len(config.RootFS.DiffIDs) {
			t.Fatalf("%d layers, %d diff IDs, %v", len(layers), len(config.RootFS.DiffIDs), err)
		}
		for i, layer := range layers {
			digest, err := layer.Digest()
			if err != nil {
				t.Fatal(err)
			}
			wantDigest(t, layer.Compressed, digest)
			wantDigest(t, layer.Uncompressed, config.RootFS.DiffIDs[i])
		}
	}
}

func wantDigest(t *testing.T, open func() (io.ReadCloser, error), want v1.Hash) {
	t.Helper()
	data, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	if got, _, err := v1.SHA256(data); err != nil || got != want {
		t.Errorf("the digest is %s, want %s (%v)", got, want, err)
	}
}
