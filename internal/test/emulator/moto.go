package emulator

import (
	"fmt"
	"os/exec"
	"testing"
)

// Moto starts a moto that is empty, and answers its URL.
func Moto(t testing.TB) string {
	t.Helper()
	port := fmt.Sprint(FreePort(t))
	said := start(t, exec.Command("sh", "-c", untilStdinEnds, "sh", tool(t, "moto-5.2.5/bin/moto_server"), "-H", "127.0.0.1", "-p", port), "moto")
	url := "http://127.0.0.1:" + port
	await(t, url, said)
	return url
}
