package cloudtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

var storeLists = []storeCase{
	{"lists are oldest first and leave out what is finished", func(t *testing.T, s bastion.Store) {
		var recs []bastion.Record
		for i, age := range []int{3, 1, 4, 2} {
			rec := fresh(owner, fmt.Sprint("name-", i))
			rec.CreatedAt = epoch.Add(-time.Duration(age) * time.Minute)
			recs = append(recs, create(t, s, rec))
		}
		other := create(t, s, fresh("local:somebody", "default"))
		recs[0] = replace(t, s, recs[0], closing)
		recs[3] = replace(t, s, replace(t, s, recs[3], closing), finishing)
		want := []bastion.Record{recs[2], recs[0], recs[1]}
		got, err := s.ListByOwner(t.Context(), owner)
		noError(t, err)
		same(t, got, want)
		eventually(t, storePatience, func() error { return listIs(t, s, append(want, other)) })
		same(t, fetch(t, s, recs[3].ID), recs[3])
	}},
	{"lists of nothing", func(t *testing.T, s bastion.Store) {
		if got, err := s.ListByOwner(t.Context(), owner); err != nil || len(got) > 0 {
			t.Errorf("the owner's list is %v, %v", got, err)
		}
		if got, err := s.List(t.Context()); err != nil || len(got) > 0 {
			t.Errorf("the list is %v, %v", got, err)
		}
		if got, err := s.Due(t.Context(), epoch, 10); err != nil || len(got) > 0 {
			t.Errorf("due are %v, %v", got, err)
		}
		if got, err := s.Marks(t.Context()); err != nil || len(got) > 0 {
			t.Errorf("marked are %v, %v", got, err)
		}
	}},
	{"a list of more than three megabytes is whole", func(t *testing.T, s bastion.Store) {
		var want []bastion.Record
		for i := range 40 {
			rec := fresh(owner, fmt.Sprint("name-", i))
			rec.CreatedAt = epoch.Add(time.Duration(i) * time.Second)
			for range bastion.MaxDestinations {
				rec.Receipt.Destinations = append(rec.Receipt.Destinations, bastion.Destination{Name: strings.Repeat("x", 400)})
			}
			want = append(want, create(t, s, rec))
		}
		got, err := s.ListByOwner(t.Context(), owner)
		noError(t, err)
		if !slices.Equal(ids(got), ids(want)) {
			t.Errorf("%d of %d in the owner's list", len(got), len(want))
		}
		eventually(t, storePatience, func() error { return listIs(t, s, want) })
	}},
	{"due is in order, limited and sparse", func(t *testing.T, s bastion.Store) {
		at := func(seconds int) func(*bastion.Record) {
			return func(r *bastion.Record) { r.DueAt = epoch.Add(time.Duration(seconds) * time.Second) }
		}
		var recs []bastion.Record
		for i, seconds := range []int{30, 10, 20, 41, 5} {
			rec := fresh(owner, fmt.Sprint("name-", i))
			at(seconds)(&rec)
			recs = append(recs, create(t, s, rec))
		}
		create(t, s, fresh(owner, "never-due"))
		due := func(limit int, want ...bastion.Record) {
			t.Helper()
			eventually(t, storePatience, func() error { return dueIs(t, s, epoch.Add(40*time.Second), limit, want) })
		}
		due(10, recs[4], recs[1], recs[2], recs[0])
		due(2, recs[4], recs[1])
		recs[4] = replace(t, s, recs[4], func(r *bastion.Record) { r.DueAt = time.Time{} })
		recs[1] = replace(t, s, recs[1], at(40)) // just due
		recs[3] = replace(t, s, recs[3], at(25))
		due(10, recs[2], recs[3], recs[0], recs[1])
		recs[0] = replace(t, s, replace(t, s, recs[0], closing), finishing) // and still due
		due(10, recs[2], recs[3], recs[0], recs[1])
	}},
}

func ids(recs []bastion.Record) []string {
	var all []string
	for _, rec := range recs {
		all = append(all, rec.ID)
	}
	return all
}

// listIs compares List, which may be stale, with what it must become.
func listIs(t *testing.T, s bastion.Store, want []bastion.Record) error {
	got, err := s.List(t.Context())
	if err == nil && !slices.Equal(ids(got), ids(want)) {
		err = fmt.Errorf("the list is %q, not %q", ids(got), ids(want))
	}
	return err
}

// dueIs compares Due, which may be stale, with what it must become.
func dueIs(t *testing.T, s bastion.Store, now time.Time, limit int, want []bastion.Record) error {
	got, err := s.Due(t.Context(), now, limit)
	if err == nil && !slices.Equal(got, ids(want)) {
		err = fmt.Errorf("due are %q, not %q", got, ids(want))
	}
	return err
}
