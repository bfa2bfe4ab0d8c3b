package emulator

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
)

// Transformed returns template.yaml after the SAM transform, as JSON. The transform
// runs once.
func Transformed() ([]byte, error) { return transformed() }

var transformed = sync.OnceValues(func() ([]byte, error) { return Transform("template.yaml") })

// Transform returns a template after the SAM transform, as JSON. The path is relative to
// the folder of go.mod.
func Transform(template string) ([]byte, error) { return Script("transform", template) }

// Script runs a script of the folder scripts and returns what it prints.
func Script(name string, args ...string) ([]byte, error) {
	folder, err := root()
	if err != nil {
		return nil, err
	}
	var problems bytes.Buffer
	command := exec.Command(filepath.Join(folder, "scripts", name), args...)
	command.Stderr = &problems
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("scripts/%s: %w\n%s", name, err, problems.String())
	}
	return out, nil
}
