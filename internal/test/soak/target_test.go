//go:build conformance

package soak

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
)

// The kinds of transfers.
const (
	upload   = iota // the client sends; the target sends back the number of bytes
	download        // the target sends
	echo            // the client sends, and the target sends it back
	reset           // the client sends, and the target resets the connection halfway
	kinds
)

var kindNames = [kinds]string{"upload", "download", "echo", "reset"}

// transfer is one connection through a bastion to the target, and what both ends know of
// it. Its data is random; the transfer's ID is the seed.
type transfer struct {
	id   uint64
	kind int
	size int64

	// Of the client: the bytes that it may have sent and those that it received, and
	// whether it knows that the forward was opened.
	sent, received int64
	opened         bool

	// Of the target.
	begun         atomic.Bool
	read, written atomic.Int64
	ended         chan struct{} // closed when the target is done with it
}

const headerSize = 17

// header is what the client sends first.
func (x *transfer) header() []byte {
	h := binary.BigEndian.AppendUint64(nil, x.id)
	h = append(h, byte(x.kind))
	return binary.BigEndian.AppendUint64(h, uint64(x.size))
}

// data returns the transfer's data.
func (x *transfer) data() io.Reader {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], x.id)
	return io.LimitReader(rand.NewChaCha8(seed), x.size)
}

// outgoing returns everything that the client sends.
func (x *transfer) outgoing() io.Reader {
	if x.kind == download {
		return bytes.NewReader(x.header())
	}
	return io.MultiReader(bytes.NewReader(x.header()), x.data())
}

// outgoingSize returns the length of outgoing.
func (x *transfer) outgoingSize() int64 {
	if x.kind == download {
		return headerSize
	}
	return headerSize + x.size
}

// incoming returns everything that the client receives if nothing fails.
func (x *transfer) incoming() io.Reader {
	switch x.kind {
	case upload:
		return bytes.NewReader(binary.BigEndian.AppendUint64(nil, uint64(x.size)))
	case reset:
		return bytes.NewReader(nil)
	}
	return x.data()
}

// errDifferent means that a byte arrived changed, moved or twice.
var errDifferent = errors.New("the data differs from what was sent")

// compare reads all and compares it with the data that was sent. It returns errDifferent,
// io.ErrUnexpectedEOF if less arrived, or the error of the read.
func compare(got, want io.Reader, count func(int)) error {
	g, w := make([]byte, 16<<10), make([]byte, 16<<10)
	for {
		n, err := got.Read(g)
		count(n)
		if m, _ := io.ReadFull(want, w[:n]); m < n || !bytes.Equal(g[:n], w[:n]) {
			return errDifferent
		}
		switch {
		case err == io.EOF:
			if n, _ := want.Read(w[:1]); n > 0 {
				return io.ErrUnexpectedEOF
			}
			return nil
		case err != nil:
			return err
		}
	}
}

// target is the destination of all transfers.
type target struct {
	listener net.Listener
	failed   func(format string, args ...any)

	serving   sync.WaitGroup
	mu        sync.Mutex
	transfers map[uint64]*transfer
	latest    uint64
}

func newTarget(failed func(string, ...any)) (*target, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &target{listener: listener, failed: failed, transfers: map[uint64]*transfer{}}
	d.serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			d.serving.Go(func() { d.serve(conn.(*net.TCPConn)) })
		}
	})
	return d, nil
}

func (d *target) address() string { return d.listener.Addr().String() }

func (d *target) port() int { return d.listener.Addr().(*net.TCPAddr).Port }

func (d *target) close() {
	_ = d.listener.Close()
	d.serving.Wait()
}

// expect returns a new transfer.
func (d *target) expect(kind int, size int64) *transfer {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.latest++
	x := &transfer{id: d.latest, kind: kind, size: size, ended: make(chan struct{})}
	d.transfers[x.id] = x
	return x
}

// take returns the transfer with the ID, once.
func (d *target) take(id uint64) *transfer {
	d.mu.Lock()
	defer d.mu.Unlock()
	x := d.transfers[id]
	delete(d.transfers, id)
	return x
}

func (d *target) serve(conn *net.TCPConn) {
	defer conn.Close()
	header := make([]byte, headerSize)
	if n, err := io.ReadFull(conn, header); err != nil {
		// A client that left before it had sent anything, or a part of a header.
		if n > 0 && d.prefix(header[:n]) == nil {
			d.failed("the target received %x, which is the beginning of no transfer", header[:n])
		}
		return
	}
	x := d.take(binary.BigEndian.Uint64(header))
	if x == nil || !bytes.Equal(x.header(), header) {
		d.failed("the target received the header %x, which no client has sent", header)
		return
	}
	defer close(x.ended)
	x.begun.Store(true)
	x.read.Store(headerSize)
	if err := x.serve(conn); errors.Is(err, errDifferent) {
		d.failed("%s %d of %d bytes: the target received other data than the client sent", kindNames[x.kind], x.id, x.size)
	}
}

// prefix returns a transfer whose header begins with the bytes.
func (d *target) prefix(b []byte) *transfer {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range d.transfers {
		if bytes.HasPrefix(x.header(), b) {
			return x
		}
	}
	return nil
}

// serve plays the target's part after the header.
func (x *transfer) serve(conn *net.TCPConn) error {
	count := func(n int) { x.read.Add(int64(n)) }
	write := func(r io.Reader) error {
		n, err := io.Copy(conn, onlyReader{r})
		x.written.Add(n)
		return err
	}
	switch x.kind {
	case download:
		if err := write(x.data()); err != nil {
			return err
		}
		if err := conn.CloseWrite(); err != nil {
			return err
		}
		return compare(conn, bytes.NewReader(nil), count)
	case reset:
		half := &io.LimitedReader{R: conn, N: x.size / 2}
		if err := compare(half, x.data(), count); errors.Is(err, errDifferent) {
			return err
		}
		return conn.SetLinger(0)
	case echo:
		received, send := io.Pipe()
		var sending sync.WaitGroup
		sending.Go(func() { _ = received.CloseWithError(write(received)) })
		err := compare(io.TeeReader(conn, send), x.data(), count)
		_ = send.CloseWithError(err)
		sending.Wait()
		return err
	}
	if err := compare(conn, x.data(), count); err != nil {
		return err
	}
	return write(bytes.NewReader(binary.BigEndian.AppendUint64(nil, uint64(x.read.Load()-headerSize))))
}

// onlyReader hides WriterTo, so that io.Copy counts what was written.
type onlyReader struct{ io.Reader }

func (x *transfer) String() string {
	return fmt.Sprintf("%s %d of %d bytes", kindNames[x.kind], x.id, x.size)
}
