package sshd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// channelConn is what Dial of an ssh.Client answers.
type channelConn interface {
	net.Conn
	CloseWrite() error
}

func forward(t testing.TB, client *ssh.Client, address string) channelConn {
	t.Helper()
	conn, err := client.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(channelConn)
}

func TestForwardLine(t *testing.T) {
	r := start(t)
	r.echo("10.0.0.1:7")
	r.names.answers["db.internal"] = [][]netip.Addr{addrs("127.0.0.1", "10.0.0.1")}
	conn := forward(t, r.dial(), "db.internal:7")
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	conn.CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("the answer is %q, %v", got, err)
	}
	l := r.journal.await(t, msgForward, 1)
	for key, want := range map[string]string{
		"bastion": "b1", "owner": "local:alice", "connection": "1", "source": "127.0.0.1", "user": "bastion",
		"key": ssh.FingerprintSHA256(r.key.PublicKey()), "requested": "db.internal:7", "address": "10.0.0.1:7",
		"dropped": "[127.0.0.1]", "bytes_in": "5", "bytes_out": "5", "result": "ok",
	} {
		if l.text(key) != want {
			t.Errorf("the line has %s %q, want %q", key, l.text(key), want)
		}
	}
	if l["duration"] == nil {
		t.Error("the line has no duration")
	}
}

func TestClientThatEndsFirstGetsAllOfTheAnswer(t *testing.T) {
	answer := strings.Repeat("0123456789abcdef", 1<<16)
	r := start(t)
	r.host("10.0.0.1:7", func(conn net.Conn) {
		defer conn.Close()
		question, err := io.ReadAll(conn) // until the client's end
		if err == nil && string(question) == "question" {
			_, _ = io.WriteString(conn, answer)
		}
	})
	conn := forward(t, r.dial(), "10.0.0.1:7")
	if _, err := io.WriteString(conn, "question"); err != nil {
		t.Fatal(err)
	}
	conn.CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != answer || err != nil {
		t.Errorf("the answer has %d bytes, %v; want %d", len(got), err, len(answer))
	}
}

func TestDestinationThatEndsFirstGetsAllThatIsSent(t *testing.T) {
	got := make(chan string, 1)
	r := start(t)
	r.host("10.0.0.1:7", func(conn net.Conn) {
		defer conn.Close()
		_, _ = io.WriteString(conn, "done talking")
		halfClose(conn)
		heard, _ := io.ReadAll(conn)
		got <- string(heard)
	})
	conn := forward(t, r.dial(), "10.0.0.1:7")
	if said, err := io.ReadAll(conn); string(said) != "done talking" || err != nil {
		t.Fatalf("it said %q, %v", said, err)
	}
	question := strings.Repeat("listen ", 1<<17)
	if _, err := io.WriteString(conn, question); err != nil {
		t.Fatal(err)
	}
	conn.CloseWrite()
	if heard := <-got; heard != question {
		t.Errorf("it heard %d bytes, want %d", len(heard), len(question))
	}
}

func TestWhatWasSentArrivesThoughTheClientHasLeft(t *testing.T) {
	for name, leave := range map[string]func(*ssh.Client, net.Conn){
		"the channel":    func(_ *ssh.Client, conn net.Conn) { conn.Close() },
		"the connection": func(client *ssh.Client, _ net.Conn) { client.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			begin, got := make(chan struct{}), make(chan int64, 1)
			r := start(t)
			r.host("10.0.0.1:7", func(conn net.Conn) {
				defer conn.Close()
				_, _ = io.WriteString(conn, "hello") // which nobody reads
				<-begin
				n, _ := io.Copy(io.Discard, conn)
				got <- n
			})
			client := r.dial()
			conn := forward(t, client, "10.0.0.1:7")
			if _, err := io.CopyN(conn, zeros{}, 1<<20); err != nil { // within the channel's window
				t.Fatal(err)
			}
			// The close comes after the data; this answer says that both have arrived.
			if name == "the channel" {
				leave(client, conn)
				if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err != nil {
					t.Fatal(err)
				}
			} else {
				if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err != nil {
					t.Fatal(err)
				}
				leave(client, conn)
			}
			close(begin)
			if n := <-got; n != 1<<20 {
				t.Errorf("%d bytes arrived, want %d", n, 1<<20)
			}
			if l := r.journal.await(t, msgForward, 1); l.text("result") != "closed by the client" || l.number("bytes_in") != 1<<20 {
				t.Errorf("the line is %v", l)
			}
		})
	}
}

func TestDestinationThatNeverTakesWhatWasSent(t *testing.T) {
	r := start(t, func(r *fixture) { r.cfg.Timing.Linger = 20 * time.Millisecond })
	stuck := make(chan struct{})
	r.host("10.0.0.1:7", func(conn net.Conn) {
		defer conn.Close()
		<-stuck
	})
	defer close(stuck)
	conn := forward(t, r.dial(), "10.0.0.1:7")
	conn.Close()
	r.journal.await(t, msgForward, 1)
}

func TestDestinationThatResets(t *testing.T) {
	r := start(t)
	r.host("10.0.0.1:7", func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	})
	conn := forward(t, r.dial(), "10.0.0.1:7")
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); len(got) > 0 || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if l := r.journal.await(t, msgForward, 1); l.text("result") != "reset by the destination" {
		t.Errorf("the line is %v", l)
	}
}

// opens expects a channel open to fail, and answers how.
func opens(t *testing.T, client *ssh.Client, address string) *ssh.OpenChannelError {
	t.Helper()
	conn, err := client.Dial("tcp", address)
	if err == nil {
		conn.Close()
		t.Fatalf("%s is reached", address)
	}
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) {
		t.Fatalf("dial %s: %v", address, err)
	}
	return refused
}

func TestForwardsThatFail(t *testing.T) {
	for _, c := range []struct {
		name, address, message, result string
	}{
		{"refused", "10.0.0.9:80", "could not connect to 10.0.0.9:80: connection refused", "dial 10.0.0.9:80"},
		{"no such name", "nowhere.internal:80", "no address for nowhere.internal", "no such host"},
		{"no answer", "10.0.0.3:80", "could not connect to 10.0.0.3:80: no answer in time", "deadline"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, func(r *fixture) { r.cfg.Timing.Dial = 20 * time.Millisecond })
			r.network.add("10.0.0.3:80", func(ctx context.Context) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
			refused := opens(t, r.dial(), c.address)
			if refused.Reason != ssh.ConnectionFailed || !strings.Contains(refused.Message, c.message) {
				t.Errorf("%v, want %q", refused, c.message)
			}
			r.stop()
			lines := r.journal.all(msgForward)
			if len(lines) != 1 || !strings.Contains(lines[0].text("result"), c.result) || lines[0].text("requested") != c.address {
				t.Errorf("lines %v", lines)
			}
			if receipt := r.table.LastReport().Receipt; receipt.Forwards != 0 || receipt.Refusals != 0 {
				t.Errorf("receipt %+v", receipt)
			}
		})
	}
}

func TestTheNextAddressIsTriedWhenOneFails(t *testing.T) {
	r := start(t)
	r.echo("10.0.0.2:7")
	r.names.answers["two.internal"] = [][]netip.Addr{addrs("10.0.0.1", "10.0.0.2")}
	forward(t, r.dial(), "two.internal:7")
	if got := r.network.dials(); got != "10.0.0.1:7 10.0.0.2:7" {
		t.Errorf("dialled %s", got)
	}
}

func TestRebindingName(t *testing.T) {
	r := start(t)
	r.echo("10.0.0.1:7")
	r.names.answers["rebind.internal"] = [][]netip.Addr{addrs("10.0.0.1"), addrs("169.254.170.2")}
	client := r.dial()
	forward(t, client, "rebind.internal:7")
	if asked := r.names.lookups(); len(asked) != 1 {
		t.Errorf("looked up %q, want one look-up", asked)
	}
	if got := r.network.dials(); got != "10.0.0.1:7" {
		t.Errorf("dialled %s, want the address that was judged", got)
	}
	refused := opens(t, client, "rebind.internal:7") // now it is bad, and judged so
	if refused.Reason != ssh.Prohibited || r.network.dials() != "10.0.0.1:7" {
		t.Errorf("%v; dialled %s", refused, r.network.dials())
	}
}

func TestTooManyChannels(t *testing.T) {
	r := start(t, func(r *fixture) { r.cfg.Limits.Channels = 2 })
	r.echo("10.0.0.1:7")
	client := r.dial()
	first := forward(t, client, "10.0.0.1:7")
	forward(t, client, "10.0.0.1:7")
	if refused := opens(t, client, "10.0.0.1:7"); refused.Reason != ssh.ResourceShortage {
		t.Errorf("%v, want a resource shortage", refused)
	}
	first.Close()
	r.journal.await(t, msgForward, 1)
	// The slot is free a moment after the line is written.
	for {
		conn, err := client.Dial("tcp", "10.0.0.1:7")
		if err == nil {
			conn.Close()
			break
		}
	}
	l := r.journal.await(t, msgRefusal, 1)
	if l.text("kind") != kindChannel || l.number("limit") != 2 {
		t.Errorf("the line is %v", l)
	}
}

// noise is n bytes that no two seeds share.
func noise(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

// last skips n bytes.
func last(r io.Reader, n int64) io.Reader {
	_, _ = io.CopyN(io.Discard, r, n)
	return r
}

func digest(t testing.TB, r io.Reader) [32]byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Error(err)
	}
	return [32]byte(h.Sum(nil))
}

// The client ends first: ssh -W stops sending when the other side does.
func TestQuarterOfAGigabyteEachWay(t *testing.T) {
	const size = 256 << 20
	received := make(chan [32]byte, 1)
	r := start(t)
	r.host("10.0.0.1:7", func(conn net.Conn) {
		defer conn.Close()
		heard := make(chan [32]byte)
		go func() { heard <- digest(t, conn) }()
		_, _ = io.Copy(struct{ io.Writer }{conn}, noise(2, size-1))
		received <- <-heard
		_, _ = io.Copy(struct{ io.Writer }{conn}, last(noise(2, size), size-1))
	})
	cmd := r.stock().command("ssh", "-W", "10.0.0.1:7", "bastion")
	var stderr bytes.Buffer
	sent := sha256.New()
	cmd.Stdin, cmd.Stderr = noise(1, size), &stderr
	cmd.Stdout = sent
	if err := cmd.Run(); err != nil {
		t.Fatalf("ssh -W: %v: %s", err, &stderr)
	}
	if <-received != digest(t, noise(1, size)) {
		t.Error("what the destination received is not what was sent")
	}
	if [32]byte(sent.Sum(nil)) != digest(t, noise(2, size)) {
		t.Error("what the client received is not what the destination sent")
	}
	if l := r.journal.await(t, msgForward, 1); l.number("bytes_in") != size || l.number("bytes_out") != size {
		t.Errorf("the line is %v", l)
	}
}
