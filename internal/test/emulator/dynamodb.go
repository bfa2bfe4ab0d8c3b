package emulator

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// DynamoDB starts a DynamoDB Local that is empty, and answers its URL. It keeps
// the tables of each access key and region apart.
func DynamoDB(t testing.TB) string {
	t.Helper()
	lib := tool(t, filepath.Join("dynamodb-local-3.1.0", "lib"))
	port := FreePort(t)
	java := exec.Command("sh", "-c", untilStdinEnds, "sh",
		"java", "-Xmx768m", "-Djava.library.path="+lib, "-cp", lib+"/*",
		"software.amazon.dynamodb.services.local.main.ServerRunner",
		"-inMemory", "-disableTelemetry", "-port", fmt.Sprint(port))
	java.Dir = t.TempDir()
	said := start(t, java, "DynamoDB Local")
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	await(t, url, said)
	return url
}

// start starts a program that ends with the test, and whose words are shown if
// the test fails.
func start(t testing.TB, command *exec.Cmd, name string) *Output {
	t.Helper()
	said := &Output{}
	command.Stdout, command.Stderr = said, said
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = command.Wait() // it was killed
		if t.Failed() {
			t.Logf("%s said:\n%s", name, said)
		}
	})
	return said
}

// await waits until something answers at the URL, whatever it says. A program that
// loads much at its first request takes long on a machine with much else to do.
func await(t testing.TB, url string, said *Output) {
	t.Helper()
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for giveUp := time.Now().Add(3 * time.Minute); ; <-look.C {
		answer, err := client.Get(url)
		if err == nil {
			_ = answer.Body.Close()
			return
		}
		if time.Now().After(giveUp) {
			t.Fatalf("nothing answers at %s: %v\n%s", url, err, said)
		}
	}
}
