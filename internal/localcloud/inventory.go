package localcloud

import (
	"maps"
	"slices"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Inventory is the truth about everything in the cloud, never stale.
type Inventory struct {
	Records []bastion.Record    // finished ones too, oldest first
	Groups  []GroupState        // in order of creation
	Tasks   []TaskState         // in order of creation; stopped ones for an hour
	Leases  []bastion.LeaseItem // by task; tombstones until their time is over
}

// GroupState is a group that exists.
type GroupState struct {
	bastion.Group
	InUse bool // an interface carries it
}

// TaskState is a task, with what ECS does not say.
type TaskState struct {
	bastion.Task
	GroupID  string
	Released bool // its interface is gone
}

// Inventory takes stock.
func (c *Cloud) Inventory() Inventory {
	inv := Inventory{Leases: c.leases.all()}
	c.store.mu.Lock()
	inv.Records = c.store.oldestFirst(maps.Keys(c.store.records))
	c.store.mu.Unlock()

	inv.Groups = c.GroupStates()

	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(c.tasks)) {
		t := c.tasks[id]
		if !t.forgotten(c.cfg.Now(), c.cfg.Staleness) {
			inv.Tasks = append(inv.Tasks, TaskState{copyTask(t.state), t.launch.GroupID, t.released})
		}
	}
	return inv
}

// GroupStates is the truth about the groups alone.
func (c *Cloud) GroupStates() []GroupState {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []GroupState
	for _, id := range slices.Sorted(maps.Keys(c.groups)) {
		if g := c.groups[id]; !g.gone {
			all = append(all, GroupState{g.present(), g.interfaces > 0})
		}
	}
	return all
}

// Live are the tasks whose process runs or may still run.
func (i Inventory) Live() []TaskState {
	return slices.DeleteFunc(slices.Clone(i.Tasks), func(t TaskState) bool {
		return t.Status == bastion.TaskStopped
	})
}
