// Package localmode runs the whole service in one process on a laptop: the same
// handlers, domain and SSH server as on AWS, with localcloud instead of AWS.
//
// It is wiring, plus replacements for what only AWS has: a private network that exists
// inside bastions only ([network]), with one host to connect to ([privateHost]); the
// schedules of the reaper and the sweep; and an [observer] for events. The API listens on
// loopback only (parseListen), and [guard] refuses requests from web pages.
package localmode

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/leaseloop"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/sshd"
)

// Local is a running local mode.
type Local struct {
	URL     string // of the API, such as http://127.0.0.1:8080
	Cloud   *localcloud.Cloud
	Service *bastion.Service

	host     *privateHost
	observer *observer
	slack    *slackSide // nil without a signing secret
	server   *http.Server
	cancel   context.CancelFunc
	running  sync.WaitGroup
	closing  sync.Once
}

// Run runs local mode until the context ends, and then returns nil. Once the API
// is up, it prints the URL and commands to paste.
func Run(ctx context.Context, o Options, stdout io.Writer) error {
	local, err := Start(o)
	if err != nil {
		return err
	}
	defer local.Close()
	home, err := os.UserHomeDir()
	if err != nil {
		home = "~" // for display; no key is then found
	}
	if err := welcome(stdout, local.URL, home); err != nil {
		return fmt.Errorf("print the URL: %w", err)
	}
	<-ctx.Done()
	return nil
}

// Start starts local mode and returns when the API is up. The caller must call
// Close.
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
		s.Log.Warn("bastions can reach this machine's loopback addresses", "allow", s.loopback)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Local{URL: "http://" + listener.Addr().String(), host: host, cancel: cancel}
	l.wire(ctx, s, network, own)
	l.serve(ctx, s, listener, l.routes(ctx, s))
	l.schedule(ctx, s, "reap failed", s.ReapEvery, func(ctx context.Context) error {
		_, err := l.Service.Reap(ctx)
		return err
	})
	l.schedule(ctx, s, "sweep failed", 10*s.ReapEvery, func(ctx context.Context) error {
		_, err := l.Service.Sweep(ctx)
		return err
	})
	return l, nil
}

// wire connects the domain to a new local cloud and to its events.
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
		Config:  s.config(n.address),
		Records: l.Cloud.Store(),
		DueList: l.Cloud.Store(),
		Keys:    l.Cloud.Store(),
		Marks:   l.Cloud.Store(),
		Groups:  l.Cloud.Groups(),
		Tasks:   l.Cloud.Tasks(),
		Leases:  l.Cloud.Leases(),
		Now:     s.now,
		Rand:    rand.Reader,
		Log:     s.Log,
	}
	l.observer.observe = l.Service.Observe
}

// schedule calls run at each interval until the context ends, and logs its errors.
func (l *Local) schedule(ctx context.Context, s settings, failed string, interval time.Duration, run func(context.Context) error) {
	l.running.Go(func() {
		every(ctx, interval, func(ctx context.Context) {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				s.Log.Warn(failed, "error", err)
			}
		})
	})
}

// routes returns the handler of the API, and of Slack if there is a signing secret.
func (l *Local) routes(ctx context.Context, s settings) http.Handler {
	options := httpapi.Options{
		Service:   l.Service,
		Identify:  identify,
		Challenge: `Basic realm="names, not identities"`,
		Log:       s.Log,
		Now:       s.now,
		Targets:   []httpapi.Target{{Name: privateName, User: "guest", HostKey: l.host.hostKey}},
	}
	api := httpapi.New(options)
	if s.SlackSigningSecret == "" {
		return api
	}
	l.slack = newSlackSide(ctx, s, options)
	l.Service.Notifier = l.slack // before the schedules start
	return l.slack.withSlackRoutes(api)
}

// serve starts the HTTP server.
func (l *Local) serve(ctx context.Context, s settings, listener net.Listener, routes http.Handler) {
	l.server = &http.Server{
		Handler:           guard(routes, s.Log),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute, // longer than the longest Prefer: wait, because net/http cancels the request's context after ReadTimeout
		MaxHeaderBytes:    64 << 10,
		// Otherwise net/http would respond to OPTIONS * itself, without the guard.
		DisableGeneralOptionsHandler: true,
		// When local mode ends, requests that still wait (Prefer: wait) end too.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	l.running.Go(func() { _ = l.server.Serve(listener) })
}

// Close ends everything that Start started: requests, schedules, tasks with their
// connections, and the private host. It waits until the tasks have stopped.
func (l *Local) Close() {
	l.closing.Do(func() {
		l.cancel()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if l.server.Shutdown(ctx) != nil {
			_ = l.server.Close() // a client keeps its connection open
		}
		l.Cloud.Close()
		l.observer.wait()
		if l.slack != nil {
			l.slack.events.close()
		}
		l.running.Wait()
		l.host.Close()
	})
}

// listen opens the port of the API. Its errors say what to do.
func listen(address netip.AddrPort) (net.Listener, error) {
	listener, err := net.Listen("tcp", address.String())
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use, perhaps by another bastion local. Stop it or pass --listen %s",
			address, netip.AddrPortFrom(address.Addr(), 0))
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listen on %s: %w: ports below 1024 need root; choose a higher port with --listen", address, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return listener, nil
}

// ownAddresses returns this machine's addresses except loopback. A bastion must not
// connect to them, as a task on AWS must not connect to its own addresses. Loopback
// has its own rule.
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

// leasePoll is how often a task reads its lease.
const leasePoll = 200 * time.Millisecond

// runner runs the real SSH server in a task of the local cloud.
type runner struct {
	settings settings
	network  *network
	own      []netip.Addr
}

// Run implements [localcloud.Runner].
func (r *runner) Run(ctx context.Context, task localcloud.Process) int {
	network := r.network.from(task.BastionID)
	config := sshd.Config{
		BastionID:     task.BastionID,
		Lease:         task.Lease,
		Listen:        task.Listen,
		Resolver:      network,
		Dialer:        network,
		Own:           r.own,
		AllowLoopback: r.settings.loopback,
		Algorithms:    r.settings.algorithms,
		Now:           time.Now,
		Log:           r.settings.Log.With("task", task.TaskID),
		LeaseTiming:   leaseloop.Timing{Poll: leasePoll, ReportPause: leasePoll},
	}
	if r.settings.task != nil {
		r.settings.task(&config)
	}
	return sshd.Run(ctx, config)
}

// observer calls Observe for every event of a task, as the event rule and the
// table's stream do on AWS. For each bastion it runs one call at a time, and one
// more if events arrived during that call.
type observer struct {
	ctx     context.Context
	observe func(ctx context.Context, bastionID string) error
	log     *slog.Logger

	running sync.WaitGroup
	mu      sync.Mutex
	again   map[string]bool // for each bastion being observed: whether to run once more
}

func newObserver(ctx context.Context, log *slog.Logger) *observer {
	return &observer{ctx: ctx, log: log, again: map[string]bool{}}
}

// notify starts an observation of a bastion. It does not wait.
func (o *observer) notify(bastionID string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ctx.Err() != nil {
		return
	}
	if _, busy := o.again[bastionID]; busy {
		o.again[bastionID] = true
		return
	}
	o.again[bastionID] = false
	o.running.Go(func() { o.run(bastionID) })
}

func (o *observer) run(bastionID string) {
	for more := true; more; more = o.runAgain(bastionID) {
		if err := o.observe(o.ctx, bastionID); err != nil && o.ctx.Err() == nil {
			o.log.Warn("observe failed", "bastion", bastionID, "error", err)
		}
	}
}

// runAgain reports whether to call Observe again, because an event arrived after the
// last call began.
func (o *observer) runAgain(bastionID string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.again[bastionID] && o.ctx.Err() == nil {
		o.again[bastionID] = false
		return true
	}
	delete(o.again, bastionID)
	return false
}

// wait returns when no observation is running. The context must have ended, and
// every call of notify must have returned.
func (o *observer) wait() { o.running.Wait() }

// every calls run at each interval until the context ends.
func every(ctx context.Context, interval time.Duration, run func(context.Context)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			run(ctx)
		}
	}
}
