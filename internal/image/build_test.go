package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhatTheCompilerSaysIsInTheError(t *testing.T) {
	module := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":  "module example.com/broken\n\ngo 1.26\n",
		"main.go": "package main\n\nfunc main() { oops\n",
	} {
		if err := os.WriteFile(filepath.Join(module, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var said strings.Builder
	_, err := Build(t.Context(), Source{Module: module, Package: "."}, Progress{W: &said})
	if err == nil || !strings.Contains(err.Error(), "./main.go:") || !strings.Contains(err.Error(), "compile . for linux/amd64") {
		t.Errorf("%v", err)
	}
	if !strings.Contains(said.String(), "compile . for linux/amd64\n") {
		t.Errorf("%s", said.String())
	}
}

func TestABuildCanBeInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Build(ctx, Source{Module: t.TempDir(), Package: "."}, quiet); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestWithoutGoItIsSaidWhereToGetIt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Build(t.Context(), Source{Module: t.TempDir(), Package: "."}, quiet)
	if err == nil || !strings.Contains(err.Error(), "install Go") {
		t.Errorf("%v", err)
	}
}
