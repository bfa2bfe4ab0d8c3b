//go:build conformance

package lambdamode

import "testing"

// As TestDrain, with as many as a stack may have.
func TestAThousandAreDrained(t *testing.T) { drains(t, 1000) }
