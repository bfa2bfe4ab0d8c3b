package bastion

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// A compromised task can report anything that JSON can express.
func TestHostileReportCannotSpoilTheRecord(t *testing.T) {
	east, west := time.FixedZone("", 86340), time.FixedZone("", -86340)
	valid := Report{
		HostKey: "ssh-ed25519 HOST", MoreHostKeys: []Key{"ssh-rsa MORE", "ssh-rsa MOREMORE"}, Generation: 1, Connections: 1, LastUsedAt: t0,
		ConsoleRequest: ConsoleRequest{Number: 1, Verb: VerbExtend, TTL: time.Hour}, Ending: Ending{Reason: EndIdle, Generation: 9},
		Receipt: Receipt{
			StartedAt: t0, EndedAt: t0.Add(time.Minute), Connections: 1, Forwards: 1, Refusals: 1, BytesIn: 1, BytesOut: 1, Unnamed: 1,
			Destinations: slices.Repeat([]Destination{{Name: strings.Repeat("x", MaxDestinationName), Forwards: 1, BytesIn: 1, BytesOut: 1}}, MaxDestinations),
		},
	}
	if got := valid.Bounded(); !reflect.DeepEqual(got, valid) {
		t.Errorf("a report of bastiond becomes\n%+v, want\n%+v", got, valid)
	}
	name := func(name string) func(*Report) {
		return func(r *Report) { r.Receipt.Destinations = []Destination{{Name: name}} }
	}
	noHostKeys := func(r *Report) { r.HostKey, r.MoreHostKeys = "", nil }
	for what, c := range map[string]struct{ change, want func(*Report) }{
		"a host key without base64":           {func(r *Report) { r.HostKey = "x" }, noHostKeys},
		"a host key of two lines":             {func(r *Report) { r.HostKey = "ssh-ed25519 HOST\nProxyCommand x" }, noHostKeys},
		"a host key that is too long":         {func(r *Report) { r.HostKey = Key("ssh-ed25519 " + strings.Repeat("AAAA", MaxHostKey/4)) }, noHostKeys},
		"further host keys without the first": {func(r *Report) { r.HostKey = "" }, noHostKeys},
		"further host keys that are invalid": {
			func(r *Report) {
				r.MoreHostKeys = []Key{"x", "ssh-rsa MORE\nProxyCommand x", Key("ssh-rsa " + strings.Repeat("AAAA", MaxHostKey/4))}
			},
			func(r *Report) { r.MoreHostKeys = nil },
		},
		"host keys that are repeated": {
			func(r *Report) { r.MoreHostKeys = []Key{"ssh-ed25519 HOST", "ssh-rsa MORE", "ssh-rsa MORE"} },
			func(r *Report) { r.MoreHostKeys = []Key{"ssh-rsa MORE"} },
		},
		"too many host keys": {
			func(r *Report) {
				r.MoreHostKeys = nil
				for n := range 9999 {
					r.MoreHostKeys = append(r.MoreHostKeys, Key(fmt.Sprintf("ssh-rsa %04d", n)))
				}
			},
			func(r *Report) { r.MoreHostKeys = []Key{"ssh-rsa 0000", "ssh-rsa 0001", "ssh-rsa 0002"} },
		},
		"an empty list of further host keys": {func(r *Report) { r.MoreHostKeys = []Key{} }, func(r *Report) { r.MoreHostKeys = nil }},
		"an unknown verb":                    {func(r *Report) { r.ConsoleRequest.Verb = "restart" }, func(r *Report) { r.ConsoleRequest.Verb = "" }},
		"a reason of no report":              {func(r *Report) { r.Ending.Reason = EndClosed }, func(r *Report) { r.Ending = Ending{} }},
		"an unknown reason":                  {func(r *Report) { r.Ending.Reason = "other" }, func(r *Report) { r.Ending = Ending{} }},
		"a time of another zone":             {func(r *Report) { r.LastUsedAt = t0.In(east) }, func(*Report) {}},
		"the year 10000":                     {func(r *Report) { r.LastUsedAt = time.Date(9999, 12, 31, 23, 59, 0, 0, west) }, func(r *Report) { r.LastUsedAt = time.Time{} }},
		"a start before the year 1":          {func(r *Report) { r.Receipt.StartedAt = time.Date(1, 1, 1, 0, 0, 0, 0, east) }, func(r *Report) { r.Receipt.StartedAt = time.Time{} }},
		"an end in the year 10000":           {func(r *Report) { r.Receipt.EndedAt = time.Date(9999, 12, 31, 23, 59, 0, 0, west) }, func(r *Report) { r.Receipt.EndedAt = time.Time{} }},
		"counts below zero":                  {func(r *Report) { r.Receipt.Connections, r.Receipt.Destinations[0].BytesIn = -1, -1 }, func(r *Report) { r.Receipt.Connections, r.Receipt.Destinations[0].BytesIn = 0, 0 }},
		"counts that could overflow":         {func(r *Report) { r.Receipt.Forwards, r.Receipt.BytesOut = math.MaxInt, math.MaxInt64 }, func(r *Report) { r.Receipt.Forwards, r.Receipt.BytesOut = maxCount, maxBytes }},
		"one destination too many":           {func(r *Report) { r.Receipt.Destinations = append(r.Receipt.Destinations, Destination{Name: "y"}) }, func(*Report) {}},
		"a name that is too long":            {name(strings.Repeat("x", MaxDestinationName+1)), name(strings.Repeat("x", MaxDestinationName))},
		"a name cut within a rune":           {name(strings.Repeat("x", MaxDestinationName-1) + "é"), name(strings.Repeat("x", MaxDestinationName-1))},
		"a name that is not UTF-8":           {name("a\xffb"), name("ab")},
		"control characters":                 {name("a\x01\x1b[2J\nb\u0085"), name("a[2Jb")},
	} {
		hostile, want := valid, valid
		hostile.Receipt.Destinations = slices.Clone(valid.Receipt.Destinations)
		want.Receipt.Destinations = slices.Clone(valid.Receipt.Destinations)
		c.change(&hostile)
		c.want(&want)
		if got := hostile.Bounded(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s becomes\n%+v, want\n%+v", what, got, want)
		}
		seen := inUse(1)
		seen.Lease.Report = hostile
		seen.Lease.Report.Ending, seen.Lease.Report.ConsoleRequest = Ending{}, ConsoleRequest{}
		seen.Tasks = stopped(0) // so that Decide copies the receipt
		next := Decide(testConfig, with(created(), hasGroup, running), seen, t0.Add(time.Minute)).Next
		if data, err := json.Marshal(next); err != nil || len(data) > 200_000 || !reflect.DeepEqual(next.Receipt, want.Receipt) {
			t.Errorf("%s: the record has %d bytes, %v, and the receipt\n%+v", what, len(data), err, next.Receipt)
		}
	}
}

// Every number of two receipts is added, also those of a destination that is in both.
func TestReceiptsAreAdded(t *testing.T) {
	one := Receipt{
		StartedAt: t0, EndedAt: t0.Add(time.Minute), Connections: 1, Forwards: 2, Refusals: 3, BytesIn: 4, BytesOut: 5, Unnamed: 6,
		Destinations: []Destination{{Name: "db:5432", Forwards: 7, BytesIn: 8, BytesOut: 9}},
	}
	two := Receipt{
		StartedAt: t0.Add(2 * time.Minute), EndedAt: t0.Add(3 * time.Minute), Connections: 10, Forwards: 20, Refusals: 30, BytesIn: 40, BytesOut: 50, Unnamed: 60,
		Destinations: []Destination{{Name: "web:443", Forwards: 1, BytesIn: 2, BytesOut: 3}, {Name: "db:5432", Forwards: 70, BytesIn: 80, BytesOut: 90}},
	}
	want := Receipt{
		StartedAt: t0, EndedAt: t0.Add(3 * time.Minute), Connections: 11, Forwards: 22, Refusals: 33, BytesIn: 44, BytesOut: 55, Unnamed: 66,
		Destinations: []Destination{{Name: "db:5432", Forwards: 77, BytesIn: 88, BytesOut: 99}, {Name: "web:443", Forwards: 1, BytesIn: 2, BytesOut: 3}},
	}
	if got := one.Merge(two); !reflect.DeepEqual(got, want) {
		t.Errorf("the sum is\n%+v, want\n%+v", got, want)
	}
	if got := (Receipt{}).Merge(one); !reflect.DeepEqual(got, one) {
		t.Errorf("nothing and a receipt are %+v", got)
	}
	if got := one.Merge(Receipt{}); !reflect.DeepEqual(got, one) {
		t.Errorf("a receipt and nothing are %+v", got)
	}
	sum := one
	sum.Destinations = slices.Clone(one.Destinations)
	sum.Add(Destination{Name: "db:5432", Forwards: 1, BytesIn: 2, BytesOut: 3})
	if sum.Forwards != 3 || sum.BytesIn != 6 || sum.BytesOut != 8 || sum.Destinations[0] != (Destination{Name: "db:5432", Forwards: 8, BytesIn: 10, BytesOut: 12}) {
		t.Errorf("with a forward: %+v", sum)
	}
}

func TestShortestTTLIsASecond(t *testing.T) {
	for ttl, want := range map[time.Duration]bool{time.Second - 1: false, time.Second: true} {
		if err := checkTTL(ttl); (err == nil) != want {
			t.Errorf("%s: %v", ttl, err)
		}
	}
}
