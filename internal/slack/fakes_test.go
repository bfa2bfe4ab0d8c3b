package slack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// memory is a [Table] in memory.
type memory struct {
	faults *faults
	now    func() time.Time
	mu     sync.Mutex
	items  map[string]memoryItem
	writes int
}

type memoryItem struct {
	value   []byte
	version int64
	expires time.Time
}

func newMemory(faults *faults, now func() time.Time) *memory {
	return &memory{faults: faults, now: now, items: map[string]memoryItem{}}
}

func (m *memory) live(key string) (memoryItem, bool) {
	i, ok := m.items[key]
	return i, ok && (i.expires.IsZero() || m.now().Before(i.expires))
}

func (m *memory) Fetch(_ context.Context, key string) (value []byte, version int64, err error) {
	err = m.faults.around("fetch", func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		i, ok := m.live(key)
		if !ok {
			return bastion.ErrNotFound
		}
		value, version = bytes.Clone(i.value), i.version
		return nil
	})
	return value, version, err
}

func (m *memory) Write(_ context.Context, key string, prev int64, value []byte, expires time.Time) error {
	return m.faults.around("write", func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		i, ok := m.live(key)
		if !ok {
			i.version = 0
		}
		if i.version != prev {
			return bastion.ErrConflict
		}
		m.writes++
		m.items[key] = memoryItem{bytes.Clone(value), prev + 1, expires}
		return nil
	})
}

func (m *memory) Delete(_ context.Context, key string) error {
	return m.faults.around("delete", func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.writes++
		delete(m.items, key)
		return nil
	})
}

// faults makes one call of a port fail, before or after its effect. The call returns an
// error, or its caller crashes.
type faults struct {
	mu         sync.Mutex
	at         int // the number of the call that fails; 0: none
	after      bool
	crash      bool
	calls      int
	failedPort string
}

var errFault = errors.New("a fault of this test")

// crashed is the value with which a fault panics.
type crashed struct{}

func (f *faults) around(port string, effect func() error) error {
	f.mu.Lock()
	f.calls++
	mine := f.calls == f.at
	if mine {
		f.failedPort = port
	}
	f.mu.Unlock()
	if mine && !f.after {
		return f.fail()
	}
	err := effect()
	if mine {
		return f.fail()
	}
	return err
}

func (f *faults) fail() error {
	if f.crash {
		panic(crashed{})
	}
	return errFault
}

// fakeAPI is the API in memory.
type fakeAPI struct {
	faults   *faults
	now      func() time.Time
	down     error // if set, there is no reply
	problem  *bastion.Error
	bastions []*Bastion
	calls    []Call
	created  int
}

func (s *fakeAPI) Call(_ context.Context, call Call) (reply api.InternalReply, err error) {
	err = s.faults.around("functions", func() error {
		s.calls = append(s.calls, call)
		if s.down != nil {
			return s.down
		}
		reply = s.serve(call)
		return nil
	})
	return reply, err
}

func (s *fakeAPI) serve(call Call) api.InternalReply {
	if s.problem != nil {
		return problemReply(409, s.problem.Code, s.problem.Message)
	}
	var body struct {
		Name, TTL, Reason string
	}
	_ = json.Unmarshal([]byte(call.Body), &body)
	if call.Method == http.MethodPost {
		return s.create(call, body.Name, body.TTL, body.Reason)
	}
	if call.Path == "/bastions" {
		var mine []*Bastion
		for _, b := range s.bastions {
			if b.Owner == call.Owner && b.State != "closed" {
				mine = append(mine, b)
			}
		}
		return jsonReply(200, map[string]any{"bastions": mine})
	}
	for _, b := range s.bastions {
		if b.Owner != call.Owner || "/bastions/"+b.ID != call.Path {
			continue
		}
		switch call.Method {
		case http.MethodDelete:
			b.State, b.Stage = "closing", ""
		case http.MethodPatch:
			ttl, err := time.ParseDuration(body.TTL)
			if err != nil {
				return problemReply(400, bastion.CodeTTLInvalid, "no ttl: "+body.TTL)
			}
			if deadline := s.now().Add(ttl); deadline.After(b.Deadline) {
				b.Deadline = deadline
			}
		}
		return jsonReply(200, b)
	}
	return problemReply(404, bastion.CodeNotFound, "There is no bastion of this id.")
}

func (s *fakeAPI) create(call Call, name, ttl, reason string) api.InternalReply {
	for _, b := range s.bastions {
		if b.Owner == call.Owner && b.Name == name && b.IsOpen() {
			return jsonReply(200, b)
		}
	}
	length, err := time.ParseDuration(ttl)
	if err != nil {
		length = time.Hour
	}
	s.created++
	b := &Bastion{
		ID: fmt.Sprintf("aaaaaaaaaaaaaa%c2", 'a'+s.created), Name: name, Owner: call.Owner, State: "starting", Stage: "capacity",
		Reason: reason, Source: call.Source.String() + "/32", Keys: []string{bastion.Key(annsKey).Fingerprint()},
		CreatedAt: s.now(), Deadline: s.now().Add(length), LatestDeadline: s.now().Add(8 * time.Hour),
	}
	s.bastions = append(s.bastions, b)
	return jsonReply(201, b)
}

func jsonReply(status int, v any) api.InternalReply {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return api.InternalReply{Status: status, Body: string(body)}
}

func problemReply(status int, code bastion.Code, detail string) api.InternalReply {
	return jsonReply(status, map[string]any{"code": code, "detail": detail, "status": status})
}

// recordingQueue is a [Queue] that records its jobs and does not run them.
type recordingQueue struct {
	down error
	jobs []Job
}

func (w *recordingQueue) Enqueue(_ context.Context, job Job) error {
	if w.down != nil {
		return w.down
	}
	w.jobs = append(w.jobs, job)
	return nil
}

// fakeSlack accepts the requests to Slack and shows direct messages as Slack would.
type fakeSlack struct {
	faults *faults
	posts  []sent
	// Each request succeeds, unless one of these five fields is set.
	status int
	reply  string
	header http.Header
	err    error
	refuse func(s sent) string // the code of an error of the Web API; empty: none

	direct []*directShown // in the order in which they were posted
}

type sent struct {
	url, token string
	body       []byte
}

// directShown is a direct message after all edits so far.
type directShown struct {
	posted
	body  []byte
	edits int
}

func (f *fakeSlack) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	status, answer := f.status, f.reply
	err = f.faults.around("slack", func() error {
		if f.err != nil {
			return f.err
		}
		s := sent{r.URL.String(), r.Header.Get("Authorization"), body}
		f.posts = append(f.posts, s)
		if status == 0 && answer == "" {
			answer = f.accept(s)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if status == 0 {
		status = 200
	}
	header := f.header
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(answer)), Request: r, Header: header}, nil
}

// accept carries out a request and returns the reply.
func (f *fakeSlack) accept(s sent) string {
	if f.refuse != nil {
		if code := f.refuse(s); code != "" {
			return fmt.Sprintf(`{"ok":false,"error":%q}`, code)
		}
	}
	var at posted
	if err := json.Unmarshal(s.body, &at); err != nil {
		return `{"ok":false,"error":"invalid_json"}`
	}
	switch s.url {
	case postMessage:
		at = posted{"D" + at.Channel[1:], fmt.Sprintf("%d.000100", len(f.direct)+1)}
		f.direct = append(f.direct, &directShown{posted: at, body: s.body})
	case updateMessage:
		i := slices.IndexFunc(f.direct, func(m *directShown) bool { return m.posted == at })
		if i < 0 {
			return `{"ok":false,"error":"message_not_found"}`
		}
		f.direct[i].body = s.body
		f.direct[i].edits++
	default:
		return `{"ok":true}`
	}
	return fmt.Sprintf(`{"ok":true,"channel":%q,"ts":%q}`, at.Channel, at.TS)
}

// at returns the bodies that were sent to a URL.
func (f *fakeSlack) at(url string) [][]byte {
	var bodies [][]byte
	for _, s := range f.posts {
		if s.url == url {
			bodies = append(bodies, s.body)
		}
	}
	return bodies
}

// last returns the text of the last message that was sent to a URL.
func (f *fakeSlack) last(url string) string {
	bodies := f.at(url)
	if len(bodies) == 0 {
		return ""
	}
	return readable(bodies[len(bodies)-1])
}

// shown returns the texts of the direct messages after all edits so far, in the order in
// which they were posted.
func (f *fakeSlack) shown() []string {
	var texts []string
	for _, m := range f.direct {
		texts = append(texts, readable(m.body))
	}
	return texts
}

// count returns the number of direct messages that contain the words.
func (f *fakeSlack) count(words string) (n int) {
	for _, text := range f.shown() {
		if strings.Contains(text, words) {
			n++
		}
	}
	return n
}
