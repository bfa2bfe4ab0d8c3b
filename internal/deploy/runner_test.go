package deploy

import (
	"strings"
	"testing"
)

func TestProcesses(t *testing.T) {
	t.Setenv("MAKEFLAGS", "--always-make -- VERSION=other")
	var out strings.Builder
	p := Processes{Folder: t.TempDir(), Out: &out}
	if err := p.Run(t.Context(), "sh", "-c", "pwd; echo \"$MAKEFLAGS\""); err != nil || out.String() != p.Folder+"\n\n" {
		t.Errorf("%v, %q", err, out.String())
	}
	if err := p.Run(t.Context(), "sh", "-c", "exit 3"); err == nil || !strings.Contains(err.Error(), "sh -c 'exit 3': exit status 3") {
		t.Error(err)
	}
}
