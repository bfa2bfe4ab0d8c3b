package cloudtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Table is a table of values by key with compare-and-swap, as package slack declares
// it.
type Table interface {
	Fetch(ctx context.Context, key string) (value []byte, version int64, err error)
	Write(ctx context.Context, key string, prev int64, value []byte, expires time.Time) error
	Delete(ctx context.Context, key string) error
}

// Items is the conformance suite of a [Table]. open returns an empty table for the
// test. The table takes the time from now.
func Items(t *testing.T, open func(t *testing.T, now func() time.Time) Table) {
	for name, run := range itemCases {
		t.Run(name, func(t *testing.T) {
			clock := &clock{at: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
			run(t, items{t, open(t, clock.now)}, clock)
		})
	}
}

// clock shows the time that the test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// items is a table with assertions.
type items struct {
	t     *testing.T
	table Table
}

func (i items) write(key string, prev int64, value string, expires time.Time) {
	i.t.Helper()
	if err := i.table.Write(i.t.Context(), key, prev, []byte(value), expires); err != nil {
		i.t.Fatalf("write %s over version %d: %v", key, prev, err)
	}
}

func (i items) expectConflict(key string, prev int64) {
	i.t.Helper()
	if err := i.table.Write(i.t.Context(), key, prev, []byte("wrong"), time.Time{}); !errors.Is(err, bastion.ErrConflict) {
		i.t.Fatalf("write %s over version %d: %v, want %v", key, prev, err, bastion.ErrConflict)
	}
}

func (i items) expect(key, value string, version int64) {
	i.t.Helper()
	got, v, err := i.table.Fetch(i.t.Context(), key)
	if err != nil || string(got) != value || v != version {
		i.t.Fatalf("%s is %q in version %d, %v; want %q in version %d", key, got, v, err, value, version)
	}
}

func (i items) expectNone(key string) {
	i.t.Helper()
	got, v, err := i.table.Fetch(i.t.Context(), key)
	if !errors.Is(err, bastion.ErrNotFound) || got != nil || v != 0 {
		i.t.Fatalf("%s is %q in version %d, %v; want %v", key, got, v, err, bastion.ErrNotFound)
	}
}

func (i items) delete(key string) {
	i.t.Helper()
	if err := i.table.Delete(i.t.Context(), key); err != nil {
		i.t.Fatalf("delete %s: %v", key, err)
	}
}

var never time.Time

var itemCases = map[string]func(t *testing.T, i items, c *clock){
	"a written value is read": func(t *testing.T, i items, _ *clock) {
		i.expectNone("a")
		for n, text := range texts {
			key := fmt.Sprint("kind#", n, "#", text)
			i.write(key, 0, text, never)
			i.expect(key, text, 1)
		}
		i.write("bytes", 0, "\x00\xff\xfe", never)
		i.expect("bytes", "\x00\xff\xfe", 1)
		i.write("empty", 0, "", never)
		i.expect("empty", "", 1)
		noError(t, i.table.Write(t.Context(), "nil", 0, nil, never))
		i.expect("nil", "", 1)
	},
	"a write with another version is a conflict": func(_ *testing.T, i items, _ *clock) {
		i.expectConflict("a", 1)
		i.expectNone("a")
		i.write("a", 0, "one", never)
		i.expectConflict("a", 0)
		i.expectConflict("a", 2)
		i.write("a", 1, "two", never)
		i.expectConflict("a", 1)
		i.expectConflict("a", 0)
		i.expect("a", "two", 2)
		for version := int64(2); version < 20; version++ {
			i.write("a", version, "more", never)
		}
		i.expect("a", "more", 20)
		i.expectNone("b")
	},
	"an expired value does not exist": func(_ *testing.T, i items, c *clock) {
		i.write("a", 0, "one", c.now().Add(10*time.Minute))
		i.write("a", 1, "two", c.now().Add(10*time.Minute))
		c.advance(10*time.Minute - time.Second)
		i.expect("a", "two", 2)
		i.expectConflict("a", 0)
		c.advance(time.Second)
		i.expectNone("a")
		i.expectConflict("a", 2)
		i.expectConflict("a", 1)
		i.write("a", 0, "new", c.now().Add(time.Minute))
		i.expect("a", "new", 1)
		i.expectConflict("a", 0)
		c.advance(time.Minute)
		i.expectNone("a")
		i.delete("a")
		i.write("a", 0, "newer", never)
		c.advance(1000 * time.Hour)
		i.expect("a", "newer", 1)
	},
	"a write replaces the expiry": func(_ *testing.T, i items, c *clock) {
		for _, key := range []string{"longer", "never"} {
			i.write(key, 0, "one", c.now().Add(time.Minute))
		}
		i.write("shorter", 0, "one", never)
		i.write("longer", 1, "two", c.now().Add(3*time.Minute))
		i.write("never", 1, "two", never)
		i.write("shorter", 1, "two", c.now().Add(2*time.Minute))
		c.advance(2 * time.Minute)
		i.expect("longer", "two", 2)
		i.expect("never", "two", 2)
		i.expectNone("shorter")
		i.write("past", 0, "one", c.now().Add(-time.Hour))
		i.expectNone("past")
	},
	"an expiry is not rounded down to a whole second": func(_ *testing.T, i items, c *clock) {
		i.write("a", 0, "one", c.now().Add(1500*time.Millisecond))
		c.advance(time.Second)
		i.expect("a", "one", 1)
		c.advance(time.Second)
		i.expectNone("a")
	},
	"a deleted key can be written again": func(_ *testing.T, i items, _ *clock) {
		i.delete("a")
		i.write("a", 0, "one", never)
		i.write("b", 0, "other", never)
		i.delete("a")
		i.expectNone("a")
		i.expect("b", "other", 1)
		i.expectConflict("a", 1)
		i.write("a", 0, "two", never)
		i.expect("a", "two", 1)
		i.delete("a")
		i.delete("a")
	},
	"a value of 100 KB": func(_ *testing.T, i items, _ *clock) {
		large := strings.Repeat("0123456789", 10<<10)
		i.write("a", 0, large, never)
		i.expect("a", large, 1)
		i.write("a", 1, "small", never)
		i.expect("a", "small", 2)
	},
	"values are copied": func(t *testing.T, i items, _ *clock) {
		value := []byte("one")
		noError(t, i.table.Write(t.Context(), "a", 0, value, never))
		copy(value, "xxx")
		got, _, err := i.table.Fetch(t.Context(), "a")
		noError(t, err)
		copy(got, "yyy")
		i.expect("a", "one", 1)
	},
	"one of 32 concurrent first writes succeeds": func(t *testing.T, i items, c *clock) {
		i.write("expired", 0, "old", c.now().Add(time.Second))
		c.advance(time.Second)
		for _, key := range []string{"new", "expired"} {
			firsts := i.race(32, func(n int) error {
				return i.table.Write(t.Context(), key, 0, fmt.Append(nil, n), c.now().Add(time.Hour))
			})
			if len(firsts) != 1 {
				t.Fatalf("%s: %d of 32 writes succeeded", key, len(firsts))
			}
			i.expect(key, fmt.Sprint(firsts[0]), 1)
		}
	},
	"32 concurrent read-modify-writes lose no update": func(t *testing.T, i items, _ *clock) {
		together(32, func(int) {
			for {
				value, version, err := i.table.Fetch(t.Context(), "a")
				if err != nil && !errors.Is(err, bastion.ErrNotFound) {
					t.Error(err)
					return
				}
				err = i.table.Write(t.Context(), "a", version, append(bytes.Clone(value), '.'), never)
				if err == nil {
					return
				}
				if !errors.Is(err, bastion.ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
		i.expect("a", strings.Repeat(".", 32), 32)
	},
	"concurrent writes of different keys do not conflict": func(t *testing.T, i items, _ *clock) {
		written := i.race(32, func(n int) error {
			return i.table.Write(t.Context(), fmt.Sprint("key", n), 0, []byte("one"), never)
		})
		if len(written) != 32 {
			t.Fatalf("%d of 32 writes succeeded", len(written))
		}
	},
	"calls with a cancelled context have no effect": func(t *testing.T, i items, _ *clock) {
		i.write("a", 0, "one", never)
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, err := i.table.Fetch(cancelled, "a")
		wantError(t, "fetch", err, context.Canceled)
		wantError(t, "write", i.table.Write(cancelled, "a", 1, []byte("two"), never), context.Canceled)
		wantError(t, "delete", i.table.Delete(cancelled, "a"), context.Canceled)
		i.expect("a", "one", 1)
	},
}

// race runs n concurrent writes and returns which of them succeeded. The others must
// return a conflict.
func (i items) race(n int, write func(n int) error) (written []int) {
	var mu sync.Mutex
	together(n, func(n int) {
		err := write(n)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			written = append(written, n)
		} else if !errors.Is(err, bastion.ErrConflict) {
			i.t.Error(err)
		}
	})
	return written
}
