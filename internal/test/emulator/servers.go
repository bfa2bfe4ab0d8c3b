package emulator

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/freeport"
)

// DynamoDB starts an empty DynamoDB Local and returns its URL. It keeps the tables
// of each access key and region apart.
func DynamoDB(t testing.TB) string {
	t.Helper()
	lib := Tool(t, filepath.Join("dynamodb-local-3.1.0", "lib"))
	port := freeport.Port(t)
	java := exec.Command("sh", "-c", untilStdinEnds, "sh",
		"java", "-Xmx768m", "-Djava.library.path="+lib, "-cp", lib+"/*",
		"software.amazon.dynamodb.services.local.main.ServerRunner",
		"-inMemory", "-disableTelemetry", "-port", fmt.Sprint(port))
	java.Dir = t.TempDir()
	output := &Output{}
	start(t, java, "DynamoDB Local", output)
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	await(t, url, output)
	return url
}

// Moto starts an empty moto server and returns its URL.
func Moto(t testing.TB) string {
	t.Helper()
	port := fmt.Sprint(freeport.Port(t))
	output := &Output{}
	start(t, exec.Command("sh", "-c", untilStdinEnds, "sh", Tool(t, "moto-5.2.5/bin/moto_server"), "-H", "127.0.0.1", "-p", port), "moto", output)
	url := "http://127.0.0.1:" + port
	await(t, url, output)
	return url
}

// start starts a program that ends with the test, or with stop. Its output is logged if the
// test fails.
func start(t testing.TB, command *exec.Cmd, name string, output *Output) (stop func()) {
	t.Helper()
	command.Stdout, command.Stderr = output, output
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	stop = sync.OnceFunc(func() {
		_ = stdin.Close()
		_ = command.Wait() // always an error, because it is killed
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, output)
		}
	})
	return stop
}

// await waits until the URL returns any HTTP response.
func await(t testing.TB, url string, output *Output) {
	t.Helper()
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(10 * time.Minute); ; <-tick.C {
		response, err := client.Get(url)
		if err == nil {
			_ = response.Body.Close()
			return
		}
		if time.Now().After(giveUp) {
			t.Fatalf("no response from %s: %v\n%s", url, err, output)
		}
	}
}
