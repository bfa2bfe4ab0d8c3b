//go:build conformance

package soak

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leasefile"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// ends are the ways in which bastiond ends.
var ends = []struct {
	name string
	exit int
}{{"SIGKILL", -1}, {"SIGKILL", -1}, {"SIGTERM", bastion.ExitTerminated}, {"closed", bastion.ExitOK}, {"deadline", bastion.ExitOK}}

// byHand runs bastiond as a process, with a lease in a folder, again and again. After
// SIGKILL, the next process has the same folder.
func (s *soak) byHand(program string) {
	var keys []ssh.Signer
	var lines []bastion.Key
	for range 2 {
		private, err := sshclient.NewKey("ed25519")
		if err != nil {
			s.fail("%v", err)
			return
		}
		key, err := ssh.NewSignerFromKey(private)
		if err != nil {
			s.fail("%v", err)
			return
		}
		keys, lines = append(keys, key), append(lines, bastion.Key(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))))
	}
	var dir leasefile.Dir
	var generation int64
	for n := uint64(0); s.ctx.Err() == nil; n++ {
		random := rand.New(rand.NewPCG(s.seed, 1<<62|n))
		how := ends[random.IntN(len(ends))]
		if dir == "" {
			dir = leasefile.Dir(s.t.TempDir())
		}
		generation += 10 // more than the leases that one process gets
		h := &hand{s: s, dir: dir, keys: keys, usage: &usage{}, lease: bastion.Lease{
			BastionID: "byhand", Owner: "local:hand", Name: "default", Generation: generation, Open: true,
			Source: handSources[0][0], Keys: lines,
			KeySources:          []bastion.KeySources{{Prefixes: handSources[0]}, {Prefixes: handSources[1], Named: true}},
			Deadline:            time.Now().Add(2 * patience), // ends the process if the soak is killed
			AllowedDestinations: []bastion.DestinationRule{{Prefix: netip.MustParsePrefix("127.0.0.1/32"), From: uint16(s.target.port()), To: uint16(s.target.port())}},
		}}
		if err := h.start(program); err != nil {
			s.fail("bastiond: %v", err)
			return
		}
		h.use(random, how.name)
		if exit := h.wait(); exit != how.exit {
			s.fail("bastiond ended by %s has the exit code %d, want %d: %s", how.name, exit, how.exit, h.output())
		}
		h.check(how.name)
		s.hands.Add(1)
		if how.name != "SIGKILL" {
			dir = ""
			_ = os.RemoveAll(string(h.dir))
		}
	}
}

// handSources are the sources of the two keys, and handAddresses are where clients come from.
var (
	handSources = [][]netip.Prefix{
		{netip.MustParsePrefix("127.0.0.1/32")},
		{netip.MustParsePrefix("127.0.0.2/32"), netip.MustParsePrefix("127.0.0.8/30")},
	}
	handAddresses = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.10"), netip.MustParseAddr("127.0.0.12")}
)

// hand is one process of bastiond.
type hand struct {
	s     *soak
	dir   leasefile.Dir
	keys  []ssh.Signer
	usage *usage
	lease bastion.Lease

	removing atomic.Bool // the second key is being removed
	removed  atomic.Bool // and the process has reported it
	ending   atomic.Bool // the process is being ended

	process *exec.Cmd
	to      server
	exited  chan struct{}

	mu  sync.Mutex
	log []string
}

func (h *hand) output() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.log, "\n")
}

// start starts the process, and returns when it has reported.
func (h *hand) start(program string) error {
	if err := h.dir.Grant(h.lease); err != nil {
		return err
	}
	h.process = command(program, "--lease", string(h.dir), "--listen", "127.0.0.1:0", "--poll", "50ms", "--allow-loopback", "127.0.0.1/32")
	h.process.Env = append(os.Environ(), marker+"="+h.s.mark, "GORACE=halt_on_error=1")
	out, err := h.process.StdoutPipe()
	if err != nil {
		return err
	}
	var errs strings.Builder
	h.process.Stderr = &errs
	if err := h.process.Start(); err != nil {
		return err
	}
	listening := make(chan string, 1)
	h.exited = make(chan struct{})
	go func() {
		defer close(h.exited)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var line struct{ Msg, Address string }
			if err := json.Unmarshal(lines.Bytes(), &line); err == nil && line.Msg == "listening" {
				listening <- line.Address
			}
			h.mu.Lock()
			h.log = append(h.log, lines.Text())
			h.mu.Unlock()
		}
		_ = h.process.Wait()
		h.mu.Lock()
		h.log = append(h.log, errs.String())
		h.mu.Unlock()
	}()
	select {
	case h.to.address = <-listening:
	case <-h.exited:
		return fmt.Errorf("it ended at once: %s", h.output())
	case <-time.After(patience):
		_ = h.process.Process.Kill()
		<-h.exited
		return fmt.Errorf("it does not listen: %s", h.output())
	}
	h.s.eventually("bastiond has not reported", func() string {
		report, err := h.dir.Reported()
		if err != nil && !errors.Is(err, bastion.ErrNotFound) {
			h.s.fail("the report: %v", err)
		}
		h.to.hostKeys = nil
		for _, key := range report.HostKeys() {
			h.to.hostKeys = append(h.to.hostKeys, string(key))
		}
		if err != nil || report.Generation != h.lease.Generation {
			return fmt.Sprintf("%+v, %v", report, err)
		}
		return ""
	})
	return nil
}

// use logs in several times, moves data, and ends the process meanwhile.
func (h *hand) use(random *rand.Rand, how string) {
	var clients sync.WaitGroup
	for range 2 + random.IntN(5) {
		kind, size := random.IntN(kinds), randomSize(random)
		delay, again := time.Duration(random.IntN(2000))*time.Millisecond, random.IntN(4)
		key, from := random.IntN(2), handAddresses[random.IntN(len(handAddresses))]
		if random.IntN(2) == 0 {
			from = handAddresses[key] // a right one
		}
		clients.Go(func() {
			h.s.sleep(delay)
			l := h.login(key, from)
			if l == nil {
				return
			}
			defer l.close()
			for range 1 + again {
				if err := l.transfer(kind, size, -1); err != nil {
					l.check(err)
					return
				}
			}
		})
	}
	h.s.sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
	if random.IntN(3) == 0 {
		h.removeSecondKey()
	}
	h.s.sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
	h.ending.Store(true)
	h.lease.Generation++
	var err error
	switch how {
	case "SIGKILL":
		h.usage.kill()
		err = h.process.Process.Kill()
	case "SIGTERM":
		err = h.process.Process.Signal(syscall.SIGTERM)
	case "closed":
		h.lease.Open, h.lease.EndReason = false, bastion.EndClosed
		err = h.dir.Grant(h.lease)
	case "deadline":
		h.lease.Deadline = time.Now().Add(time.Second)
		err = h.dir.Grant(h.lease)
	}
	if err != nil {
		h.s.fail("end bastiond by %s: %v", how, err)
	}
	clients.Wait()
}

// login logs in with a key from an address, and checks that this succeeds or fails as the
// lease says. It returns nil if it fails.
func (h *hand) login(key int, from netip.Addr) *login {
	admitted := slices.ContainsFunc(handSources[key], func(p netip.Prefix) bool { return p.Contains(from) })
	removed := h.removed.Load()
	client, conn, _, err := connect(from, h.to, ssh.PublicKeys(h.keys[key]))
	may := admitted && (key == 0 || !removed)
	must := admitted && (key == 0 || !h.removing.Load()) && !h.ending.Load()
	if err != nil {
		h.usage.count(&h.usage.refusals, false)
		if must {
			h.s.fail("bastiond refused key %d from %s: %v", key+1, from, err)
		} else if !may {
			h.s.keptOut.Add(1)
		}
		return nil
	}
	if !may {
		h.s.fail("key %d got into bastiond from %s, which the lease in force does not admit", key+1, from)
	}
	l, err := h.s.newLogin(h.usage, client, conn, "")
	if err != nil {
		return nil
	}
	return l
}

// removeSecondKey writes a lease without the second key, and returns when the process has
// reported that it follows it.
func (h *hand) removeSecondKey() {
	h.removing.Store(true)
	h.lease.Generation++
	h.lease.Keys, h.lease.KeySources = h.lease.Keys[:1], h.lease.KeySources[:1]
	if err := h.dir.Grant(h.lease); err != nil {
		h.s.fail("%v", err)
		return
	}
	h.s.eventually("bastiond does not follow the lease", func() string {
		if report, err := h.dir.Reported(); err != nil || report.Generation != h.lease.Generation {
			return fmt.Sprintf("%+v, %v", report, err)
		}
		return ""
	})
	h.removed.Store(true)
}

// wait waits for the end of the process, and returns its exit code.
func (h *hand) wait() int {
	select {
	case <-h.exited:
	case <-time.After(patience):
		h.s.fail("bastiond did not end within %s: %s", patience, h.output())
		_ = h.process.Process.Kill()
		<-h.exited
	}
	return h.process.ProcessState.ExitCode()
}

// check checks what the ended process has left.
func (h *hand) check(how string) {
	client, _, reached, err := connect(handAddresses[0], h.to, ssh.PublicKeys(h.keys[0]))
	if err == nil {
		_ = client.Close()
	}
	if reached {
		h.s.fail("bastiond has ended by %s and still serves", how)
	}
	report, err := h.dir.Reported()
	if err != nil {
		h.s.fail("the report after %s: %v", how, err)
		return
	}
	if how == "SIGKILL" {
		return
	}
	if report.Receipt.EndedAt.IsZero() {
		h.s.fail("bastiond ended by %s has no receipt: %s", how, h.output())
		return
	}
	for _, wrong := range h.usage.compare(report.Receipt, h.s.target.address(), int(h.s.strays.Load())) {
		h.s.fail("the receipt of bastiond, ended by %s: %s: %+v", how, wrong, report.Receipt)
	}
}
