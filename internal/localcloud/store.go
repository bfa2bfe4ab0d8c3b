package localcloud

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// store implements bastion.Store. Every write is one transaction.
type store struct {
	mu         sync.Mutex
	records    map[string]bastion.Record
	owners     map[string]*owner
	open       int                  // how many bastions of all owners are open
	unfinished map[string]struct{}  // the IDs of all bastions that are not finished
	due        map[string]time.Time // DueAt by ID, of the records that have one
	marks      map[string]time.Time // by orphan
}

// owner holds the state of one owner.
type owner struct {
	live   map[string]string   // the IDs of the open bastions, by name; the quota limits its length
	listed map[string]struct{} // IDs of the bastions that are not finished
	key    bastion.Key
}

func newStore() *store {
	return &store{
		records:    map[string]bastion.Record{},
		owners:     map[string]*owner{},
		unfinished: map[string]struct{}{},
		due:        map[string]time.Time{},
		marks:      map[string]time.Time{},
	}
}

// owner returns the state of an owner for a write, and creates it if necessary. s.mu
// is held.
func (s *store) owner(name string) *owner {
	o := s.owners[name]
	if o == nil {
		o = &owner{live: map[string]string{}, listed: map[string]struct{}{}}
		s.owners[name] = o
	}
	return o
}

// readOwner returns the state of an owner for a read. It is empty for an owner who
// has none. s.mu is held.
func (s *store) readOwner(name string) owner {
	if o := s.owners[name]; o != nil {
		return *o
	}
	return owner{}
}

// begin locks the store for one operation and returns the function that unlocks it.
func (s *store) begin(ctx context.Context) (func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("use the table of records: %w", err)
	}
	s.mu.Lock()
	return s.mu.Unlock, nil
}

func (s *store) Create(ctx context.Context, rec bastion.Record, quota bastion.Quota) error {
	done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	live := s.readOwner(rec.Owner).live
	_, named := live[rec.Name]
	_, exists := s.records[rec.ID]
	switch {
	case rec.Version != 1 || !rec.Intent.Open:
		err = fmt.Errorf("a new record must be open and have version 1, not open %t and version %d", rec.Intent.Open, rec.Version)
	case named:
		err = bastion.ErrNameTaken
	case len(live) >= quota.PerOwner:
		err = bastion.ErrQuotaOwner
	case s.open >= quota.Total:
		err = bastion.ErrQuotaTotal
	case exists:
		err = bastion.ErrConflict
	}
	if err != nil {
		return fmt.Errorf("create record %s for bastion %q of owner %s: %w", rec.ID, rec.Name, rec.Owner, err)
	}
	s.owner(rec.Owner).live[rec.Name] = rec.ID
	s.open++
	s.put(rec)
	return nil
}

// put writes the record, the two lists and the index of DueAt. s.mu is held.
func (s *store) put(rec bastion.Record) {
	s.records[rec.ID] = copyRecord(rec)
	o := s.owner(rec.Owner)
	if rec.FinishedAt.IsZero() {
		o.listed[rec.ID] = struct{}{}
		s.unfinished[rec.ID] = struct{}{}
	} else {
		delete(o.listed, rec.ID)
		delete(s.unfinished, rec.ID)
	}
	if rec.DueAt.IsZero() {
		delete(s.due, rec.ID)
	} else {
		s.due[rec.ID] = rec.DueAt
	}
}

func (s *store) Replace(ctx context.Context, prev, next bastion.Record) error {
	done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	stored, exists := s.records[prev.ID]
	switch {
	case next.Version != prev.Version+1:
		err = fmt.Errorf("the next version must be %d, not %d", prev.Version+1, next.Version)
	case next.ID != prev.ID || next.Owner != prev.Owner || next.Name != prev.Name:
		err = fmt.Errorf("the ID, owner and name of a record cannot change to %s, %s and %q", next.ID, next.Owner, next.Name)
	case next.Intent.Open && !prev.Intent.Open:
		err = errors.New("a closed record cannot be opened again")
	case !exists || stored.Version != prev.Version:
		err = bastion.ErrConflict
	}
	if err != nil {
		return fmt.Errorf("replace version %d of %s: %w", prev.Version, prev.ID, err)
	}
	if stored.Intent.Open && !next.Intent.Open {
		delete(s.owner(next.Owner).live, next.Name)
		s.open--
	}
	s.put(next)
	return nil
}

func (s *store) Fetch(ctx context.Context, id string) (bastion.Record, error) {
	done, err := s.begin(ctx)
	if err != nil {
		return bastion.Record{}, err
	}
	defer done()
	rec, ok := s.records[id]
	if !ok {
		return bastion.Record{}, fmt.Errorf("fetch %s: %w", id, bastion.ErrNotFound)
	}
	return copyRecord(rec), nil
}

func (s *store) FetchByName(ctx context.Context, owner, name string) (bastion.Record, error) {
	done, err := s.begin(ctx)
	if err != nil {
		return bastion.Record{}, err
	}
	defer done()
	id, ok := s.readOwner(owner).live[name]
	if !ok {
		return bastion.Record{}, fmt.Errorf("fetch the open bastion %q of owner %s: %w", name, owner, bastion.ErrNotFound)
	}
	return copyRecord(s.records[id]), nil
}

func (s *store) ListByOwner(ctx context.Context, owner string) ([]bastion.Record, error) {
	done, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return s.oldestFirst(maps.Keys(s.readOwner(owner).listed)), nil
}

func (s *store) List(ctx context.Context) ([]bastion.Record, error) {
	done, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return s.oldestFirst(maps.Keys(s.unfinished)), nil
}

func (s *store) CountOpen(ctx context.Context) (int, error) {
	done, err := s.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	return s.open, nil
}

func (s *store) Due(ctx context.Context, now time.Time, limit int) ([]string, error) {
	done, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var ids []string
	for id, at := range s.due {
		if !at.After(now) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int {
		return cmp.Or(s.due[a].Compare(s.due[b]), cmp.Compare(a, b))
	})
	return ids[:min(limit, len(ids))], nil
}

func (s *store) RememberKey(ctx context.Context, owner string, key bastion.Key) error {
	done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	s.owner(owner).key = key
	return nil
}

func (s *store) RememberedKey(ctx context.Context, owner string) (bastion.Key, error) {
	done, err := s.begin(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	if key := s.readOwner(owner).key; key != "" {
		return key, nil
	}
	return "", fmt.Errorf("find the remembered key of %s: %w", owner, bastion.ErrNotFound)
}

func (s *store) Mark(ctx context.Context, orphan string, at time.Time) (time.Time, error) {
	done, err := s.begin(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer done()
	if first, ok := s.marks[orphan]; ok {
		return first, nil
	}
	s.marks[orphan] = at
	return at, nil
}

func (s *store) Unmark(ctx context.Context, orphan string) error {
	done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	delete(s.marks, orphan)
	return nil
}

func (s *store) Marks(ctx context.Context) ([]string, error) {
	done, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return slices.Sorted(maps.Keys(s.marks)), nil
}

// all returns every record, oldest first, including the finished ones.
func (s *store) all() []bastion.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.oldestFirst(maps.Keys(s.records))
}

// oldestFirst returns copies of the records with these IDs, oldest first. s.mu is
// held.
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

// copyRecord returns a copy that shares no memory with the record.
func copyRecord(rec bastion.Record) bastion.Record {
	rec.FailureCodes = slices.Clone(rec.FailureCodes)
	rec.Intent.Keys = slices.Clone(rec.Intent.Keys)
	rec.Intent.KeySources = copyKeySources(rec.Intent.KeySources)
	rec.Group.MoreIngress = slices.Clone(rec.Group.MoreIngress)
	rec.Attempt.Endpoints = slices.Clone(rec.Attempt.Endpoints)
	rec.Attempt.MoreHostKeys = slices.Clone(rec.Attempt.MoreHostKeys)
	rec.Attempt.Tags = slices.Clone(rec.Attempt.Tags)
	rec.Receipt.Destinations = slices.Clone(rec.Receipt.Destinations)
	return rec
}
