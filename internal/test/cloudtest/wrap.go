package cloudtest

import (
	"context"
	"net/netip"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Ports are the ports of a service.
type Ports struct {
	Store    bastion.Store
	Groups   bastion.Groups
	Tasks    bastion.Tasks
	Leases   bastion.Leases
	Notifier bastion.Notifier
}

// Hook stands between a service and a port. call names what is called, such as
// "Store.Replace"; do does it. Whoever called is answered what the hook answers:
// with an error, nothing of what do found.
type Hook func(ctx context.Context, call string, do func() error) error

// Wrap makes ports whose every call goes through the hook.
func Wrap(p Ports, hook Hook) Ports {
	return Ports{
		Store:    hookedStore{p.Store, hook},
		Groups:   hookedGroups{p.Groups, hook},
		Tasks:    hookedTasks{p.Tasks, hook},
		Leases:   hookedLeases{p.Leases, hook},
		Notifier: hookedNotifier{p.Notifier, hook},
	}
}

// through calls what answers a value through a hook.
func through[T any](ctx context.Context, hook Hook, call string, do func() (T, error)) (T, error) {
	var value, nothing T
	err := hook(ctx, call, func() (err error) {
		value, err = do()
		return err
	})
	if err != nil {
		return nothing, err
	}
	return value, nil
}

type hookedStore struct {
	next bastion.Store
	hook Hook
}

func (s hookedStore) Create(ctx context.Context, rec bastion.Record, quota bastion.Quota) error {
	return s.hook(ctx, "Store.Create", func() error { return s.next.Create(ctx, rec, quota) })
}

func (s hookedStore) Fetch(ctx context.Context, id string) (bastion.Record, error) {
	return through(ctx, s.hook, "Store.Fetch", func() (bastion.Record, error) { return s.next.Fetch(ctx, id) })
}

func (s hookedStore) FetchByName(ctx context.Context, owner, name string) (bastion.Record, error) {
	return through(ctx, s.hook, "Store.FetchByName", func() (bastion.Record, error) { return s.next.FetchByName(ctx, owner, name) })
}

func (s hookedStore) Replace(ctx context.Context, prev, next bastion.Record) error {
	return s.hook(ctx, "Store.Replace", func() error { return s.next.Replace(ctx, prev, next) })
}

func (s hookedStore) ListByOwner(ctx context.Context, owner string) ([]bastion.Record, error) {
	return through(ctx, s.hook, "Store.ListByOwner", func() ([]bastion.Record, error) { return s.next.ListByOwner(ctx, owner) })
}

func (s hookedStore) List(ctx context.Context) ([]bastion.Record, error) {
	return through(ctx, s.hook, "Store.List", func() ([]bastion.Record, error) { return s.next.List(ctx) })
}

func (s hookedStore) Due(ctx context.Context, now time.Time, limit int) ([]string, error) {
	return through(ctx, s.hook, "Store.Due", func() ([]string, error) { return s.next.Due(ctx, now, limit) })
}

func (s hookedStore) RememberKey(ctx context.Context, owner string, key bastion.Key) error {
	return s.hook(ctx, "Store.RememberKey", func() error { return s.next.RememberKey(ctx, owner, key) })
}

func (s hookedStore) RememberedKey(ctx context.Context, owner string) (bastion.Key, error) {
	return through(ctx, s.hook, "Store.RememberedKey", func() (bastion.Key, error) { return s.next.RememberedKey(ctx, owner) })
}

func (s hookedStore) Mark(ctx context.Context, orphan string, at time.Time) (time.Time, error) {
	return through(ctx, s.hook, "Store.Mark", func() (time.Time, error) { return s.next.Mark(ctx, orphan, at) })
}

func (s hookedStore) Unmark(ctx context.Context, orphan string) error {
	return s.hook(ctx, "Store.Unmark", func() error { return s.next.Unmark(ctx, orphan) })
}

func (s hookedStore) Marks(ctx context.Context) ([]string, error) {
	return through(ctx, s.hook, "Store.Marks", func() ([]string, error) { return s.next.Marks(ctx) })
}

type hookedGroups struct {
	next bastion.Groups
	hook Hook
}

func (g hookedGroups) Create(ctx context.Context, spec bastion.GroupSpec) (bastion.Group, error) {
	return through(ctx, g.hook, "Groups.Create", func() (bastion.Group, error) { return g.next.Create(ctx, spec) })
}

func (g hookedGroups) Describe(ctx context.Context, bastionID, groupID string) (bastion.Group, error) {
	return through(ctx, g.hook, "Groups.Describe", func() (bastion.Group, error) { return g.next.Describe(ctx, bastionID, groupID) })
}

func (g hookedGroups) Authorize(ctx context.Context, groupID string, source netip.Prefix) error {
	return g.hook(ctx, "Groups.Authorize", func() error { return g.next.Authorize(ctx, groupID, source) })
}

func (g hookedGroups) Revoke(ctx context.Context, groupID string, rule bastion.Rule) error {
	return g.hook(ctx, "Groups.Revoke", func() error { return g.next.Revoke(ctx, groupID, rule) })
}

func (g hookedGroups) Delete(ctx context.Context, groupID string) error {
	return g.hook(ctx, "Groups.Delete", func() error { return g.next.Delete(ctx, groupID) })
}

func (g hookedGroups) List(ctx context.Context) ([]bastion.Group, error) {
	return through(ctx, g.hook, "Groups.List", func() ([]bastion.Group, error) { return g.next.List(ctx) })
}

type hookedTasks struct {
	next bastion.Tasks
	hook Hook
}

func (t hookedTasks) Run(ctx context.Context, launch bastion.TaskSpec) (bastion.Task, error) {
	return through(ctx, t.hook, "Tasks.Run", func() (bastion.Task, error) { return t.next.Run(ctx, launch) })
}

func (t hookedTasks) Describe(ctx context.Context, bastionID string, known ...string) ([]bastion.Task, error) {
	return through(ctx, t.hook, "Tasks.Describe", func() ([]bastion.Task, error) { return t.next.Describe(ctx, bastionID, known...) })
}

func (t hookedTasks) Fetch(ctx context.Context, taskID string) (bastion.Task, error) {
	return through(ctx, t.hook, "Tasks.Fetch", func() (bastion.Task, error) { return t.next.Fetch(ctx, taskID) })
}

func (t hookedTasks) Stop(ctx context.Context, taskID, reason string) error {
	return t.hook(ctx, "Tasks.Stop", func() error { return t.next.Stop(ctx, taskID, reason) })
}

func (t hookedTasks) List(ctx context.Context) ([]bastion.Task, error) {
	return through(ctx, t.hook, "Tasks.List", func() ([]bastion.Task, error) { return t.next.List(ctx) })
}

type hookedLeases struct {
	next bastion.Leases
	hook Hook
}

func (l hookedLeases) Fetch(ctx context.Context, taskID string) (bastion.LeaseItem, error) {
	return through(ctx, l.hook, "Leases.Fetch", func() (bastion.LeaseItem, error) { return l.next.Fetch(ctx, taskID) })
}

func (l hookedLeases) Write(ctx context.Context, taskID string, lease bastion.Lease) error {
	return l.hook(ctx, "Leases.Write", func() error { return l.next.Write(ctx, taskID, lease) })
}

func (l hookedLeases) End(ctx context.Context, taskID, bastionID string, until time.Time) error {
	return l.hook(ctx, "Leases.End", func() error { return l.next.End(ctx, taskID, bastionID, until) })
}

func (l hookedLeases) List(ctx context.Context) ([]bastion.LeaseItem, error) {
	return through(ctx, l.hook, "Leases.List", func() ([]bastion.LeaseItem, error) { return l.next.List(ctx) })
}

type hookedNotifier struct {
	next bastion.Notifier
	hook Hook
}

func (n hookedNotifier) Notify(ctx context.Context, rec bastion.Record, notice bastion.Notice) error {
	return n.hook(ctx, "Notifier.Notify", func() error { return n.next.Notify(ctx, rec, notice) })
}
