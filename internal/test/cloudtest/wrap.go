package cloudtest

import (
	"context"
	"net/netip"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Ports are the ports of a [bastion.Service], under the names of its fields.
type Ports struct {
	Records  bastion.Records
	DueList  bastion.DueList
	Keys     bastion.RememberedKeys
	Marks    bastion.OrphanMarks
	Groups   bastion.Groups
	Tasks    bastion.Tasks
	Leases   bastion.Leases
	Notifier bastion.Notifier
}

// Hook is called instead of a port's method. call is the method's name, such as
// "Records.Replace"; do calls the method. The caller receives the hook's error, and the
// method's result only if that error is nil.
type Hook func(ctx context.Context, call string, do func() error) error

type subjectKey struct{}

// about returns a context that names what a call is about.
func about(ctx context.Context, subject string) context.Context {
	return context.WithValue(ctx, subjectKey{}, subject)
}

// Subject returns the bastion, group, task or owner that a call is about, from the
// context of its hook. It is empty for a call that is about none of them.
func Subject(ctx context.Context) string {
	subject, _ := ctx.Value(subjectKey{}).(string)
	return subject
}

// Wrap returns ports that send every call through the hook.
func Wrap(p Ports, hook Hook) Ports {
	return Ports{
		Records:  hookedRecords{p.Records, hook},
		DueList:  hookedDueList{p.DueList, hook},
		Keys:     hookedKeys{p.Keys, hook},
		Marks:    hookedMarks{p.Marks, hook},
		Groups:   hookedGroups{p.Groups, hook},
		Tasks:    hookedTasks{p.Tasks, hook},
		Leases:   hookedLeases{p.Leases, hook},
		Notifier: hookedNotifier{p.Notifier, hook},
	}
}

// through sends a call that returns a value through the hook.
func through[T any](ctx context.Context, hook Hook, call string, do func() (T, error)) (T, error) {
	var value, zero T
	err := hook(ctx, call, func() (err error) {
		value, err = do()
		return err
	})
	if err != nil {
		return zero, err
	}
	return value, nil
}

type hookedRecords struct {
	next bastion.Records
	hook Hook
}

func (r hookedRecords) Create(ctx context.Context, rec bastion.Record, quota bastion.Quota) error {
	return r.hook(about(ctx, rec.ID), "Records.Create", func() error { return r.next.Create(ctx, rec, quota) })
}

func (r hookedRecords) Fetch(ctx context.Context, id string) (bastion.Record, error) {
	return through(about(ctx, id), r.hook, "Records.Fetch", func() (bastion.Record, error) { return r.next.Fetch(ctx, id) })
}

func (r hookedRecords) FetchByName(ctx context.Context, owner, name string) (bastion.Record, error) {
	return through(about(ctx, owner), r.hook, "Records.FetchByName", func() (bastion.Record, error) { return r.next.FetchByName(ctx, owner, name) })
}

func (r hookedRecords) Replace(ctx context.Context, prev, next bastion.Record) error {
	return r.hook(about(ctx, prev.ID), "Records.Replace", func() error { return r.next.Replace(ctx, prev, next) })
}

func (r hookedRecords) ListByOwner(ctx context.Context, owner string) ([]bastion.Record, error) {
	return through(about(ctx, owner), r.hook, "Records.ListByOwner", func() ([]bastion.Record, error) { return r.next.ListByOwner(ctx, owner) })
}

func (r hookedRecords) List(ctx context.Context) ([]bastion.Record, error) {
	return through(ctx, r.hook, "Records.List", func() ([]bastion.Record, error) { return r.next.List(ctx) })
}

func (r hookedRecords) CountOpen(ctx context.Context) (int, error) {
	return through(ctx, r.hook, "Records.CountOpen", func() (int, error) { return r.next.CountOpen(ctx) })
}

type hookedDueList struct {
	next bastion.DueList
	hook Hook
}

func (d hookedDueList) Due(ctx context.Context, now time.Time, limit int) ([]string, error) {
	return through(ctx, d.hook, "DueList.Due", func() ([]string, error) { return d.next.Due(ctx, now, limit) })
}

type hookedKeys struct {
	next bastion.RememberedKeys
	hook Hook
}

func (k hookedKeys) RememberKey(ctx context.Context, owner string, key bastion.Key) error {
	return k.hook(ctx, "Keys.RememberKey", func() error { return k.next.RememberKey(ctx, owner, key) })
}

func (k hookedKeys) RememberedKey(ctx context.Context, owner string) (bastion.Key, error) {
	return through(ctx, k.hook, "Keys.RememberedKey", func() (bastion.Key, error) { return k.next.RememberedKey(ctx, owner) })
}

type hookedMarks struct {
	next bastion.OrphanMarks
	hook Hook
}

func (m hookedMarks) Mark(ctx context.Context, orphan string, at time.Time) (time.Time, error) {
	return through(ctx, m.hook, "Marks.Mark", func() (time.Time, error) { return m.next.Mark(ctx, orphan, at) })
}

func (m hookedMarks) Unmark(ctx context.Context, orphan string) error {
	return m.hook(ctx, "Marks.Unmark", func() error { return m.next.Unmark(ctx, orphan) })
}

func (m hookedMarks) Marks(ctx context.Context) ([]string, error) {
	return through(ctx, m.hook, "Marks.Marks", func() ([]string, error) { return m.next.Marks(ctx) })
}

type hookedGroups struct {
	next bastion.Groups
	hook Hook
}

func (g hookedGroups) Create(ctx context.Context, spec bastion.GroupSpec) (bastion.Group, error) {
	return through(about(ctx, spec.BastionID), g.hook, "Groups.Create", func() (bastion.Group, error) { return g.next.Create(ctx, spec) })
}

func (g hookedGroups) Describe(ctx context.Context, bastionID, groupID string) (bastion.Group, error) {
	return through(about(ctx, bastionID), g.hook, "Groups.Describe", func() (bastion.Group, error) { return g.next.Describe(ctx, bastionID, groupID) })
}

func (g hookedGroups) Authorize(ctx context.Context, groupID string, source netip.Prefix) error {
	return g.hook(about(ctx, groupID), "Groups.Authorize", func() error { return g.next.Authorize(ctx, groupID, source) })
}

func (g hookedGroups) Revoke(ctx context.Context, groupID string, rule bastion.Rule) error {
	return g.hook(about(ctx, groupID), "Groups.Revoke", func() error { return g.next.Revoke(ctx, groupID, rule) })
}

func (g hookedGroups) Delete(ctx context.Context, groupID string) error {
	return g.hook(about(ctx, groupID), "Groups.Delete", func() error { return g.next.Delete(ctx, groupID) })
}

func (g hookedGroups) List(ctx context.Context) ([]bastion.Group, error) {
	return through(ctx, g.hook, "Groups.List", func() ([]bastion.Group, error) { return g.next.List(ctx) })
}

type hookedTasks struct {
	next bastion.Tasks
	hook Hook
}

func (t hookedTasks) Run(ctx context.Context, spec bastion.TaskSpec) (bastion.Task, error) {
	return through(about(ctx, spec.BastionID), t.hook, "Tasks.Run", func() (bastion.Task, error) { return t.next.Run(ctx, spec) })
}

func (t hookedTasks) Describe(ctx context.Context, bastionID string, known ...string) ([]bastion.Task, error) {
	return through(about(ctx, bastionID), t.hook, "Tasks.Describe", func() ([]bastion.Task, error) { return t.next.Describe(ctx, bastionID, known...) })
}

func (t hookedTasks) Fetch(ctx context.Context, taskID string) (bastion.Task, error) {
	return through(about(ctx, taskID), t.hook, "Tasks.Fetch", func() (bastion.Task, error) { return t.next.Fetch(ctx, taskID) })
}

func (t hookedTasks) Stop(ctx context.Context, taskID, reason string) error {
	return t.hook(about(ctx, taskID), "Tasks.Stop", func() error { return t.next.Stop(ctx, taskID, reason) })
}

func (t hookedTasks) List(ctx context.Context) ([]bastion.Task, error) {
	return through(ctx, t.hook, "Tasks.List", func() ([]bastion.Task, error) { return t.next.List(ctx) })
}

type hookedLeases struct {
	next bastion.Leases
	hook Hook
}

func (l hookedLeases) Fetch(ctx context.Context, taskID string) (bastion.LeaseItem, error) {
	return through(about(ctx, taskID), l.hook, "Leases.Fetch", func() (bastion.LeaseItem, error) { return l.next.Fetch(ctx, taskID) })
}

func (l hookedLeases) Write(ctx context.Context, taskID string, lease bastion.Lease) error {
	return l.hook(about(ctx, taskID), "Leases.Write", func() error { return l.next.Write(ctx, taskID, lease) })
}

func (l hookedLeases) End(ctx context.Context, taskID, bastionID string, until time.Time) error {
	return l.hook(about(ctx, taskID), "Leases.End", func() error { return l.next.End(ctx, taskID, bastionID, until) })
}

func (l hookedLeases) List(ctx context.Context) ([]bastion.LeaseItem, error) {
	return through(ctx, l.hook, "Leases.List", func() ([]bastion.LeaseItem, error) { return l.next.List(ctx) })
}

type hookedNotifier struct {
	next bastion.Notifier
	hook Hook
}

func (n hookedNotifier) Notify(ctx context.Context, rec bastion.Record, notice bastion.Notice) error {
	return n.hook(about(ctx, rec.ID), "Notifier.Notify", func() error { return n.next.Notify(ctx, rec, notice) })
}
