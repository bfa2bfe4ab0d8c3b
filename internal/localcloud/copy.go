package localcloud

import (
	"cmp"
	"iter"
	"slices"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// oldestFirst copies the records of the ids. s.mu is held.
func (s *store) oldestFirst(ids iter.Seq[string]) []bastion.Record {
	var all []bastion.Record
	for id := range ids {
		all = append(all, copyRecord(s.records[id]))
	}
	slices.SortFunc(all, func(a, b bastion.Record) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// copyRecord makes a record that shares nothing with the one given.
func copyRecord(rec bastion.Record) bastion.Record {
	rec.Intent.Keys = slices.Clone(rec.Intent.Keys)
	rec.Attempt.Endpoints = slices.Clone(rec.Attempt.Endpoints)
	rec.Receipt.Destinations = slices.Clone(rec.Receipt.Destinations)
	return rec
}
