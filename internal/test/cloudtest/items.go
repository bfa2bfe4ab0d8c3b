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

// Table is the port of values under keys, as its user declares it.
type Table interface {
	Fetch(ctx context.Context, key string) (value []byte, version int64, err error)
	Write(ctx context.Context, key string, prev int64, value []byte, expires time.Time) error
	Delete(ctx context.Context, key string) error
}

// Items is the conformance suite of a table of values. open answers an empty one
// of the test's own, whose clock is now.
func Items(t *testing.T, open func(t *testing.T, now func() time.Time) Table) {
	for name, run := range itemCases {
		t.Run(name, func(t *testing.T) {
			clock := &clock{at: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
			run(t, items{t, open(t, clock.now)}, clock)
		})
	}
}

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// items is a table that a test expects things of.
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

func (i items) conflict(key string, prev int64) {
	i.t.Helper()
	if err := i.table.Write(i.t.Context(), key, prev, []byte("wrong"), time.Time{}); !errors.Is(err, bastion.ErrConflict) {
		i.t.Fatalf("write %s over version %d: %v, not %v", key, prev, err, bastion.ErrConflict)
	}
}

func (i items) has(key, value string, version int64) {
	i.t.Helper()
	got, v, err := i.table.Fetch(i.t.Context(), key)
	if err != nil || string(got) != value || v != version {
		i.t.Fatalf("%s is %q of version %d, %v; not %q of version %d", key, got, v, err, value, version)
	}
}

func (i items) hasNot(key string) {
	i.t.Helper()
	got, v, err := i.table.Fetch(i.t.Context(), key)
	if !errors.Is(err, bastion.ErrNotFound) || got != nil || v != 0 {
		i.t.Fatalf("%s is %q of version %d, %v; not %v", key, got, v, err, bastion.ErrNotFound)
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
	"what was written is there": func(t *testing.T, i items, _ *clock) {
		i.hasNot("a")
		for n, text := range texts {
			key := fmt.Sprint("talk#", n, "#", text)
			i.write(key, 0, text, never)
			i.has(key, text, 1)
		}
		i.write("bytes", 0, "\x00\xff\xfe", never)
		i.has("bytes", "\x00\xff\xfe", 1)
		i.write("empty", 0, "", never)
		i.has("empty", "", 1)
		noError(t, i.table.Write(t.Context(), "nil", 0, nil, never))
		i.has("nil", "", 1)
	},
	"a write wants the version": func(_ *testing.T, i items, _ *clock) {
		i.conflict("a", 1)
		i.hasNot("a")
		i.write("a", 0, "one", never)
		i.conflict("a", 0)
		i.conflict("a", 2)
		i.write("a", 1, "two", never)
		i.conflict("a", 1)
		i.conflict("a", 0)
		i.has("a", "two", 2)
		for version := int64(2); version < 20; version++ { // there is no end to them
			i.write("a", version, "more", never)
		}
		i.has("a", "more", 20)
		i.hasNot("b")
	},
	"what has expired never was": func(_ *testing.T, i items, c *clock) {
		i.write("a", 0, "one", c.now().Add(10*time.Minute))
		i.write("a", 1, "two", c.now().Add(10*time.Minute))
		c.pass(10*time.Minute - time.Second)
		i.has("a", "two", 2)
		i.conflict("a", 0)
		c.pass(time.Second)
		i.hasNot("a")
		i.conflict("a", 2)
		i.conflict("a", 1)
		i.write("a", 0, "new", c.now().Add(time.Minute))
		i.has("a", "new", 1)
		i.conflict("a", 0)
		c.pass(time.Minute)
		i.hasNot("a")
		i.delete("a")
		i.write("a", 0, "newer", never)
		c.pass(1000 * time.Hour)
		i.has("a", "newer", 1)
	},
	"a write moves the expiry": func(_ *testing.T, i items, c *clock) {
		for _, key := range []string{"longer", "never"} {
			i.write(key, 0, "one", c.now().Add(time.Minute))
		}
		i.write("shorter", 0, "one", never)
		i.write("longer", 1, "two", c.now().Add(3*time.Minute))
		i.write("never", 1, "two", never)
		i.write("shorter", 1, "two", c.now().Add(2*time.Minute))
		c.pass(2 * time.Minute)
		i.has("longer", "two", 2)
		i.has("never", "two", 2)
		i.hasNot("shorter")
		i.write("past", 0, "one", c.now().Add(-time.Hour))
		i.hasNot("past")
	},
	"a time within a second is not cut short": func(_ *testing.T, i items, c *clock) {
		i.write("a", 0, "one", c.now().Add(1500*time.Millisecond))
		c.pass(time.Second)
		i.has("a", "one", 1)
		c.pass(time.Second)
		i.hasNot("a")
	},
	"a delete frees the key": func(_ *testing.T, i items, _ *clock) {
		i.delete("a")
		i.write("a", 0, "one", never)
		i.write("b", 0, "other", never)
		i.delete("a")
		i.hasNot("a")
		i.has("b", "other", 1)
		i.conflict("a", 1)
		i.write("a", 0, "two", never)
		i.has("a", "two", 1)
		i.delete("a")
		i.delete("a")
	},
	"a hundred kilobytes": func(_ *testing.T, i items, _ *clock) {
		large := strings.Repeat("0123456789", 10<<10)
		i.write("a", 0, large, never)
		i.has("a", large, 1)
		i.write("a", 1, "small", never)
		i.has("a", "small", 2)
	},
	"what comes back is the caller's own": func(t *testing.T, i items, _ *clock) {
		mine := []byte("one")
		noError(t, i.table.Write(t.Context(), "a", 0, mine, never))
		copy(mine, "xxx")
		got, _, err := i.table.Fetch(t.Context(), "a")
		noError(t, err)
		copy(got, "yyy")
		i.has("a", "one", 1)
	},
	"of 32 first writers one is first": func(t *testing.T, i items, c *clock) {
		i.write("expired", 0, "old", c.now().Add(time.Second))
		c.pass(time.Second)
		for _, key := range []string{"new", "expired"} {
			firsts := i.race(32, func(n int) error {
				return i.table.Write(t.Context(), key, 0, fmt.Append(nil, n), c.now().Add(time.Hour))
			})
			if len(firsts) != 1 {
				t.Fatalf("%s: %d of 32 were first", key, len(firsts))
			}
			i.has(key, fmt.Sprint(firsts[0]), 1)
		}
	},
	"of 32 writers none is lost": func(t *testing.T, i items, _ *clock) {
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
		i.has("a", strings.Repeat(".", 32), 32)
	},
	"writers of different keys do not meet": func(t *testing.T, i items, _ *clock) {
		written := i.race(32, func(n int) error {
			return i.table.Write(t.Context(), fmt.Sprint("key", n), 0, []byte("one"), never)
		})
		if len(written) != 32 {
			t.Fatalf("%d of 32 were written", len(written))
		}
	},
	"nothing is done for who has gone": func(t *testing.T, i items, _ *clock) {
		i.write("a", 0, "one", never)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, err := i.table.Fetch(gone, "a")
		wantError(t, "fetch", err, context.Canceled)
		wantError(t, "write", i.table.Write(gone, "a", 1, []byte("two"), never), context.Canceled)
		wantError(t, "delete", i.table.Delete(gone, "a"), context.Canceled)
		i.has("a", "one", 1)
	},
}

// race answers which of n writers at once wrote; the others must have met a
// conflict.
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
