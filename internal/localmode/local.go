package localmode

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
)

// Local is a running local mode.
type Local struct {
	URL     string // of the API, such as http://127.0.0.1:8080
	Cloud   *localcloud.Cloud
	Service *bastion.Service

	host     *privateHost
	observer *observer
	slack    *slackSide // nil without it
	server   *http.Server
	cancel   context.CancelFunc
	running  sync.WaitGroup
	closing  sync.Once
}

// Run runs local mode until the context ends, which is no error. When the API
// answers it prints the URL and what to paste.
func Run(ctx context.Context, o Options, stdout io.Writer) error {
	local, err := Start(o)
	if err != nil {
		return err
	}
	defer local.Close()
	home, err := os.UserHomeDir()
	if err != nil {
		home = "~" // only to be read
	}
	if err := welcome(stdout, local.URL, home); err != nil {
		return fmt.Errorf("print the URL: %w", err)
	}
	<-ctx.Done()
	return nil
}

// Start starts local mode; it answers once the API does. Close what it answers.
func Start(o Options) (*Local, error) {
	s, err := o.check()
	if err != nil {
		return nil, err
	}
	own, err := ownAddresses()
	if err != nil {
		return nil, err
	}
	network, err := newNetwork(s.allow, own)
	if err != nil {
		return nil, err
	}
	listener, err := listen(s.listen)
	if err != nil {
		return nil, err
	}
	host, err := startPrivateHost(network, rand.Reader, time.Now)
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	if len(s.loopback) > 0 {
		s.Log.Warn("--allow names loopback: through a bastion, every owner can reach what listens for this machine alone", "allow", s.loopback)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Local{URL: "http://" + listener.Addr().String(), host: host, cancel: cancel}
	l.wire(ctx, s, network, own)
	l.serve(ctx, s, listener, l.routes(ctx, s))
	l.schedule(ctx, s, "reap", s.ReapEvery, l.Service.Reap)
	l.schedule(ctx, s, "sweep", 10*s.ReapEvery, l.Service.Sweep)
	return l, nil
}

// wire puts the domain on a cloud of its own, with the events that bring it forward.
func (l *Local) wire(ctx context.Context, s settings, n *network, own []netip.Addr) {
	l.observer = newObserver(ctx, s.Log)
	event := func(bastionID, _ string) { l.observer.notify(bastionID) }
	l.Cloud = localcloud.New(localcloud.Config{
		LaunchDelay: s.LaunchDelay,
		Linger:      300 * time.Millisecond,
		StopTimeout: 2 * time.Second,
		Host:        s.listen.Addr(),
		Runner:      &runner{settings: s, network: n, own: own},
		OnTask:      event,
		OnReport:    event,
	})
	l.Service = &bastion.Service{
		Config: s.config(),
		Store:  l.Cloud.Store(),
		Groups: l.Cloud.Groups(),
		Tasks:  l.Cloud.Tasks(),
		Leases: l.Cloud.Leases(),
		Now:    time.Now,
		Rand:   rand.Reader,
		Log:    s.Log,
	}
	l.observer.observe = l.Service.Observe
}

func (l *Local) schedule(ctx context.Context, s settings, name string, interval time.Duration, run func(context.Context) (int, error)) {
	l.running.Go(func() {
		every(ctx, interval, func(ctx context.Context) {
			if _, err := run(ctx); err != nil && ctx.Err() == nil {
				s.Log.Warn(name, "error", err)
			}
		})
	})
}

// routes are the API's, and Slack's if there is a secret to know Slack by.
func (l *Local) routes(ctx context.Context, s settings) http.Handler {
	options := httpapi.Options{
		Service:   l.Service,
		Identify:  identify,
		Challenge: `Basic realm="names, not identities"`,
		Log:       s.Log,
		Now:       time.Now,
		Targets:   []httpapi.Target{{Name: privateName, User: "guest", HostKey: l.host.hostKey}},
	}
	api := httpapi.New(options)
	if s.SlackSigningSecret == "" {
		return api
	}
	l.slack = newSlackSide(ctx, s, options)
	l.Service.Notifier = l.slack // before anything runs that would tell
	return l.slack.beside(api)
}

// serve answers on the listener.
func (l *Local) serve(ctx context.Context, s settings, listener net.Listener, routes http.Handler) {
	l.server = &http.Server{
		Handler:           guard(routes, s.Log),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute, // longer than a request waits: net/http counts the handler's time too
		// Requests that wait end when local mode does.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	l.running.Go(func() { _ = l.server.Serve(listener) })
}

// Close ends everything that Start started: requests, schedules, tasks with the
// connections through them, and the private host. It takes a moment longer than
// tasks take to stop.
func (l *Local) Close() {
	l.closing.Do(func() {
		l.cancel()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if l.server.Shutdown(ctx) != nil {
			_ = l.server.Close() // somebody holds a connection open
		}
		l.Cloud.Close()
		l.observer.wait()
		if l.slack != nil {
			l.slack.work.end()
		}
		l.running.Wait()
		l.host.Close()
	})
}

// listen opens the API's port, and says what to do when another has it.
func listen(address netip.AddrPort) (net.Listener, error) {
	listener, err := net.Listen("tcp", address.String())
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		other := net.JoinHostPort(address.Addr().String(), strconv.Itoa(0))
		return nil, fmt.Errorf("port %d of %s is in use, perhaps by another local mode: end that, or choose another port (--listen %s takes any free one)",
			address.Port(), address.Addr(), other)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listen on %s: %w: ports below 1024 need rights; choose one above (--listen)", address, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return listener, nil
}

// ownAddresses are those by which other machines reach this one. Bastions must
// not connect to them: they are to local mode what its own addresses are to a
// task. Loopback has a rule of its own.
func ownAddresses() ([]netip.Addr, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list this machine's addresses: %w", err)
	}
	var own []netip.Addr
	for _, a := range addresses {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && !prefix.Addr().IsLoopback() {
			own = append(own, prefix.Addr())
		}
	}
	return own, nil
}
