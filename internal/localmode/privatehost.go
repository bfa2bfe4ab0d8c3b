package localmode

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// privateHost is the host private.internal: something to connect to on the first
// day, which answers HTTP at port 80 and SSH at port 22.
type privateHost struct {
	hostKey bastion.Key
	config  *ssh.ServerConfig
	web     *http.Server
	doors   []*pipeListener
	now     func() time.Time
	started time.Time

	running sync.WaitGroup
	mu      sync.Mutex
	closed  bool
	conns   map[net.Conn]struct{} // of SSH
}

// startPrivateHost puts the host on the network, with an SSH host key of its own.
func startPrivateHost(n *network, rand io.Reader, now func() time.Time) (*privateHost, error) {
	_, private, err := ed25519.GenerateKey(rand)
	if err != nil {
		return nil, fmt.Errorf("make the host key of %s: %w", privateName, err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		return nil, fmt.Errorf("make the host key of %s: %w", privateName, err)
	}
	h := &privateHost{
		hostKey: authorizedKey(signer.PublicKey()),
		config:  demonstrationConfig(signer),
		now:     now,
		started: now(),
		conns:   map[net.Conn]struct{}{},
	}
	h.web = &http.Server{
		Handler:           http.HandlerFunc(h.page),
		ReadHeaderTimeout: 10 * time.Second,
		ConnContext:       rememberBastion,
	}
	web, shell := n.listen(80), n.listen(22)
	h.doors = []*pipeListener{web, shell}
	h.running.Go(func() { _ = h.web.Serve(web) })
	h.running.Go(func() { h.acceptSSH(shell) })
	return h, nil
}

// Close takes the host off the network, cuts its connections and waits for
// everything that served them.
func (h *privateHost) Close() {
	for _, door := range h.doors {
		_ = door.Close()
	}
	_ = h.web.Close()
	h.mu.Lock()
	h.closed = true
	for conn := range h.conns {
		_ = conn.Close()
	}
	h.mu.Unlock()
	h.running.Wait()
}

type bastionKey struct{}

// rememberBastion notes in a request's context which bastion it came through.
func rememberBastion(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, bastionKey{}, cameThrough(conn))
}

func cameThrough(conn net.Conn) string {
	if pipe, ok := conn.(*pipeConn); ok {
		return pipe.bastionID
	}
	return "unknown"
}

// page is what a newcomer sees when everything works.
func (h *privateHost) page(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	fmt.Fprintf(w, `It works: this is %s, a host in a private network.

    you asked for      %s %s
    you came through   bastion %s

No port of this machine leads here. The bastion looked the name up inside the
private network and connected for you. Once it is closed, so is the way.
`, privateName, r.Method, r.URL.Path, r.Context().Value(bastionKey{}))
}
