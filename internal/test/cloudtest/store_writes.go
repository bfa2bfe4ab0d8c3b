package cloudtest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

var storeWrites = []storeCase{
	{"unknown records", func(t *testing.T, s bastion.Store) {
		_, err := s.Fetch(t.Context(), newID())
		wantError(t, "fetch", err, bastion.ErrNotFound)
		_, err = s.FetchByName(t.Context(), owner, "default")
		wantError(t, "fetch by name", err, bastion.ErrNotFound)
		rec := fresh(owner, "default")
		wantError(t, "replace", s.Replace(t.Context(), rec, next(rec, nothing)), bastion.ErrConflict)
		_, err = s.Fetch(t.Context(), rec.ID)
		wantError(t, "fetch what replace must not make", err, bastion.ErrNotFound)
	}},
	{"a name is taken once", func(t *testing.T, s bastion.Store) {
		first := create(t, s, fresh(owner, "default"))
		second := fresh(owner, "default")
		wantError(t, "create", s.Create(t.Context(), second, bastion.Quota{PerOwner: 1, Total: 1}), bastion.ErrNameTaken)
		absent(t, s, second)
		create(t, s, fresh(owner, "other"))
		create(t, s, fresh("local:somebody", "default"))
		got, err := s.FetchByName(t.Context(), owner, "default")
		if noError(t, err); got.ID != first.ID {
			t.Errorf("the name leads to %s, not to %s", got.ID, first.ID)
		}
	}},
	{"quotas", func(t *testing.T, s bastion.Store) {
		create(t, s, fresh(owner, "a"))
		over := fresh(owner, "b")
		wantError(t, "one more of the owner's", s.Create(t.Context(), over, bastion.Quota{PerOwner: 1, Total: 9}), bastion.ErrQuotaOwner)
		absent(t, s, over)
		over = fresh("local:somebody", "b")
		wantError(t, "one more in all", s.Create(t.Context(), over, bastion.Quota{PerOwner: 9, Total: 1}), bastion.ErrQuotaTotal)
		absent(t, s, over)
		noError(t, s.Create(t.Context(), over, bastion.Quota{PerOwner: 1, Total: 2}))
	}},
	{"a stale write is refused", func(t *testing.T, s bastion.Store) {
		first := create(t, s, fresh(owner, "default"))
		second := replace(t, s, first, func(r *bastion.Record) { r.Intent.Reason = "second" })
		wantError(t, "stale", s.Replace(t.Context(), first, next(first, closing)), bastion.ErrConflict)
		same(t, fetch(t, s, first.ID), second)
		early := next(second, nothing)
		wantError(t, "early", s.Replace(t.Context(), early, next(early, closing)), bastion.ErrConflict)
		if err := s.Replace(t.Context(), second, second); err == nil {
			t.Error("a write that is not the next version was taken")
		}
		same(t, fetch(t, s, first.ID), second)
		wantError(t, "the name, which no refused close may free",
			s.Create(t.Context(), fresh(owner, "default"), plenty), bastion.ErrNameTaken)
	}},
	{"an id is created once", func(t *testing.T, s bastion.Store) {
		rec := create(t, s, fresh(owner, "default"))
		twin := fresh("local:somebody", "other")
		twin.ID = rec.ID
		if err := s.Create(t.Context(), twin, plenty); err == nil {
			t.Error("the record was overwritten")
		}
		same(t, fetch(t, s, rec.ID), rec)
		noError(t, s.Create(t.Context(), fresh("local:somebody", "other"), bastion.Quota{PerOwner: 1, Total: 2}))
	}},
	{"a close frees name and counts at once", func(t *testing.T, s bastion.Store) {
		one := bastion.Quota{PerOwner: 1, Total: 1}
		for range 3 {
			rec := fresh(owner, "default")
			noError(t, s.Create(t.Context(), rec, one))
			closed := replace(t, s, rec, closing)
			_, err := s.FetchByName(t.Context(), owner, "default")
			wantError(t, "fetch by a freed name", err, bastion.ErrNotFound)
			same(t, fetch(t, s, rec.ID), closed)
		}
	}},
	{"a closed record frees nothing more", func(t *testing.T, s bastion.Store) {
		one := bastion.Quota{PerOwner: 1, Total: 1}
		closed := replace(t, s, create(t, s, fresh(owner, "default")), closing)
		current := fresh(owner, "default")
		noError(t, s.Create(t.Context(), current, one))
		closed = replace(t, s, closed, nothing)
		replace(t, s, closed, finishing)
		got, err := s.FetchByName(t.Context(), owner, "default")
		if noError(t, err); got.ID != current.ID {
			t.Errorf("the name leads to %s", got.ID)
		}
		wantError(t, "the owner's second", s.Create(t.Context(), fresh(owner, "other"), one), bastion.ErrQuotaOwner)
		wantError(t, "the second in all", s.Create(t.Context(), fresh("local:somebody", "other"), one), bastion.ErrQuotaTotal)
	}},
}

// absent checks that a refused create left nothing.
func absent(t *testing.T, s bastion.Store, rec bastion.Record) {
	t.Helper()
	_, err := s.Fetch(t.Context(), rec.ID)
	wantError(t, "fetch what was refused", err, bastion.ErrNotFound)
}

var storeRaces = []storeCase{
	{"32 writers lose no update", func(t *testing.T, s bastion.Store) {
		rec := create(t, s, fresh(owner, "default"))
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
	{"32 creators of one name, one winner", func(t *testing.T, s bastion.Store) {
		names := []string{"default"}
		created := race(t, s, []string{owner}, names, plenty, bastion.ErrNameTaken)
		got, err := s.FetchByName(t.Context(), owner, "default")
		if noError(t, err); len(created) != 1 || created[0] != got.ID {
			t.Errorf("created %q, the name leads to %s", created, got.ID)
		}
	}},
	{"32 creators at the owner's quota", func(t *testing.T, s bastion.Store) {
		created := race(t, s, []string{owner}, numbered("name-"), bastion.Quota{PerOwner: 5, Total: 1000}, bastion.ErrQuotaOwner)
		recs, err := s.ListByOwner(t.Context(), owner)
		if noError(t, err); len(created) != 5 || len(recs) != 5 {
			t.Errorf("%d were created, %d are listed; the quota is 5", len(created), len(recs))
		}
	}},
	{"32 creators at the total quota", func(t *testing.T, s bastion.Store) {
		created := race(t, s, numbered("local:user-"), []string{"default"}, bastion.Quota{PerOwner: 5, Total: 7}, bastion.ErrQuotaTotal)
		if len(created) != 7 {
			t.Errorf("%d were created; the quota is 7", len(created))
		}
	}},
	{"create and close at the quota's edge", func(t *testing.T, s bastion.Store) {
		one := bastion.Quota{PerOwner: 1, Total: 1}
		together(8, func(i int) {
			for range 5 {
				rec := fresh(fmt.Sprint("local:user-", i), "default")
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
		noError(t, s.Create(t.Context(), fresh(owner, "last"), one))
		wantError(t, "one more", s.Create(t.Context(), fresh("local:somebody", "over"), one), bastion.ErrQuotaTotal)
	}},
}

// race has 32 creators try at once, and answers the ids that were created. All
// others must get the refusal.
func race(t *testing.T, s bastion.Store, owners, names []string, quota bastion.Quota, refusal error) []string {
	t.Helper()
	const creators = 32
	recs := make([]bastion.Record, creators)
	errs := make([]error, creators)
	for i := range recs {
		recs[i] = fresh(owners[i%len(owners)], names[i%len(names)])
	}
	together(creators, func(i int) { errs[i] = s.Create(t.Context(), recs[i], quota) })
	var created []string
	for i, err := range errs {
		if err == nil {
			created = append(created, recs[i].ID)
			same(t, fetch(t, s, recs[i].ID), recs[i])
			continue
		}
		wantError(t, "a loser", err, refusal)
		absent(t, s, recs[i])
	}
	return created
}

// numbered makes a name for each creator.
func numbered(prefix string) []string {
	names := make([]string, 32)
	for i := range names {
		names[i] = fmt.Sprint(prefix, i)
	}
	return names
}
