package cloudtest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// GroupsHarness is what the suite of bastion.Groups runs on.
type GroupsHarness struct {
	Groups bastion.Groups
	// Patience is for how long reads may be stale.
	Patience time.Duration
	// Occupy puts an interface into a group until it is released.
	Occupy func(t *testing.T, bastionID, groupID string) (release func())
	// Cannot says which cases an emulator cannot show, and why.
	Cannot Cannot
}

// Groups is the conformance suite of bastion.Groups. open answers a cloud in
// which the test's groups are its own.
func Groups(t *testing.T, open func(t *testing.T) GroupsHarness) {
	names := map[string]bool{}
	for _, c := range groupCases {
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			if h := open(t); h.Cannot.can(t, c.name) {
				c.run(t, h)
			}
		})
	}
	open(t).Cannot.check(t, names)
}

type groupCase struct {
	name string
	run  func(t *testing.T, h GroupsHarness)
}

var (
	sourceV4 = netip.MustParsePrefix("192.0.2.7/32")
	sourceV6 = netip.MustParsePrefix("2001:db8::7/128")
	another  = netip.MustParsePrefix("192.0.2.8/32")
)

// unknownGroup is a well-formed id that no group has.
const unknownGroup = "sg-0fffffffffffffff0"

// make makes a bastion's group and waits until it shows.
func (h GroupsHarness) make(t *testing.T, bastionID string) bastion.Group {
	t.Helper()
	g, err := h.Groups.Create(t.Context(), bastion.GroupSpec{BastionID: bastionID})
	noError(t, err)
	h.until(t, bastionID, g.ID, func(bastion.Group) bool { return true })
	return g
}

// until looks until the group is as it should be, and answers it.
func (h GroupsHarness) until(t *testing.T, bastionID, groupID string, is func(bastion.Group) bool) bastion.Group {
	t.Helper()
	var g bastion.Group
	eventually(t, h.Patience, func() (err error) {
		g, err = h.Groups.Describe(t.Context(), bastionID, groupID)
		if err == nil && !is(g) {
			err = fmt.Errorf("the group is %+v", g)
		}
		return err
	})
	return g
}

// untilGone looks until the group does not show.
func (h GroupsHarness) untilGone(t *testing.T, bastionID, groupID string) {
	t.Helper()
	eventually(t, h.Patience, func() error {
		_, err := h.Groups.Describe(t.Context(), bastionID, groupID)
		if !errors.Is(err, bastion.ErrNotFound) {
			return fmt.Errorf("a deleted group: %v, not %v", err, bastion.ErrNotFound)
		}
		return nil
	})
}

// admits reports whether the group admits these sources and no other.
func admits(g bastion.Group, sources ...netip.Prefix) bool {
	for _, s := range sources {
		if !slices.ContainsFunc(g.Ingress, func(r bastion.Rule) bool { return r.Source == s && !r.Egress && r.ID != "" }) {
			return false
		}
	}
	return len(g.Ingress) == len(sources)
}

var groupCases = []groupCase{
	{"a new group is found by id and by name", func(t *testing.T, h GroupsHarness) {
		id := newID()
		g := h.make(t, id)
		for _, groupID := range []string{g.ID, ""} {
			got := h.until(t, id, groupID, func(bastion.Group) bool { return true })
			if got.ID != g.ID || got.BastionID != id || !admits(got) {
				t.Errorf("found %+v", got)
			}
		}
	}},
	{"what was never made is not found", func(t *testing.T, h GroupsHarness) {
		for _, groupID := range []string{unknownGroup, ""} {
			_, err := h.Groups.Describe(t.Context(), newID(), groupID)
			wantError(t, "describe", err, bastion.ErrNotFound)
		}
		wantError(t, "authorize", h.Groups.Authorize(t.Context(), unknownGroup, sourceV4), bastion.ErrNotFound)
		wantError(t, "delete", h.Groups.Delete(t.Context(), unknownGroup), bastion.ErrNotFound)
		noError(t, h.Groups.Revoke(t.Context(), unknownGroup, bastion.Rule{ID: "sgr-0fffffffffffffff0", Source: sourceV4}))
	}},
	{"creating again answers the same group", func(t *testing.T, h GroupsHarness) {
		id := newID()
		g := h.make(t, id)
		eventually(t, h.Patience, func() error {
			again, err := h.Groups.Create(t.Context(), bastion.GroupSpec{BastionID: id})
			if err == nil && again.ID != g.ID {
				t.Fatalf("created %s as well as %s", again.ID, g.ID)
			}
			return err
		})
	}},
	{"16 creators make one group", func(t *testing.T, h GroupsHarness) {
		id := newID()
		groups := make([]string, 16)
		together(len(groups), func(i int) {
			g, err := h.Groups.Create(t.Context(), bastion.GroupSpec{BastionID: id})
			if err != nil && !errors.Is(err, bastion.ErrNotFound) {
				t.Error(err)
			}
			groups[i] = g.ID
		})
		found := h.until(t, id, "", func(bastion.Group) bool { return true })
		for _, groupID := range groups {
			if groupID != "" && groupID != found.ID {
				t.Errorf("%s was created as well as %s", groupID, found.ID)
			}
		}
	}},
	{"sources are admitted once", func(t *testing.T, h GroupsHarness) {
		id := newID()
		g := h.make(t, id)
		for _, source := range []netip.Prefix{sourceV4, sourceV6, sourceV4, sourceV6, another} {
			h.settled(t, func(ctx context.Context) error { return h.Groups.Authorize(ctx, g.ID, source) })
		}
		h.until(t, id, g.ID, func(g bastion.Group) bool { return admits(g, sourceV4, sourceV6, another) })
	}},
	{"rules are revoked one by one", func(t *testing.T, h GroupsHarness) {
		id := newID()
		g := h.make(t, id)
		h.settled(t, func(ctx context.Context) error { return h.Groups.Authorize(ctx, g.ID, sourceV4) })
		h.settled(t, func(ctx context.Context) error { return h.Groups.Authorize(ctx, g.ID, sourceV6) })
		g = h.until(t, id, g.ID, func(g bastion.Group) bool { return admits(g, sourceV4, sourceV6) })
		i := slices.IndexFunc(g.Ingress, func(r bastion.Rule) bool { return r.Source == sourceV4 })
		for range 2 {
			noError(t, h.Groups.Revoke(t.Context(), g.ID, g.Ingress[i]))
			h.until(t, id, g.ID, func(g bastion.Group) bool { return admits(g, sourceV6) })
		}
		for _, rule := range g.Egress {
			noError(t, h.Groups.Revoke(t.Context(), g.ID, rule))
		}
		h.until(t, id, g.ID, func(g bastion.Group) bool { return admits(g, sourceV6) && len(g.Egress) == 0 })
	}},
	{"what is deleted is gone, and made anew", func(t *testing.T, h GroupsHarness) {
		id := newID()
		g := h.make(t, id)
		noError(t, h.Groups.Delete(t.Context(), g.ID))
		h.untilGone(t, id, g.ID)
		h.untilGone(t, id, "")
		wantError(t, "delete again", h.Groups.Delete(t.Context(), g.ID), bastion.ErrNotFound)
		if again := h.make(t, id); again.ID == g.ID {
			t.Errorf("the group made anew is %s as well", again.ID)
		}
	}},
	{"a group in use is not deleted", groupInUse},
	{"the list has all of them", func(t *testing.T, h GroupsHarness) {
		made := map[string]string{}
		for range 3 {
			id := newID()
			made[id] = h.make(t, id).ID
		}
		eventually(t, h.Patience, func() error {
			groups, err := h.Groups.List(t.Context())
			found := 0
			for _, g := range groups {
				if made[g.BastionID] == g.ID {
					found++
				}
			}
			if err == nil && found != len(made) {
				err = fmt.Errorf("%d of %d in the list", found, len(made))
			}
			return err
		})
	}},
}

// settled repeats a call that a stale read may make answer ErrNotFound.
func (h GroupsHarness) settled(t *testing.T, call func(context.Context) error) {
	t.Helper()
	eventually(t, h.Patience, func() error {
		err := call(t.Context())
		if err != nil && !errors.Is(err, bastion.ErrNotFound) {
			t.Fatal(err)
		}
		return err
	})
}

func groupInUse(t *testing.T, h GroupsHarness) {
	id := newID()
	g := h.make(t, id)
	release := h.Occupy(t, id, g.ID)
	wantError(t, "delete a group in use", h.Groups.Delete(t.Context(), g.ID), bastion.ErrInUse)
	if _, err := h.Groups.Describe(t.Context(), id, g.ID); err != nil {
		t.Errorf("the group in use: %v", err)
	}
	release()
	eventually(t, h.Patience, func() error { return h.Groups.Delete(t.Context(), g.ID) })
	h.untilGone(t, id, g.ID)
}
