package sshd

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The messages of audit lines: one line for each authenticated connection and for each
// forward, when it ends; one for each refusal, or for several (see refusalLog); and one
// receipt at the end.
const (
	msgConnection = "connection"
	msgForward    = "forward"
	msgRefusal    = "refusal"
	msgReceipt    = "receipt"
)

// The kinds of refusals.
const (
	kindAuthentication = "authentication" // a connection ended without authenticating
	kindConnection     = "connection"     // a connection beyond the limit
	kindForward        = "forward"        // a forward to a forbidden destination
	kindChannel        = "channel"        // an unsupported type of channel, or a channel beyond the limit
	kindRequest        = "request"        // an unsupported request
	kindCommand        = "command"        // an unknown command
)

// audit writes the audit lines and adds them up in the receipt.
type audit struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	receipt bastion.Receipt
	sources map[string]*refusalLog // of clients that are not authenticated, by source
}

func newAudit(log *slog.Logger, now func() time.Time) *audit {
	return &audit{log: log, now: now, receipt: bastion.Receipt{StartedAt: now().UTC()},
		sources: map[string]*refusalLog{}}
}

func (a *audit) line(message string, attrs ...slog.Attr) {
	a.log.LogAttrs(context.Background(), slog.LevelInfo, message, attrs...)
}

func (a *audit) authenticated() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.receipt.Connections++
}

// refusal counts a refusal, and writes its line unless its connection or source has had
// too many.
func (a *audit) refusal(client actor, kind, reason string, attrs ...slog.Attr) {
	refusals := client.refusals
	a.mu.Lock()
	a.receipt.Refusals++
	if refusals == nil {
		refusals = a.ofSource(client.source)
	}
	a.mu.Unlock()
	refusals.add(append(append(client.attrs(), slog.String("kind", kind), slog.String("reason", reason)), attrs...))
}

// ofSource returns the log of the refusals of clients that are not authenticated. Sources
// beyond maxSources share one. The caller must hold the lock.
func (a *audit) ofSource(source string) *refusalLog {
	if a.sources[source] == nil {
		if len(a.sources) >= maxSources {
			source = ""
		}
		if a.sources[source] == nil {
			a.sources[source] = &refusalLog{line: a.line}
		}
	}
	return a.sources[source]
}

// connection writes the line of an authenticated connection that has ended.
func (a *audit) connection(client actor, since time.Time, result string) {
	a.line(msgConnection, append(client.attrs(), a.duration(since), slog.String("result", result))...)
}

// forwarded is the data of one forward's audit line.
type forwarded struct {
	destination
	traffic
	address string // the address that was connected to; empty if none
	since   time.Time
	result  string
}

// forward writes the line of a forward that has ended. The receipt counts the forwards
// that reached their destination.
func (a *audit) forward(client actor, f forwarded) {
	if f.address != "" {
		a.mu.Lock()
		a.receipt.Add(bastion.Destination{Name: f.name, Forwards: 1, BytesIn: f.in, BytesOut: f.out})
		a.mu.Unlock()
	}
	attrs := append(client.attrs(), slog.String("requested", f.name))
	if f.address != "" {
		attrs = append(attrs, slog.String("address", f.address))
	}
	if len(f.dropped) > 0 {
		attrs = append(attrs, slog.Any("dropped", f.dropped))
	}
	attrs = append(attrs, slog.Int64("bytes_in", f.in), slog.Int64("bytes_out", f.out))
	if f.discarded > 0 {
		attrs = append(attrs, slog.Int64("bytes_discarded", f.discarded))
	}
	attrs = append(attrs, a.duration(f.since), slog.String("result", f.result))
	a.line(msgForward, attrs...)
}

// close writes the line of the receipt, and returns the receipt. Nothing may be audited
// after it is called.
func (a *audit) close() bastion.Receipt {
	a.mu.Lock()
	a.receipt.EndedAt = a.now().UTC()
	receipt := a.receipt
	sources := a.sources
	a.mu.Unlock()
	for _, refusals := range sources {
		refusals.end()
	}
	a.line(msgReceipt,
		slog.Time("started_at", receipt.StartedAt), slog.Time("ended_at", receipt.EndedAt),
		slog.Int("connections", receipt.Connections), slog.Int("forwards", receipt.Forwards),
		slog.Int("refusals", receipt.Refusals),
		slog.Int64("bytes_in", receipt.BytesIn), slog.Int64("bytes_out", receipt.BytesOut),
		slog.Any("destinations", destinationLines(receipt.Destinations)), slog.Int("unnamed", receipt.Unnamed))
	return receipt
}

// destinationLine is a destination in the receipt's line.
type destinationLine struct {
	Name     string `json:"name"`
	Forwards int    `json:"forwards"`
	BytesIn  int64  `json:"bytes_in"`
	BytesOut int64  `json:"bytes_out"`
}

func destinationLines(all []bastion.Destination) []destinationLine {
	lines := []destinationLine{}
	for _, d := range all {
		lines = append(lines, destinationLine(d))
	}
	return lines
}

// duration returns the attribute duration, in seconds.
func (a *audit) duration(since time.Time) slog.Attr {
	return slog.Float64("duration", a.now().Sub(since).Round(time.Millisecond).Seconds())
}

// actor identifies the client in an audit line.
type actor struct {
	connection int64
	source     string
	user       string      // the user name that the client sent; only logged
	key        string      // fingerprint of the key that the client signed with; empty before
	refusals   *refusalLog // of the authenticated connection; nil before
}

func (a actor) attrs() []slog.Attr {
	attrs := []slog.Attr{slog.Int64("connection", a.connection), slog.String("source", a.source)}
	if a.user != "" {
		attrs = append(attrs, slog.String("user", clip(a.user)))
	}
	if a.key != "" {
		attrs = append(attrs, slog.String("key", a.key))
	}
	return attrs
}

// clip makes a client's text safe for log lines and terminals: it limits the length and
// replaces characters that move a cursor or change the direction of writing.
func clip(s string) string {
	const longest = 255
	if len(s) > longest {
		s = s[:longest] + "…"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
