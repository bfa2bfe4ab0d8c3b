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

// channelConn is the connection that Dial of an ssh.Client returns.
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

func TestForwardLineHasAllFields(t *testing.T) {
	r := start(t)
	r.echo("10.0.0.1:7")
	r.resolver.results["db.internal"] = [][]netip.Addr{addrs("127.0.0.1", "10.0.0.1")}
	conn := forward(t, r.dial(), "db.internal:7")
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	conn.CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("response %q, error %v", got, err)
	}
	l := r.log.await(t, msgForward, 1)
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

func TestClientThatHalfClosesReceivesTheWholeResponse(t *testing.T) {
	response := strings.Repeat("0123456789abcdef", 1<<16)
	r := start(t)
	r.host("10.0.0.1:7", func(conn net.Conn) {
		defer conn.Close()
		request, err := io.ReadAll(conn) // until the client half-closes
		if err == nil && string(request) == "request" {
			_, _ = io.WriteString(conn, response)
		}
	})
	conn := forward(t, r.dial(), "10.0.0.1:7")
	if _, err := io.WriteString(conn, "request"); err != nil {
		t.Fatal(err)
	}
	conn.CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != response || err != nil {
		t.Errorf("received %d bytes, want %d; error %v", len(got), len(response), err)
	}
}

func TestDestinationThatHalfClosesReceivesAllData(t *testing.T) {
	got := make(chan string, 1)
	r := start(t)
	r.host("10.0.0.1:7", func(conn net.Conn) {
		defer conn.Close()
		_, _ = io.WriteString(conn, "bye")
		halfClose(conn)
		received, _ := io.ReadAll(conn)
		got <- string(received)
	})
	conn := forward(t, r.dial(), "10.0.0.1:7")
	if data, err := io.ReadAll(conn); string(data) != "bye" || err != nil {
		t.Fatalf("read %q, error %v", data, err)
	}
	data := strings.Repeat("0123456789", 1<<17)
	if _, err := io.WriteString(conn, data); err != nil {
		t.Fatal(err)
	}
	conn.CloseWrite()
	if received := <-got; received != data {
		t.Errorf("the destination received %d bytes, want %d", len(received), len(data))
	}
}

func TestDataIsDeliveredAfterTheClientHasLeft(t *testing.T) {
	for name, leave := range map[string]func(*ssh.Client, net.Conn){
		"the channel":    func(_ *ssh.Client, conn net.Conn) { conn.Close() },
		"the connection": func(client *ssh.Client, _ net.Conn) { client.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			begin, got := make(chan struct{}), make(chan int64, 1)
			r := start(t)
			r.host("10.0.0.1:7", func(conn net.Conn) {
				defer conn.Close()
				_, _ = io.WriteString(conn, "hello") // the client does not read it
				<-begin
				n, _ := io.Copy(io.Discard, conn)
				got <- n
			})
			client := r.dial()
			conn := forward(t, client, "10.0.0.1:7")
			if _, err := io.CopyN(conn, zeros{}, 1<<20); err != nil { // within the channel's window
				t.Fatal(err)
			}
			// The server handles requests in order: the reply shows that it has received
			// the data, and the close of the channel.
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
			if l := r.log.await(t, msgForward, 1); l.text("result") != "closed by the client" || l.number("bytes_in") != 1<<20 {
				t.Errorf("line %v", l)
			}
		})
	}
}

func TestForwardToADestinationThatDoesNotReadEnds(t *testing.T) {
	r := start(t, func(r *fixture) { r.cfg.Timing.Linger = 20 * time.Millisecond })
	stuck := make(chan struct{})
	r.host("10.0.0.1:7", func(conn net.Conn) {
		defer conn.Close()
		<-stuck
	})
	defer close(stuck)
	conn := forward(t, r.dial(), "10.0.0.1:7")
	conn.Close()
	r.log.await(t, msgForward, 1)
}

func TestResetByTheDestinationIsLogged(t *testing.T) {
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
	if l := r.log.await(t, msgForward, 1); l.text("result") != "reset by the destination" {
		t.Errorf("line %v", l)
	}
}

// wantOpenError checks that the server refuses a forward, and returns the refusal.
func wantOpenError(t *testing.T, client *ssh.Client, address string) *ssh.OpenChannelError {
	t.Helper()
	conn, err := client.Dial("tcp", address)
	if err == nil {
		conn.Close()
		t.Fatalf("connected to %s", address)
	}
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) {
		t.Fatalf("dial %s: %v", address, err)
	}
	return refused
}

func TestFailedForwardsAreLogged(t *testing.T) {
	for _, c := range []struct {
		name, address, message, result string
	}{
		{"refused", "10.0.0.9:80", "could not connect to 10.0.0.9:80: connection refused", "dial 10.0.0.9:80"},
		{"no such name", "nowhere.internal:80", "no address for nowhere.internal", "no such host"},
		{"no response", "10.0.0.3:80", "could not connect to 10.0.0.3:80: no response in time", "deadline"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, func(r *fixture) { r.cfg.Timing.Dial = 20 * time.Millisecond })
			r.network.add("10.0.0.3:80", func(ctx context.Context) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
			refused := wantOpenError(t, r.dial(), c.address)
			if refused.Reason != ssh.ConnectionFailed || !strings.Contains(refused.Message, c.message) {
				t.Errorf("error %v, want %q", refused, c.message)
			}
			r.stop()
			lines := r.log.all(msgForward)
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
	r.resolver.results["two.internal"] = [][]netip.Addr{addrs("10.0.0.1", "10.0.0.2")}
	forward(t, r.dial(), "two.internal:7")
	if got := r.network.dials(); got != "10.0.0.1:7 10.0.0.2:7" {
		t.Errorf("dialled %s", got)
	}
}

func TestEachForwardResolvesTheNameOnce(t *testing.T) {
	r := start(t)
	r.echo("10.0.0.1:7")
	r.resolver.results["rebind.internal"] = [][]netip.Addr{addrs("10.0.0.1"), addrs("169.254.170.2")}
	client := r.dial()
	forward(t, client, "rebind.internal:7")
	if lookups := r.resolver.lookedUp(); len(lookups) != 1 {
		t.Errorf("looked up %q, want one look-up", lookups)
	}
	if got := r.network.dials(); got != "10.0.0.1:7" {
		t.Errorf("dialled %s, want the address that the policy allowed", got)
	}
	refused := wantOpenError(t, client, "rebind.internal:7") // now the name resolves to a forbidden address
	if refused.Reason != ssh.Prohibited || r.network.dials() != "10.0.0.1:7" {
		t.Errorf("%v; dialled %s", refused, r.network.dials())
	}
}

func TestChannelsOfAConnectionAreLimited(t *testing.T) {
	r := start(t, func(r *fixture) { r.cfg.Limits.Channels = 2 })
	r.echo("10.0.0.1:7")
	client := r.dial()
	first := forward(t, client, "10.0.0.1:7")
	forward(t, client, "10.0.0.1:7")
	if refused := wantOpenError(t, client, "10.0.0.1:7"); refused.Reason != ssh.ResourceShortage {
		t.Errorf("error %v, want a resource shortage", refused)
	}
	first.Close()
	r.log.await(t, msgForward, 1)
	// The slot is free a moment after the line is written.
	for {
		conn, err := client.Dial("tcp", "10.0.0.1:7")
		if err == nil {
			conn.Close()
			break
		}
	}
	l := r.log.await(t, msgRefusal, 1)
	if l.text("kind") != kindChannel || l.number("limit") != 2 {
		t.Errorf("line %v", l)
	}
}

// noise returns n random bytes, which depend on the seed only.
func noise(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

// skip reads and drops n bytes.
func skip(r io.Reader, n int64) io.Reader {
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

// The destination sends its last byte only after it has received all: ssh -W stops
// sending when the destination half-closes.
func TestChannelsOfAllConnectionsAreLimited(t *testing.T) {
	r := start(t, func(r *fixture) { r.cfg.Limits.AllChannels = 2 })
	r.echo("10.0.0.1:7")
	one, other := r.dial(), r.dial()
	first := forward(t, one, "10.0.0.1:7")
	forward(t, other, "10.0.0.1:7")
	for _, client := range []*ssh.Client{one, other} {
		if refused := wantOpenError(t, client, "10.0.0.1:7"); refused.Reason != ssh.ResourceShortage || !strings.Contains(refused.Message, "all connections") {
			t.Errorf("error %v, want a resource shortage", refused)
		}
	}
	if l := r.log.await(t, msgRefusal, 2); l.text("kind") != kindChannel || l.number("limit") != 2 {
		t.Errorf("line %v", l)
	}
	first.Close()
	r.log.await(t, msgForward, 1)
	for { // the place is free a moment after the line is written
		conn, err := other.Dial("tcp", "10.0.0.1:7")
		if err == nil {
			conn.Close()
			return
		}
	}
}

func TestForwardCopiesAQuarterOfAGigabyteEachWay(t *testing.T) {
	const size = 256 << 20
	received := make(chan [32]byte, 1)
	r := start(t)
	r.host("10.0.0.1:7", func(conn net.Conn) {
		defer conn.Close()
		sum := make(chan [32]byte)
		go func() { sum <- digest(t, conn) }()
		_, _ = io.Copy(struct{ io.Writer }{conn}, noise(2, size-1))
		received <- <-sum
		_, _ = io.Copy(struct{ io.Writer }{conn}, skip(noise(2, size), size-1))
	})
	cmd := r.openSSH().command("ssh", "-W", "10.0.0.1:7", "bastion")
	var stderr bytes.Buffer
	sent := sha256.New()
	cmd.Stdin, cmd.Stderr = noise(1, size), &stderr
	cmd.Stdout = sent
	if err := cmd.Run(); err != nil {
		t.Fatalf("ssh -W: %v: %s", err, &stderr)
	}
	if <-received != digest(t, noise(1, size)) {
		t.Error("the destination did not receive what the client sent")
	}
	if [32]byte(sent.Sum(nil)) != digest(t, noise(2, size)) {
		t.Error("the client did not receive what the destination sent")
	}
	if l := r.log.await(t, msgForward, 1); l.number("bytes_in") != size || l.number("bytes_out") != size {
		t.Errorf("line %v", l)
	}
}
