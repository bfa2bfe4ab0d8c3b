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

// samCLI is where scripts/emulators puts the SAM CLI, pinned.
const samCLI = ".tools/aws-sam-cli-1.170.0/bin/sam"

// builtTemplate is what `sam build` writes.
const builtTemplate = ".aws-sam/build/template.yaml"

// Runner runs a program in the module's folder, with its output for the operator.
type Runner interface {
	Run(ctx context.Context, program string, args ...string) error
}

// Processes is the Runner that there is outside of tests.
type Processes struct {
	Folder string
	Out    io.Writer
}

// Run starts the program and waits for its end. When ctx ends first, the program
// is interrupted, and killed when it goes on for half a minute.
func (p Processes) Run(ctx context.Context, program string, args ...string) error {
	if strings.Contains(program, "/") {
		program, _ = filepath.Abs(filepath.Join(p.Folder, program)) // on an error it stays relative, and starting it says why
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.Folder, p.Out, p.Out
	cmd.Env = append(os.Environ(), "SAM_CLI_TELEMETRY=0")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w; what it printed above says why", commandLine(program, args), err)
	}
	return nil
}

// commandLine is a command as a person can paste it.
func commandLine(program string, args []string) string {
	words := []string{program}
	for _, arg := range args {
		if strings.ContainsAny(arg, " \"*$&|;<>()#") || arg == "" {
			arg = "'" + arg + "'" // no argument of ours holds a single quote
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

// buildFunctions are the arguments of `sam build`; samconfig.toml has the rest.
func buildFunctions() []string {
	return []string{"build", "--template-file", templateFile}
}

// deployTemplate are the arguments of `sam deploy`. It makes what is missing,
// changes what differs, and is content when nothing does. Only what was built has
// code to upload, for which the SAM CLI keeps a bucket.
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
		args = append(args, fmt.Sprintf("%s=%q", name, parameters[name])) // quoted as the SAM CLI reads it
	}
	return args
}
