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

// GroupsHarness is one cloud for the suite of bastion.Groups.
type GroupsHarness struct {
	// Groups allows sources of at most /28 in IPv4 and /64 in IPv6.
	Groups bastion.Groups
	// Patience is how long reads can be stale.
	Patience time.Duration
	// Occupy attaches a network interface to a group until release is called.
	Occupy func(t *testing.T, bastionID, groupID string) (release func())
	// Refuse makes the next call that changes a group return a refusal.
	Refuse func()
	// Unsupported names the cases that an emulator cannot pass.
	Unsupported Unsupported
}

// Groups is the conformance suite of bastion.Groups. open returns a cloud without
// groups of the test's bastions.
func Groups(t *testing.T, open func(t *testing.T) GroupsHarness) {
	names := map[string]bool{}
	for _, c := range groupCases {
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			if h := open(t); h.Unsupported.supports(t, c.name) {
				c.run(t, h)
			}
		})
	}
	open(t).Unsupported.check(t, names)
}

type groupCase struct {
	name string
	run  func(t *testing.T, h GroupsHarness)
}

var (
	sourceV4 = netip.MustParsePrefix("192.0.2.7/32")
	sourceV6 = netip.MustParsePrefix("2001:db8::7/128")
	another  = netip.MustParsePrefix("192.0.2.8/32")
	prefixV4 = netip.MustParsePrefix("192.0.2.0/28")  // contains sourceV4
	prefixV6 = netip.MustParsePrefix("2001:db8::/64") // contains sourceV6
)

// unknownGroup is a well-formed ID that no group has.
const unknownGroup = "sg-0fffffffffffffff0"

// create creates a bastion's group and waits until it is visible.
func (h GroupsHarness) create(t *testing.T, bastionID string) bastion.Group {
	t.Helper()
	g, err := h.Groups.Create(t.Context(), bastion.GroupSpec{BastionID: bastionID})
	noError(t, err)
	h.until(t, bastionID, g.ID, func(bastion.Group) bool { return true })
	return g
}

// until reads the group until the condition holds, and returns it.
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

// untilGone reads until the group is not found.
func (h GroupsHarness) untilGone(t *testing.T, bastionID, groupID string) {
	t.Helper()
	eventually(t, h.Patience, func() error {
		_, err := h.Groups.Describe(t.Context(), bastionID, groupID)
		if !errors.Is(err, bastion.ErrNotFound) {
			return fmt.Errorf("describe a deleted group: %v, want %v", err, bastion.ErrNotFound)
		}
		return nil
	})
}

// admits reports whether the group admits exactly these sources.
func admits(g bastion.Group, sources ...netip.Prefix) bool {
	for _, s := range sources {
		if !slices.ContainsFunc(g.Ingress, func(r bastion.Rule) bool { return r.Source == s && !r.Egress && r.ID != "" }) {
			return false
		}
	}
	return len(g.Ingress) == len(sources)
}

var groupCases = []groupCase{
	{"a new group is found by ID and by name", func(t *testing.T, h GroupsHarness) {
		id := newID()
		g := h.create(t, id)
		for _, groupID := range []string{g.ID, ""} {
			got := h.until(t, id, groupID, func(bastion.Group) bool { return true })
			if got.ID != g.ID || got.BastionID != id || !admits(got) {
				t.Errorf("found %+v", got)
			}
		}
	}},
	{"an unknown group is not found", func(t *testing.T, h GroupsHarness) {
		for _, groupID := range []string{unknownGroup, ""} {
			_, err := h.Groups.Describe(t.Context(), newID(), groupID)
			wantError(t, "describe", err, bastion.ErrNotFound)
		}
		wantError(t, "authorize", h.Groups.Authorize(t.Context(), unknownGroup, sourceV4), bastion.ErrNotFound)
		wantError(t, "delete", h.Groups.Delete(t.Context(), unknownGroup), bastion.ErrNotFound)
		noError(t, h.Groups.Revoke(t.Context(), unknownGroup, bastion.Rule{ID: "sgr-0fffffffffffffff0", Source: sourceV4}))
	}},
	{"a repeated create returns the same group", func(t *testing.T, h GroupsHarness) {
		id := newID()
		g := h.create(t, id)
		eventually(t, h.Patience, func() error {
			again, err := h.Groups.Create(t.Context(), bastion.GroupSpec{BastionID: id})
			if err == nil && again.ID != g.ID {
				t.Fatalf("created %s as well as %s", again.ID, g.ID)
			}
			return err
		})
	}},
	{"16 concurrent creates create one group", func(t *testing.T, h GroupsHarness) {
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
	{"a repeated authorize does nothing", func(t *testing.T, h GroupsHarness) {
		id := newID()
		g := h.create(t, id)
		for _, source := range []netip.Prefix{sourceV4, sourceV6, sourceV4, sourceV6, another} {
			h.retry(t, func(ctx context.Context) error { return h.Groups.Authorize(ctx, g.ID, source) })
		}
		h.until(t, id, g.ID, func(g bastion.Group) bool { return admits(g, sourceV4, sourceV6, another) })
	}},
	{"revoke removes one rule", func(t *testing.T, h GroupsHarness) {
		id := newID()
		g := h.create(t, id)
		h.retry(t, func(ctx context.Context) error { return h.Groups.Authorize(ctx, g.ID, sourceV4) })
		h.retry(t, func(ctx context.Context) error { return h.Groups.Authorize(ctx, g.ID, sourceV6) })
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
	{"a prefix is a rule of its own, beside the addresses in it", func(t *testing.T, h GroupsHarness) {
		id := newID()
		g := h.create(t, id)
		all := []netip.Prefix{prefixV4, prefixV6, sourceV4, sourceV6}
		for _, source := range slices.Concat(all, all) {
			h.retry(t, func(ctx context.Context) error { return h.Groups.Authorize(ctx, g.ID, source) })
		}
		g = h.until(t, id, g.ID, func(g bastion.Group) bool { return admits(g, all...) })
		for _, rule := range g.Ingress {
			if !rule.Source.IsSingleIP() {
				noError(t, h.Groups.Revoke(t.Context(), g.ID, rule))
			}
		}
		h.until(t, id, g.ID, func(g bastion.Group) bool { return admits(g, sourceV4, sourceV6) })
	}},
	{"a deleted group is gone and can be created again", func(t *testing.T, h GroupsHarness) {
		id := newID()
		g := h.create(t, id)
		noError(t, h.Groups.Delete(t.Context(), g.ID))
		h.untilGone(t, id, g.ID)
		h.untilGone(t, id, "")
		wantError(t, "delete again", h.Groups.Delete(t.Context(), g.ID), bastion.ErrNotFound)
		if again := h.create(t, id); again.ID == g.ID {
			t.Errorf("the new group has the same ID, %s", again.ID)
		}
	}},
	{"a group in use cannot be deleted", groupInUse},
	{"a refused call has no effect and can be repeated", refusedGroupCalls},
	{"the list contains all groups", func(t *testing.T, h GroupsHarness) {
		created := map[string]string{}
		for range 3 {
			id := newID()
			created[id] = h.create(t, id).ID
		}
		eventually(t, h.Patience, func() error {
			groups, err := h.Groups.List(t.Context())
			found := 0
			for _, g := range groups {
				if created[g.BastionID] == g.ID {
					found++
				}
			}
			if err == nil && found != len(created) {
				err = fmt.Errorf("%d of %d in the list", found, len(created))
			}
			return err
		})
	}},
}

// retry repeats a call that returns ErrNotFound because of a stale read.
func (h GroupsHarness) retry(t *testing.T, call func(context.Context) error) {
	t.Helper()
	eventually(t, h.Patience, func() error {
		err := call(t.Context())
		if err != nil && !errors.Is(err, bastion.ErrNotFound) {
			t.Fatal(err)
		}
		return err
	})
}

func refusedGroupCalls(t *testing.T, h GroupsHarness) {
	refused := func(name string, call func() error) {
		t.Helper()
		h.Refuse()
		var refusal *bastion.RefusedError
		if err := call(); !errors.As(err, &refusal) || refusal.Failure.Code == "" || refusal.Failure.Message == "" || refusal.Detail == "" {
			t.Fatalf("%s: %v, want a refusal with a code, a message and a detail", name, err)
		}
	}
	id := newID()
	refused("create", func() error {
		_, err := h.Groups.Create(t.Context(), bastion.GroupSpec{BastionID: id})
		return err
	})
	_, err := h.Groups.Describe(t.Context(), id, "")
	wantError(t, "describe the refused group", err, bastion.ErrNotFound)
	g := h.create(t, id)

	refused("authorize", func() error { return h.Groups.Authorize(t.Context(), g.ID, sourceV4) })
	h.retry(t, func(ctx context.Context) error { return h.Groups.Authorize(ctx, g.ID, sourceV6) })
	g = h.until(t, id, g.ID, func(g bastion.Group) bool { return admits(g, sourceV6) })

	refused("revoke", func() error { return h.Groups.Revoke(t.Context(), g.ID, g.Ingress[0]) })
	h.retry(t, func(ctx context.Context) error { return h.Groups.Authorize(ctx, g.ID, sourceV4) })
	h.until(t, id, g.ID, func(g bastion.Group) bool { return admits(g, sourceV4, sourceV6) })
	noError(t, h.Groups.Revoke(t.Context(), g.ID, g.Ingress[0]))
	h.until(t, id, g.ID, func(g bastion.Group) bool { return admits(g, sourceV4) })

	refused("delete", func() error { return h.Groups.Delete(t.Context(), g.ID) })
	h.until(t, id, g.ID, func(g bastion.Group) bool { return admits(g, sourceV4) })
	noError(t, h.Groups.Delete(t.Context(), g.ID))
	h.untilGone(t, id, g.ID)
}

func groupInUse(t *testing.T, h GroupsHarness) {
	id := newID()
	g := h.create(t, id)
	release := h.Occupy(t, id, g.ID)
	wantError(t, "delete a group in use", h.Groups.Delete(t.Context(), g.ID), bastion.ErrInUse)
	if _, err := h.Groups.Describe(t.Context(), id, g.ID); err != nil {
		t.Errorf("the group in use: %v", err)
	}
	release()
	eventually(t, h.Patience, func() error { return h.Groups.Delete(t.Context(), g.ID) })
	h.untilGone(t, id, g.ID)
}
