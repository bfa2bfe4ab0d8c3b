package awscloud

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// limit is a bucket without its name.
type limit struct{ burst, perSecond float64 }

// Operators are told the rates that the functions keep to. The two are written
// down apart from each other, each from AWS's pages, so that a slip in one shows.
func TestRatesAreThoseOfTheOperatorsTable(t *testing.T) {
	sharers := map[string][]string{} // by bucket
	limits := map[string]limit{}
	for _, call := range slices.Sorted(maps.Keys(Rates)) {
		for _, r := range Rates[call] {
			sharers[r.Bucket] = append(sharers[r.Bucket], call)
			if l, known := limits[r.Bucket]; known && l != (limit{r.Burst, r.PerSecond}) {
				t.Errorf("%s: %s has another rate than those before it", r.Bucket, call)
			}
			limits[r.Bucket] = limit{r.Burst, r.PerSecond}
		}
	}
	got := map[string]limit{} // by the calls that share a bucket
	for bucket, calls := range sharers {
		got[strings.Join(calls, " ")] = limits[bucket]
	}
	if want := operatorsTable(t); !maps.Equal(got, want) {
		t.Errorf("rates.go has\n%v\nOPERATIONS.md has\n%v", got, want)
	}
}

// operatorsTable reads the rates of OPERATIONS.md, by the calls that share a bucket.
func operatorsTable(t *testing.T) map[string]limit {
	text, err := os.ReadFile("../../OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]limit{}
	for _, row := range regexp.MustCompile(`(?m)^\| E[CS2]+: (.+) \| (\d+) \| (\d+) \|$`).FindAllStringSubmatch(string(text), -1) {
		var calls []string
		for _, name := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[1], -1) {
			calls = append(calls, name[1])
		}
		if !strings.HasSuffix(row[1], ", each") {
			slices.Sort(calls)
			calls = []string{strings.Join(calls, " ")}
		}
		burst, _ := strconv.ParseFloat(row[2], 64)
		perSecond, _ := strconv.ParseFloat(row[3], 64)
		for _, call := range calls {
			table[call] = limit{burst, perSecond}
		}
	}
	return table
}
