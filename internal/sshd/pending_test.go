package sshd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// pendingTable is a table with pending connections in memory.
type pendingTable struct {
	*connectionTable
	names map[*pendingConnection]string
}

func newPendingTable(places int) *pendingTable {
	cfg := Config{Limits: Limits{Handshakes: places}}.withDefaults()
	return &pendingTable{newConnectionTable(time.Now, cfg.Limits, cfg.Timing, func() {}), map[*pendingConnection]string{}}
}

// newPending returns a connection in memory that has not begun.
func newPending() *pendingConnection {
	p := &pendingConnection{conn: memoryConn{newMemoryStream(), newMemoryStream()}, from: netip.MustParseAddr("127.0.0.1")}
	p.gate = newExchangeGate(make(chan struct{}, 1), func() {}, func() {})
	return p
}

// begin begins a connection, and brings it to a stage.
func (t *pendingTable) begin(name string, reached stage) error {
	p := newPending()
	t.names[p] = name
	if err := t.connectionTable.begin(p); err != nil {
		return err
	}
	t.reach(p, reached)
	return nil
}

// ended returns the names of the connections that made room for others.
func (t *pendingTable) ended() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var names []string
	for p, name := range t.names {
		if p.ended != nil {
			names = append(names, name)
			if !errors.Is(p.ended, errEvicted) {
				names = append(names, p.ended.Error())
			}
			if _, err := p.conn.Write([]byte{0}); err == nil {
				names = append(names, "is not closed")
			}
		}
	}
	return strings.Join(names, " ")
}

// endOf returns why the server has closed a connection; nil if it has not.
func (t *connectionTable) endOf(p *pendingConnection) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return p.ended
}

// When all places are taken, the newcomer gets in, and the connection that is least far must
// go, the oldest first; one that has proved a key never.
func TestVictimsWhenAllPlacesAreTaken(t *testing.T) {
	for _, test := range []struct {
		stages []stage // in the order in which the connections begin
		want   string  // the index of the victim
	}{
		{[]stage{stageSigned, stageSpeaking, stageSilent, stageSilent}, "2"},
		{[]stage{stageSilent, stageSilent}, "0"},
		{[]stage{stageSigned, stageSpeaking, stageSpeaking, stageProved}, "1"},
		{[]stage{stageSpeaking, stageSigned}, "0"},
		{[]stage{stageProved, stageSigned, stageSigned}, "1"},
	} {
		for _, pause := range []time.Duration{0, 2 * time.Second} {
			t.Run(fmt.Sprint(test.stages, pause), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					table := newPendingTable(len(test.stages))
					defer table.close()
					for i, reached := range test.stages {
						if err := table.begin(fmt.Sprint(i), reached); err != nil {
							t.Fatal(err)
						}
						time.Sleep(time.Millisecond)
					}
					time.Sleep(pause)
					if err := table.begin("newcomer", stageSilent); err != nil {
						t.Fatal(err)
					}
					if got := table.ended(); got != test.want {
						t.Errorf("%q had to go, want %s", got, test.want)
					}
				})
			})
		}
	}
}

func TestNewcomerIsRefusedIfAllHaveProvedAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newPendingTable(2)
		defer table.close()
		for range 2 {
			if err := table.begin("proved", stageProved); err != nil {
				t.Fatal(err)
			}
		}
		if err := table.begin("newcomer", stageSilent); !errors.Is(err, errTooManyPending) {
			t.Errorf("error %v, want %v", err, errTooManyPending)
		}
		if got := table.ended(); got != "" {
			t.Errorf("%s had to go", got)
		}
	})
}

// A client that has sent something has a second, whatever else connects.
func TestNewcomersWaitForYoungConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newPendingTable(2)
		defer table.close()
		began := time.Now()
		for i := range 4 {
			if err := table.begin(fmt.Sprint(i), stageSpeaking); err != nil {
				t.Fatal(err)
			}
		}
		if waited := time.Since(began); waited != spared {
			t.Errorf("two newcomers waited %s, want %s", waited, spared)
		}
	})
}

// The first clock runs until the host key is asked to sign, the second until the login.
// A client may think about the host key for almost two minutes.
func TestHandshakeHasTwoClocks(t *testing.T) {
	for _, test := range []struct {
		reached stage
		want    time.Duration
		reason  string
	}{
		{stageSilent, 10 * time.Second, "no key exchange within 10s"},
		{stageSpeaking, 10 * time.Second, "no key exchange within 10s"},
		{stageSigned, 2 * time.Minute, "not authenticated within 2m0s"},
		{stageProved, 2 * time.Minute, "not authenticated within 2m0s"},
	} {
		synctest.Test(t, func(t *testing.T) {
			table := newPendingTable(1)
			defer table.close()
			p := newPending()
			if err := table.connectionTable.begin(p); err != nil {
				t.Fatal(err)
			}
			if test.reached >= stageSigned {
				table.reach(p, stageSigned)
				table.reach(p, test.reached)
			} else {
				table.reach(p, test.reached)
			}
			after(test.want - time.Millisecond)
			if table.endOf(p) != nil {
				t.Fatalf("stage %d: %v before %s", test.reached, table.endOf(p), test.want)
			}
			after(time.Millisecond)
			if table.endOf(p) == nil || table.endOf(p).Error() != test.reason {
				t.Errorf("stage %d: ended with %v, want %s", test.reached, table.endOf(p), test.reason)
			}
			select {
			case <-p.gate.closed:
			default:
				t.Error("the gate is open")
			}
		})
	}
}

// Waiting for a turn does not count, and neither does it start the clock anew.
func TestClockStopsWhileAConnectionWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newPendingTable(1)
		defer table.close()
		turns := make(chan struct{}, 1)
		p := &pendingConnection{conn: memoryConn{newMemoryStream(), newMemoryStream()}}
		p.gate = newExchangeGate(turns, func() { table.stopClock(p) }, func() { table.startClock(p) })
		if err := table.connectionTable.begin(p); err != nil {
			t.Fatal(err)
		}
		after(6 * time.Second)
		turns <- struct{}{}
		read := make(chan error, 1)
		go func() {
			_, err := p.gate.Read(make([]byte, exponentBytes))
			read <- err
		}()
		after(time.Hour)
		if table.endOf(p) != nil || len(read) != 0 {
			t.Fatalf("ended with %v while it waits", table.endOf(p))
		}
		<-turns
		if err := <-read; err != nil {
			t.Fatal(err)
		}
		after(4*time.Second - time.Millisecond)
		if table.endOf(p) != nil || len(turns) != 1 {
			t.Fatalf("ended with %v, %d turns are taken", table.endOf(p), len(turns))
		}
		after(time.Millisecond)
		if table.endOf(p) == nil || len(turns) != 0 {
			t.Errorf("ended with %v, %d turns are taken", table.endOf(p), len(turns))
		}
	})
}

// The clock runs out just before a connection reaches the next stage, or begins to wait for
// its turn: it is not closed, although the clock cannot be stopped any more.
func TestClockThatRunsOutTooLateClosesNothing(t *testing.T) {
	for name, change := range map[string]func(*pendingConnection){
		"signed": func(p *pendingConnection) { p.stage = stageSigned },
		"waits":  func(p *pendingConnection) { p.left = 1 },
		"closed": func(p *pendingConnection) { p.ended = errClosed },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table, p := newPendingTable(1), newPending()
				defer table.close()
				if err := table.connectionTable.begin(p); err != nil {
					t.Fatal(err)
				}
				table.mu.Lock()
				time.Sleep(10 * time.Second) // the clock runs out, and waits for the lock
				change(p)
				table.mu.Unlock()
				synctest.Wait()
				if _, err := p.conn.Write([]byte{0}); err != nil {
					t.Errorf("the connection is closed: %v", err)
				}
				p.stage, p.left, p.ended = stageSpeaking, 0, nil // as before
				p.timer.Reset(0)
				synctest.Wait()
				if _, err := p.conn.Write([]byte{0}); err == nil {
					t.Error("the clock closes nothing at all")
				}
			})
		})
	}
}

// A closed connection leaves the queue.
func TestClosedConnectionDoesNotWaitForATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := make(chan struct{}, 1)
		turns <- struct{}{}
		g := newExchangeGate(turns, func() {}, func() {})
		read := make(chan error, 1)
		go func() {
			_, err := g.Read(make([]byte, exponentBytes))
			read <- err
		}()
		synctest.Wait()
		g.close()
		if err := <-read; !errors.Is(err, net.ErrClosed) || len(turns) != 1 {
			t.Errorf("error %v, %d turns are taken", err, len(turns))
		}
		<-turns
		if _, err := g.Read(make([]byte, exponentBytes)); !errors.Is(err, net.ErrClosed) || len(turns) != 0 {
			t.Errorf("after the close: error %v, %d turns are taken", err, len(turns))
		}
	})
}

// The library reads the exponent from the gate before it computes an exchange in group 14,
// also when keys are exchanged again. It takes one turn for each, and gives it back. Other
// exchanges take none.
func TestEachGroup14ExchangeTakesATurn(t *testing.T) {
	for method, want := range map[string]bool{ssh.KeyExchangeDH14SHA256: true, ssh.KeyExchangeCurve25519: false, ssh.KeyExchangeMLKEM768X25519: false} {
		t.Run(method, func(t *testing.T) {
			cfg := Config{}.withDefaults()
			hosts, err := newHostKeys(cfg.Rand)
			if err != nil {
				t.Fatal(err)
			}
			hosts.addRSA(nil, cfg.Log)
			turns := make(chan struct{}, 1)
			turns <- struct{}{}
			var waited, signings atomic.Int32
			again := make(chan struct{})
			table := newConnectionTable(time.Now, cfg.Limits, cfg.Timing, func() {})
			up, down := newMemoryStream(), newMemoryStream()
			server, client := memoryConn{up, down}, memoryConn{down, up}
			p := &pendingConnection{conn: server}
			p.gate = newExchangeGate(turns, func() { waited.Add(1); <-turns }, func() {})
			if err := table.begin(p); err != nil {
				t.Fatal(err)
			}
			defer table.close()
			h := &handshake{connections: table, pending: p, gate: p.gate}
			config := h.config(hosts, cfg)
			config.NoClientAuth = true
			config.AddHostKey(notingSigner{hosts.ed25519, func() {
				if signings.Add(1) == 2 {
					close(again)
				}
				if got := len(turns); want && got != 1 {
					t.Errorf("%d turns are taken while the exchange is computed", got)
				}
				h.signing()
				if want {
					if got := len(turns); got != 0 {
						t.Errorf("%d turns are taken after the exchange", got)
					}
					turns <- struct{}{} // the next exchange must wait again
				}
			}})
			config.RekeyThreshold = 1 << 16
			var serving sync.WaitGroup
			serving.Go(func() {
				conn, channels, requests, err := ssh.NewServerConn(server, config)
				if err != nil {
					t.Error(err)
					return
				}
				go ssh.DiscardRequests(requests)
				for channel := range channels {
					accepted, requests, err := channel.Accept()
					if err == nil {
						go ssh.DiscardRequests(requests)
						_, _ = io.Copy(io.Discard, accepted)
						accepted.Close()
					}
				}
				conn.Close()
			})
			c, channels, requests, err := ssh.NewClientConn(client, "", &ssh.ClientConfig{
				Config: ssh.Config{KeyExchanges: []string{method}}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
			})
			if err != nil {
				t.Fatal(err)
			}
			session := ssh.NewClient(c, channels, requests)
			channel, more, err := session.OpenChannel("data", nil)
			if err != nil {
				t.Fatal(err)
			}
			go ssh.DiscardRequests(more)
			for exchanged := false; !exchanged; {
				if _, err := io.CopyN(channel, zeros{}, 1<<14); err != nil {
					t.Fatal(err)
				}
				select {
				case <-again:
					exchanged = true
				default:
				}
			}
			session.Close()
			serving.Wait()
			got, exchanges := waited.Load(), signings.Load()
			if want && got < exchanges || !want && got != 0 {
				t.Errorf("%d waits for %d exchanges", got, exchanges)
			}
		})
	}
}

// A client that had to make room learns why, and so does one that is late.
func TestClosedHandshakeSaysWhy(t *testing.T) {
	r := start(t, func(r *fixture) { r.cfg.Limits.Handshakes = 1 })
	first, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	reader := bufio.NewReader(first)
	if _, err := reader.ReadString('\n'); err != nil { // the version: the server has accepted it
		t.Fatal(err)
	}
	r.dial() // the newcomer gets in
	if got, _ := io.ReadAll(reader); !strings.Contains(string(got), "bastion: too many unauthenticated connections: this one was the oldest. Connect again.") {
		t.Errorf("the first one received %q", got)
	}
	r.refusal(kindAuthentication, errEvicted.Error())
}

// preAuth is a connection in its authentication. It records the banners.
type preAuth struct {
	ssh.ServerPreAuthConn
	banners []string
}

func (p *preAuth) SendAuthBanner(message string) error {
	p.banners = append(p.banners, message)
	return nil
}

// Each client learns why its connection is closed: before the key exchange with a message
// that is not encrypted, then with a banner. The end of the bastion has no such message.
func TestClosedConnectionIsToldWhy(t *testing.T) {
	const evicted = "too many unauthenticated connections: this one was the oldest"
	for _, test := range []struct {
		reached stage
		end     func(*connectionTable)
		plain   string
		banner  string
	}{
		{stageSilent, func(t *connectionTable) { after(10 * time.Second) }, "no key exchange within 10s", ""},
		{stageSpeaking, func(t *connectionTable) { _ = t.begin(newPending()) }, evicted, ""},
		{stageSigned, func(t *connectionTable) { _ = t.begin(newPending()) }, "", evicted},
		{stageSigned, func(t *connectionTable) { after(2 * time.Minute) }, "", "not authenticated within 2m0s"},
		{stageProved, func(t *connectionTable) { after(2 * time.Minute) }, "", "not authenticated within 2m0s"},
		{stageSilent, (*connectionTable).close, "", ""},
		{stageSigned, (*connectionTable).close, "", ""},
		{stageSigned, func(t *connectionTable) { t.drain(time.Now()) }, "", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			table, p, auth := newPendingTable(1).connectionTable, newPending(), &preAuth{}
			defer table.close()
			sent := p.conn.(memoryConn).out
			if err := table.begin(p); err != nil {
				t.Fatal(err)
			}
			if test.reached >= stageSigned {
				p.setPreAuth(auth)
				table.reach(p, stageSigned)
			}
			table.reach(p, test.reached)
			test.end(table)
			plain, _ := io.ReadAll(memoryConn{sent, newMemoryStream()})
			if want := "bastion: " + test.plain + ". Connect again."; (len(plain) == 0) != (test.plain == "") || test.plain != "" && !strings.Contains(string(plain), want) {
				t.Errorf("stage %d: received %q, want %q", test.reached, plain, test.plain)
			}
			var want []string
			if test.banner != "" {
				want = []string{"bastion: connection closed: " + test.banner + ". Connect again.\n"}
			}
			if !slices.Equal(auth.banners, want) {
				t.Errorf("stage %d: banners %q, want %q", test.reached, auth.banners, want)
			}
		})
	}
}

// A connection that was too late still has its place when a newcomer needs it.
func TestLateConnectionMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, p := newPendingTable(1).connectionTable, newPending()
		defer table.close()
		if err := table.begin(p); err != nil {
			t.Fatal(err)
		}
		table.reach(p, stageSigned)
		p.setPreAuth(&preAuth{})
		after(2 * time.Minute)
		if err := table.begin(newPending()); err != nil {
			t.Fatal(err)
		}
		if err := table.giveUp(p); err == nil || err.Error() != "not authenticated within 2m0s" {
			t.Errorf("the late connection was closed because of %v", err)
		}
		if n := len(table.pending); n != 1 {
			t.Errorf("%d connections are pending, want the newcomer", n)
		}
	})
}

// A client that has sent something keeps its place longer than one that has sent nothing,
// also when the server has read what it sent.
func TestClientThatHasSentSomethingKeepsItsPlace(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.cfg.Limits.Handshakes = 2
		r.run()
		after(0)
		var conns []net.Conn
		for _, sent := range []string{"SSH-2.0-test\r\n", "", ""} {
			conn, err := r.connect()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, sent); err != nil {
				t.Fatal(err)
			}
			after(2 * time.Second)
			conns = append(conns, conn)
		}
		for i, evicted := range []bool{false, true, false} {
			if _, err := conns[i].Write([]byte{0}); (err != nil) != evicted {
				t.Errorf("writing to connection %d returns %v", i, err)
			}
		}
	})
}

// A packet's length is a multiple of eight, and its padding has between 4 and 255 bytes
// (RFC 4253, section 6).
func TestDisconnectIsAPacket(t *testing.T) {
	for n := range 32 {
		why := errors.New(strings.Repeat("x", n))
		packet := disconnect(why)
		length, padding := int(binary.BigEndian.Uint32(packet)), int(packet[4])
		if len(packet)%8 != 0 || length != len(packet)-4 || padding < 4 || padding > 11 {
			t.Fatalf("packet of %d bytes with length %d and padding %d", len(packet), length, padding)
		}
		var message struct {
			Reason        uint32 `sshtype:"1"`
			Text, English string
		}
		if err := ssh.Unmarshal(packet[5:len(packet)-padding], &message); err != nil || message.Reason != 12 || message.Text != fmt.Sprintf("bastion: %v. Connect again.", why) {
			t.Errorf("message %+v, error %v", message, err)
		}
	}
}
