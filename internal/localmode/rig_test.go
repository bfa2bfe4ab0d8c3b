package localmode

import (
	"bytes"
	"context"
	"encoding/json"
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
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// patience is how long a test waits for what must happen. Nothing is slower
// because of it: what happens is noticed at once.
const patience = 20 * time.Second

// rig is a local mode in this process, and what it takes to be a person in front
// of it.
type rig struct {
	*Local
	t    testing.TB
	dir  string
	log  *logBuffer
	http map[string]*http.Client // by the address they come from
}

// start starts local mode with tasks that start in no time.
func start(t testing.TB, edit func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), log: &logBuffer{}, http: map[string]*http.Client{}}
	o := Defaults()
	o.Listen = "127.0.0.1:0"
	o.LaunchDelay = 20 * time.Millisecond
	o.ReapEvery = 50 * time.Millisecond
	o.Log = slog.New(slog.NewJSONHandler(r.log, nil))
	if edit != nil {
		edit(&o)
	}
	local, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	r.Local = local
	t.Cleanup(func() {
		for _, client := range r.http {
			client.CloseIdleConnections()
		}
		local.Close()
		if t.Failed() {
			t.Logf("the log of local mode:\n%s", r.log.withoutLooking())
		}
	})
	return r
}

// logBuffer keeps what many goroutines log.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
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

// withoutLooking leaves out the GETs, which tests make again and again.
func (b *logBuffer) withoutLooking() string {
	var kept strings.Builder
	for line := range strings.Lines(b.String()) {
		if !strings.Contains(line, `"method":"GET"`) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// call is one request to the API. What is left out is as a plain curl has it.
type call struct {
	method, path string
	owner        string // default alice
	from         string // the address to come from; default 127.0.0.1
	body         string
	header       map[string]string
}

// seen is an answer of the API about one bastion, or a problem.
type seen struct {
	status int
	text   string

	ID         string         `json:"id"`
	State      bastion.State  `json:"state"`
	Stage      string         `json:"stage"`
	Reason     string         `json:"reason"`
	Source     string         `json:"source"`
	Keys       []string       `json:"keys"`
	Host       string         `json:"host"`
	Port       int            `json:"port"`
	HostKey    string         `json:"host_key"`
	KnownHosts string         `json:"known_hosts"`
	SSHConfig  string         `json:"ssh_config"`
	Deadline   time.Time      `json:"deadline"`
	Latest     time.Time      `json:"latest_deadline"`
	Code       bastion.Code   `json:"code"`
	Detail     string         `json:"detail"`
	Bastions   []seen         `json:"bastions"`
	Failure    map[string]any `json:"failure"`
}

func (s seen) address() string { return net.JoinHostPort(s.Host, fmt.Sprint(s.Port)) }

// do makes a request and reads the answer, whatever it is.
func (r *rig) do(c call) seen {
	r.t.Helper()
	s, err := r.try(c)
	if err != nil {
		r.t.Fatalf("%s %s: %v", c.method, c.path, err)
	}
	return s
}

// try is do for other goroutines than the test's own.
func (r *rig) try(c call) (seen, error) {
	req, err := http.NewRequest(c.method, r.URL+c.path, strings.NewReader(c.body))
	if err != nil {
		return seen{}, err
	}
	if c.owner == "" {
		c.owner = "alice"
	}
	req.SetBasicAuth(c.owner, "")
	for name, value := range c.header {
		req.Header.Set(name, value)
	}
	answer, err := r.client(c.from).Do(req)
	if err != nil {
		return seen{}, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return seen{}, err
	}
	s := seen{status: answer.StatusCode, text: string(text)}
	if strings.Contains(answer.Header.Get("Content-Type"), "json") {
		err = json.Unmarshal(text, &s)
	}
	return s, err
}

var clients sync.Mutex

func (r *rig) client(from string) *http.Client {
	clients.Lock()
	defer clients.Unlock()
	if r.http[from] == nil {
		r.http[from] = &http.Client{Timeout: 2 * patience, Transport: &http.Transport{
			DialContext:         dialFrom(from),
			MaxIdleConnsPerHost: 1,
		}}
	}
	return r.http[from]
}

func dialFrom(address string) func(ctx context.Context, network, to string) (net.Conn, error) {
	var d net.Dialer
	if address != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(address)}
	}
	return d.DialContext
}

// up asks for a bastion and waits until it is ready.
func (r *rig) up(c call) seen {
	r.t.Helper()
	c.method, c.path = "POST", "/bastions"
	if c.header == nil {
		c.header = map[string]string{"Prefer": "wait=10"}
	}
	s := r.do(c)
	if s.State != bastion.Ready || s.status != http.StatusCreated && s.status != http.StatusOK {
		r.t.Fatalf("asked for a bastion, got %d: %s", s.status, s.text)
	}
	return s
}

// get looks at a bastion.
func (r *rig) get(id string) seen {
	r.t.Helper()
	return r.do(call{method: "GET", path: "/bastions/" + id})
}

// eventually waits for something that is bound to happen.
func (r *rig) eventually(what string, happened func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !happened(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}

// nothingLeft checks that the cloud holds nothing that is alive.
func (r *rig) nothingLeft() {
	r.t.Helper()
	r.eventually("nothing is left in the cloud", func() bool {
		all := r.Cloud.Inventory()
		for _, lease := range all.Leases {
			if !lease.Ended {
				return false
			}
		}
		return len(all.Live()) == 0 && len(all.Groups) == 0
	})
}

// file writes a file of the test's own.
func (r *rig) file(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// banner is what a connection to the bastion from an address is greeted with.
func (r *rig) banner(from string, s seen) string {
	r.t.Helper()
	to, err := netip.ParseAddrPort(s.address())
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	conn, err := dialFrom(from)(ctx, "tcp", to.String())
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	first := make([]byte, 4)
	if _, err := io.ReadFull(conn, first); err != nil {
		if os.IsTimeout(err) {
			r.t.Fatalf("a connection from %s was neither greeted nor closed", from)
		}
		return ""
	}
	return string(first)
}
