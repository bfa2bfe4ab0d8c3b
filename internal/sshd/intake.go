package sshd

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// channelWindow is how much data a client may send on one channel before the server has
// read any of it. The SSH library does not let its users choose it.
const channelWindow = 2 << 20

// sweepInterval is the time between two sweeps of an intake.
const sweepInterval = time.Second

// intake limits the memory that holds what clients have sent and destinations have not
// read. Above the limit, a connection that has more than its share is not read, so the
// connection that has the most never is: its client cannot send more. If that does not help
// for a long time, half of its forwards are cut.
//
// The library does not tell how much it holds. An inflow is therefore an upper bound: what
// was read from the network, less what was delivered. It contains the overhead of the
// protocol, too, which sweep takes out again.
type intake struct {
	limit int64         // for all connections
	share int64         // a connection that has no more than this is always read
	stuck time.Duration // how long a connection that is not read may stay above the limit

	mu      sync.Mutex
	less    sync.Cond // signalled when a connection may be read again
	total   int64
	inflows map[*inflow]struct{}
}

func newIntake(limits Limits, timing Timing) *intake {
	m := &intake{
		limit: limits.Undelivered, share: limits.Undelivered / int64(limits.Connections), stuck: timing.Stuck,
		inflows: map[*inflow]struct{}{},
	}
	m.less.L = &m.mu
	return m
}

// inflow is what one connection has read from the network and not delivered. The intake's
// lock guards it.
type inflow struct {
	intake *intake
	end    func(*cause) // ends the connection; set before the first forward or session

	bytes     int64
	uploads   map[*upload]struct{} // of the open forwards
	sessions  int                  // open sessions
	closed    bool
	held      bool // the connection is not read
	readSince bool // it was read since the latest sweep

	// While the connection is held: the smallest number of bytes, in steps of a mebibyte,
	// and the sweep that first saw it.
	lowest int64
	since  time.Time
}

// upload is one forward's direction to the destination.
type upload struct {
	inflow *inflow
	cut    context.CancelCauseFunc
	turns  atomic.Int64 // odd while data waits to be written to the destination

	// The number of turns at the latest sweep, and the sweep that first saw it. The
	// intake's lock guards them.
	seen    int64
	changed time.Time
}

func (m *intake) open() *inflow {
	f := &inflow{intake: m, uploads: map[*upload]struct{}{}}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inflows[f] = struct{}{}
	return f
}

// mayRead waits until the connection may be read, or is closed.
func (f *inflow) mayRead() {
	m := f.intake
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.total > m.limit && f.bytes > m.share && !f.closed {
		f.held = true
		m.less.Wait()
	}
	f.held, f.readSince = false, true
}

// isHeld reports whether the connection is not read.
func (f *inflow) isHeld() bool {
	f.intake.mu.Lock()
	defer f.intake.mu.Unlock()
	return f.held
}

// add adds bytes that were read from the network, or takes out bytes that were delivered.
func (f *inflow) add(bytes int64) {
	f.intake.mu.Lock()
	defer f.intake.mu.Unlock()
	f.set(f.bytes + bytes)
}

// set sets the number of bytes. The caller must hold the lock.
func (f *inflow) set(bytes int64) {
	m := f.intake
	bytes = max(0, bytes)
	m.total += bytes - f.bytes
	f.bytes = bytes
	if m.total <= m.limit || f.held && f.bytes <= m.share {
		m.less.Broadcast()
	}
}

// close ends mayRead.
func (f *inflow) close() {
	f.intake.mu.Lock()
	defer f.intake.mu.Unlock()
	f.closed = true
	f.intake.less.Broadcast()
}

// remove is called when the connection and its forwards have ended.
func (f *inflow) remove() {
	f.intake.mu.Lock()
	defer f.intake.mu.Unlock()
	f.set(0)
	delete(f.intake.inflows, f)
}

// session counts an open session until done is called. What a session reads is taken out
// when it has ended.
func (f *inflow) session() (done func()) {
	f.intake.mu.Lock()
	defer f.intake.mu.Unlock()
	f.sessions++
	return func() {
		f.intake.mu.Lock()
		defer f.intake.mu.Unlock()
		f.sessions--
	}
}

// upload adds the upload of a forward. cut ends the forward.
func (f *inflow) upload(cut context.CancelCauseFunc) *upload {
	u := &upload{inflow: f, cut: cut}
	f.intake.mu.Lock()
	defer f.intake.mu.Unlock()
	f.uploads[u] = struct{}{}
	return u
}

// done removes the upload.
func (u *upload) done() {
	u.inflow.intake.mu.Lock()
	defer u.inflow.intake.mu.Unlock()
	delete(u.inflow.uploads, u)
}

// sweep corrects the inflows. If connections have been held for too long, it cuts forwards
// of the one that has the most.
func (m *intake) sweep(now time.Time) {
	m.mu.Lock()
	var most *inflow
	for f := range m.inflows {
		f.set(min(f.bytes, int64(f.look(now))*channelWindow))
		switch {
		case !f.held || f.readSince || f.bytes <= f.lowest-1<<20:
			f.lowest, f.since, f.readSince = f.bytes, now, false
		case now.Sub(f.since) >= m.stuck && (most == nil || f.bytes > most.bytes):
			most = f
		}
	}
	var cuts []*upload
	if most != nil {
		most.lowest, most.since = most.bytes, now
		cuts = most.longest()
	}
	m.mu.Unlock()
	for _, u := range cuts {
		u.cut(causeMemory)
	}
	if most != nil && len(cuts) == 0 {
		most.end(causeMemory)
	}
}

// look returns the number of channels for which the library may hold data: an upload that
// has waited for data since the previous sweep has none. The caller must hold the lock.
func (f *inflow) look(now time.Time) (busy int) {
	busy = f.sessions
	for u := range f.uploads {
		turns := u.turns.Load()
		waits := turns%2 == 0 && turns == u.seen && !u.changed.IsZero()
		if turns != u.seen || u.changed.IsZero() {
			u.seen, u.changed = turns, now
		}
		if !waits {
			busy++
		}
	}
	return busy
}

// longest returns half of the uploads that wait for their destination, those that have
// waited longest. They can be expected to have most of the data: the windows of the others
// are not full yet. The caller must hold the lock.
func (f *inflow) longest() []*upload {
	var stuck []*upload
	for u := range f.uploads {
		if u.seen%2 == 1 {
			stuck = append(stuck, u)
		}
	}
	slices.SortFunc(stuck, func(a, b *upload) int { return a.changed.Compare(b.changed) })
	return stuck[:(len(stuck)+1)/2]
}
