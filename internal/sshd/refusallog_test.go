package sshd

import (
	"net"
	"testing"
	"time"
)

// refusalCounts returns how many refusals each refusal line stands for.
func (r *fixture) refusalCounts() (counts []int64) {
	for _, l := range r.log.all(msgRefusal) {
		counts = append(counts, max(1, l.number("count")))
	}
	return counts
}

// wantRefusals checks that the first refusals have a line each, that each later line
// stands for the given number, and that the receipt counts all. It stops the server.
func (r *fixture) wantRefusals(later ...int64) {
	r.t.Helper()
	r.stop()
	counts, sum := r.refusalCounts(), int64(0)
	for i, n := range counts {
		sum += n
		want := int64(1)
		if i >= firstRefusals && i-firstRefusals < len(later) {
			want = later[i-firstRefusals]
		}
		if n != want {
			r.t.Errorf("line %d stands for %d refusals, want %d", i+1, n, want)
		}
	}
	if len(counts) != firstRefusals+len(later) {
		r.t.Errorf("%d lines, want %d: %v", len(counts), firstRefusals+len(later), counts)
	}
	if n := r.table.LastReport().Receipt.Refusals; int64(n) != sum {
		r.t.Errorf("the receipt has %d refusals, the lines %d", n, sum)
	}
}

func TestRefusalsOfAConnectionAreLimited(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.run()
		after(0)
		client := r.dial()
		refuse := func(count int) {
			for range count {
				if _, _, err := client.SendRequest("unknown", true, nil); err != nil {
					t.Fatal(err)
				}
			}
			after(0)
		}
		refuse(firstRefusals + 1000)
		if counts := r.refusalCounts(); len(counts) != firstRefusals {
			t.Errorf("lines %v, want %d", counts, firstRefusals)
		}
		after(refusalInterval)
		refuse(500)
		after(refusalInterval)
		refuse(7)
		client.Close()
		after(0)
		if lines := r.log.all(msgConnection); len(lines) != 1 {
			t.Errorf("connection lines %v", lines)
		}
		r.wantRefusals(1000, 500, 7)
	})
}

// Each refusal has a line if there are few of them, also in a connection that had many.
func TestRefusalsBeginAgainAfterAQuietMinute(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.run()
		after(0)
		client := r.dial()
		for range firstRefusals + 2 {
			if _, _, err := client.SendRequest("unknown", true, nil); err != nil {
				t.Fatal(err)
			}
		}
		after(2*refusalInterval + time.Second)
		for range 3 {
			if _, _, err := client.SendRequest("unknown", true, nil); err != nil {
				t.Fatal(err)
			}
		}
		after(0)
		r.wantRefusals(2, 1, 1, 1)
	})
}

// Connections that make room for others, and those that end without a login, share the lines of their
// source; the lines of an authenticated connection are its own.
func TestRefusalsOfASourceAreLimited(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.cfg.Limits.Handshakes = 1
		r.run()
		after(0)
		client := r.dial()
		connect := func() net.Conn {
			conn, err := r.connect()
			if err != nil {
				t.Fatal(err)
			}
			after(0)
			return conn
		}
		held := connect()
		for range firstRefusals + 100 {
			connect().Close()
		}
		held.Close()
		after(0)
		for range 11 {
			connect().Close()
			after(0)
		}
		if counts := r.refusalCounts(); len(counts) != firstRefusals {
			t.Errorf("lines %v, want %d", counts, firstRefusals)
		}
		if _, _, err := client.SendRequest("unknown", true, nil); err != nil {
			t.Fatal(err)
		}
		after(0)
		if l := r.log.await(t, msgRefusal, firstRefusals+1); l.text("kind") != kindRequest {
			t.Errorf("line %v", l)
		}
		r.wantRefusals(1, 112)
	})
}

func TestSourcesBeyondTheLimitShareTheirLines(t *testing.T) {
	a := newAudit(nil, time.Now)
	for i := range 2 * maxSources {
		a.ofSource(string(rune('a' + i)))
	}
	if n := len(a.sources); n != maxSources+1 {
		t.Errorf("%d logs, want %d", n, maxSources+1)
	}
}
