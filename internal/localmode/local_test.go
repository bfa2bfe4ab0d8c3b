package localmode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/sshd"
	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// timeout is how long a test waits for an event. It is long, so that no test fails
// because the machine is busy; a test that passes does not wait so long.
const timeout = 5 * time.Minute

// fixture is a local mode in this process with HTTP clients for it.
type fixture struct {
	*Local
	t    testing.TB
	dir  string
	log  *logBuffer
	http map[string]*http.Client // by the address that they connect from
}

// start starts local mode with tasks that start almost at once.
func start(t testing.TB, edit func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), log: &logBuffer{}, http: map[string]*http.Client{}}
	o := Defaults()
	o.Listen = "127.0.0.1:0"
	o.LaunchDelay = 20 * time.Millisecond
	o.ReapEvery = 50 * time.Millisecond
	o.Log = slog.New(slog.NewJSONHandler(f.log, nil))
	if edit != nil {
		edit(&o)
	}
	local, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	f.Local = local
	t.Cleanup(func() {
		for _, client := range f.http {
			client.CloseIdleConnections()
		}
		local.Close()
		if t.Failed() {
			t.Logf("log of local mode:\n%s", f.log.withoutGETs())
		}
	})
	return f
}

// testClock is the real time plus what a test has added to it.
type testClock struct{ added atomic.Int64 }

func (c *testClock) now() time.Time          { return time.Now().Add(time.Duration(c.added.Load())) }
func (c *testClock) advance(d time.Duration) { c.added.Add(int64(d)) }

// forTasks makes the server of every task use the clock.
func (c *testClock) forTasks(o *Options) { o.task = func(server *sshd.Config) { server.Now = c.now } }

// logBuffer collects the log.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// count returns how often the log contains the text.
func (b *logBuffer) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Count(b.text.Bytes(), []byte(text))
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// withoutGETs leaves out the requests with which tests poll.
func (b *logBuffer) withoutGETs() string {
	var kept strings.Builder
	for line := range strings.Lines(b.String()) {
		if !strings.Contains(line, `"method":"GET"`) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// request is one request to the API.
type request struct {
	method, path string
	owner        string // default alice
	from         string // local address of the connection; default 127.0.0.1
	body         string
	header       map[string]string
}

// response is a response of the API: a bastion, a list of them, or a problem.
type response struct {
	status int
	text   string

	ID         string         `json:"id"`
	State      bastion.State  `json:"state"`
	Stage      string         `json:"stage"`
	Reason     string         `json:"reason"`
	Source     string         `json:"source"`
	Keys       []string       `json:"keys"`
	AddedKey   string         `json:"added_key"`
	Host       string         `json:"host"`
	Port       int            `json:"port"`
	HostKey    string         `json:"host_key"`
	HostKeys   []string       `json:"host_keys"`
	KnownHosts string         `json:"known_hosts"`
	SSHConfig  string         `json:"ssh_config"`
	Deadline   time.Time      `json:"deadline"`
	Latest     time.Time      `json:"latest_deadline"`
	Code       bastion.Code   `json:"code"`
	Detail     string         `json:"detail"`
	Bastions   []response     `json:"bastions"`
	Failure    map[string]any `json:"failure"`
}

func (r response) address() string { return net.JoinHostPort(r.Host, fmt.Sprint(r.Port)) }

// do sends a request and reads the response, whatever its status.
func (f *fixture) do(r request) response {
	f.t.Helper()
	got, err := f.send(r)
	if err != nil {
		f.t.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	return got
}

// send is do for goroutines other than the test's own.
func (f *fixture) send(r request) (response, error) {
	req, err := http.NewRequest(r.method, f.URL+r.path, strings.NewReader(r.body))
	if err != nil {
		return response{}, err
	}
	if r.owner == "" {
		r.owner = "alice"
	}
	req.SetBasicAuth(r.owner, "")
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	resp, err := f.client(r.from).Do(req)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return response{}, err
	}
	got := response{status: resp.StatusCode, text: string(text)}
	if strings.Contains(resp.Header.Get("Content-Type"), "json") {
		err = json.Unmarshal(text, &got)
	}
	return got, err
}

var clients sync.Mutex

func (f *fixture) client(from string) *http.Client {
	clients.Lock()
	defer clients.Unlock()
	if f.http[from] == nil {
		f.http[from] = &http.Client{Timeout: timeout, Transport: &http.Transport{
			DialContext:         dialFrom(from),
			MaxIdleConnsPerHost: 1,
		}}
	}
	return f.http[from]
}

func dialFrom(address string) func(ctx context.Context, network, to string) (net.Conn, error) {
	var d net.Dialer
	if address != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(address)}
	}
	return d.DialContext
}

// create requests a bastion and waits until it is ready. The status of the response
// that it returns is the status of the POST.
func (f *fixture) create(r request) response {
	f.t.Helper()
	r.method, r.path = "POST", "/bastions"
	r.header = map[string]string{"Prefer": "wait=25"}
	got := f.do(r)
	if got.status != http.StatusCreated && got.status != http.StatusOK && got.status != http.StatusAccepted {
		f.t.Fatalf("POST /bastions: %d %s", got.status, got.text)
	}
	if got.State != bastion.Ready {
		status := got.status
		got = f.await(r.owner, got.ID, bastion.Ready)
		got.status = status
	}
	return got
}

// sshConfig requests a bastion, waits until it is ready, and returns the name of a file
// with its ssh configuration.
func (f *fixture) sshConfig(r request) (file string) {
	f.t.Helper()
	f.create(r)
	r.method, r.path, r.header = "POST", "/bastions", map[string]string{"Prefer": "wait=25", "Accept": "text/plain"}
	got := f.do(r)
	if got.status != http.StatusOK || !strings.Contains(got.text, "Host bastion-") {
		f.t.Fatalf("POST /bastions as text: %d %s", got.status, got.text)
	}
	return f.file(fmt.Sprintf("%s%s.conf", r.owner, r.from), got.text)
}

// remove deletes one bastion, or all, and waits until nothing of it is left.
func (f *fixture) remove(path string) response {
	f.t.Helper()
	var got response
	f.eventually("DELETE "+path+" returns 200", func() bool {
		got = f.do(request{method: "DELETE", path: path, header: map[string]string{"Prefer": "wait=25"}})
		return got.status != http.StatusAccepted
	})
	return got
}

func (f *fixture) get(id string) response {
	f.t.Helper()
	return f.do(request{method: "GET", path: "/bastions/" + id})
}

// await waits until a bastion has a state.
func (f *fixture) await(owner, id string, state bastion.State) response {
	f.t.Helper()
	var got response
	f.eventually(id+" is "+string(state), func() bool {
		got = f.do(request{method: "GET", path: "/bastions/" + id, owner: owner})
		return got.State == state
	})
	return got
}

// eventually polls until happened returns true.
func (f *fixture) eventually(what string, happened func() bool) {
	f.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(timeout); !happened(); <-tick.C {
		if time.Now().After(end) {
			f.t.Fatalf("not within %s: %s", timeout, what)
		}
	}
}

// nothingLeft waits until the cloud has no live task, open lease or group.
func (f *fixture) nothingLeft() {
	f.t.Helper()
	f.eventually("nothing is left in the cloud", func() bool {
		all := f.Cloud.Inventory()
		for _, lease := range all.Leases {
			if !lease.Ended {
				return false
			}
		}
		return len(all.Live()) == 0 && len(all.Groups) == 0
	})
}

// file writes a file into the test's folder.
func (f *fixture) file(name, text string) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// banner connects to the bastion from an address and returns the first four bytes
// that the server sends. It returns "" if the server closes the connection.
func (f *fixture) banner(from string, b response) string {
	f.t.Helper()
	to, err := netip.ParseAddrPort(b.address())
	if err != nil {
		f.t.Fatal(err)
	}
	conn, err := dialFrom(from)(f.t.Context(), "tcp", to.String())
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(timeout))
	first := make([]byte, 4)
	if _, err := io.ReadFull(conn, first); err != nil {
		if os.IsTimeout(err) {
			f.t.Fatalf("the connection from %s got neither a banner nor an end", from)
		}
		return ""
	}
	return string(first)
}

func TestObserverRunsOnceMoreAfterTheLastEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		o := newObserver(ctx, slog.New(slog.DiscardHandler))
		var runs, atOnce, most atomic.Int32
		o.observe = func(context.Context, string) error {
			runs.Add(1)
			most.Store(max(most.Load(), atOnce.Add(1)))
			time.Sleep(time.Second)
			atOnce.Add(-1)
			return errors.New("always fails") // the observer must go on
		}
		for range 100 {
			o.notify("b1")
		}
		synctest.Wait()
		if runs.Load() != 1 {
			t.Errorf("%d runs after the first events, want 1", runs.Load())
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if runs.Load() != 2 || most.Load() != 1 {
			t.Errorf("%d runs, %d at once, want 2 and 1", runs.Load(), most.Load())
		}
		o.notify("b1")
		cancel()
		o.wait()
		o.notify("b1")
		if runs.Load() != 3 {
			t.Errorf("%d runs, want 3", runs.Load())
		}
	})
}

func TestScheduleRunsUntilContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		runs := 0
		every(ctx, time.Second, func(context.Context) { runs++ })
		if runs != 3 {
			t.Errorf("%d runs in 3.5 s, want 3", runs)
		}
	})
}
