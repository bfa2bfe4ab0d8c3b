package privilege

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Call is an API call, or a part of a transaction.
type Call struct {
	API string // as in the table, such as "ecs:RunTask tagged"
	On  string // the table, index, function, alias or parameter; else empty
}

// Permission is an action on a resource, or on "*" where AWS accepts nothing narrower,
// under a condition, which may be empty.
type Permission struct{ Action, On, If string }

// String returns the permission in one line.
func (p Permission) String() string {
	text := p.Action + " on " + p.On
	if p.If != "" {
		text += " if " + p.If
	}
	return text
}

// Expand returns the permissions that the calls need, sorted and without duplicates. A
// call without a row in the table is an error.
func Expand(calls []Call) ([]Permission, error) {
	var needed []Permission
	for _, call := range calls {
		i := slices.IndexFunc(table, func(r row) bool { return r.API == call.API })
		if i < 0 {
			return nil, fmt.Errorf("%s on %q: the table of package privilege has no row for this call", call.API, call.On)
		}
		for _, p := range table[i].Needs {
			if p.On == itsTarget {
				p.On = call.On
			}
			needed = append(needed, p)
		}
	}
	return sorted(needed), nil
}

// Operations returns the operations in the table, such as "ecs:RunTask" for the row
// "ecs:RunTask tagged".
func Operations() map[string]bool {
	all := map[string]bool{}
	for _, r := range table {
		operation, _, _ := strings.Cut(r.API, " ")
		all[operation] = true
	}
	return all
}

// Compare returns what is needed and not granted, and what is granted and not needed.
func Compare(granted, needed []Permission) (tooFew, tooMany []Permission) {
	return without(needed, granted), without(granted, needed)
}

func without(all, others []Permission) []Permission {
	return sorted(slices.DeleteFunc(slices.Clone(all), func(p Permission) bool { return slices.Contains(others, p) }))
}

func sorted(all []Permission) []Permission {
	slices.SortFunc(all, func(a, b Permission) int {
		return cmp.Or(strings.Compare(a.Action, b.Action), strings.Compare(a.On, b.On), strings.Compare(a.If, b.If))
	})
	return slices.Compact(all)
}
