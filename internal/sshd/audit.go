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

// The messages of audit lines. Each is written once: at the end of a
// connection that authenticated, at the end of a forward, for each refusal, and
// at the end of all.
const (
	msgConnection = "connection"
	msgForward    = "forward"
	msgRefusal    = "refusal"
	msgReceipt    = "receipt"
)

// What a refusal line's kind may be.
const (
	kindAuthentication = "authentication" // a connection ended without authenticating
	kindConnection     = "connection"     // a connection more than the server takes
	kindForward        = "forward"        // direct-tcpip to where the policy forbids, or beyond the limit
	kindChannel        = "channel"        // another type of channel, or a session beyond the limit
	kindRequest        = "request"        // a request other than those of a console
	kindCommand        = "command"        // a command there is not
)

// audit writes the audit lines and keeps the receipt in step with them.
type audit struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	receipt bastion.Receipt
}

func newAudit(log *slog.Logger, now func() time.Time) *audit {
	return &audit{log: log, now: now, receipt: bastion.Receipt{StartedAt: now().UTC()}}
}

func (a *audit) line(message string, attrs ...slog.Attr) {
	a.log.LogAttrs(context.Background(), slog.LevelInfo, message, attrs...)
}

func (a *audit) authenticated() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.receipt.Connections++
}

// refusal writes the one line of a refusal.
func (a *audit) refusal(who actor, kind, reason string, attrs ...slog.Attr) {
	a.mu.Lock()
	a.receipt.Refusals++
	a.mu.Unlock()
	a.line(msgRefusal, append(append(who.attrs(), slog.String("kind", kind), slog.String("reason", reason)), attrs...)...)
}

// connection writes the line of a connection that authenticated and has ended.
func (a *audit) connection(who actor, since time.Time, result string) {
	a.line(msgConnection, append(who.attrs(), a.duration(since), slog.String("result", result))...)
}

// forwarded is what there is to say of one forward.
type forwarded struct {
	destination
	address string // that was connected to; empty if none was
	in, out int64  // from the client, to the client
	since   time.Time
	result  string
}

// forward writes the line of a forward that has ended. The receipt counts those
// that reached their destination.
func (a *audit) forward(who actor, f forwarded) {
	if f.address != "" {
		a.mu.Lock()
		a.receipt.Add(bastion.Destination{Name: f.name, Forwards: 1, BytesIn: f.in, BytesOut: f.out})
		a.mu.Unlock()
	}
	attrs := append(who.attrs(), slog.String("asked", f.name))
	if f.address != "" {
		attrs = append(attrs, slog.String("address", f.address))
	}
	if len(f.dropped) > 0 {
		attrs = append(attrs, slog.Any("dropped", f.dropped))
	}
	attrs = append(attrs, slog.Int64("bytes_in", f.in), slog.Int64("bytes_out", f.out),
		a.duration(f.since), slog.String("result", f.result))
	a.line(msgForward, attrs...)
}

// close writes the receipt, and answers it.
func (a *audit) close() bastion.Receipt {
	a.mu.Lock()
	a.receipt.EndedAt = a.now().UTC()
	receipt := a.receipt
	a.mu.Unlock()
	a.line(msgReceipt,
		slog.Time("started_at", receipt.StartedAt), slog.Time("ended_at", receipt.EndedAt),
		slog.Int("connections", receipt.Connections), slog.Int("forwards", receipt.Forwards),
		slog.Int("refusals", receipt.Refusals),
		slog.Int64("bytes_in", receipt.BytesIn), slog.Int64("bytes_out", receipt.BytesOut),
		slog.Any("destinations", destinationLines(receipt.Destinations)), slog.Int("unnamed", receipt.Unnamed))
	return receipt
}

// destinationLine is a destination as the receipt's line has it.
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

// duration is in seconds.
func (a *audit) duration(since time.Time) slog.Attr {
	return slog.Float64("duration", a.now().Sub(since).Round(time.Millisecond).Seconds())
}

// who is whom an audit line is about.
type actor struct {
	connection int64
	source     string
	user       string // the name the client gave; it means nothing
	key        string // fingerprint of the key they signed with; empty before
}

func (w actor) attrs() []slog.Attr {
	attrs := []slog.Attr{slog.Int64("connection", w.connection), slog.String("source", w.source)}
	if w.user != "" {
		attrs = append(attrs, slog.String("user", clip(w.user)))
	}
	if w.key != "" {
		attrs = append(attrs, slog.String("key", w.key))
	}
	return attrs
}

// clip makes a client's text fit for lines and terminals: of bounded length,
// and nothing in it that moves a cursor or turns the direction of writing.
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
