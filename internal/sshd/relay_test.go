package sshd

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// smallHost is host with small kernel buffers from the host to the bastion, about a
// mebibyte, so that little data is enough to fill them. The host receives little before it
// reads, too; the rest stays in the bastion's kernel.
func (r *fixture) smallHost(address string, serve func(net.Conn)) {
	r.t.Helper()
	r.host(address, func(conn net.Conn) {
		_ = conn.(*net.TCPConn).SetReadBuffer(256 << 10)
		_ = conn.(*net.TCPConn).SetWriteBuffer(256 << 10)
		serve(conn)
	})
	dial := r.network.hosts[netip.MustParseAddrPort(address)]
	r.network.add(address, func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		if err == nil {
			_ = conn.(*net.TCPConn).SetReadBuffer(256 << 10)
		}
		return conn, err
	})
}

// localForward starts a stock client with a local forward to an address, and connects to
// it.
func (r *fixture) localForward(address string) net.Conn {
	r.t.Helper()
	s := r.openSSH()
	s.hold("-N", "-L", s.path("l")+":"+address, "bastion")
	r.connected(1)
	conn := dialUntil(r.t, "unix", s.path("l"))
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// counter counts the bytes that are written to it.
type counter struct{ n atomic.Int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// partial is more than what a counter lacks if the latest write was not complete.
const partial = 32 << 10

// sendZeros sends without end, and returns when the connection is lost.
func sendZeros(conn net.Conn, sent *counter) {
	_, _ = io.Copy(io.MultiWriter(conn, sent), zeros{})
}

// The destination sends without end, also when the client does not take any more, and
// begins to read only then. If the bastion closed the connection at once, the kernel would
// drop what the destination has not received.
func TestDestinationWithUnreadDataReceivesAllData(t *testing.T) {
	const size = 1 << 20
	var sent counter
	received := make(chan int64, 1)
	r := start(t, func(r *fixture) { r.cfg.Timing.Linger = patience })
	r.smallHost("10.0.0.1:7", func(conn net.Conn) {
		begin := make(chan struct{})
		reached := sync.OnceFunc(func() { close(begin) })
		defer reached() // the connection is lost before that
		go func() {
			<-begin
			n, _ := io.Copy(io.Discard, conn)
			conn.Close()
			received <- n
		}()
		// More than the buffers and the client's window hold.
		_, _ = io.Copy(io.MultiWriter(conn, &sent, &trigger{6 << 20, reached}), zeros{})
	})
	conn := r.localForward("10.0.0.1:7")
	if _, err := io.CopyN(conn, zeros{}, size); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if n := <-received; n != size {
		t.Errorf("%d of %d bytes arrived", n, size)
	}
	l := r.log.await(t, msgForward, 1)
	if l.number("bytes_in") != size || l.number("bytes_discarded") == 0 {
		t.Errorf("line %v", l)
	}
	if out := l.number("bytes_out"); out < 6<<20-64<<10 || out > sent.n.Load()+partial {
		t.Errorf("the line has %d bytes_out; the destination sent %d", out, sent.n.Load())
	}
	r.stop()
	if out := r.table.LastReport().Receipt.BytesOut; out != l.number("bytes_out") {
		t.Errorf("the receipt has %d bytes_out, the line %d", out, l.number("bytes_out"))
	}
}

// trigger calls reached after left bytes have been written to it.
type trigger struct {
	left    int64
	reached func()
}

func (w *trigger) Write(b []byte) (int, error) {
	if w.left -= int64(len(b)); w.left <= 0 {
		w.reached()
	}
	return len(b), nil
}

// The client sends more than its window and the buffers take back, so the echo stalls until
// the bastion discards what it sends.
func TestEchoThatIsNotReadReceivesAllData(t *testing.T) {
	const size = 4 << 20 // the windows of both directions hold as much
	received := make(chan int64, 1)
	r := start(t, func(r *fixture) { r.cfg.Timing.Linger = patience })
	r.smallHost("10.0.0.1:7", func(conn net.Conn) {
		defer conn.Close()
		buffer := make([]byte, 32<<10)
		for total, lost := int64(0), false; ; {
			n, err := conn.Read(buffer)
			total += int64(n)
			if err != nil {
				received <- total
				return
			}
			if !lost {
				_, err := conn.Write(buffer[:n])
				lost = err != nil
			}
		}
	})
	conn := r.localForward("10.0.0.1:7")
	if _, err := io.CopyN(conn, zeros{}, size); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if n := <-received; n != size {
		t.Errorf("%d of %d bytes arrived", n, size)
	}
	if l := r.log.await(t, msgForward, 1); l.number("bytes_in") != size || l.number("bytes_discarded") == 0 {
		t.Errorf("line %v", l)
	}
}

// A download goes on for a mebibyte at most after the client has left. The test counts
// what the destination sends instead of measuring the time.
func TestDownloadEndsWhenTheClientLeaves(t *testing.T) {
	for name, open := range map[string]func(*fixture) (download io.Reader, leave func()){
		"the program closes its connection": func(r *fixture) (io.Reader, func()) {
			conn := r.localForward("10.0.0.1:7")
			return conn, func() { conn.Close() }
		},
		"ssh is killed": func(r *fixture) (io.Reader, func()) {
			cmd := r.openSSH().command("ssh", "-W", "10.0.0.1:7", "bastion")
			output, err := cmd.StdoutPipe()
			if err != nil {
				r.t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				r.t.Fatal(err)
			}
			return output, func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var sent counter
			ended := make(chan struct{})
			r := start(t)
			r.smallHost("10.0.0.1:7", func(conn net.Conn) {
				defer close(ended)
				defer conn.Close()
				sendZeros(conn, &sent)
			})
			download, leave := open(r)
			if _, err := io.CopyN(io.Discard, download, 1<<20); err != nil {
				t.Fatal(err)
			}
			before := sent.n.Load()
			leave()
			<-ended
			after := sent.n.Load() - before
			// The client's window and the buffers between take some more meanwhile. Until
			// the bastion has seen that the client's data is delivered, it discards
			// 8 MiB a second; a busy machine may need a while.
			if after > 32<<20 {
				t.Errorf("the destination sent %d bytes after the client had left", after)
			}
			l := r.log.await(t, msgForward, 1)
			if l.number("bytes_discarded") > 24<<20 || l.number("bytes_out") > sent.n.Load()+partial || l.text("result") != resultLeft {
				t.Errorf("line %v", l)
			}
			t.Logf("%d bytes after the client had left; %v", after, l)
		})
	}
}

// A client opens and closes more forwards on one connection than it may have open, to a
// destination that ignores the end of the stream. The stock client closes a channel only
// when it learns, by writing, that the program has closed its connection.
func TestThousandForwardsOneAfterAnother(t *testing.T) {
	for name, c := range map[string]struct {
		answer string // what the destination sends at the end of the stream
		open   func(r *fixture) (dial func() (net.Conn, error))
	}{
		"stock client": {"y", func(r *fixture) func() (net.Conn, error) {
			s := r.openSSH()
			s.hold("-N", "-L", s.path("l")+":10.0.0.1:7", "bastion")
			dialUntil(r.t, "unix", s.path("l")).Close()
			return func() (net.Conn, error) { return net.Dial("unix", s.path("l")) }
		}},
		"silent destination": {"", func(r *fixture) func() (net.Conn, error) {
			client := r.dial()
			forward(r.t, client, "10.0.0.1:7").Close()
			return func() (net.Conn, error) { return client.Dial("tcp", "10.0.0.1:7") }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			const count = 1000
			r := start(t)
			eof, end := make(chan struct{}, 1), make(chan struct{})
			defer close(end)
			r.host("10.0.0.1:7", func(conn net.Conn) {
				defer conn.Close()
				_, _ = io.WriteString(conn, "x")
				_, _ = io.Copy(io.Discard, conn)
				_, _ = io.WriteString(conn, c.answer)
				select {
				case eof <- struct{}{}:
					<-end
				case <-end:
				}
			})
			dial := c.open(r)
			<-eof
			for i := range count {
				conn, err := dial()
				if err != nil {
					t.Fatalf("forward %d: %v", i+1, err)
				}
				_, err = io.ReadFull(conn, make([]byte, 1))
				conn.Close()
				if err != nil {
					t.Fatalf("forward %d: %v\n%s", i+1, err, r.log.all(msgRefusal))
				}
				<-eof
			}
			r.log.await(t, msgForward, count+1)
			r.stop()
			if receipt := r.table.LastReport().Receipt; receipt.Connections != 1 || receipt.Forwards != count+1 || receipt.Refusals != 0 {
				t.Errorf("receipt %+v", receipt)
			}
		})
	}
}

// The destination ignores the end of the stream, and goes on to send slowly.
func TestDestinationIsClosedASecondAfterItHasAllData(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.memoryHost("10.0.0.1:7", func(conn net.Conn) {
			defer conn.Close()
			for {
				if _, err := conn.Write(make([]byte, 10)); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
		r.run()
		after(0)
		conn := forward(t, r.dial(), "10.0.0.1:7")
		after(10*time.Second + 50*time.Millisecond)
		conn.Close()
		after(lastDiscardTime - time.Millisecond)
		if lines := r.log.all(msgForward); len(lines) > 0 {
			t.Fatalf("the forward has ended: %v", lines)
		}
		after(time.Millisecond)
		l := r.log.await(t, msgForward, 1)
		after(100 * time.Millisecond) // the destination notices it
		if l.number("bytes_discarded") != 100 || l.number("bytes_out") != 101*10+100 {
			t.Errorf("line %v", l)
		}
	})
}

// Forwards that linger have no slot. If too many linger, the next ones keep their slot, but
// end as soon as everything is delivered.
func TestForwardsThatLingerAreLimited(t *testing.T) {
	bubble(t, func(t *testing.T, r *fixture) {
		r.cfg.Limits.Channels = 2
		end := make(chan struct{})
		defer close(end)
		r.memoryHost("10.0.0.1:7", func(conn net.Conn) {
			defer conn.Close()
			_, _ = io.Copy(io.Discard, conn)
			<-end // it ignores the end of the stream
		})
		r.run()
		after(0)
		client := r.dial()
		for i := range 10 {
			conn, err := client.Dial("tcp", "10.0.0.1:7")
			if err != nil {
				t.Fatalf("forward %d: %v", i, err)
			}
			conn.Close()
			after(0)
		}
		if lines := r.log.all(msgForward); len(lines) != 8 {
			t.Errorf("%d forwards have ended, want all but 2", len(lines))
		}
		after(lastDiscardTime)
		if lines := r.log.all(msgForward); len(lines) != 10 {
			t.Errorf("%d forwards have ended, want 10", len(lines))
		}
	})
}
