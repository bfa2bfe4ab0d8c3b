package localcloud

import "time"

// history is what a thing looked like and since when, so that it can be read as
// of a moment ago.
type history[T any] struct {
	moments []moment[T] // oldest first
}

type moment[T any] struct {
	at    time.Time
	value T
	there bool
}

// set notes a change. What nobody can read any more is forgotten: all but the
// latest of the moments that are older than staleness.
func (h *history[T]) set(at time.Time, staleness time.Duration, value T, there bool) {
	h.moments = append(h.moments, moment[T]{at, value, there})
	first := 0
	for i, m := range h.moments {
		if !m.at.After(at.Add(-staleness)) {
			first = i
		}
	}
	h.moments = append(h.moments[:0], h.moments[first:]...)
}

// at is what the thing looked like then; false if it was not there.
func (h *history[T]) at(then time.Time) (value T, there bool) {
	for i := len(h.moments) - 1; i >= 0; i-- {
		if m := h.moments[i]; !m.at.After(then) {
			return m.value, m.there
		}
	}
	return value, false
}

// latest is what the thing is now.
func (h *history[T]) latest() (value T, there bool) {
	m := h.moments[len(h.moments)-1]
	return m.value, m.there
}

// shown is what a read of the thing's history sees.
func shown[T any](c *Cloud, h *history[T]) (T, bool) {
	if c.cfg.Staleness <= 0 {
		return h.latest()
	}
	return h.at(c.cfg.Now().Add(-c.cfg.Staleness))
}
