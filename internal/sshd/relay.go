package sshd

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// relay copies between a client's channel and a destination. Each way ends by
// itself: the end of one is passed on, and the other goes on.
type relay struct {
	client ssh.Channel
	gone   <-chan struct{} // closed when the client has closed the channel
	target net.Conn
	linger time.Duration   // for delivering what a client sent before it was gone
	cut    <-chan struct{} // closed when the relay is to end at once
}

// resultCut is what run answers when the relay was cut.
const resultCut = "cut"

// way is one way's end.
type way struct {
	bytes int64
	err   error // of the destination's connection
}

// run copies until both ways have ended or are cut, and closes both sides.
func (r *relay) run() (in, out int64, result string) {
	up, down := make(chan way, 1), make(chan way, 1)
	go func() { up <- r.toTarget() }()
	go func() { down <- r.toClient() }()

	var sent, received *way
	var late <-chan time.Time
	gone, cut := r.gone, r.cut
	result = "ok"
	for sent == nil || received == nil {
		select {
		case w := <-up:
			sent = &w
		case w := <-down:
			received = &w
		case <-gone:
			gone, result = nil, "closed by the client"
			timer := time.NewTimer(r.linger)
			defer timer.Stop()
			late = timer.C
		case <-late:
			late = nil
			_ = r.target.Close()
		case <-cut:
			cut, result = nil, resultCut
			_ = r.target.Close()
			_ = r.client.Close()
		}
	}
	_ = r.client.Close()
	_ = r.target.Close()
	if result != resultCut && (isReset(sent.err) || isReset(received.err)) {
		result = "reset by the destination"
	}
	return sent.bytes, received.bytes, result
}

// toTarget copies what the client sends, and then tells the destination that
// there is no more. It ends only when all of it is sent, whatever became of the
// client meanwhile.
func (r *relay) toTarget() way {
	n, err := io.Copy(r.target, received{r.client})
	halfClose(r.target)
	if err != nil {
		// The destination takes no more: OpenSSH's way of telling the client.
		_, _ = r.client.SendRequest("eow@openssh.com", false, nil)
	}
	return way{n, err}
}

// toClient copies what the destination sends, and then tells the client that
// there is no more.
func (r *relay) toClient() way {
	source := &source{Reader: r.target}
	n, err := io.Copy(r.client, source)
	_ = r.client.CloseWrite()
	switch {
	case source.err != nil:
		// A destination that is lost is lost both ways.
		_ = r.client.Close()
	case err != nil:
		// Nobody reads the answer any more. Left unread it would make the kernel
		// reset the connection, and the destination might lose what was sent.
		_, _ = io.Copy(io.Discard, r.target)
	}
	return way{n, source.err}
}

// received reads what a client sent, all of it: the library answers data with
// an error once the client cannot be told any more that the data was taken.
type received struct{ io.Reader }

func (r received) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if n > 0 {
		return n, nil
	}
	return n, err
}

// source remembers why reading failed.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
