package localcloud

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// tell writes the report if it has changed since the table took it.
func (t *agentTask) tell(ctx context.Context) {
	t.mu.Lock()
	report, untold := t.report, t.untold
	t.untold = false
	t.mu.Unlock()
	if untold && t.lease.Report(ctx, report) != nil {
		t.mu.Lock()
		t.untold = true
		t.mu.Unlock()
	}
}

// step does what the lease in force asks for now. It answers the exit code if
// that was to end.
func (t *agentTask) step(ctx context.Context) (code int, ended bool) {
	t.mu.Lock()
	open, reason := t.inForce.Open, t.reason()
	t.mu.Unlock()
	if !open {
		t.finish()
		return bastion.ExitOK, true
	}
	if reason == "" || t.agent.BrokenTimer {
		return 0, false
	}
	return bastion.ExitOK, t.decide(ctx, reason)
}

// reason says why the task should end itself now; empty if it should not. t.mu
// is held.
func (t *agentTask) reason() bastion.EndReason {
	now, idleAt := t.agent.now(), t.idleAt()
	switch {
	case !now.Before(t.inForce.Deadline):
		return bastion.EndDeadline
	case !idleAt.IsZero() && !now.Before(idleAt):
		return bastion.EndIdle
	}
	return ""
}

// decide ends the task, on condition that its lease is still the one it read. If
// there is a newer one, the task goes on. It takes no connection while the
// question is open, lest one be lost.
func (t *agentTask) decide(ctx context.Context, reason bastion.EndReason) bool {
	t.mu.Lock()
	t.over = true
	report := t.report
	report.Ending = bastion.Ending{Reason: reason, Generation: t.inForce.Generation}
	report.Receipt = t.finalReceipt()
	deadline := t.inForce.Deadline
	t.mu.Unlock()

	err := t.lease.Report(ctx, report)
	switch {
	case err == nil, errors.Is(err, bastion.ErrNotFound):
		return true
	case errors.Is(err, bastion.ErrConflict):
	case reason == bastion.EndDeadline && t.agent.now().Sub(deadline) > t.agent.leaseTimeout():
		return true // nobody can say that it may live longer
	}
	t.mu.Lock()
	t.over = false
	t.mu.Unlock()
	if errors.Is(err, bastion.ErrConflict) && t.read(ctx) && t.inForce.Generation > report.Ending.Generation {
		t.nudge() // report the new generation at once
	}
	return false
}

// finish writes the receipt of a task that was told to end.
func (t *agentTask) finish() {
	t.mu.Lock()
	t.over = true
	t.report.Receipt = t.finalReceipt()
	t.report.Connections = 0
	t.untold = true
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), receiptTimeout)
	defer cancel()
	t.tell(ctx)
}

// receiptTimeout is how long a task that must go tries to leave its receipt.
const receiptTimeout = 2 * time.Second

// finalReceipt is the receipt as of now. t.mu is held.
func (t *agentTask) finalReceipt() bastion.Receipt {
	receipt := t.receipt
	receipt.EndedAt = t.agent.now()
	return receipt
}

// madeUpKey is a well-formed ed25519 public key that nobody has the other half
// of, one for each task.
func madeUpKey(taskID string) bastion.Key {
	const kind = "ssh-ed25519"
	public := sha256.Sum256([]byte(taskID))
	var blob []byte
	for _, part := range [][]byte{[]byte(kind), public[:]} {
		blob = binary.BigEndian.AppendUint32(blob, uint32(len(part)))
		blob = append(blob, part...)
	}
	return bastion.Key(kind + " " + base64.StdEncoding.EncodeToString(blob))
}
