//go:build conformance

package soak

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// owner is an owner of bastions, with one or more people.
type owner struct {
	name  string
	names map[string]*access // by the bastions' names
}

func (o *owner) access(name string) *access { return o.names[name] }

// person is one person with a computer: an address and a key.
type person struct {
	s      *soak
	number int
	owner  *owner
	from   netip.Addr
	key    ssh.Signer
	line   string // the content of the .pub file
	ssh    *sshclient.Client
	dir    string
}

func (p *person) String() string { return fmt.Sprintf("%s at %s", p.owner.name, p.from) }

func (p *person) fingerprint() string { return ssh.FingerprintSHA256(p.key.PublicKey()) }

// bastionNames are the names that every owner uses.
var bastionNames = []string{"default", "db"}

// newPeople returns people: two for each owner.
func newPeople(s *soak, owners int) (people []*person) {
	for n := range owners {
		o := &owner{name: fmt.Sprintf("owner%d", n), names: map[string]*access{}}
		for _, name := range bastionNames {
			o.names[name] = &access{}
		}
		for m := range 2 {
			p := &person{s: s, number: 2*n + m, owner: o, from: netip.AddrFrom4([4]byte{127, 1, byte(n), byte(m + 1)}), dir: s.t.TempDir()}
			private, err := sshclient.NewKey([]string{"ed25519", "ecdsa"}[m])
			if err != nil {
				s.t.Fatal(err)
			}
			keys := agent.NewKeyring()
			if err := keys.Add(agent.AddedKey{PrivateKey: private}); err != nil {
				s.t.Fatal(err)
			}
			if p.key, err = ssh.NewSignerFromKey(private); err != nil {
				s.t.Fatal(err)
			}
			p.line = string(ssh.MarshalAuthorizedKey(p.key.PublicKey()))
			p.ssh = sshclient.NewWithAgent(s.t, keys)
			people = append(people, p)
		}
	}
	return people
}

// steps are what people do, and how often of 100 times.
var steps = []struct {
	often int
	name  string
	do    func(*person, *rand.Rand)
}{
	{20, "request", (*person).request},
	{22, "work", (*person).work},
	{8, "OpenSSH", (*person).openSSH},
	{6, "hold", (*person).hold},
	{6, "extend", (*person).extend},
	{6, "console", (*person).console},
	{14, "intrude", (*person).intrude},
	{7, "garbage", (*person).garbage},
	{4, "bad request", (*person).badRequest},
	{3, "list", (*person).list},
	{4, "close", (*person).close},
}

// live makes random steps until the soak ends.
func (p *person) live() {
	for n := uint64(0); p.s.ctx.Err() == nil; n++ {
		random := rand.New(rand.NewPCG(p.s.seed, uint64(p.number)<<32|n))
		dice := random.IntN(100)
		for _, step := range steps {
			if dice -= step.often; dice < 0 {
				p.s.log.Info("step", "person", p.String(), "number", n, "name", step.name)
				step.do(p, random)
				p.s.steps.Add(1)
				break
			}
		}
		p.s.sleep(time.Duration(random.IntN(300)) * time.Millisecond)
	}
}

// pick returns one of the items, or the zero value of none.
func pick[T any](random *rand.Rand, items []T) (item T) {
	n := random.IntN(1 << 20)
	if len(items) > 0 {
		item = items[n%len(items)]
	}
	return item
}

// request creates or renews a bastion with the person's key and address.
func (p *person) request(random *rand.Rand) {
	name := bastionNames[random.IntN(8)/7]
	body := map[string]any{"name": name, "public_key": p.line}
	if random.IntN(2) == 0 {
		body["ttl"] = fmt.Sprintf("%ds", 4+random.IntN(40))
	}
	if random.IntN(4) == 0 {
		body["reason"] = fmt.Sprintf("look at table %d", random.IntN(100))
	}
	if random.IntN(4) == 0 { // the other person's key is lost
		body["only_key"] = true
	}
	wait := random.IntN(6)
	document, err := json.Marshal(body)
	if err != nil {
		p.s.fail("%v", err)
		return
	}
	a := p.owner.access(name)
	g := a.ask(p.fingerprint(), p.from)
	got, ok := p.s.call(p, request{method: "POST", path: "/bastions", body: string(document), wait: wait}, http.StatusOK, http.StatusCreated)
	if !ok {
		return
	}
	b := got.bastions[0]
	a.answer(g, b.ID)
	if got.status == http.StatusCreated {
		p.s.created.Add(1)
	}
	if b.Name != name {
		p.s.fail("the request for %q got the bastion %q", name, b.Name)
	}
	for b.State == bastion.Starting && p.s.ctx.Err() == nil {
		if b, ok = p.get(b.ID, 2); !ok {
			return
		}
	}
	if b.State == bastion.Ready {
		a.inForce(g, b.Keys)
	}
}

// get returns a bastion of the person's owner.
func (p *person) get(id string, wait int) (api.Bastion, bool) {
	got, ok := p.s.call(p, request{method: "GET", path: "/bastions/" + id, wait: wait}, http.StatusOK)
	if !ok {
		return api.Bastion{}, false
	}
	return got.bastions[0], true
}

// mine returns a ready bastion that admits the person's key and address.
func (p *person) mine(random *rand.Rand) (api.Bastion, bool) {
	got, ok := p.s.call(p, request{method: "GET", path: "/bastions"}, http.StatusOK)
	if !ok {
		return api.Bastion{}, false
	}
	b := pick(random, slices.DeleteFunc(got.bastions, func(b api.Bastion) bool { return !p.admitted(b) }))
	return b, b.ID != ""
}

// admitted reports whether the bastion admits the person, who sends the key in each request
// and has one address.
func (p *person) admitted(b api.Bastion) bool {
	return b.State == bastion.Ready && slices.Contains(b.Keys, p.fingerprint())
}

// must repeats what the bastion must allow until it succeeds, or until the API says that
// something has changed. It reports whether it succeeded.
func (p *person) must(b api.Bastion, what string, do func() error) bool {
	defer p.s.usage(b.ID)()
	var err error
	for range 10 {
		kills := p.s.killsOf(b.ID)
		if err = do(); err == nil {
			return true
		}
		now, ok := p.get(b.ID, 0)
		if !ok || !p.admitted(now) || now.HostKey != b.HostKey || now.Port != b.Port || p.s.killsOf(b.ID) != kills ||
			time.Until(now.Deadline) < time.Second || p.s.failed() {
			return false
		}
		p.s.log.Info("not yet", "what", what, "bastion", b.ID, "error", err)
		time.Sleep(500 * time.Millisecond)
	}
	if p.s.alive(b.ID) {
		p.s.fail("%s: %s at %s, which is ready for this key and address: %v", p, what, b.ID, err)
	}
	return false
}

// enter logs in to a bastion of the person.
func (p *person) enter(random *rand.Rand) (api.Bastion, *login, bool) {
	b, ok := p.mine(random)
	if !ok {
		return b, nil, false
	}
	var l *login
	ok = p.must(b, "login", func() (err error) {
		l, err = p.s.login(p.owner.access(b.Name), p.from, serverOf(b), p.key)
		return err
	})
	return b, l, ok
}

// work logs in and moves data, with several forwards at once.
func (p *person) work(random *rand.Rand) {
	b, l, ok := p.enter(random)
	if !ok {
		return
	}
	defer p.s.usage(b.ID)()
	var working sync.WaitGroup
	for range 1 + random.IntN(6) {
		kind, size, leave := random.IntN(kinds), randomSize(random), int64(-1)
		if random.IntN(5) == 0 {
			leave = random.Int64N(size + 1)
		}
		working.Go(func() { l.check(l.transfer(kind, size, leave)) })
	}
	if dice := random.IntN(1 << 20); dice%4 == 0 {
		working.Go(func() { p.forbidden(l, dice/4) })
	}
	if random.IntN(5) == 0 { // the client crashes meanwhile
		p.s.sleep(time.Duration(random.IntN(100)) * time.Millisecond)
		l.abort()
	}
	working.Wait()
	if !l.left {
		l.close()
	}
}

// randomSize returns a number of bytes, mostly a small one.
func randomSize(random *rand.Rand) int64 {
	return random.Int64N([]int64{2, 100, 5_000, 200_000, 200_000, 6_000_000}[random.IntN(6)])
}

// check reports the error of something that must succeed unless the connection ends.
func (l *login) check(err error) {
	if err == nil {
		return
	}
	select {
	case <-l.ended:
	case <-time.After(patience):
		l.s.fail("%v, but the connection is still open", err)
	}
}

// forbidden tries what a bastion must refuse.
func (p *person) forbidden(l *login, dice int) {
	destinations := []string{"169.254.169.254:80", "127.0.0.1:22", "127.0.0.1:1", "192.0.2.1:80", "[::1]:80", "localhost:80", "169.254.170.2:80", "10.0.0.1:1"}
	switch dice % 3 {
	case 0:
		to := destinations[dice/3%len(destinations)]
		channel, err := l.open(to)
		if err == nil {
			_ = channel.Close()
			p.s.fail("%s: the bastion forwarded to %s", p, to)
		}
	case 1:
		ok, _, err := l.client.SendRequest("tcpip-forward", true, ssh.Marshal(struct {
			Address string
			Port    uint32
		}{"127.0.0.1", 0}))
		if ok {
			p.s.fail("%s: the bastion listens for the client", p)
		}
		l.usage.count(&l.usage.refusals, err == nil)
		return
	case 2:
		if out, err := l.command("uname -a"); err == nil {
			p.s.fail("%s: the bastion ran a program: %s", p, out)
		}
	}
	l.usage.count(&l.usage.refusals, false)
}

// hold keeps a connection open while other people act, and checks that it ends only for a
// reason, and that it does end if the bastion is closed.
func (p *person) hold(random *rand.Rand) {
	b, l, ok := p.enter(random)
	if !ok {
		return
	}
	defer p.s.usage(b.ID)()
	defer l.close()
	kills := p.s.killsOf(b.ID)
	until := time.Now().Add(time.Duration(1+random.IntN(9)) * time.Second)
	for time.Now().Before(until) && p.s.ctx.Err() == nil {
		if err := l.transfer(echo, random.Int64N(3000), -1); err != nil {
			l.check(err)
			break
		}
		p.s.sleep(time.Duration(random.IntN(500)) * time.Millisecond)
	}
	select {
	case <-l.ended:
		now, ok := p.get(b.ID, 0)
		if ok && now.State == bastion.Ready && now.HostKey == b.HostKey && p.s.killsOf(b.ID) == kills && p.s.alive(b.ID) &&
			time.Until(now.Deadline) > time.Second && !p.owner.access(b.Name).changedSince(p.fingerprint(), l.since) {
			p.s.fail("%s: the connection to %s ended, although the bastion is ready and no key was replaced", p, b.ID)
		}
	default:
		now, ok := p.get(b.ID, 0)
		switch {
		case !ok:
		case progress[now.State] == 2:
			l.mustEnd("the bastion is " + string(now.State))
		case now.State == bastion.Ready && !slices.Contains(now.Keys, p.fingerprint()):
			l.mustEnd("its key is not among those of the bastion")
		}
	}
}

// mustEnd waits until the server has ended the connection.
func (l *login) mustEnd(why string) {
	select {
	case <-l.ended:
	case <-time.After(patience):
		l.s.fail("a connection is still open: %s", why)
	}
}

// extend moves the deadline of one of the owner's bastions.
func (p *person) extend(random *rand.Rand) {
	got, ok := p.s.call(p, request{method: "GET", path: "/bastions"}, http.StatusOK)
	if b := pick(random, got.bastions); ok && b.ID != "" {
		body := fmt.Sprintf(`{"ttl": "%ds"}`, 2+random.IntN(60))
		p.s.call(p, request{method: "PATCH", path: "/bastions/" + b.ID, body: body, wait: random.IntN(3)},
			http.StatusOK, http.StatusConflict, http.StatusUnprocessableEntity)
	}
}

// console uses the status console.
func (p *person) console(random *rand.Rand) {
	b, l, ok := p.enter(random)
	if !ok {
		return
	}
	defer p.s.usage(b.ID)()
	defer l.close()
	for range 1 + random.IntN(3) {
		line := []string{"status", "status", "help", "extend 20s", "extend 40s", "close", "nonsense"}[random.IntN(7)]
		if line == "nonsense" {
			l.usage.count(&l.usage.refusals, false)
		}
		_, err := l.command(line)
		if line == "status" || line == "help" {
			l.check(err)
		}
	}
}

// list lists bastions, and tries to see and change those of others.
func (p *person) list(random *rand.Rand) {
	p.s.call(p, request{method: "GET", path: "/bastions", wait: random.IntN(3), text: random.IntN(2) == 0}, http.StatusOK)
	if other := p.other(random); other.ID != "" {
		p.s.call(p, request{method: "GET", path: "/bastions/" + other.ID}, http.StatusNotFound)
		p.s.call(p, request{method: "DELETE", path: "/bastions/" + other.ID}, http.StatusNotFound)
		p.s.call(p, request{method: "PATCH", path: "/bastions/" + other.ID, body: `{"ttl": "1m"}`}, http.StatusNotFound)
	}
}

// other returns a bastion of another owner that was ready.
func (p *person) other(random *rand.Rand) api.Bastion {
	return p.s.some(random, func(k known) bool { return k.owner != p.owner && k.latest.Host != "" })
}

// close closes one of the owner's bastions, or all of them.
func (p *person) close(random *rand.Rand) {
	got, ok := p.s.call(p, request{method: "GET", path: "/bastions"}, http.StatusOK)
	b := pick(random, got.bastions)
	if !ok || b.ID == "" {
		return
	}
	path := "/bastions/" + b.ID
	if random.IntN(4) == 0 {
		path = "/bastions"
	}
	got, ok = p.s.call(p, request{method: "DELETE", path: path, wait: random.IntN(6)}, http.StatusOK, http.StatusAccepted)
	for _, b := range got.bastions {
		if ok && got.status == http.StatusOK && b.State != bastion.Closed && b.State != bastion.Failed {
			p.s.fail("%s: DELETE returned 200 and a bastion that is %s", p, b.State)
		}
	}
}

// badRequest sends requests that the API must refuse.
func (p *person) badRequest(random *rand.Rand) {
	bodies := []string{"{", "ssh-ed25519 AAAA", `{"ttl": "-1s"}`, `{"ttl": "9999h"}`, `{"name": "UPPER"}`, `{"unknown": 1}`,
		"-----BEGIN OPENSSH PRIVATE KEY-----\n", `{"reason": "two\nlines"}`, "\xff\xfe", `{"source": "224.0.0.1"}`}
	p.s.call(p, request{method: "POST", path: "/bastions", body: bodies[random.IntN(len(bodies))]},
		http.StatusBadRequest, http.StatusForbidden, http.StatusUnprocessableEntity)
	p.s.call(p, request{method: "GET", path: "/bastions/" + []string{"x", "aaaaaaaaaaaaaaaa"}[random.IntN(2)]}, http.StatusNotFound)
	p.s.call(p, request{method: "PUT", path: "/bastions"}, http.StatusMethodNotAllowed)
}
