package lambdamode

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
)

// lived is what must not depend on the order of events.
type lived struct {
	state    bastion.State
	attempt  int
	end      bastion.EndReason
	receipt  bastion.Receipt // without its times
	finished bool
}

// telling is which events the observer hears of, in which order, at each stage of
// a bastion's life.
type telling struct {
	before, open, closing []int
	closed                []int // its record is final, and nothing of it is left
}

// life makes a bastion and closes it, while the reaper runs and the events
// chosen are delivered. It answers the record and all the events that there were.
func life(t *testing.T, recorded []string, told telling) (lived, []string) {
	var mu sync.Mutex
	var seen []string
	note := func(event string) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, event)
	}
	number := 0
	cloud := localcloud.New(localcloud.Config{
		LaunchDelay: 4 * time.Second, Linger: 2 * time.Second, StopTimeout: 10 * time.Second,
		Runner: &localcloud.Agent{Poll: 3 * time.Second, LeaseTimeout: 2 * time.Minute},
		OnTask: func(id, _ string) { note(taskEventOf(ourCluster, "bastion/"+id)) },
		OnReport: func(id, task string) {
			mu.Lock()
			number++
			n := fmt.Sprint(number)
			mu.Unlock()
			note(`{"Records":[` + streamRecord(n, task, id) + `]}`)
		},
	})
	defer cloud.Close()
	service := &bastion.Service{
		Config: bastion.Config{
			DefaultTTL: 8 * time.Hour, MaxTTL: 12 * time.Hour, IPv4: true, MaxAttempts: 5,
			Quota: bastion.Quota{PerOwner: 2, Total: 10}, Subnets: []string{"a"}, TaskDefinition: "bastion:1",
			Timing: bastion.Timing{
				CallTimeout: 25 * time.Second, Settle: 4 * time.Minute, Young: 2 * time.Minute, Backoff: 10 * time.Second,
				Stable: time.Minute, Poll: time.Second, Watch: 15 * time.Second, Check: 5 * time.Minute,
				SweepGrace: 10 * time.Minute, Tombstone: 24 * time.Hour,
			},
		},
		Store: cloud.Store(), Groups: cloud.Groups(), Tasks: cloud.Tasks(), Leases: cloud.Leases(),
		Now: time.Now, Rand: rand.NewChaCha8([32]byte{}), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	o := &Observer{
		service: service, store: service.Store, cluster: ourCluster, log: service.Log,
		taskID: func(key string) string { return strings.TrimPrefix(key, "AROAEXAMPLE:") },
	}
	deliver := func(order []int) {
		for _, n := range order {
			answer, err := o.Handle(t.Context(), json.RawMessage(recorded[n]))
			if err != nil || answer != nil && len(answer.BatchItemFailures) > 0 {
				t.Errorf("event %d: %v, %v", n, answer, err)
			}
		}
	}
	reap := func(minutes int) {
		for range minutes {
			time.Sleep(time.Minute)
			if _, err := service.Reap(t.Context()); err != nil {
				t.Errorf("reap: %v", err)
			}
		}
	}
	deliver(told.before)
	caller := bastion.Caller{Owner: "local:alice", Address: netip.MustParseAddr("192.0.2.1")}
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	rec, _, err := service.Create(t.Context(), bastion.CreateRequest{Caller: caller, Key: key, Wait: 25 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	deliver(told.open)
	reap(2)
	if rec, err = service.Close(t.Context(), caller, rec.ID, 0); err != nil {
		t.Fatal(err)
	}
	deliver(told.closing)
	reap(15)
	final, err := service.Store.Fetch(t.Context(), rec.ID)
	if err != nil || final.FinishedAt.IsZero() {
		t.Fatalf("not closed: %+v, %v", final, err)
	}
	deliver(told.closed)
	rec, err = service.Store.Fetch(t.Context(), rec.ID)
	if err != nil || !reflect.DeepEqual(rec, final) {
		t.Errorf("an event has changed a closed record\nfrom %+v\nto   %+v, %v", final, rec, err)
	}
	// Else the events were of nobody, and the test of nothing.
	if all := strings.Join(recorded, " "); recorded != nil && (!strings.Contains(all, `"bastion/`+rec.ID+`"`) || !strings.Contains(all, "AROAEXAMPLE:"+rec.Attempt.TaskID+`"`)) {
		t.Errorf("the events are not of %s and its task %s", rec.ID, rec.Attempt.TaskID)
	}
	inv := cloud.Inventory()
	if len(inv.Live()) > 0 || len(inv.Groups) > 0 {
		t.Errorf("left: %+v, %+v", inv.Live(), inv.Groups)
	}
	receipt := rec.Receipt
	receipt.StartedAt, receipt.EndedAt = time.Time{}, time.Time{}
	if len(receipt.Destinations) > 0 || rec.Receipt.EndedAt.IsZero() {
		t.Errorf("the receipt is %+v", rec.Receipt)
	}
	mu.Lock()
	defer mu.Unlock()
	return lived{rec.State(), rec.Attempt.Number, rec.End.Reason, receipt, !rec.FinishedAt.IsZero()}, seen
}

// permutations calls f with each order of 0 to n-1.
func permutations(n int, f func([]int)) {
	var extend func(order []int)
	extend = func(order []int) {
		if len(order) == n {
			f(order)
			return
		}
		for i := range n {
			if !slices.Contains(order, i) {
				extend(append(slices.Clone(order), i))
			}
		}
	}
	extend(nil)
}

// twice is an order in which each event comes again at once.
func twice(order []int) []int {
	var all []int
	for _, n := range order {
		all = append(all, n, n)
	}
	return all
}

// Events of tasks and of the leases' stream end in the same record as none at
// all: at most three of each kind in every order, and all of them in seeded random
// orders. Each comes several times, the last time when the record is closed.
func TestEventsInAnyOrder(t *testing.T) {
	var want lived
	var recorded []string
	synctest.Test(t, func(t *testing.T) { want, recorded = life(t, nil, telling{}) })
	if want.state != bastion.Closed || want.attempt != 1 || !want.finished || len(recorded) < 6 {
		t.Fatalf("without events: %+v, and %d were recorded", want, len(recorded))
	}
	t.Logf("%d events recorded", len(recorded))
	check := func(name string, recorded []string, told telling) {
		synctest.Test(t, func(t *testing.T) {
			if got, _ := life(t, recorded, told); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %+v, want %+v", name, got, want)
			}
		})
	}
	var reduced []string // of each kind three, or all
	for _, kind := range []string{"Records", "detail-type"} {
		of := slices.DeleteFunc(slices.Clone(recorded), func(e string) bool { return !strings.Contains(e, kind) })
		reduced = append(reduced, of[:min(3, len(of))]...)
	}
	t.Logf("%d permuted", len(reduced))
	permutations(len(reduced), func(order []int) {
		check(fmt.Sprint(order), reduced, telling{order[:1], twice(order), order, twice(order)})
	})
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		order := twice(random.Perm(len(recorded)))
		random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		third := len(order) / 3
		closed := append(order[2*third:], twice(random.Perm(len(recorded)))...)
		check(fmt.Sprint("seed ", seed), recorded, telling{order[:1], order[1:third], order[third : 2*third], closed})
	}
}
