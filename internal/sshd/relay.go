package sshd

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// After the client has left, the bastion reads from the destination only to deliver the
// rest of what the client sent: a destination that cannot send may stop reading, and if a
// connection is closed with unread data, the kernel drops what it has not sent yet.
const (
	discardRate = 8 << 20 // bytes a second
	// discardLimit is more than the channel's window and the buffers of both kernels hold
	// together, with Linux's defaults for TCP.
	discardLimit = 64 << 20

	// These apply when the destination's kernel has everything. They give the destination
	// time to close the connection: if it sends more after our close, some systems drop
	// what their program has not read yet.
	lastDiscardLimit = 1 << 20
	lastDiscardTime  = time.Second

	// The sizes of an upload's buffer.
	smallUpload = 32 << 10
	largeUpload = 128 << 10

	// sendQueueInterval is the time between two looks at the kernel's send queue.
	sendQueueInterval = 20 * time.Millisecond
)

// relay copies between a client's channel and a destination. When one side stops sending,
// the relay closes the other side for writing, and the other direction continues. When the
// client closes the channel, the relay delivers what the client sent before, and then
// closes the destination.
type relay struct {
	client ssh.Channel
	closed <-chan struct{} // closed when the client has closed the channel
	target net.Conn
	upload *upload
	linger time.Duration   // limit for delivering the client's data after it has closed the channel
	cut    <-chan struct{} // closed when the relay must end at once

	// left is called when the client has closed the channel. If it returns false, the
	// relay ends as soon as the client's data is delivered.
	left func() bool

	// toTarget closes sent when it delivers no more, and toClient closes received when it
	// has ended. Then their fields may be read.
	sent, received chan struct{}
	drained        chan struct{} // closed when toTarget has ended, after the client has closed the channel
	in, out        int64         // bytes to the destination, and from it
	sendErr        error         // of the destination's connection
	receiveErr     error         // of the destination's connection; io.EOF if it stopped sending; nil if the relay stopped reading
	clientErr      error         // if the client closed the channel before the destination had stopped sending

	discarded    atomic.Int64 // the part of out that was not sent to the client
	discardLimit atomic.Int64
}

// traffic is the number of bytes that a relay copied.
type traffic struct {
	in, out   int64 // from the client, and from the destination
	discarded int64 // the part of out that came after the client had left
}

// The results of a relay.
const (
	resultOK    = "ok"
	resultLeft  = "closed by the client"
	resultReset = "reset by the destination"
	resultCut   = "cut"
)

// run copies until both directions have ended, and closes both sides.
func (r *relay) run() (traffic, string) {
	r.sent, r.received, r.drained = make(chan struct{}), make(chan struct{}), make(chan struct{})
	r.discardLimit.Store(discardLimit)
	go r.toTarget()
	go r.toClient()
	result := r.wait()
	_ = r.client.Close()
	_ = r.target.Close()
	<-r.sent
	<-r.received
	switch {
	case result == resultCut:
	case isReset(r.sendErr) || isReset(r.receiveErr):
		result = resultReset
	case r.clientErr != nil:
		result = resultLeft
	}
	return traffic{r.in, r.out, r.discarded.Load()}, result
}

// wait waits until the relay can be closed, and returns why.
func (r *relay) wait() string {
	for _, ended := range []chan struct{}{r.sent, r.received} {
		select {
		case <-ended:
		case <-r.closed:
			return r.deliver()
		case <-r.cut:
			return resultCut
		}
	}
	return resultOK
}

// deliver waits until the destination has what the client sent before it closed the
// channel, and returns a result. Meanwhile toClient discards what the destination sends.
func (r *relay) deliver() string {
	mayWait := r.left()
	late := time.NewTimer(r.linger)
	defer late.Stop()
	select {
	case <-r.sent:
	case <-late.C:
		return resultLeft
	case <-r.cut:
		return resultCut
	}
	look := time.NewTicker(sendQueueInterval)
	defer look.Stop()
	for !r.acknowledged() {
		select {
		case <-look.C:
		case <-late.C:
			return resultLeft
		case <-r.cut:
			return resultCut
		}
	}
	if !mayWait {
		return resultOK
	}
	r.discardLimit.Store(min(discardLimit, r.discarded.Load()+lastDiscardLimit))
	last := time.NewTimer(lastDiscardTime)
	defer last.Stop()
	select {
	case <-r.received:
	case <-last.C:
	case <-r.cut:
		return resultCut
	}
	return resultOK
}

// acknowledged reports whether closing the destination loses nothing that toTarget wrote:
// the destination's kernel has all of it, there is no unread data, or the connection is
// lost. toTarget must have ended.
func (r *relay) acknowledged() bool {
	select {
	case <-r.received:
		if r.receiveErr != nil {
			return true
		}
	default:
	}
	return r.sendErr != nil || sendQueue(r.target) == 0
}

// toTarget copies the client's data to the destination, and then half-closes the
// destination. It delivers all of it, even if the client leaves meanwhile. If the
// destination accepts no more, toTarget discards the rest, as OpenSSH does: otherwise it
// would stay in memory.
func (r *relay) toTarget() {
	defer close(r.drained)
	received := &received{Reader: r.client, upload: r.upload}
	r.in, r.sendErr = copyUpload(r.target, received)
	halfClose(r.target)
	close(r.sent)
	if r.sendErr != nil {
		// OpenSSH reports this with the same request.
		_, _ = r.client.SendRequest("eow@openssh.com", false, nil)
		_, _ = io.Copy(io.Discard, received)
	}
}

// copyUpload is io.Copy with a buffer that grows if the client sends faster than the
// destination reads. A larger read needs fewer system calls, and fewer acknowledgements to
// the client: the library sends one for each read of a channel whose window is half used.
func copyUpload(target io.Writer, client io.Reader) (written int64, err error) {
	buffer := make([]byte, smallUpload)
	for {
		n, err := client.Read(buffer)
		if n > 0 {
			n, err := target.Write(buffer[:n])
			written += int64(n)
			if err != nil {
				return written, err
			}
		}
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		if n == smallUpload && len(buffer) == smallUpload {
			buffer = make([]byte, largeUpload)
		}
	}
}

// toClient copies the destination's data to the client, and then half-closes the channel.
// If the client does not take the data any more, toClient discards it.
func (r *relay) toClient() {
	defer close(r.received)
	source := &source{Reader: r.target}
	n, _ := io.Copy(r.client, source)
	r.clientErr = r.client.CloseWrite()
	r.discarded.Store(source.bytes - n)
	if source.err == nil { // the client does not take any more
		r.discard(source)
	}
	r.out, r.receiveErr = source.bytes, source.err
	if source.err != nil && source.err != io.EOF {
		// The connection to the destination is lost in both directions.
		_ = r.client.Close()
	}
}

// discard reads from the destination, within the limits, until the destination stops
// sending or is closed.
func (r *relay) discard(source *source) {
	buffer := make([]byte, 32<<10)
	for r.discarded.Load() < r.discardLimit.Load() {
		n, err := source.Read(buffer)
		r.discarded.Add(int64(n))
		if err != nil {
			return
		}
		time.Sleep(time.Duration(n) * time.Second / discardRate)
	}
}

// received reads all that a client sent. If the library cannot acknowledge data to a
// client that has left, it returns the data together with an error. Read drops that error.
type received struct {
	io.Reader
	upload  *upload
	pending int // bytes that the latest Read returned
}

// Read counts what it returned before as delivered.
func (r *received) Read(b []byte) (int, error) {
	if r.pending > 0 {
		r.upload.inflow.add(int64(-r.pending))
		r.upload.turns.Add(1)
	}
	n, err := r.Reader.Read(b)
	if r.pending = n; n > 0 {
		r.upload.turns.Add(1)
		return n, nil
	}
	return n, err
}

// source counts the bytes that it reads, and stores the error of a read.
type source struct {
	io.Reader
	bytes int64
	err   error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	s.bytes += int64(n)
	s.err = err
	return n, err
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
