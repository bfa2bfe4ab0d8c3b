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

var transformed = sync.OnceValues(func() ([]byte, error) {
	folder, err := root()
	if err != nil {
		return nil, err
	}
	var problems bytes.Buffer
	command := exec.Command(filepath.Join(folder, "scripts", "transform"))
	command.Stderr = &problems
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("scripts/transform: %w\n%s", err, problems.String())
	}
	return out, nil
})
