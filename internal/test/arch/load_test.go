package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// listed is the output of go list for one package.
type listed struct {
	ImportPath, Dir, Name              string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Imports, TestImports, XTestImports []string
}

// load returns all packages of the module.
func load(t *testing.T) []Package {
	t.Helper()
	command := exec.Command("go", "list", "-json=ImportPath,Dir,Name,GoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports", "./...")
	command.Dir = filepath.Join("..", "..", "..")
	var problems bytes.Buffer
	command.Stderr = &problems
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, problems.String())
	}
	var packages []Package
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var l listed
		if err := decoder.Decode(&l); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		packages = append(packages, describe(t, l))
	}
}

func describe(t *testing.T, l listed) Package {
	t.Helper()
	tests := slices.Concat(l.TestGoFiles, l.XTestGoFiles)
	p := Package{
		Path:        strings.TrimPrefix(l.ImportPath, Module+"/"),
		Imports:     l.Imports,
		TestImports: slices.Concat(l.TestImports, l.XTestImports),
		HasTests:    len(tests) > 0,
		LeakChecked: slices.ContainsFunc(tests, func(file string) bool { return leakChecked(t, filepath.Join(l.Dir, file)) }),
	}
	for _, file := range l.GoFiles {
		if text := read(t, filepath.Join(l.Dir, file)); l.Name == "main" && strings.Contains(text, "\nfunc main() {") {
			p.MainLines = strings.Count(text, "\n")
		}
	}
	return p
}

// leakChecked reports whether the file has a TestMain that calls leakcheck.Main.
func leakChecked(t *testing.T, file string) bool {
	t.Helper()
	_, main, found := strings.Cut(read(t, file), "\nfunc TestMain(")
	return found && strings.Contains(main, "leakcheck.Main(")
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
