package deploy

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// samCLI is the pinned SAM CLI that scripts/emulators installs.
const samCLI = ".tools/aws-sam-cli-1.170.0/bin/sam"

// builtTemplate is the output of `sam build`.
const builtTemplate = ".aws-sam/build/template.yaml"

// Runner runs a program in the module's folder, and shows its output to the operator.
type Runner interface {
	Run(ctx context.Context, program string, args ...string) error
}

// Processes implements Runner with processes.
type Processes struct {
	Folder string
	Out    io.Writer
}

// Run starts the program and waits for its end. If ctx ends first, the program is
// interrupted, and killed if it has not ended half a minute later.
func (p Processes) Run(ctx context.Context, program string, args ...string) error {
	if strings.Contains(program, "/") {
		program, _ = filepath.Abs(filepath.Join(p.Folder, program)) // if this fails, so does the start
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.Folder, p.Out, p.Out
	cmd.Env = append(os.Environ(), "SAM_CLI_TELEMETRY=0")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w; see its output above", commandLine(program, args), err)
	}
	return nil
}

// commandLine returns a command that can be pasted into a shell.
func commandLine(program string, args []string) string {
	words := []string{program}
	for _, arg := range args {
		if strings.ContainsAny(arg, " \"*$&|;<>()#") || arg == "" {
			arg = "'" + arg + "'" // no argument has a single quote
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

// buildFunctions returns the arguments of `sam build`; samconfig.toml has the others.
func buildFunctions() []string {
	return []string{"build", "--template-file", templateFile}
}

// deployTemplate returns the arguments of `sam deploy`, which creates or updates a
// stack, and succeeds if there is nothing to change. Only the built template has code to
// upload, for which the SAM CLI keeps a bucket.
func deployTemplate(file, stack, region string, parameters map[string]string) []string {
	args := []string{"deploy", "--template-file", file, "--stack-name", stack, "--region", region,
		"--capabilities", "CAPABILITY_IAM", "--no-confirm-changeset", "--no-fail-on-empty-changeset", "--no-progressbar"}
	if file == builtTemplate {
		args = append(args, "--resolve-s3", "--s3-prefix", stack)
	}
	if len(parameters) == 0 {
		return args
	}
	args = append(args, "--parameter-overrides")
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		args = append(args, fmt.Sprintf("%s=%q", name, parameters[name])) // in the SAM CLI's syntax
	}
	return args
}
