package deploy

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

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
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.Folder, p.Out, p.Out
	cmd.Env = withoutMake(os.Environ())
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w; see its output above", commandLine(program, args), err)
	}
	return nil
}

// withoutMake removes the variables by which a make passes its flags and variables to a
// make that it starts. So `make deploy` and `operator deploy` compile in the same way.
func withoutMake(environ []string) []string {
	return slices.DeleteFunc(environ, func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains([]string{"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "MAKEFILES"}, name)
	})
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
