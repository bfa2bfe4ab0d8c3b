//go:build conformance

package system

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/privilege"
	"github.com/bastion-on-demand/bastion/internal/referee"
)

// functionNames are all functions, each with its time-out in seconds.
var functionNames = map[string]int{"create": 28, "describe": 28, "extend": 28, "destroy": 28, "reaper": 55, "observer": 55}

// functions are all functions, each under an emulator of its own.
type functions map[string]*referee.Lambda

// compile builds our programs for this machine, all at once, into a folder.
func compile(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	packages := []string{"./cmd/bastiond"}
	for name := range functionNames {
		packages = append(packages, "./functions/"+name)
	}
	build := exec.Command("go", append([]string{"build", "-trimpath", "-tags", "lambda.norpc", "-o", folder}, packages...)...)
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	return folder
}

// emulate starts every function with the same settings, as template.yaml does.
// What it calls of AWS goes through the recorder, as its own role.
func emulate(t *testing.T, programs string, settings []string, r *privilege.Recorder) functions {
	t.Helper()
	all := functions{}
	for name, timeout := range functionNames {
		all[name] = referee.Emulate(t, filepath.Join(programs, name), append([]string{
			"AWS_LAMBDA_FUNCTION_NAME=" + name, fmt.Sprint("AWS_LAMBDA_FUNCTION_TIMEOUT=", timeout),
			"AWS_ENDPOINT_URL=" + serve(t, r.As(roleOf(name), "")),
		}, slices.Concat(credentials(), settings)...))
	}
	return all
}

// failure is what a function's answer says of its failure; empty if it did not
// fail.
func failure(answer []byte) string {
	var failed struct {
		ErrorMessage, ErrorType string
	}
	if err := json.Unmarshal(answer, &failed); err != nil || failed.ErrorMessage+failed.ErrorType == "" {
		return ""
	}
	return failed.ErrorType + ": " + failed.ErrorMessage
}
