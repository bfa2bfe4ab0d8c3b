package slack_test

import (
	"testing"

	"github.com/bastion-on-demand/bastion/internal/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }
