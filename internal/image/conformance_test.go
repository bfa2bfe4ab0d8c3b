//go:build conformance

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxSize limits the bytes that a task downloads before it starts.
const maxSize = 8_000_000

// repository is the folder of go.mod.
const repository = "../.."

// builtOnce is the image of the current source.
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

func TestTwoBuildsHaveTheSameDigest(t *testing.T) {
	one, other := copySource(t), filepath.Join(t.TempDir(), "another", "folder")
	if err := os.CopyFS(other, os.DirFS(one)); err != nil {
		t.Fatal(err)
	}
	var all []summary
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

// The builds above share a cache of compiled packages. Here the second build compiles each
// package of this module again, because a comment at the end of each file changes the key of
// the cache and not the program.
func TestCompilingAgainGivesTheSameProgram(t *testing.T) {
	source := Source{Module: copySource(t), Package: "./cmd/bastiond"}
	first := compileForTask(t, source)
	for _, folder := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(source.Module, folder), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, append(text, "\n// "+source.Module+"\n"...), 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if second := compileForTask(t, source); !bytes.Equal(first, second) {
		t.Errorf("the programs differ: %d and %d bytes", len(first), len(second))
	}
}

// This build without any cache also compiles the standard library again. Its program is small,
// because bastiond would take two minutes of a processor.
func TestBuildWithoutCacheGivesTheSameProgram(t *testing.T) {
	source := Source{Module: copySource(t), Package: "./cmd/small"}
	folder := filepath.Join(source.Module, "cmd", "small")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	program := "package main\n\nimport (\n\t\"fmt\"\n\t\"net/netip\"\n)\n\nfunc main() { fmt.Println(netip.IPv6LinkLocalAllNodes()) }\n"
	if err := os.WriteFile(filepath.Join(folder, "main.go"), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	first := compileForTask(t, source)
	t.Setenv("GOCACHE", t.TempDir())
	if second := compileForTask(t, source); !bytes.Equal(first, second) {
		t.Errorf("the programs differ: %d and %d bytes", len(first), len(second))
	}
}

// compileForTask compiles a program for the platform of the task.
func compileForTask(t *testing.T, source Source) (program []byte) {
	t.Helper()
	err := Progress{W: os.Stderr}.Step("compile "+source.Package, nil, func() (err error) {
		program, err = source.compile(t.Context(), v1.Platform{OS: "linux", Architecture: "arm64"}, filepath.Join(t.TempDir(), "program"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// copySource copies what the go command reads, so that an edit while the test runs
// does not change it.
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

func TestImageIsSmall(t *testing.T) {
	for _, one := range summarize(t, built(t)).Images {
		t.Logf("%s: %s compressed, of at most %s", one.Platform, megabytes(one.Size), megabytes(maxSize))
		if one.Size > maxSize {
			t.Errorf("%s is too large: %d bytes", one.Platform, one.Size)
		}
	}
}

// Each program is for its platform, and needs no loader and no library.
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
				t.Errorf("%s: the program is for %s", Platforms[i], program.Machine)
			}
			for _, segment := range program.Progs {
				if segment.Type == elf.PT_INTERP || segment.Type == elf.PT_DYNAMIC {
					t.Errorf("%s: the program is linked dynamically", Platforms[i])
				}
			}
		})
		if !found {
			t.Errorf("%s: there is no program", Platforms[i])
		}
	}
}

func TestOnlyTheProgramIsExecutable(t *testing.T) {
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
			t.Errorf("%s: executable files: %q", Platforms[i], executable)
		}
	}
}

func TestBastiondIsPushedAndPulled(t *testing.T) {
	r := newRegistry(t)
	reference, err := r.registry.Push(t.Context(), built(t), quiet)
	if err != nil {
		t.Fatal(err)
	}
	pulled := r.pull(t, reference)
	wantConsistent(t, pulled)
	if got, want := summarize(t, pulled), summarize(t, built(t)); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

// nativeImage returns the image for this machine.
func nativeImage(t *testing.T, index v1.ImageIndex) v1.Image {
	t.Helper()
	for i, image := range images(t, index) {
		if Platforms[i].Architecture == runtime.GOARCH {
			return image
		}
	}
	t.Fatalf("there is no image for %s", runtime.GOARCH)
	return nil
}

// extract unpacks an image as a container engine does, and returns the folder.
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
