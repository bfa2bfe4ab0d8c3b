package sshd

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// countedConn counts the reads of a memoryConn.
type countedConn struct {
	memoryConn
	reads int
}

func (c *countedConn) Read(b []byte) (int, error) {
	c.reads++
	return c.memoryConn.Read(b)
}

// An upload takes few reads of the network, and a connection keeps no large buffer when
// little data comes.
func TestWireReadsMuchAtOnce(t *testing.T) {
	up := newMemoryStream()
	conn := &countedConn{memoryConn: memoryConn{up, newMemoryStream()}}
	cfg := Config{}.withDefaults()
	w := newWire(conn, newIntake(cfg.Limits, cfg.Timing).open(), time.Now, newExchangeGate(nil, nil, nil), func() {})
	sent := make([]byte, 1<<20+100)
	for i := range sent {
		sent[i] = byte(i * 7 / 1000)
	}
	if _, err := up.write(sent); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 0, len(sent))
	for size := 4 << 10; len(got) < len(sent); size = 36<<10 - size { // as the library reads
		n, err := w.Read(got[len(got):min(len(got)+size, len(sent))])
		if err != nil {
			t.Fatal(err)
		}
		got = got[:len(got)+n]
	}
	if !bytes.Equal(got, sent) {
		t.Error("the data differs")
	}
	if want := len(sent)/bulkBuffer + 2; conn.reads > want {
		t.Errorf("%d reads of the network, want at most %d", conn.reads, want)
	}
	if w.inflow.bytes != int64(len(sent)) {
		t.Errorf("%d bytes are counted, want %d", w.inflow.bytes, len(sent))
	}
	_, _ = up.write(sent[:100]) // such as a keepalive
	if n, err := w.Read(make([]byte, bulkRead)); n != 100 || err != nil {
		t.Errorf("%d bytes, error %v, want 100", n, err)
	}
	if w.bulk != nil {
		t.Error("the connection keeps its buffer after a small read")
	}
	_, _ = up.write(sent[:bulkRead])
	up.end(false)
	if rest, err := io.ReadAll(struct{ io.Reader }{w}); err != nil || !bytes.Equal(rest, sent[:bulkRead]) {
		t.Errorf("%d bytes before the end, error %v", len(rest), err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := w.Read(make([]byte, 1)); err != net.ErrClosed {
		t.Errorf("read after close: %v", err)
	}
}
