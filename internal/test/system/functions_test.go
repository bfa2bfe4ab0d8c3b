//go:build conformance

package system

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// functionNames are all functions, and the aliases by which they call each other,
// each with its time-out in seconds.
var functionNames = map[string]int{
	"create": 28, "describe": 28, "extend": 28, "destroy": 28, "reaper": 55, "observer": 55, "slack": 55,
	"create:slack": 28, "describe:slack": 28, "extend:slack": 28, "destroy:slack": 28, slackWork: 55,
}

// functions are functions and aliases, each under an emulator of its own, which
// says that it was invoked by that name.
type functions map[string]*emulator.Lambda

// bare is a function's name without an alias.
func withoutAlias(name string) string {
	name, _, _ = strings.Cut(name, ":")
	return name
}

// invoke is of invokes.
func (f functions) invoke(ctx context.Context, name string, event []byte) ([]byte, error) {
	return f[name].Invoke(ctx, event)
}

// compile builds programs of ours for this machine, all at once, into a folder.
func compile(t testing.TB, packages ...string) string {
	t.Helper()
	folder := t.TempDir()
	build := exec.Command("go", append([]string{"build", "-trimpath", "-tags", "lambda.norpc", "-o", folder}, packages...)...)
	build.Dir = filepath.Join("..", "..", "..")
	build.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	return folder
}

// compileAll builds bastiond and every function.
func compileAll(t testing.TB) string {
	t.Helper()
	packages := []string{"./cmd/bastiond"}
	for name := range functionNames {
		if name == withoutAlias(name) {
			packages = append(packages, "./functions/"+name)
		}
	}
	return compile(t, packages...)
}

// emulate starts a function with its settings. What it calls of AWS it calls at the
// URL.
func startFunction(t testing.TB, programs, name, aws string, settings []string) *emulator.Lambda {
	t.Helper()
	return emulator.Emulate(t, filepath.Join(programs, withoutAlias(name)), append([]string{
		"AWS_LAMBDA_FUNCTION_NAME=" + name, fmt.Sprint("AWS_LAMBDA_FUNCTION_TIMEOUT=", functionNames[name]), "AWS_ENDPOINT_URL=" + aws,
	}, slices.Concat(credentials(), settings)...))
}

// failure is what a function's answer says of its failure; empty if it did not
// fail.
func functionError(answer []byte) string {
	var failed struct {
		ErrorMessage, ErrorType string
	}
	if err := json.Unmarshal(answer, &failed); err != nil || failed.ErrorMessage+failed.ErrorType == "" {
		return ""
	}
	return failed.ErrorType + ": " + failed.ErrorMessage
}
