package localcloud

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Items is a table in memory: values by key, with compare-and-swap.
type Items struct {
	now func() time.Time

	mu    sync.Mutex
	items map[string]storedItem
}

type storedItem struct {
	value   []byte
	version int64
	expires time.Time // zero for never
}

// NewItems returns an empty table.
func NewItems(now func() time.Time) *Items {
	return &Items{now: now, items: map[string]storedItem{}}
}

// find returns the item of a key. If there is no item, the returned version is 0.
// i.mu is held.
func (i *Items) find(key string) storedItem {
	found := i.items[key]
	if !found.expires.IsZero() && !i.now().Before(found.expires) {
		delete(i.items, key)
		return storedItem{}
	}
	return found
}

// Fetch returns the value of the key and its version. bastion.ErrNotFound: the key has
// no value, or the value has expired.
func (i *Items) Fetch(ctx context.Context, key string) (value []byte, version int64, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, 0, fmt.Errorf("fetch an item: %w", err)
	}
	found := i.find(key)
	if found.version == 0 {
		return nil, 0, fmt.Errorf("fetch an item: %w", bastion.ErrNotFound)
	}
	return slices.Clone(found.value), found.version, nil
}

// Write writes the value with the version prev + 1 if the stored version is prev; 0
// means that no value is stored. The value expires at the time expires; zero for
// never. bastion.ErrConflict: the stored version is not prev.
func (i *Items) Write(ctx context.Context, key string, prev int64, value []byte, expires time.Time) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write an item: %w", err)
	}
	i.deleteExpired()
	if i.find(key).version != prev {
		return fmt.Errorf("write an item: %w", bastion.ErrConflict)
	}
	i.items[key] = storedItem{value: slices.Clone(value), version: prev + 1, expires: expires}
	return nil
}

// deleteExpired deletes the items that have expired, as DynamoDB's TTL does. i.mu is
// held.
func (i *Items) deleteExpired() {
	for key := range i.items {
		i.find(key)
	}
}

// Delete deletes the value of the key. If the key has no value, it does nothing.
func (i *Items) Delete(ctx context.Context, key string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete an item: %w", err)
	}
	delete(i.items, key)
	return nil
}
