//go:build conformance

package system

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// In the steps of the other files, a request, the observer and the reaper compete for
// each change. In the steps of this file no events are delivered, so the one function
// that runs must make every change that it is allowed to make.

// stopAllEvents stops the events and schedules.
func (s *systemTest) stopAllEvents(*testing.T) { s.stopEvents() }

func (s *systemTest) createAlone(t *testing.T) {
	post := []string{"--request", "POST", "--header", waitHeader, "/bastions"}
	created := s.alice.expect(t, 201, "ready", post...)
	s.bastionID = created.ID
	s.alice.sourceIP = "127.0.0.1"
	s.alice.expect(t, 200, "ready", post...)
	dead := s.task(t, s.bastionID)
	if err := dead.signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ECS shows that the task has stopped", func() bool {
		tasks, err := s.ports.Tasks.Describe(t.Context(), s.bastionID)
		return err == nil && len(tasks) == 1 && tasks[0].Status == bastion.TaskStopped
	})
	if again := s.alice.expect(t, 200, "ready", post...); again.ID != s.bastionID || again.HostKey == created.HostKey {
		t.Fatalf("create after the task was killed returned %s", again.Body)
	}
}

// createReplacesExpired creates a bastion whose predecessor of the same name has expired
// without having been closed.
func (s *systemTest) createReplacesExpired(t *testing.T) {
	guest := &apiUser{deployment: s.deployment, user: "guest", sourceIP: "127.0.0.4"}
	guest.generateKey(t)
	body := fmt.Sprintf(`{"ttl":"1s","public_key":%q}`, strings.TrimSpace(guest.readPublicKey(t)))
	post := []string{"--header", "Content-Type: application/json", "--data", body, "/bastions"}
	first := guest.expect(t, 201, "", post...)
	eventually(t, "the deadline has passed", func() bool { return time.Now().After(first.Deadline) })
	guest.expect(t, 201, "", post...)
}

// describeLists checks that an admin sees all bastions and other users see their own.
func (s *systemTest) describeLists(t *testing.T) {
	admin := &apiUser{deployment: s.deployment, user: operator, sourceIP: "127.0.0.5"}
	all, own := admin.expect(t, 200, "", "/bastions"), s.alice.expect(t, 200, "", "/bastions")
	if len(own.Bastions) != 1 || len(all.Bastions) < 2 {
		t.Fatalf("alice sees %s, the operator sees %s", own.Body, all.Body)
	}
}

// extendAlone asks the console to close the bastion. The next extension closes it.
func (s *systemTest) extendAlone(t *testing.T) {
	s.alice.saveSSHConfig(t, s.bastionID)
	console := s.alice.ssh(t, s.alice.hostAlias, "close")
	if err := console.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an extension closes the bastion", func() bool {
		a := s.alice.call(t, "--request", "PATCH", "--header", "Content-Type: application/json", "--data", `{"ttl":"1s"}`, "/bastions/"+s.bastionID)
		return a.State == "closing"
	})
	_ = console.Wait() // the close may interrupt the session
}

// destroyAlone repeats the close request until the lease has its tombstone. The
// observer does the rest.
func (s *systemTest) destroyAlone(t *testing.T) {
	rec, err := s.ports.Store.Fetch(t.Context(), s.bastionID)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lease has ended", func() bool {
		s.alice.expect(t, 202, "", "--request", "DELETE", "/bastions")
		item, err := s.ports.Leases.Fetch(t.Context(), rec.Attempt.TaskID)
		return err == nil && item.Ended
	})
	s.convergeBy(t, "observer", s.bastionID)
}

// observerAlone and reaperAlone take a bastion from its intent to ready and to its end.
// The observer runs first, because the reaper would also advance the records of the
// steps before.
func (s *systemTest) observerAlone(t *testing.T) { s.runLifecycle(t, "observer") }
func (s *systemTest) reaperAlone(t *testing.T)   { s.runLifecycle(t, "reaper") }

func (s *systemTest) runLifecycle(t *testing.T, function string) {
	id := s.storeIntent(t, bastionIDs[function], "slack:"+team+":U"+strings.ToUpper(function))
	eventually(t, function+" makes the bastion ready", func() bool { return s.convergeBy(t, function, id).State() == bastion.Ready })
	s.updateRecord(t, id, func(rec *bastion.Record) { rec.Intent.Deadline = rec.CreatedAt })
	eventually(t, function+" finishes the bastion", func() bool { return !s.convergeBy(t, function, id).FinishedAt.IsZero() })
}

// bastionIDs are the IDs of the bastions that observerAlone and reaperAlone start.
var bastionIDs = map[string]string{"observer": "oooooooooooooooo", "reaper": "rrrrrrrrrrrrrrrr"}

// storeIntent stores a new record without any further step, as a function leaves it that
// dies after its first write. The owner is of Slack and is notified.
func (s *systemTest) storeIntent(t *testing.T, id, owner string) string {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	kind, blob, _ := strings.Cut(s.alice.readPublicKey(t), " ")
	rec := bastion.Record{
		ID: id, Owner: owner, Notify: true, Name: "default", CreatedAt: now, LatestDeadline: now.Add(time.Hour), Version: 1,
		Intent: bastion.Intent{
			Generation: 1, Open: true, Source: netip.MustParsePrefix("127.0.0.6/32"), Deadline: now.Add(time.Hour),
			Keys: []bastion.Key{bastion.Key(kind + " " + strings.Fields(blob)[0])},
		},
		UnsettledUntil: now, DueAt: now,
	}
	if err := s.ports.Store.Create(t.Context(), rec, bastion.Quota{PerOwner: 1, Total: 20}); err != nil {
		t.Fatal(err)
	}
	return id
}

// updateRecord changes a stored record.
func (s *systemTest) updateRecord(t *testing.T, id string, change func(*bastion.Record)) bastion.Record {
	t.Helper()
	rec, err := s.ports.Store.Fetch(t.Context(), id)
	next := rec
	change(&next)
	next.Version++
	if err == nil {
		err = s.ports.Store.Replace(t.Context(), rec, next)
	}
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// convergeBy invokes a function so that it converges a bastion: the reaper because the
// record is due, the observer with a task event. It returns the record afterwards.
func (s *systemTest) convergeBy(t *testing.T, function, id string) bastion.Record {
	t.Helper()
	event := []byte(`{"action":"reap"}`)
	if function == "observer" {
		event = taskEvent(t, s.recorder.Deployment.Cluster, id)
	} else {
		s.updateRecord(t, id, func(rec *bastion.Record) { rec.DueAt = time.Now().UTC() })
	}
	response, err := s.functions[function].Invoke(t.Context(), event)
	if err != nil || functionError(response) != "" {
		t.Fatalf("%s returned %s, %v", function, response, err)
	}
	rec, err := s.ports.Store.Fetch(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// taskEvent returns an event about a task of the bastion.
func taskEvent(t *testing.T, cluster, id string) []byte {
	t.Helper()
	event, err := json.Marshal(map[string]any{
		"detail-type": "ECS Task State Change",
		"detail":      map[string]any{"clusterArn": cluster, "startedBy": awscloud.StartedBy(id), "lastStatus": "RUNNING"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return event
}

func (u *apiUser) readPublicKey(t *testing.T) string {
	t.Helper()
	public, err := os.ReadFile(u.keyFile + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return string(public)
}

// eventually waits until the condition holds, at most for waitLimit.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(waitLimit); !holds(); <-tick.C {
		if time.Now().After(giveUp) {
			t.Fatalf("not within %s: %s", waitLimit, what)
		}
	}
}

// waitLimit is how long a step waits for a condition. It is long, because the machine
// may be busy.
const waitLimit = 3 * time.Minute
