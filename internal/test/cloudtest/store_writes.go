package cloudtest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

var storeWrites = []storeCase{
	{"an unknown record is not found", func(t *testing.T, s bastion.Store) {
		_, err := s.Fetch(t.Context(), newID())
		wantError(t, "fetch", err, bastion.ErrNotFound)
		_, err = s.FetchByName(t.Context(), owner, "default")
		wantError(t, "fetch by name", err, bastion.ErrNotFound)
		rec := newRecord(owner, "default")
		wantError(t, "replace", s.Replace(t.Context(), rec, next(rec, unchanged)), bastion.ErrConflict)
		_, err = s.Fetch(t.Context(), rec.ID)
		wantError(t, "fetch after the refused replace", err, bastion.ErrNotFound)
	}},
	{"a name is unique among an owner's open bastions", func(t *testing.T, s bastion.Store) {
		first := create(t, s, newRecord(owner, "default"))
		second := newRecord(owner, "default")
		wantError(t, "create", s.Create(t.Context(), second, bastion.Quota{PerOwner: 1, Total: 1}), bastion.ErrNameTaken)
		expectAbsent(t, s, second)
		create(t, s, newRecord(owner, "other"))
		create(t, s, newRecord("local:other", "default"))
		got, err := s.FetchByName(t.Context(), owner, "default")
		if noError(t, err); got.ID != first.ID {
			t.Errorf("the name finds %s, want %s", got.ID, first.ID)
		}
	}},
	{"quotas are enforced", func(t *testing.T, s bastion.Store) {
		create(t, s, newRecord(owner, "a"))
		over := newRecord(owner, "b")
		wantError(t, "one more for the owner", s.Create(t.Context(), over, bastion.Quota{PerOwner: 1, Total: 9}), bastion.ErrQuotaOwner)
		expectAbsent(t, s, over)
		over = newRecord("local:other", "b")
		wantError(t, "one more in total", s.Create(t.Context(), over, bastion.Quota{PerOwner: 9, Total: 1}), bastion.ErrQuotaTotal)
		expectAbsent(t, s, over)
		noError(t, s.Create(t.Context(), over, bastion.Quota{PerOwner: 1, Total: 2}))
	}},
	{"a write with another version is a conflict", func(t *testing.T, s bastion.Store) {
		first := create(t, s, newRecord(owner, "default"))
		second := replace(t, s, first, func(r *bastion.Record) { r.Intent.Reason = "second" })
		wantError(t, "stale", s.Replace(t.Context(), first, next(first, closing)), bastion.ErrConflict)
		same(t, fetch(t, s, first.ID), second)
		early := next(second, unchanged)
		wantError(t, "early", s.Replace(t.Context(), early, next(early, closing)), bastion.ErrConflict)
		if err := s.Replace(t.Context(), second, second); err == nil {
			t.Error("a write of the same version succeeded")
		}
		same(t, fetch(t, s, first.ID), second)
		wantError(t, "create with the name after the refused close",
			s.Create(t.Context(), newRecord(owner, "default"), plenty), bastion.ErrNameTaken)
	}},
	{"an ID is created once", func(t *testing.T, s bastion.Store) {
		rec := create(t, s, newRecord(owner, "default"))
		twin := newRecord("local:other", "other")
		twin.ID = rec.ID
		if err := s.Create(t.Context(), twin, plenty); err == nil {
			t.Error("the record was overwritten")
		}
		same(t, fetch(t, s, rec.ID), rec)
		noError(t, s.Create(t.Context(), newRecord("local:other", "other"), bastion.Quota{PerOwner: 1, Total: 2}))
	}},
	{"open bastions of all owners are counted", func(t *testing.T, s bastion.Store) {
		open := func(want int) {
			t.Helper()
			if got, err := s.CountOpen(t.Context()); err != nil || got != want {
				t.Errorf("%d are open, %v, want %d", got, err, want)
			}
		}
		open(0)
		first, second := create(t, s, newRecord(owner, "first")), create(t, s, newRecord("local:other", "default"))
		wantError(t, "the name again", s.Create(t.Context(), newRecord(owner, "first"), plenty), bastion.ErrNameTaken)
		open(2)
		first = replace(t, s, first, unchanged)
		first = replace(t, s, first, closing)
		open(1)
		replace(t, s, first, finishing)
		replace(t, s, second, closing)
		open(0)
	}},
	{"a close frees the name and the quota", func(t *testing.T, s bastion.Store) {
		one := bastion.Quota{PerOwner: 1, Total: 1}
		for range 3 {
			rec := newRecord(owner, "default")
			noError(t, s.Create(t.Context(), rec, one))
			closed := replace(t, s, rec, closing)
			_, err := s.FetchByName(t.Context(), owner, "default")
			wantError(t, "fetch by the freed name", err, bastion.ErrNotFound)
			same(t, fetch(t, s, rec.ID), closed)
		}
	}},
	{"writes of a closed record free nothing", func(t *testing.T, s bastion.Store) {
		one := bastion.Quota{PerOwner: 1, Total: 1}
		closed := replace(t, s, create(t, s, newRecord(owner, "default")), closing)
		current := newRecord(owner, "default")
		noError(t, s.Create(t.Context(), current, one))
		closed = replace(t, s, closed, unchanged)
		replace(t, s, closed, finishing)
		got, err := s.FetchByName(t.Context(), owner, "default")
		if noError(t, err); got.ID != current.ID {
			t.Errorf("the name finds %s", got.ID)
		}
		wantError(t, "second for the owner", s.Create(t.Context(), newRecord(owner, "other"), one), bastion.ErrQuotaOwner)
		wantError(t, "second in total", s.Create(t.Context(), newRecord("local:other", "other"), one), bastion.ErrQuotaTotal)
	}},
}

// expectAbsent checks that a refused create wrote nothing.
func expectAbsent(t *testing.T, s bastion.Store, rec bastion.Record) {
	t.Helper()
	_, err := s.Fetch(t.Context(), rec.ID)
	wantError(t, "fetch the refused record", err, bastion.ErrNotFound)
}

var storeRaces = []storeCase{
	{"32 concurrent read-modify-writes lose no update", func(t *testing.T, s bastion.Store) {
		rec := create(t, s, newRecord(owner, "default"))
		const writers = 32
		together(writers, func(int) {
			for {
				prev, err := s.Fetch(t.Context(), rec.ID)
				if err == nil {
					err = s.Replace(t.Context(), prev, next(prev, func(r *bastion.Record) { r.Receipt.Connections++ }))
				}
				if !errors.Is(err, bastion.ErrConflict) {
					if err != nil {
						t.Error(err)
					}
					return
				}
			}
		})
		got := fetch(t, s, rec.ID)
		if got.Receipt.Connections != writers || got.Version != writers+1 {
			t.Errorf("%d updates, version %d", got.Receipt.Connections, got.Version)
		}
	}},
	{"one of 32 concurrent creates with one name succeeds", func(t *testing.T, s bastion.Store) {
		names := []string{"default"}
		created := race(t, s, []string{owner}, names, plenty, bastion.ErrNameTaken)
		got, err := s.FetchByName(t.Context(), owner, "default")
		if noError(t, err); len(created) != 1 || created[0] != got.ID {
			t.Errorf("created %q, the name finds %s", created, got.ID)
		}
	}},
	{"32 concurrent creates keep the owner's quota", func(t *testing.T, s bastion.Store) {
		created := race(t, s, []string{owner}, numbered("name-"), bastion.Quota{PerOwner: 5, Total: 1000}, bastion.ErrQuotaOwner)
		recs, err := s.ListByOwner(t.Context(), owner)
		if noError(t, err); len(created) != 5 || len(recs) != 5 {
			t.Errorf("%d created, %d listed; the quota is 5", len(created), len(recs))
		}
	}},
	{"32 concurrent creates keep the total quota", func(t *testing.T, s bastion.Store) {
		created := race(t, s, numbered("local:user-"), []string{"default"}, bastion.Quota{PerOwner: 5, Total: 7}, bastion.ErrQuotaTotal)
		if len(created) != 7 {
			t.Errorf("%d created; the quota is 7", len(created))
		}
	}},
	{"concurrent creates and closes keep the quota", func(t *testing.T, s bastion.Store) {
		one := bastion.Quota{PerOwner: 1, Total: 1}
		together(8, func(i int) {
			for range 5 {
				rec := newRecord(fmt.Sprint("local:user-", i), "default")
				for giveUp := time.Now().Add(storePatience); ; {
					err := s.Create(t.Context(), rec, one)
					if err == nil {
						break
					}
					if !errors.Is(err, bastion.ErrQuotaTotal) || time.Now().After(giveUp) {
						t.Error(err)
						return
					}
				}
				if err := s.Replace(t.Context(), rec, next(rec, closing)); err != nil {
					t.Error(err)
					return
				}
			}
		})
		noError(t, s.Create(t.Context(), newRecord(owner, "last"), one))
		wantError(t, "one more", s.Create(t.Context(), newRecord("local:other", "over"), one), bastion.ErrQuotaTotal)
	}},
}

// race runs 32 concurrent creates and returns the IDs of those that succeeded. All
// others must return the refusal.
func race(t *testing.T, s bastion.Store, owners, names []string, quota bastion.Quota, refusal error) []string {
	t.Helper()
	const creators = 32
	recs := make([]bastion.Record, creators)
	errs := make([]error, creators)
	for i := range recs {
		recs[i] = newRecord(owners[i%len(owners)], names[i%len(names)])
	}
	together(creators, func(i int) { errs[i] = s.Create(t.Context(), recs[i], quota) })
	var created []string
	for i, err := range errs {
		if err == nil {
			created = append(created, recs[i].ID)
			same(t, fetch(t, s, recs[i].ID), recs[i])
			continue
		}
		wantError(t, "refused create", err, refusal)
		expectAbsent(t, s, recs[i])
	}
	return created
}

// numbered returns a name for each create.
func numbered(prefix string) []string {
	names := make([]string, 32)
	for i := range names {
		names[i] = fmt.Sprint(prefix, i)
	}
	return names
}
