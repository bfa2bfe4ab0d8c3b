package sshd

import (
	"fmt"
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
	"github.com/bastion-on-demand/bastion/internal/test/simtask"
)

var errNoHost = syscall.ECONNREFUSED

func TestClosedLeaseIsNotServed(t *testing.T) {
	r := newFixture(t)
	r.table.Lease.Open = false
	r.cfg.Listen = func() (net.Listener, error) {
		t.Error("Listen was called")
		return nil, simtask.ErrTable
	}
	if code := r.run().exit(); code != bastion.ExitOK {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestExpiredLeaseIsNotServed(t *testing.T) {
	r := newFixture(t)
	r.table.Lease.Deadline = time.Now().Add(-time.Second)
	r.cfg.Listen = func() (net.Listener, error) {
		t.Error("Listen was called")
		return nil, simtask.ErrTable
	}
	if code := r.run().exit(); code != bastion.ExitOK {
		t.Errorf("exit code %d, want 0", code)
	}
	if ending := r.table.LastReport().Ending; ending != (bastion.Ending{Reason: bastion.EndDeadline, Generation: 1}) {
		t.Errorf("reported ending %+v", ending)
	}
}

func TestConfigurationErrorListsAllProblems(t *testing.T) {
	j := newTestLog()
	if code := Run(t.Context(), Config{Log: slog.New(slog.NewJSONHandler(j, nil))}); code != bastion.ExitFailure {
		t.Errorf("exit code %d, want %d", code, bastion.ExitFailure)
	}
	for _, part := range []string{"lease", "listener", "resolver", "dialer"} {
		if !strings.Contains(j.text(), part) {
			t.Errorf("the log does not mention the missing %s: %s", part, j.text())
		}
	}
}

func TestMissingRandomnessIsAFailure(t *testing.T) {
	r := newFixture(t)
	r.cfg.Rand = strings.NewReader("short")
	if code := r.run().exit(); code != bastion.ExitFailure {
		t.Errorf("exit code %d, want %d", code, bastion.ExitFailure)
	}
}

func TestHostKeyComesFromRand(t *testing.T) {
	fixed := func(r *fixture) { r.cfg.Rand = io.LimitReader(zeros{}, 32) }
	one, two := start(t, fixed), start(t, fixed)
	if a, b := one.table.LastReport().HostKey, two.table.LastReport().HostKey; a != b {
		t.Errorf("the same randomness made %s and %s", a, b)
	}
	if three := start(t); three.table.LastReport().HostKey == one.table.LastReport().HostKey {
		t.Error("other randomness made the same key")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestClosedOrRemovedLeaseEndsTheServer(t *testing.T) {
	for name, close := range map[string]func(*simtask.Table){
		"closed": func(tb *simtask.Table) {
			tb.Lease.Open, tb.Lease.EndReason = false, bastion.EndClosed
			tb.Lease.Generation++
		},
		"removed": func(tb *simtask.Table) { tb.Removed = true },
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			client := r.dial()
			r.table.Change(close)
			if code := r.exit(); code != bastion.ExitOK {
				t.Errorf("exit code %d, want 0", code)
			}
			if err := client.Wait(); err == nil {
				t.Error("the connection is still open")
			}
			if _, err := net.Dial("tcp", r.address); err == nil {
				t.Error("the server still listens")
			}
			result := r.log.await(t, msgConnection, 1).text("result")
			if !strings.Contains(result, name) {
				t.Errorf("connection result %q, want %q", result, name)
			}
		})
	}
}

func TestReceiptCountsConnectionsForwardsAndRefusals(t *testing.T) {
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
		t.Fatal("connected to a loopback address")
	}
	if err := r.table.Write(func(l *bastion.Lease) { l.Open = false }); err != nil {
		t.Fatal(err)
	}
	r.exit()
	got := r.table.LastReport().Receipt
	want := bastion.Destination{Name: "10.0.0.1:7", Forwards: 1, BytesIn: 5, BytesOut: 5}
	if got.Connections != 1 || got.Forwards != 1 || got.Refusals != 1 || got.BytesIn != 5 || got.BytesOut != 5 ||
		len(got.Destinations) != 1 || got.Destinations[0] != want || got.StartedAt.IsZero() || got.EndedAt.Before(got.StartedAt) {
		t.Errorf("receipt %+v", got)
	}
	lines := r.log.all(msgReceipt)
	if len(lines) != 1 || lines[0].number("forwards") != 1 || lines[0].number("bytes_out") != 5 {
		t.Errorf("receipt lines %v", lines)
	}
}

func TestSIGTERMEndsTheServerWithAReceipt(t *testing.T) {
	r := start(t)
	r.dial()
	r.awaitReport("counts the connection", func(report bastion.Report) bool { return report.Connections == 1 })
	if code := r.stop(); code != bastion.ExitTerminated {
		t.Errorf("exit code %d, want %d", code, bastion.ExitTerminated)
	}
	report := r.table.LastReport()
	if report.Receipt.Connections != 1 || report.Ending != (bastion.Ending{}) {
		t.Errorf("last report %+v, want a receipt and no ending", report)
	}
}

func TestServerEndsOnlyIfItsListenerFailsForGood(t *testing.T) {
	t.Run("later", func(t *testing.T) {
		r := newFixture(t)
		var listener net.Listener
		listen := r.cfg.Listen
		r.cfg.Listen = func() (_ net.Listener, err error) {
			listener, err = listen()
			return listener, err
		}
		r.run()
		r.awaitReport("has the host key", func(report bastion.Report) bool { return report.HostKey != "" })
		listener.Close()
		if code := r.exit(); code != bastion.ExitFailure {
			t.Errorf("exit code %d, want %d", code, bastion.ExitFailure)
		}
	})
	t.Run("at once", func(t *testing.T) {
		r := newFixture(t)
		r.cfg.Listen = func() (net.Listener, error) { return nil, simtask.ErrTable }
		if code := r.run().exit(); code != bastion.ExitFailure {
			t.Errorf("exit code %d, want %d", code, bastion.ExitFailure)
		}
	})
	t.Run("temporary", func(t *testing.T) {
		r := start(t, func(r *fixture) {
			listen := r.cfg.Listen
			r.cfg.Listen = func() (net.Listener, error) {
				listener, err := listen()
				return &unreliableListener{Listener: listener}, err
			}
		})
		r.dial()
		r.dial()
	})
}

// unreliableListener fails every second Accept.
type unreliableListener struct {
	net.Listener
	count atomic.Int64
}

func (l *unreliableListener) Accept() (net.Conn, error) {
	if l.count.Add(1)%2 == 1 {
		return nil, syscall.EMFILE
	}
	return l.Listener.Accept()
}

func TestRemovedKeyEndsItsConnections(t *testing.T) {
	r := start(t)
	old, other := r.dial(), newKey(t)
	if err := r.table.Write(func(l *bastion.Lease) { l.Keys = []bastion.Key{authorized(other)} }); err != nil {
		t.Fatal(err)
	}
	if err := old.Wait(); err == nil {
		t.Error("the old key's connection is still open")
	}
	r.awaitReport("has the new generation in force", func(report bastion.Report) bool { return report.Generation == 2 })
	if _, err := r.dialWith(r.client(ssh.PublicKeys(r.key))); err == nil {
		t.Error("the old key is still admitted")
	}
	client, err := r.dialWith(r.client(ssh.PublicKeys(other)))
	if err != nil {
		t.Fatalf("the new key is not admitted: %v", err)
	}
	defer client.Close()
	if result := r.log.await(t, msgConnection, 1).text("result"); result != causeKeyRemoved.result {
		t.Errorf("connection result %q, want %q", result, causeKeyRemoved.result)
	}
}

func TestNewSourceOrKeyKeepsOpenConnections(t *testing.T) {
	r := start(t)
	client := r.dial()
	if err := r.table.Write(func(l *bastion.Lease) {
		l.Source = netip.MustParsePrefix("192.0.2.1/32")
		l.Keys = append(l.Keys, authorized(newKey(t)))
	}); err != nil {
		t.Fatal(err)
	}
	r.awaitReport("has the new generation in force", func(report bastion.Report) bool { return report.Generation == 2 })
	if _, _, err := client.SendRequest("still@there", true, nil); err != nil {
		t.Errorf("the connection was closed: %v", err)
	}
}

func TestUnreadableKeyIsIgnored(t *testing.T) {
	r := start(t, func(r *fixture) { r.table.Lease.Keys = append(r.table.Lease.Keys, "ssh-ed25519 AAAA", "junk") })
	r.dial()
	problem := r.log.await(t, "ignoring a key that cannot be parsed", 1).text("error")
	for _, want := range []string{"parse key " + bastion.Key("ssh-ed25519 AAAA").Fingerprint() + ": ", `parse key "junk": `} {
		if !strings.Contains(problem, want) {
			t.Errorf("the error %q does not contain %q", problem, want)
		}
	}
	lease := r.log.all("lease in force")[0]
	want := fmt.Sprint([]any{r.table.Lease.Keys[0].Fingerprint() + " from 127.0.0.1", bastion.Key("ssh-ed25519 AAAA").Fingerprint() + " from 127.0.0.1"})
	if got := lease.text("keys"); got != want {
		t.Errorf("the lease in force has the keys %s, want %s", got, want)
	}
}

func TestNumberOfConnectionsIsReported(t *testing.T) {
	r := start(t)
	client := r.dial()
	r.awaitReport("counts one connection", func(report bastion.Report) bool {
		return report.Connections == 1 && time.Since(report.LastUsedAt) < time.Minute
	})
	client.Close()
	r.awaitReport("counts no connection", func(report bastion.Report) bool { return report.Connections == 0 && !report.LastUsedAt.IsZero() })
}
