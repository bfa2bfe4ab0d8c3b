package deploy

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Whoever is woken by an alarm or shown a code finds it in OPERATIONS.md.
func TestOperationsHasEachAlarmAndEachFailureCode(t *testing.T) {
	read := func(file string) string {
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	operations := read("OPERATIONS.md")
	for file, pattern := range map[string]string{
		"template.yaml":               `(?m)^  (\w+Alarm):$`,
		"internal/bastion/failure.go": `FailureCode = "(\w+)"`,
	} {
		names := regexp.MustCompile(pattern).FindAllStringSubmatch(read(file), -1)
		if len(names) < 5 {
			t.Errorf("%s: %d names found", file, len(names))
		}
		for _, name := range names {
			if !strings.Contains(operations, "| `"+name[1]+"` |") {
				t.Errorf("%s: OPERATIONS.md has no row for %s", file, name[1])
			}
		}
	}
}
