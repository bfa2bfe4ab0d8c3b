//go:build conformance

package clients

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// timeout ends a client that hangs.
const timeout = 5 * time.Minute

// request is one operation of a client; see doc.go.
type request struct {
	op     string
	server endpoint
	key    string
	known  string
	target endpoint
	file   string
}

// result is the result of a request. If it is not ok, the text is the client's message.
type result struct {
	ok   bool
	text string
}

// driver runs a request.
type driver func(request) result

// starter starts a client.
type starter func(testing.TB) driver

// row is what the matrix found out about a client.
type row struct {
	client
	cells map[string]string // by the name of the column
	log   []string          // what the client said when it was refused
}

func TestClients(t *testing.T) {
	s := startServers(t)
	var mu sync.Mutex
	rows := map[string]*row{}
	t.Run("client", func(t *testing.T) {
		for _, c := range clients {
			t.Run(c.title(), func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				r := &row{client: c, cells: map[string]string{}}
				m := matrix{t, s, r, c.start(t)}
				m.logins()
				m.forwards()
				m.refusals()
				m.strictMode()
				t.Logf("%s\n%s", time.Since(began).Round(100*time.Millisecond), strings.Join(r.log, "\n"))
				mu.Lock()
				defer mu.Unlock()
				rows[c.title()] = r
			})
		}
	})
	if n := s.forbiddenConns.Load(); n != 0 {
		t.Errorf("%d connections to a destination that is not allowed", n)
	}
	if t.Failed() {
		return
	}
	var ordered []*row
	for _, c := range clients {
		if rows[c.title()] == nil {
			t.Skipf("only %d of %d clients ran, so docs/clients.md is not compared", len(rows), len(clients))
		}
		ordered = append(ordered, rows[c.title()])
	}
	compareTable(t, ordered)
}

// matrix runs all operations of one client.
type matrix struct {
	t   *testing.T
	s   *servers
	row *row
	run driver
}

// bastion returns a request to the bastion, with the first key that the client can use.
func (m matrix) bastion(op string, target endpoint, file string) request {
	return request{op: op, server: m.s.compatible, key: m.s.keys[m.row.keys[0]], known: m.s.known, target: target, file: file}
}

// can fills a cell of the table. The request must have succeeded with the wanted text.
func (m matrix) can(cell string, got result, want string) {
	m.t.Helper()
	m.row.cells[cell] = "yes"
	if !got.ok || !strings.Contains(got.text, want) {
		m.row.cells[cell] = "failed"
		m.t.Errorf("%s: %+v, want %q", cell, got, want)
	}
}

func (m matrix) logins() {
	for _, name := range keyNames {
		request := m.bastion("status", endpoint{}, "")
		request.key = m.s.keys[name]
		got := m.run(request)
		if slices.Contains(m.row.keys, name) {
			m.can(name, got, "state        ready")
			continue
		}
		m.row.cells[name] = "no"
		m.row.log = append(m.row.log, name+": "+got.text)
		if got.ok {
			m.t.Errorf("it can log in with %s: correct its keys", name)
		}
	}
	m.can("jump", m.run(m.bastion("jump", m.s.private, "")), "private-host")
}

func (m matrix) forwards() {
	m.can("forward", m.run(m.bastion("forward", m.s.greeting, m.s.nothing)), received(greetingText))
	m.can("download", m.run(m.bastion("pipe", m.s.download, m.s.nothing)), fmt.Sprintf("%d %s", size, m.s.dataHash))
	op, want := "pipe", received(m.s.dataHash)
	m.row.cells["rekey"] = "no"
	if m.row.noRekey == "" {
		op, want = "rekey", want+" rekeyed"
		m.row.cells["rekey"] = "yes"
	}
	m.can("upload", m.run(m.bastion(op, m.s.upload, m.s.data)), want)
}

// refused checks that a request fails and that the client says why.
func (m matrix) refused(what string, got result, why *regexp.Regexp) {
	m.t.Helper()
	m.row.log = append(m.row.log, what+": "+got.text)
	if got.ok || !why.MatchString(got.text) {
		m.t.Errorf("%s: %+v, want the error %q", what, got, why)
	}
}

var (
	wrongKey         = regexp.MustCompile(`(?i)permission denied|auth`)
	wrongHost        = regexp.MustCompile(`(?i)host ?key|host denied|server key|KnownHostCheckMisMatch`)
	wrongDestination = regexp.MustCompile(`This bastion does not connect|(?i)administratively prohibited|Reason: 1$`) // 1 is that reason in RFC 4254, section 5.1
)

func (m matrix) refusals() {
	request := m.bastion("status", endpoint{}, "")
	request.key = m.s.stranger
	m.refused("a key that is not admitted", m.run(request), wrongKey)

	request = m.bastion("status", endpoint{}, "")
	request.known = m.s.wrongKnown
	m.refused("another host key", m.run(request), wrongHost)

	const destination = "a destination that is not allowed"
	got := m.run(m.bastion("pipe", m.s.forbidden, m.s.nothing))
	if m.row.hidesRefusals {
		m.row.log = append(m.row.log, destination+": no message")
		m.can(destination, got, received(""))
		return
	}
	m.refused(destination, got, wrongDestination)
}

func (m matrix) strictMode() {
	request := m.bastion("status", endpoint{}, "")
	request.server = m.s.strict
	got := m.run(request)
	if m.row.strictRefuses == "" {
		m.can("strict", got, "strict-bastion")
		return
	}
	m.row.cells["strict"] = "no"
	m.refused("strict mode", got, regexp.MustCompile(regexp.QuoteMeta(m.row.strictRefuses)))
}

// received is the result of pipe for a destination that sends the text.
func received(text string) string {
	c := counter{hash: sha256.New()}
	_, _ = c.Write([]byte(text))
	return c.String()
}

// counter counts and hashes what is written to it.
type counter struct {
	n    int64
	hash hash.Hash
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.hash.Write(p)
}

func (c *counter) String() string {
	return fmt.Sprintf("%d %s", c.n, hex.EncodeToString(c.hash.Sum(nil)))
}

// environment returns the environment of a client: without an agent, and with a home
// folder of its own.
func environment(home string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=C.UTF-8"}
}

// killAfterTimeout kills a running command that takes too long. The caller calls stop when
// the command has done its work.
func killAfterTimeout(command *exec.Cmd) (stop func()) {
	timer := time.AfterFunc(timeout, func() { _ = command.Process.Kill() })
	return func() { timer.Stop() }
}
