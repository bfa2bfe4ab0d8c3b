package image

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestWrittenIndexIsReadBack(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "image")
	index := fake(t)
	if err := Write(folder, index); err != nil {
		t.Fatal(err)
	}
	back, err := Read(folder)
	if err != nil {
		t.Fatal(err)
	}
	wantConsistent(t, back)
	if want, got := summarize(t, index), summarize(t, back); !reflect.DeepEqual(want, got) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

func TestWriteRemovesThePreviousImage(t *testing.T) {
	beside := t.TempDir()
	folder := filepath.Join(beside, "image")
	before, err := assemble("", func(v1.Platform) ([]byte, error) { return []byte("before"), nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []v1.ImageIndex{before, fake(t)} {
		if err := Write(folder, index); err != nil {
			t.Fatal(err)
		}
	}
	blobs, err := os.ReadDir(filepath.Join(folder, "blobs", "sha256"))
	if err != nil || len(blobs) != 3*len(Platforms) {
		t.Errorf("%d blobs, %v", len(blobs), err)
	}
	if entries, err := os.ReadDir(beside); err != nil || len(entries) != 1 {
		t.Errorf("beside it: %v, %v", entries, err)
	}
}

func TestWriteRefusesOtherFolders(t *testing.T) {
	folder := t.TempDir()
	precious := filepath.Join(folder, "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(folder, fake(t)); err == nil || !strings.Contains(err.Error(), "has no image in it") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
	if _, err := Read(filepath.Join(folder, "nowhere")); err == nil || !strings.Contains(err.Error(), "run make image") {
		t.Errorf("%v", err)
	}
}
