//go:build conformance

package deploy

import (
	"archive/zip"
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/image"
	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// onlyGoAndMake sets a PATH with go, make and tr, which functions/build.mk uses. Other
// programs that an earlier deployment ran, or might run, are traps. It returns the file to
// which a trap writes its name.
func onlyGoAndMake(t *testing.T) (sprung string) {
	t.Helper()
	folder := t.TempDir()
	sprung = filepath.Join(folder, "sprung")
	for _, program := range []string{"go", "make", "tr"} {
		found, err := exec.LookPath(program)
		if err == nil {
			found, err = filepath.EvalSymlinks(found)
		}
		if err == nil {
			err = os.Symlink(found, filepath.Join(folder, program))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"python", "python3", "pip", "sam", "aws", "zip", "git", "docker", "bash", "sh"} {
		trap := "#!/bin/sh\necho " + program + " >>'" + sprung + "'\nexit 1\n"
		if program == "git" { // the Makefile's VERSION asks it, and does without it
			trap = "#!/bin/sh\nexit 1\n"
		}
		if err := os.WriteFile(filepath.Join(folder, program), []byte(trap), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", folder)
	return sprung
}

// compiling is the world with the real image.
type compiling struct{ *world }

func (c compiling) Build(ctx context.Context) (string, error) {
	_, err := image.Build(ctx, image.Source{Module: "../..", Package: "./cmd/bastiond"}, image.Progress{W: io.Discard})
	return testDigest, err
}

// A deployment compiles the functions and the image with go and make, and runs no other
// program, such as Python. What it uploads is what Lambda runs, and CloudFormation gets the
// same resources as from template.yaml.
func TestDeployRunsOnlyGoAndMake(t *testing.T) {
	path := os.Getenv("PATH")
	sprung := onlyGoAndMake(t)
	w := newWorld()
	bubble(t, func(t *testing.T) { // the processes run in real time, and nothing else waits
		w.settings.SkipTrial = true
		d := w.deployment()
		var output bytes.Buffer
		d.Runner, d.Images, d.LookPath = Processes{Folder: "../..", Out: &output}, compiling{w}, exec.LookPath
		if err := d.Deploy(t.Context()); err != nil {
			t.Fatalf("%v\n%s%s", err, w.out.String(), output.String())
		}
	})
	if names, err := os.ReadFile(sprung); err == nil {
		t.Errorf("the deployment ran %q", strings.Fields(string(names)))
	}
	t.Setenv("PATH", path)
	functions := 0
	for _, v := range w.versions {
		if strings.HasPrefix(v.key, "functions/") {
			functions++
			t.Logf("%s: %s", v.key, megabytes(int64(len(v.content))))
			checkExecutable(t, v)
		}
	}
	if functions != 7 {
		t.Errorf("%d functions were uploaded", functions)
	}
	checkTransformed(t, w)
}

func checkExecutable(t *testing.T, v version) {
	t.Helper()
	archive, err := zip.NewReader(bytes.NewReader(v.content), int64(len(v.content)))
	if err != nil || len(archive.File) != 1 || archive.File[0].Name != "bootstrap" || archive.File[0].Mode().Perm() != 0o755 {
		t.Fatalf("%s: %v, %+v", v.key, err, archive)
	}
	r, err := archive.File[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	program, err := elf.NewFile(bytes.NewReader(content))
	if err != nil || program.Machine != elf.EM_AARCH64 {
		t.Errorf("%s is not for arm64: %v", v.key, err)
	}
}

// checkTransformed compares the uploaded template after the SAM transform with
// template.yaml after it: only the places of the code differ.
func checkTransformed(t *testing.T, w *world) {
	t.Helper()
	var got, want struct{ Parameters, Rules, Mappings, Conditions, Resources, Outputs map[string]any }
	file := filepath.Join(t.TempDir(), templateFile)
	if err := os.WriteFile(file, []byte(w.named("bastion").text), 0o600); err != nil {
		t.Fatal(err)
	}
	transformed, err := exec.CommandContext(t.Context(), "../../scripts/transform", file).Output()
	if err != nil {
		t.Fatalf("scripts/transform: %v", err)
	}
	if err := json.Unmarshal(transformed, &got); err != nil {
		t.Fatal(err)
	}
	source, err := emulator.Transformed()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(source, &want); err != nil {
		t.Fatal(err)
	}
	places := map[string]bool{}
	for name, r := range got.Resources {
		resource := r.(map[string]any)
		if resource["Type"] != "AWS::Lambda::Function" {
			continue
		}
		code, _ := resource["Properties"].(map[string]any)["Code"].(map[string]any)
		key, _ := code["S3Key"].(string)
		if code["S3Bucket"] != testBucket || len(code) != 2 || w.newest(key) == nil || places[key] {
			t.Errorf("the code of %s is at %v", name, code)
		}
		places[key] = true
		delete(resource["Properties"].(map[string]any), "Code")
		delete(want.Resources[name].(map[string]any)["Properties"].(map[string]any), "Code")
	}
	if len(places) != 7 || !reflect.DeepEqual(got, want) {
		t.Errorf("%d functions; the transformed template differs from that of template.yaml", len(places))
	}
}
