package localmode

import (
	"context"
	"net/netip"
	"time"

	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/sshd"
)

// leasePoll is how soon a new lease is in force.
const leasePoll = 200 * time.Millisecond

// runner runs the real SSH server in a task of the local cloud.
type runner struct {
	settings settings
	network  *network
	own      []netip.Addr
}

// Run is [localcloud.Runner].
func (r *runner) Run(ctx context.Context, task localcloud.Process) int {
	view := r.network.from(task.BastionID)
	config := sshd.Config{
		BastionID:     task.BastionID,
		Lease:         task.Lease,
		Listen:        task.Listen,
		Resolver:      view,
		Dialer:        view,
		Own:           r.own,
		AllowLoopback: r.settings.loopback,
		Now:           time.Now,
		Log:           r.settings.Log.With("task", task.TaskID),
		Timing:        sshd.Timing{Poll: leasePoll, ReportPause: leasePoll},
	}
	if r.settings.task != nil {
		r.settings.task(&config)
	}
	return sshd.Run(ctx, config)
}
