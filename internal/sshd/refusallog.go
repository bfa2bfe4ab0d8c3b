package sshd

import (
	"log/slog"
	"sync"
	"time"
)

const (
	firstRefusals   = 20 // refusals that have a line of their own
	refusalInterval = time.Minute
	maxSources      = 100
)

// refusalLog writes the lines of the refusals of one authenticated connection, or of all
// clients of one source that are not authenticated. The first refusals have a line each.
// Then there is a line once a minute: that of the latest refusal, with the number of
// refusals that it stands for. After a minute without refusals it begins again.
//
// The lock is held while a line is written, so that end returns after the last line.
type refusalLog struct {
	line func(message string, attrs ...slog.Attr)

	mu       sync.Mutex
	timer    *time.Timer
	written  int         // refusals with a line of their own
	withheld int         // refusals since the last line
	latest   []slog.Attr // of the latest of them
}

// add adds a refusal.
func (l *refusalLog) add(attrs []slog.Attr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer == nil {
		l.timer = time.AfterFunc(refusalInterval, l.tick)
	}
	if l.written < firstRefusals {
		l.written++
		l.line(msgRefusal, attrs...)
		return
	}
	l.withheld++
	l.latest = attrs
}

func (l *refusalLog) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.withheld == 0 {
		l.timer, l.written = nil, 0
		return
	}
	l.flush()
	l.timer.Reset(refusalInterval)
}

// end writes the last line, if one is due.
func (l *refusalLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
	l.flush()
}

func (l *refusalLog) flush() {
	if l.withheld > 0 {
		l.line(msgRefusal, append(l.latest, slog.Int("count", l.withheld))...)
	}
	l.withheld, l.latest = 0, nil
}
