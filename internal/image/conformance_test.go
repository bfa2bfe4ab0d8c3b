//go:build conformance

package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxSize is how many bytes a task downloads at most before it starts.
const maxSize = 8_000_000

// repository is the folder of go.mod.
const repository = "../.."

// builtOnce is the image of bastiond as the source is now.
var builtOnce = sync.OnceValues(func() (v1.ImageIndex, error) { return build(repository) })

func build(module string) (v1.ImageIndex, error) {
	return Build(context.Background(), Source{Module: module, Package: "./cmd/bastiond", Revision: "0123abc"}, Progress{W: os.Stderr})
}

func built(t *testing.T) v1.ImageIndex {
	t.Helper()
	index, err := builtOnce()
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func TestTwoBuildsGiveTheSameDigest(t *testing.T) {
	one, other := copySource(t), filepath.Join(t.TempDir(), "else", "where")
	if err := os.CopyFS(other, os.DirFS(one)); err != nil {
		t.Fatal(err)
	}
	var all []Summary
	for _, folder := range []string{one, other} {
		index, err := build(folder)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, summarize(t, index))
	}
	if !reflect.DeepEqual(all[0], all[1]) {
		t.Errorf("one build gives\n%+v\nthe other\n%+v", all[0], all[1])
	}
	t.Logf("%s", all[0].Digest)
}

// The builds above take compiled packages out of one cache. This one compares
// with a build from nothing, standard library and all, for the platform that is
// deployed.
func TestABuildFromNothingGivesTheSameProgram(t *testing.T) {
	source := Source{Module: copySource(t), Package: "./cmd/bastiond"}
	arm64 := v1.Platform{OS: "linux", Architecture: "arm64"}
	var programs [][]byte
	for _, cache := range []string{"", t.TempDir()} {
		if cache != "" {
			t.Setenv("GOCACHE", cache)
		}
		err := Progress{W: os.Stderr}.Step("compile bastiond, cache "+cmp.Or(cache, "as it is"), nil, func() error {
			program, err := source.compile(t.Context(), arm64, filepath.Join(t.TempDir(), "bastiond"))
			programs = append(programs, program)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(programs[0], programs[1]) {
		t.Errorf("the programs differ: %d and %d bytes", len(programs[0]), len(programs[1]))
	}
}

// copySource copies what the go command reads, so that the source stays the same
// when somebody edits it while the test runs.
func copySource(t *testing.T) string {
	t.Helper()
	into := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(repository, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(into, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{"cmd", "internal"} {
		if err := os.CopyFS(filepath.Join(into, folder), os.DirFS(filepath.Join(repository, folder))); err != nil {
			t.Fatal(err)
		}
	}
	return into
}

func TestTheImageIsSmall(t *testing.T) {
	for _, one := range summarize(t, built(t)).Images {
		t.Logf("%s: %s compressed, of at most %s", one.Platform, megabytes(one.Size), megabytes(maxSize))
		if one.Size > maxSize {
			t.Errorf("%s is too large: %d bytes", one.Platform, one.Size)
		}
	}
}

// Each program is for its platform, and needs nothing that is not in the image.
func TestProgramsAreStatic(t *testing.T) {
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for i, image := range images(t, built(t)) {
		layers, err := image.Layers()
		if err != nil {
			t.Fatal(err)
		}
		found := false
		read(t, layers[0], func(header *tar.Header, data []byte) {
			if header.Name != programPath {
				return
			}
			found = true
			program, err := elf.NewFile(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			if program.Machine != machines[Platforms[i].Architecture] {
				t.Errorf("%s: it is for %s", Platforms[i], program.Machine)
			}
			for _, segment := range program.Progs {
				if segment.Type == elf.PT_INTERP || segment.Type == elf.PT_DYNAMIC {
					t.Errorf("%s: it is linked dynamically", Platforms[i])
				}
			}
		})
		if !found {
			t.Errorf("%s: there is no program", Platforms[i])
		}
	}
}

// On no platform is there anything to execute but the program.
func TestTheImageHoldsNoShell(t *testing.T) {
	for i, image := range images(t, built(t)) {
		layers, err := image.Layers()
		if err != nil {
			t.Fatal(err)
		}
		var executable []string
		for _, layer := range layers {
			read(t, layer, func(header *tar.Header, _ []byte) {
				mode := header.FileInfo().Mode()
				if !mode.IsDir() && (mode&0o111 != 0 || !mode.IsRegular()) {
					executable = append(executable, header.Name)
				}
			})
		}
		if !slices.Equal(executable, []string{"bastiond"}) {
			t.Errorf("%s: %q can be executed", Platforms[i], executable)
		}
	}
}

func TestBastiondIsPushedAndPulledWhole(t *testing.T) {
	r := newRig(t)
	reference, err := r.registry.Push(t.Context(), built(t), quiet)
	if err != nil {
		t.Fatal(err)
	}
	pulled := r.pull(t, reference)
	wantSound(t, pulled)
	if got, want := summarize(t, pulled), summarize(t, built(t)); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

// here is the image for this machine.
func here(t *testing.T, index v1.ImageIndex) v1.Image {
	t.Helper()
	for i, image := range images(t, index) {
		if Platforms[i].Architecture == runtime.GOARCH {
			return image
		}
	}
	t.Fatalf("there is no image for %s", runtime.GOARCH)
	return nil
}

// extract unpacks an image, as a container engine would.
func extract(t *testing.T, image v1.Image) string {
	t.Helper()
	root := t.TempDir()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	read(t, layers[0], func(header *tar.Header, data []byte) {
		path := filepath.Join(root, header.Name)
		mode := header.FileInfo().Mode().Perm()
		if header.Typeflag == tar.TypeDir {
			err = os.Mkdir(path, mode)
		} else {
			err = os.WriteFile(path, data, mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	return root
}
