// Package upgrade has what the tests of upgrades share. They upgrade from the earlier
// version of this project that the file EARLIER names.
package upgrade

import (
	"bytes"
	_ "embed" // for the file EARLIER
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

//go:embed EARLIER
var file string

// EarlierCommit returns the hash of the earlier version's commit.
func EarlierCommit() string {
	lines := strings.Split(strings.TrimSpace(file), "\n")
	return lines[len(lines)-1]
}

// Lost compares two JSON documents. It returns the path of each value of the earlier
// document that the later one does not have in the same place. The later document may
// have more members.
func Lost(earlier, later []byte) ([]string, error) {
	var before, after any
	if err := decode(earlier, &before); err != nil {
		return nil, fmt.Errorf("decode the earlier document: %w", err)
	}
	if err := decode(later, &after); err != nil {
		return nil, fmt.Errorf("decode the later document: %w", err)
	}
	return lost("", before, after), nil
}

// decode decodes a document and keeps all digits of its numbers.
func decode(document []byte, into *any) error {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	return decoder.Decode(into)
}

func lost(path string, before, after any) (paths []string) {
	switch before := before.(type) {
	case map[string]any:
		members, ok := after.(map[string]any)
		if !ok {
			break
		}
		for _, name := range slices.Sorted(maps.Keys(before)) {
			paths = append(paths, lost(path+"/"+name, before[name], members[name])...)
		}
		return paths
	case []any:
		values, ok := after.([]any)
		if !ok || len(values) != len(before) {
			break
		}
		for i := range before {
			paths = append(paths, lost(fmt.Sprint(path, "/", i), before[i], values[i])...)
		}
		return paths
	}
	if reflect.DeepEqual(before, after) {
		return nil
	}
	return []string{path}
}
