//go:build conformance

package system

import (
	"os"
	"sync"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
)

func TestMain(m *testing.M) {
	leakcheck.Main(m, func() {
		if folder, err := programFolder(); err == nil {
			_ = os.RemoveAll(folder)
		}
	})
}

// programFolder returns the folder for compiled programs. All tests have the same one,
// because the go command does not link a program again that is in it and up to date.
var programFolder = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "bastion-programs-") })
