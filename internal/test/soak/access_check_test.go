//go:build conformance

package soak

import (
	"net/netip"
	"testing"
	"time"
)

// The soak finds nothing if access allows too much.
func TestAccessFollowsTheRequests(t *testing.T) {
	home, travel := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	a := &access{}
	long := time.Now().Add(-time.Hour)
	check := func(what, key string, source netip.Addr, from time.Time, enter, reach bool) {
		t.Helper()
		if got := a.mayEnter("b1", key, source, from, time.Now()); got != enter {
			t.Errorf("%s: may enter with %s from %s: %t, want %t", what, key, source, got, enter)
		}
		if got := a.mayReach("b1", source, from, time.Now()); got != reach {
			t.Errorf("%s: may reach it from %s: %t, want %t", what, source, got, reach)
		}
	}
	check("before any request", "k1", home, long, false, false)
	first := a.ask("k1", home)
	check("request under way", "k1", home, long, true, true)
	a.answer(first, "b1")
	check("another key", "k2", home, long, false, true)
	check("another address", "k1", travel, long, false, false)
	second := a.ask("k2", travel)
	a.answer(second, "b1")
	check("not known to be in force", "k1", home, time.Now(), true, true)
	a.inForce(second, []string{"k1", "k2"})
	check("a key was added", "k1", home, time.Now(), true, true)
	a.inForce(second, []string{"k2"})
	check("a key was replaced", "k1", home, time.Now(), false, false)
	check("a login began before", "k1", home, long, true, true)
	check("the new key", "k2", travel, time.Now(), true, true)
	check("the new key from the old address", "k2", home, time.Now(), false, false)
	a.close("b1")
	check("closed", "k2", travel, time.Now(), false, false)
	if a.mayEnter("b2", "k2", travel, time.Now(), time.Now()) {
		t.Error("a request for one bastion opens another one")
	}
}
