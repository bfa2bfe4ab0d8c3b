//go:build conformance

package clients

import (
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }
