package cloudtest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Store is the conformance suite of bastion.Store. open returns an empty store for
// the test.
func Store(t *testing.T, open func(t *testing.T) bastion.Store) {
	for _, c := range slices.Concat(storeValues, storeWrites, storeLists, storeRaces) {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

type storeCase struct {
	name string
	run  func(t *testing.T, s bastion.Store)
}

// storePatience is how long List and Due can be stale.
const storePatience = time.Minute

var plenty = bastion.Quota{PerOwner: 1000, Total: 1000}

const owner = "iam:123456789012:AIDAEXAMPLE"

// newRecord returns a record for Create.
func newRecord(owner, name string) bastion.Record {
	return bastion.Record{
		ID: newID(), Owner: owner, Name: name, CreatedAt: epoch, Version: 1,
		Intent: bastion.Intent{Generation: 1, Open: true},
	}
}

// next returns the record with a change, as the next version.
func next(rec bastion.Record, change func(*bastion.Record)) bastion.Record {
	rec.Version++
	change(&rec)
	return rec
}

// closing and finishing are changes for next.
func closing(r *bastion.Record) { r.Intent.Open = false }

func finishing(r *bastion.Record) { r.FinishedAt = epoch.Add(time.Hour) }

// unchanged changes only the version.
func unchanged(*bastion.Record) {}

func create(t *testing.T, s bastion.Store, rec bastion.Record) bastion.Record {
	t.Helper()
	noError(t, s.Create(t.Context(), rec, plenty))
	return rec
}

func replace(t *testing.T, s bastion.Store, prev bastion.Record, change func(*bastion.Record)) bastion.Record {
	t.Helper()
	rec := next(prev, change)
	noError(t, s.Replace(t.Context(), prev, rec))
	return rec
}

func fetch(t *testing.T, s bastion.Store, id string) bastion.Record {
	t.Helper()
	rec, err := s.Fetch(t.Context(), id)
	noError(t, err)
	return rec
}

// wantError fails the test unless err is want.
func wantError(t *testing.T, call string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", call, err, want)
	}
}

// full sets every field of the record except Intent.Open.
func full(rec *bastion.Record) {
	at := func(minutes int) time.Time { return epoch.Add(time.Duration(minutes) * time.Minute) }
	failure := bastion.Failure{Code: bastion.FailureCapacity, Message: texts[1]}
	rec.LatestDeadline = at(1)
	rec.Intent = bastion.Intent{
		Generation: 1 << 60, Source: netip.MustParsePrefix("2001:db8::1/128"), Keys: []bastion.Key{"ssh-ed25519 AAAA", "ssh-rsa BBBB"},
		KeySources: keySources,
		Deadline:   at(2), DeadlineSetAt: at(15), Reason: texts[2], ConsoleReply: bastion.ConsoleReply{Number: 3, Code: bastion.CodeTTLBeyondCap, Message: texts[3]},
	}
	rec.UnsettledUntil = at(3)
	rec.End = bastion.End{Reason: bastion.EndFailed, At: at(4), Failure: failure}
	rec.FinishedAt = at(5)
	rec.Group = bastion.GroupStatus{ID: "sg-1", FirstSeenAt: at(6), Ingress: netip.MustParsePrefix("192.0.2.1/32"),
		MoreIngress: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28"), netip.MustParsePrefix("2001:db8::/64")}}
	rec.Attempt = bastion.Attempt{
		Number: 7, GroupID: "sg-2", Subnet: "subnet-1", TaskDefinition: "bastion:1", CreatedAt: at(8), TaskID: "t", TaskSeenAt: at(9),
		Tags:      []bastion.Tag{{Key: "k", Value: texts[1]}, {Key: texts[2], Value: "v"}},
		Status:    bastion.TaskStopped,
		Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:22"), netip.MustParseAddrPort("[2001:db8::2]:2222")},
		HostKey:   "ssh-ed25519 CCCC", MoreHostKeys: []bastion.Key{"ssh-rsa DDDD", "ssh-rsa EEEE"}, Generation: 1<<60 - 1, ReadyAt: at(10), EndedAt: at(11), Failure: failure,
	}
	rec.SeenAt, rec.Failing = at(19), bastion.Failing{Since: at(20), Refusal: failure}
	rec.Failures, rec.NextAttemptAt = 12, at(13)
	rec.FailureCodes = []bastion.FailureCode{bastion.FailureSpot, failure.Code}
	rec.Receipt = fullReceipt()
	rec.Notify, rec.LastNoticeVersion, rec.NotifyPendingSince = true, 1<<60+2, at(16)
	rec.LastNotice = bastion.Notice{
		State: bastion.Starting, Stage: texts[1], Attempt: 17, Source: netip.MustParsePrefix("192.0.2.3/32"), Deadline: at(18), Warning: true, Failure: failure.Code, Access: texts[2],
	}
	rec.DueAt = at(14)
}

func fullReceipt() bastion.Receipt {
	return bastion.Receipt{
		StartedAt: epoch, EndedAt: epoch.Add(time.Nanosecond), Connections: 1, Forwards: 2, Refusals: 3,
		BytesIn: 1 << 60, BytesOut: 1<<60 + 1, Unnamed: 4,
		Destinations: []bastion.Destination{{Name: "db.internal:5432", Forwards: 1, BytesIn: 2, BytesOut: 3}, {Name: texts[1]}},
	}
}

var storeValues = []storeCase{
	{"written values are read", func(t *testing.T, s bastion.Store) {
		rec := replace(t, s, create(t, s, newRecord(owner, "default")), func(r *bastion.Record) { full(r); closing(r) })
		allSet(t, rec, "Intent.Open")
		same(t, fetch(t, s, rec.ID), rec)
	}},
	{"zero values are read", func(t *testing.T, s bastion.Store) {
		rec := create(t, s, newRecord(owner, "default"))
		same(t, fetch(t, s, rec.ID), rec)
		got, err := s.FetchByName(t.Context(), owner, "default")
		noError(t, err)
		same(t, got, rec)
	}},
	{"values can be set back to zero", func(t *testing.T, s bastion.Store) {
		rec := newRecord(owner, "default")
		full(&rec)
		rec.Intent.Open, rec.FinishedAt = true, time.Time{}
		create(t, s, rec)
		same(t, fetch(t, s, rec.ID), rec)
		bare := newRecord(owner, "default")
		bare.ID, bare.Version = rec.ID, 2
		noError(t, s.Replace(t.Context(), rec, bare))
		same(t, fetch(t, s, rec.ID), bare)
	}},
	{"values are copied", func(t *testing.T, s bastion.Store) {
		rec := newRecord(owner, "default")
		rec.Intent.Keys = []bastion.Key{"ssh-ed25519 AAAA"}
		create(t, s, rec)
		rec.Intent.Keys[0] = "changed after the write"
		fetch(t, s, rec.ID).Intent.Keys[0] = "changed after the read"
		if got := fetch(t, s, rec.ID).Intent.Keys[0]; got != "ssh-ed25519 AAAA" {
			t.Errorf("the stored key is %q", got)
		}
	}},
	{"all texts are stored unchanged", func(t *testing.T, s bastion.Store) {
		for i, text := range texts {
			rec := newRecord(owner, fmt.Sprint("name-", i))
			rec.Intent.Reason = text
			create(t, s, rec)
			same(t, fetch(t, s, rec.ID), rec)
		}
	}},
	{"owners are separate", func(t *testing.T, s bastion.Store) {
		owners := []string{
			"iam:1:AROA:x@y", "iam:1:AROA", "jwt:https://i/#s", "jwt:https://i/", "slack:T1:U1", "local:a", "local:a#default",
			"local:Ünï ☃", "local:unï ☃", "LOCAL:A", "local:", "local:" + texts[3],
		}
		for _, o := range owners {
			create(t, s, newRecord(o, "default"))
			noError(t, s.RememberKey(t.Context(), o, bastion.Key("key of "+o)))
		}
		for _, o := range owners {
			recs, err := s.ListByOwner(t.Context(), o)
			noError(t, err)
			if len(recs) != 1 || recs[0].Owner != o {
				t.Errorf("the list of %q is %+v", o, recs)
			}
			key, err := s.RememberedKey(t.Context(), o)
			if noError(t, err); key != bastion.Key("key of "+o) {
				t.Errorf("the key of %q is the %s", o, key)
			}
		}
	}},
	{"the latest key is remembered", func(t *testing.T, s bastion.Store) {
		_, err := s.RememberedKey(t.Context(), owner)
		wantError(t, "key of an unknown owner", err, bastion.ErrNotFound)
		create(t, s, newRecord(owner, "default"))
		_, err = s.RememberedKey(t.Context(), owner)
		wantError(t, "key of an owner without one", err, bastion.ErrNotFound)
		for _, key := range []bastion.Key{"ssh-ed25519 AAAA", "ssh-ed25519 BBBB"} {
			noError(t, s.RememberKey(t.Context(), owner, key))
			got, err := s.RememberedKey(t.Context(), owner)
			if noError(t, err); got != key {
				t.Errorf("remembered %q, want %q", got, key)
			}
		}
	}},
	{"a mark keeps its first time until it is removed", func(t *testing.T, s bastion.Store) {
		noError(t, s.Unmark(t.Context(), "task/unknown"))
		for i, orphan := range []string{"group/sg-1", "task/" + texts[1]} {
			first := epoch.Add(time.Duration(i))
			for _, at := range []time.Time{first, first.Add(time.Hour)} {
				got, err := s.Mark(t.Context(), orphan, at)
				if noError(t, err); got != first {
					t.Errorf("%s was first marked at %v, want %v", orphan, got, first)
				}
			}
		}
		noError(t, s.Unmark(t.Context(), "group/sg-1"))
		marks, err := s.Marks(t.Context())
		if want := []string{"task/" + texts[1]}; err != nil || !slices.Equal(marks, want) {
			t.Errorf("marks %q, %v; want %q", marks, err, want)
		}
		again := epoch.Add(2 * time.Hour)
		if got, err := s.Mark(t.Context(), "group/sg-1", again); err != nil || got != again {
			t.Errorf("marked again at %v, %v", got, err)
		}
	}},
}

var storeLists = []storeCase{
	{"lists are ordered by age and omit finished records", func(t *testing.T, s bastion.Store) {
		var recs []bastion.Record
		for i, age := range []int{3, 1, 4, 2} {
			rec := newRecord(owner, fmt.Sprint("name-", i))
			rec.CreatedAt = epoch.Add(-time.Duration(age) * time.Minute)
			recs = append(recs, create(t, s, rec))
		}
		other := create(t, s, newRecord("local:other", "default"))
		recs[0] = replace(t, s, recs[0], closing)
		recs[3] = replace(t, s, replace(t, s, recs[3], closing), finishing)
		want := []bastion.Record{recs[2], recs[0], recs[1]}
		got, err := s.ListByOwner(t.Context(), owner)
		noError(t, err)
		same(t, got, want)
		eventually(t, storePatience, func() error { return listIs(t, s, append(want, other)) })
		same(t, fetch(t, s, recs[3].ID), recs[3])
	}},
	{"an empty store has empty lists", func(t *testing.T, s bastion.Store) {
		if got, err := s.ListByOwner(t.Context(), owner); err != nil || len(got) > 0 {
			t.Errorf("the owner's list is %v, %v", got, err)
		}
		if got, err := s.List(t.Context()); err != nil || len(got) > 0 {
			t.Errorf("the list is %v, %v", got, err)
		}
		if got, err := s.Due(t.Context(), epoch, 10); err != nil || len(got) > 0 {
			t.Errorf("due are %v, %v", got, err)
		}
		if got, err := s.Marks(t.Context()); err != nil || len(got) > 0 {
			t.Errorf("marked are %v, %v", got, err)
		}
	}},
	{"a list of more than 3 MB is complete", func(t *testing.T, s bastion.Store) {
		var want []bastion.Record
		for i := range 40 {
			rec := newRecord(owner, fmt.Sprint("name-", i))
			rec.CreatedAt = epoch.Add(time.Duration(i) * time.Second)
			for range bastion.MaxDestinations {
				rec.Receipt.Destinations = append(rec.Receipt.Destinations, bastion.Destination{Name: strings.Repeat("x", 400)})
			}
			want = append(want, create(t, s, rec))
		}
		got, err := s.ListByOwner(t.Context(), owner)
		noError(t, err)
		if !slices.Equal(ids(got), ids(want)) {
			t.Errorf("the owner's list has %d of %d records", len(got), len(want))
		}
		eventually(t, storePatience, func() error { return listIs(t, s, want) })
	}},
	{"due records are ordered and limited", func(t *testing.T, s bastion.Store) {
		at := func(seconds int) func(*bastion.Record) {
			return func(r *bastion.Record) { r.DueAt = epoch.Add(time.Duration(seconds) * time.Second) }
		}
		var recs []bastion.Record
		for i, seconds := range []int{30, 10, 20, 41, 5} {
			rec := newRecord(owner, fmt.Sprint("name-", i))
			at(seconds)(&rec)
			recs = append(recs, create(t, s, rec))
		}
		create(t, s, newRecord(owner, "never-due"))
		due := func(limit int, want ...bastion.Record) {
			t.Helper()
			eventually(t, storePatience, func() error { return dueIs(t, s, epoch.Add(40*time.Second), limit, want) })
		}
		due(10, recs[4], recs[1], recs[2], recs[0])
		due(2, recs[4], recs[1])
		recs[4] = replace(t, s, recs[4], func(r *bastion.Record) { r.DueAt = time.Time{} })
		recs[1] = replace(t, s, recs[1], at(40)) // just due
		recs[3] = replace(t, s, recs[3], at(25))
		due(10, recs[2], recs[3], recs[0], recs[1])
		recs[0] = replace(t, s, replace(t, s, recs[0], closing), finishing) // still due
		due(10, recs[2], recs[3], recs[0], recs[1])
	}},
}

func ids(recs []bastion.Record) []string {
	var all []string
	for _, rec := range recs {
		all = append(all, rec.ID)
	}
	return all
}

// listIs compares List with what it must return in the end.
func listIs(t *testing.T, s bastion.Store, want []bastion.Record) error {
	got, err := s.List(t.Context())
	if err == nil && !slices.Equal(ids(got), ids(want)) {
		err = fmt.Errorf("the list is %q, want %q", ids(got), ids(want))
	}
	return err
}

// dueIs compares Due with what it must return in the end.
func dueIs(t *testing.T, s bastion.Store, now time.Time, limit int, want []bastion.Record) error {
	got, err := s.Due(t.Context(), now, limit)
	if err == nil && !slices.Equal(got, ids(want)) {
		err = fmt.Errorf("due are %q, want %q", got, ids(want))
	}
	return err
}
