//go:build conformance

package clients

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// library is a running program of testdata.
type library struct {
	t       testing.TB
	command *exec.Cmd
	input   *bufio.Writer
	output  *bufio.Reader
	errs    emulator.Output
}

// startLibrary starts a program of testdata, which ends with the test.
func startLibrary(t testing.TB, program string, args ...string) driver {
	t.Helper()
	l := &library{t: t, command: exec.Command(program, args...)}
	stdin, err := l.command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := l.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	l.command.Stderr = &l.errs
	l.command.Env = environment(t.TempDir())
	l.input, l.output = bufio.NewWriter(stdin), bufio.NewReader(stdout)
	if err := l.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.command.Process.Kill()
		_ = l.command.Wait()
		if t.Failed() {
			t.Logf("standard error:\n%s", l.errs.String())
		}
	})
	return l.run
}

func (l *library) run(r request) result {
	l.t.Helper()
	stop := killAfterTimeout(l.command)
	defer stop()
	fmt.Fprintln(l.input, strings.Join(r.words(), " "))
	if err := l.input.Flush(); err != nil {
		l.t.Fatalf("%s: %v\n%s", l.command, err, l.errs.String())
	}
	line, err := l.output.ReadString('\n')
	if err != nil {
		l.t.Fatalf("%s ended: %v\n%s", l.command, err, l.errs.String())
	}
	status, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	return result{ok: status == "ok", text: strings.ReplaceAll(text, " | ", "\n")}
}

// words returns the words of doc.go.
func (r request) words() []string {
	words := []string{r.op, r.server.host, r.server.port, r.key, r.known}
	if r.target != (endpoint{}) {
		words = append(words, r.target.host, r.target.port)
	}
	if r.file != "" {
		words = append(words, r.file)
	}
	return words
}

// inPython returns how to start a program of testdata with a virtual environment's Python.
func inPython(venv, script string) starter {
	return func(t testing.TB) driver {
		return startLibrary(t, emulator.Tool(t, venv+"/bin/python"), filepath.Join("testdata", script))
	}
}

// inNode returns how to start a program of testdata with a folder's modules.
func inNode(folder, script string) starter {
	return func(t testing.TB) driver {
		modules := emulator.Tool(t, folder+"/node_modules")
		return startLibrary(t, "env", "NODE_PATH="+modules, "node", filepath.Join("testdata", script))
	}
}

// javac runs one compiler at a time.
var javac sync.Mutex

// inJava returns how to compile and start a program of testdata with a folder's jars.
func inJava(folder, class string) starter {
	return func(t testing.TB) driver {
		jars := filepath.Join(filepath.Dir(emulator.Tool(t, folder+"/lib")), "lib", "*")
		classes := t.TempDir()
		javac.Lock()
		out, err := exec.Command("javac", "-d", classes, "-cp", jars, "testdata/Client.java", "testdata/"+class+".java").CombinedOutput()
		javac.Unlock()
		if err != nil {
			t.Fatalf("javac: %v\n%s", err, out)
		}
		return startLibrary(t, "java", "-cp", classes+":"+jars, class)
	}
}
