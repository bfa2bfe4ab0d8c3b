// Package privilege says which IAM permissions an API call needs, and compares
// what a role grants with what its holder needs: neither too few nor too many.
package privilege

import (
	"cmp"
	"fmt"
	"slices"
)

// Call is one API call as it was made, or one part of a transaction.
type Call struct {
	API string // "ecs:RunTask"; of a transaction's part "dynamodb:TransactWriteItems/Put"
	On  string // what it was done to: "records", "records/index/due", "leases", or empty
}

// Permission is an action on one kind of resource, "*" where there is none narrower.
type Permission struct{ Action, On string }

// Expand lists, sorted and once each, the permissions that the calls need. A
// call that the table does not know is an error.
func Expand(calls []Call) ([]Permission, error) {
	var needed []Permission
	for _, call := range calls {
		row, known := table[call.API]
		if !known {
			return nil, fmt.Errorf("expand %s on %q: the table has no row for it", call.API, call.On)
		}
		for _, p := range row.Needs {
			if p.On == sameAsCall {
				p.On = call.On
			}
			needed = append(needed, p)
		}
	}
	return sorted(needed), nil
}

// Compare answers what is needed but not granted, and what is granted but not
// needed.
func Compare(granted, needed []Permission) (tooFew, tooMany []Permission) {
	return without(needed, granted), without(granted, needed)
}

func without(all, others []Permission) []Permission {
	return sorted(slices.DeleteFunc(slices.Clone(all), func(p Permission) bool { return slices.Contains(others, p) }))
}

func sorted(all []Permission) []Permission {
	slices.SortFunc(all, func(a, b Permission) int {
		return cmp.Or(cmp.Compare(a.Action, b.Action), cmp.Compare(a.On, b.On))
	})
	return slices.Compact(all)
}
