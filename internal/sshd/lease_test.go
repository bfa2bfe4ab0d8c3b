package sshd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

var errNoHost = syscall.ECONNREFUSED

var errTable = errors.New("the table does not answer")

func noLease(r *rig) { r.table.lease = bastion.Lease{} }

func TestNeverLeased(t *testing.T) {
	for name, readErr := range map[string]error{"no lease": nil, "no table": errTable} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			noLease(r)
			r.table.readErr = readErr
			r.cfg.Timing.FirstLease = 50 * time.Millisecond
			r.cfg.Listen = func() (net.Listener, error) {
				t.Error("it listens without a lease")
				return nil, errTable
			}
			if code := r.run().exit(); code != bastion.ExitNoLease {
				t.Errorf("exit code %d, want %d", code, bastion.ExitNoLease)
			}
			if r.table.reports != 0 {
				t.Error("it reports without a lease")
			}
		})
	}
}

func TestWaitsForTheFirstLease(t *testing.T) {
	r := newRig(t)
	lease := r.table.lease
	noLease(r)
	asked := make(chan struct{}, 100)
	r.cfg.Lease = readNotice{r.table, asked}
	r.run()
	for range 3 {
		<-asked
	}
	r.table.set(func(tb *table) { tb.lease = lease })
	r.table.await(t, "says it is ready", func(report bastion.Report) bool { return report.Generation == 1 })
	r.dial()
}

// readNotice tells of each Read.
type readNotice struct {
	*table
	asked chan<- struct{}
}

func (n readNotice) Read(ctx context.Context) (bastion.Lease, error) {
	select {
	case n.asked <- struct{}{}:
	default:
	}
	return n.table.Read(ctx)
}

func TestToldToStopBeforeALease(t *testing.T) {
	r := newRig(t)
	noLease(r)
	if code := r.run().stop(); code != bastion.ExitTerminated {
		t.Errorf("exit code %d, want %d", code, bastion.ExitTerminated)
	}
}

// StopTask follows the closing of a lease faster than the lease is read.
func TestToldToStopByAClosedLease(t *testing.T) {
	r := start(t, func(r *rig) { r.cfg.Timing.Poll = time.Hour })
	r.table.write(func(l *bastion.Lease) { l.Open, l.EndReason = false, bastion.EndDeadline })
	if code := r.stop(); code != bastion.ExitOK {
		t.Errorf("exit code %d, want 0", code)
	}
	if l := r.journal.await(t, "ended", 1); l.text("reason") != causeDeadline.result {
		t.Errorf("the line is %v", l)
	}
}

func TestLeaseThatIsClosedAlready(t *testing.T) {
	r := newRig(t)
	r.table.lease.Open = false
	r.cfg.Listen = func() (net.Listener, error) {
		t.Error("it listens")
		return nil, errTable
	}
	if code := r.run().exit(); code != bastion.ExitOK {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestLeaseThatHasRunOutAlready(t *testing.T) {
	r := newRig(t)
	r.table.lease.Deadline = time.Now().Add(-time.Second)
	r.cfg.Listen = func() (net.Listener, error) {
		t.Error("it listens")
		return nil, errTable
	}
	if code := r.run().exit(); code != bastion.ExitOK {
		t.Errorf("exit code %d, want 0", code)
	}
	if ending := r.table.last().Ending; ending != (bastion.Ending{Reason: bastion.EndDeadline, Generation: 1}) {
		t.Errorf("it reports the ending %+v", ending)
	}
}

func TestBadConfigurationNamesEverything(t *testing.T) {
	j := newJournal()
	if code := Run(t.Context(), Config{Log: slog.New(slog.NewJSONHandler(j, nil))}); code != bastion.ExitFailure {
		t.Errorf("exit code %d, want %d", code, bastion.ExitFailure)
	}
	for _, part := range []string{"lease", "listener", "resolver", "dialer"} {
		if !strings.Contains(j.text(), part) {
			t.Errorf("the log does not name the missing %s: %s", part, j.text())
		}
	}
}

func TestNoHostKeyWithoutRandomness(t *testing.T) {
	r := newRig(t)
	r.cfg.Rand = strings.NewReader("short")
	if code := r.run().exit(); code != bastion.ExitFailure {
		t.Errorf("exit code %d, want %d", code, bastion.ExitFailure)
	}
}

func TestHostKeyComesFromRand(t *testing.T) {
	fixed := func(r *rig) { r.cfg.Rand = io.LimitReader(zeros{}, 32) }
	one, two := start(t, fixed), start(t, fixed)
	if a, b := one.table.last().HostKey, two.table.last().HostKey; a != b {
		t.Errorf("the same randomness made %s and %s", a, b)
	}
	if three := start(t); three.table.last().HostKey == one.table.last().HostKey {
		t.Error("other randomness made the same key")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestClosedLeaseEndsIt(t *testing.T) {
	for name, close := range map[string]func(*table){
		"closed": func(tb *table) { tb.lease.Open, tb.lease.EndReason = false, bastion.EndClosed; tb.lease.Generation++ },
		"gone":   func(tb *table) { tb.ended = true },
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			client := r.dial()
			r.table.set(close)
			if code := r.exit(); code != bastion.ExitOK {
				t.Errorf("exit code %d, want 0", code)
			}
			if err := client.Wait(); err == nil {
				t.Error("the connection is open still")
			}
			if _, err := net.Dial("tcp", r.address); err == nil {
				t.Error("it listens still")
			}
			result := r.journal.await(t, msgConnection, 1).text("result")
			if !strings.Contains(result, name) {
				t.Errorf("the connection's result is %q, want %q in it", result, name)
			}
		})
	}
}

func TestReceipt(t *testing.T) {
	r := start(t)
	r.echo("10.0.0.1:7")
	client := r.dial()
	conn, err := client.Dial("tcp", "10.0.0.1:7")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Dial("tcp", "127.0.0.1:7"); err == nil {
		t.Fatal("loopback is reached")
	}
	if err := r.table.write(func(l *bastion.Lease) { l.Open = false }); err != nil {
		t.Fatal(err)
	}
	r.exit()
	got := r.table.last().Receipt
	want := bastion.Destination{Name: "10.0.0.1:7", Forwards: 1, BytesIn: 5, BytesOut: 5}
	if got.Connections != 1 || got.Forwards != 1 || got.Refusals != 1 || got.BytesIn != 5 || got.BytesOut != 5 ||
		len(got.Destinations) != 1 || got.Destinations[0] != want || got.StartedAt.IsZero() || got.EndedAt.Before(got.StartedAt) {
		t.Errorf("receipt %+v", got)
	}
	lines := r.journal.all(msgReceipt)
	if len(lines) != 1 || lines[0].number("forwards") != 1 || lines[0].number("bytes_out") != 5 {
		t.Errorf("receipt lines %v", lines)
	}
}

func TestSigtermEndsCleanlyWithAReceipt(t *testing.T) {
	r := start(t)
	r.dial()
	r.table.await(t, "counts the connection", func(report bastion.Report) bool { return report.Connections == 1 })
	if code := r.stop(); code != bastion.ExitTerminated {
		t.Errorf("exit code %d, want %d", code, bastion.ExitTerminated)
	}
	report := r.table.last()
	if report.Receipt.Connections != 1 || report.Ending != (bastion.Ending{}) {
		t.Errorf("the last report is %+v, want a receipt and no ending", report)
	}
}

func TestListenerThatFails(t *testing.T) {
	t.Run("later", func(t *testing.T) {
		r := newRig(t)
		var listener net.Listener
		listen := r.cfg.Listen
		r.cfg.Listen = func() (_ net.Listener, err error) {
			listener, err = listen()
			return listener, err
		}
		r.run()
		r.table.await(t, "says it is ready", func(report bastion.Report) bool { return report.HostKey != "" })
		listener.Close()
		if code := r.exit(); code != bastion.ExitFailure {
			t.Errorf("exit code %d, want %d", code, bastion.ExitFailure)
		}
	})
	t.Run("at once", func(t *testing.T) {
		r := newRig(t)
		r.cfg.Listen = func() (net.Listener, error) { return nil, errTable }
		if code := r.run().exit(); code != bastion.ExitFailure {
			t.Errorf("exit code %d, want %d", code, bastion.ExitFailure)
		}
	})
	t.Run("now and then", func(t *testing.T) {
		r := start(t, func(r *rig) {
			listen := r.cfg.Listen
			r.cfg.Listen = func() (net.Listener, error) {
				listener, err := listen()
				return &stumbling{Listener: listener}, err
			}
		})
		r.dial()
		r.dial()
	})
}

// stumbling fails every other Accept.
type stumbling struct {
	net.Listener
	count atomic.Int64
}

func (s *stumbling) Accept() (net.Conn, error) {
	if s.count.Add(1)%2 == 1 {
		return nil, syscall.EMFILE
	}
	return s.Listener.Accept()
}

func TestKeyRotationCutsOldSessions(t *testing.T) {
	r := start(t)
	old, other := r.dial(), newKey(t)
	if err := r.table.write(func(l *bastion.Lease) { l.Keys = []bastion.Key{authorized(other)} }); err != nil {
		t.Fatal(err)
	}
	if err := old.Wait(); err == nil {
		t.Error("the old key's connection is open still")
	}
	r.table.await(t, "has the new generation in force", func(report bastion.Report) bool { return report.Generation == 2 })
	if _, err := r.dialWith(r.client(ssh.PublicKeys(r.key))); err == nil {
		t.Error("the old key is admitted still")
	}
	client, err := r.dialWith(r.client(ssh.PublicKeys(other)))
	if err != nil {
		t.Fatalf("the new key is not admitted: %v", err)
	}
	defer client.Close()
	if result := r.journal.all(msgConnection)[0].text("result"); result != causeKey.result {
		t.Errorf("the connection's result is %q, want %q", result, causeKey.result)
	}
}

func TestAnotherSourceCutsNobody(t *testing.T) {
	r := start(t)
	client := r.dial()
	if err := r.table.write(func(l *bastion.Lease) {
		l.Source = netip.MustParsePrefix("192.0.2.1/32")
		l.Keys = append(l.Keys, authorized(newKey(t)))
	}); err != nil {
		t.Fatal(err)
	}
	r.table.await(t, "has the new generation in force", func(report bastion.Report) bool { return report.Generation == 2 })
	if _, _, err := client.SendRequest("still@there", true, nil); err != nil {
		t.Errorf("the connection was cut: %v", err)
	}
}

func TestUnreadableTableChangesNothing(t *testing.T) {
	r := start(t)
	r.table.set(func(tb *table) { tb.readErr = errTable })
	r.journal.await(t, "the lease could not be read; going on with the last", 1)
	r.dial()
	r.table.set(func(tb *table) { tb.readErr = nil; tb.lease.Generation++ })
	r.table.await(t, "has the new generation in force", func(report bastion.Report) bool { return report.Generation == 2 })
}

func TestOlderGenerationIsNotObeyed(t *testing.T) {
	asked := make(chan struct{})
	r := start(t, func(r *rig) {
		r.table.lease.Generation = 5
		r.cfg.Lease = readNotice{r.table, asked}
	})
	r.table.set(func(tb *table) { tb.lease.Generation, tb.lease.Open = 4, false })
	for range 3 {
		<-asked
	}
	r.dial()
}

func TestKeyThatCannotBeReadAdmitsNobodyElse(t *testing.T) {
	r := start(t, func(r *rig) { r.table.lease.Keys = append(r.table.lease.Keys, "ssh-ed25519 AAAA", "junk") })
	r.dial()
	r.journal.await(t, "a key of the lease admits nobody", 1)
}

func TestReportsConnectionsPromptly(t *testing.T) {
	r := start(t)
	client := r.dial()
	r.table.await(t, "counts one connection", func(report bastion.Report) bool {
		return report.Connections == 1 && time.Since(report.LastUsedAt) < time.Minute
	})
	client.Close()
	r.table.await(t, "counts none", func(report bastion.Report) bool { return report.Connections == 0 && !report.LastUsedAt.IsZero() })
}
