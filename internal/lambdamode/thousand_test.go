//go:build conformance

package lambdamode

import "testing"

// As TestManyDueBastionsCloseWithinTheRates, with the largest quota.
func TestThousandDueBastionsCloseWithinTheRates(t *testing.T) { drains(t, 1000) }
