//go:build conformance

package localmode

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// The interpreters of Python, each with one SSH library.
const (
	asyncsshPython = "asyncssh-2.24.1/bin/python"
	paramikoPython = "paramiko-5.1.0/bin/python"
)

func TestReadmeExamplesInPython(t *testing.T) {
	examples := readmeExamples(t, "python")
	if len(examples) != 2 {
		t.Fatalf("%d examples", len(examples))
	}
	for _, example := range examples {
		python, refusal := asyncsshPython, "HostKeyNotVerifiable"
		if strings.Contains(example, "import json, paramiko") {
			python, refusal = paramikoPython, "BadHostKeyException"
		}
		interpreter := emulator.Tool(t, python)
		wantAccess(t, refusal, func(r *reader) (string, error) { return r.run(interpreter, "-c", example) })
	}
}

// Libraries that read ssh_config get in with the file that the instructions in the text
// make, and not with the text itself.
func TestLibrariesReadThePlainFile(t *testing.T) {
	const asyncssh = `
import asyncio, asyncssh, sys
async def main():
    async with asyncssh.connect("bastion-default", config=[sys.argv[1]]) as bastion:
        reader, writer = await bastion.open_connection("private.internal", 80)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        print((await reader.read()).decode())
asyncio.run(main())
`
	const paramiko = `
import paramiko, sys
host, client = paramiko.SSHConfig.from_path(sys.argv[1]).lookup("bastion-default"), paramiko.SSHClient()
client.load_host_keys(host["userknownhostsfile"])
client.connect(host["hostname"], int(host["port"]), host["user"])
channel = client.get_transport().open_channel("direct-tcpip", ("private.internal", 80), ("127.0.0.1", 0))
channel.sendall(b"GET / HTTP/1.0\r\n\r\n")
print(channel.makefile().read().decode())
client.close()
`
	for _, library := range []struct{ python, program, refused, unknown string }{
		{asyncsshPython, asyncssh, "HostKeyNotVerifiable", "HostKeyNotVerifiable"},
		{paramikoPython, paramiko, "BadHostKeyException", "not found in known_hosts"},
	} {
		interpreter := emulator.Tool(t, library.python)
		wantAccess(t, library.refused, func(r *reader) (string, error) {
			out, err := r.run(interpreter, "-c", library.program, "bastion-default.conf")
			if err == nil || !strings.Contains(out, library.unknown) {
				t.Errorf("with the text itself: %v\n%s", err, out)
			}
			return r.run(interpreter, "-c", library.program, "bastion-default.plain.conf")
		})
	}
}

func TestReadmeExampleInJava(t *testing.T) {
	const program = "import com.jcraft.jsch.*;\nimport java.net.URL;\n\n" +
		"public class Example {\n    public static void main(String[] args) throws Exception {\nEXAMPLE    }\n}\n"
	examples := readmeExamples(t, "java")
	if len(examples) != 1 {
		t.Fatalf("%d examples", len(examples))
	}
	library := emulator.Tool(t, "jsch-2.28.8/lib/jsch-2.28.8.jar")
	wantAccess(t, "HostKey has been changed", func(r *reader) (string, error) {
		r.write("Example.java", strings.Replace(program, "EXAMPLE", examples[0], 1))
		return r.run("java", "-Duser.home="+r.folder, "-cp", library, filepath.Join(r.folder, "Example.java"))
	})
}
