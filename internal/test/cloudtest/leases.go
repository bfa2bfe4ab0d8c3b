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

// LeasesHarness is one table for the suite of bastion.Leases and bastion.TaskLease.
type LeasesHarness struct {
	Leases bastion.Leases
	// Start returns a new task's ID and its side of the table.
	Start func(t *testing.T) (taskID string, lease bastion.TaskLease)
}

// Leases is the conformance suite of the table of leases, from both sides. open
// returns an empty table for the test.
func Leases(t *testing.T, open func(t *testing.T) LeasesHarness) {
	for _, c := range slices.Concat(leaseValues, leaseConditions, leaseRaces) {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

type leaseCase struct {
	name string
	run  func(t *testing.T, h LeasesHarness)
}

const leased = "bbbbbbbbbbbbbbbb"

// openLease and closedLease return a lease of that generation.
func openLease(generation int64) bastion.Lease {
	return bastion.Lease{BastionID: leased, Generation: generation, Open: true}
}

func closedLease(generation int64) bastion.Lease {
	return bastion.Lease{BastionID: leased, Generation: generation, EndReason: bastion.EndClosed}
}

// idleAt returns a report that the task ends because it is idle.
func idleAt(generation int64) bastion.Report {
	return bastion.Report{Generation: generation, Ending: bastion.Ending{Reason: bastion.EndIdle, Generation: generation}}
}

// start starts a task and writes its leases in order.
func (h LeasesHarness) start(t *testing.T, leases ...bastion.Lease) (string, bastion.TaskLease) {
	t.Helper()
	taskID, own := h.Start(t)
	for _, lease := range leases {
		noError(t, h.Leases.Write(t.Context(), taskID, lease))
	}
	return taskID, own
}

func (h LeasesHarness) fetch(t *testing.T, taskID string) bastion.LeaseItem {
	t.Helper()
	item, err := h.Leases.Fetch(t.Context(), taskID)
	noError(t, err)
	return item
}

func fullLease() bastion.Lease {
	return bastion.Lease{
		BastionID: leased, Owner: "local:" + texts[1], Name: "default", Generation: 1 << 60, Open: true,
		EndReason: bastion.EndClosed, Source: sourceV6, Keys: []bastion.Key{"ssh-ed25519 AAAA", "ssh-rsa BBBB"},
		KeySources: keySources,
		Deadline:   epoch, IdleTimeout: time.Nanosecond,
		AllowedDestinations: []bastion.DestinationRule{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), From: 5432, To: 5432}, {Prefix: netip.MustParsePrefix("fd00::/8")}},
		ConsoleReply:        bastion.ConsoleReply{Number: 1, Code: bastion.CodeTTLBeyondCap, Message: texts[3]},
	}
}

func fullReport() bastion.Report {
	return bastion.Report{
		HostKey: "ssh-ed25519 CCCC", MoreHostKeys: []bastion.Key{"ssh-rsa DDDD", "ssh-rsa EEEE"}, Generation: 1 << 60, Connections: 2, LastUsedAt: epoch,
		ConsoleRequest: bastion.ConsoleRequest{Number: 3, Verb: bastion.VerbExtend, TTL: time.Hour + time.Nanosecond},
		Ending:         bastion.Ending{Reason: bastion.EndIdle, Generation: 1 << 60},
		Receipt:        fullReceipt(),
	}
}

var leaseValues = []leaseCase{
	{"written values are read", func(t *testing.T, h LeasesHarness) {
		want := bastion.LeaseItem{BastionID: leased, Lease: fullLease(), Report: fullReport()}
		var own bastion.TaskLease
		want.TaskID, own = h.start(t, want.Lease)
		noError(t, own.Report(t.Context(), want.Report))
		allSet(t, want, "Ended")
		same(t, h.fetch(t, want.TaskID), want)
		lease, err := own.Read(t.Context())
		noError(t, err)
		same(t, lease, want.Lease)
		items, err := h.Leases.List(t.Context())
		noError(t, err)
		same(t, items, []bastion.LeaseItem{want})
	}},
	{"zero values are read", func(t *testing.T, h LeasesHarness) {
		taskID, own := h.start(t, fullLease())
		noError(t, own.Report(t.Context(), fullReport()))
		noError(t, h.Leases.Write(t.Context(), taskID, closedLease(1<<60+1)))
		noError(t, own.Report(t.Context(), bastion.Report{}))
		same(t, h.fetch(t, taskID), bastion.LeaseItem{TaskID: taskID, BastionID: leased, Lease: closedLease(1<<60 + 1)})
	}},
	{"values are copied", func(t *testing.T, h LeasesHarness) {
		lease, report := fullLease(), fullReport()
		taskID, own := h.start(t, lease)
		noError(t, own.Report(t.Context(), report))
		lease.Keys[0], lease.AllowedDestinations[0].Prefix = "changed after the write", sourceV4
		report.Receipt.Destinations[0].Name = "changed after the write"
		item := h.fetch(t, taskID)
		item.Lease.Keys[0], item.Report.Receipt.Destinations[0].Name = "changed after the read", "changed after the read"
		same(t, h.fetch(t, taskID), bastion.LeaseItem{TaskID: taskID, BastionID: leased, Lease: fullLease(), Report: fullReport()})
	}},
	{"a task without a lease reads and writes nothing", func(t *testing.T, h LeasesHarness) {
		taskID, own := h.Start(t)
		_, err := own.Read(t.Context())
		wantError(t, "read", err, bastion.ErrNotFound)
		wantError(t, "report", own.Report(t.Context(), fullReport()), bastion.ErrNotFound)
		_, err = h.Leases.Fetch(t.Context(), taskID)
		wantError(t, "fetch", err, bastion.ErrNotFound)
	}},
	{"a task reads and writes only its own item", func(t *testing.T, h LeasesHarness) {
		first, own := h.start(t, openLease(1))
		second, others := h.start(t, openLease(2))
		noError(t, own.Report(t.Context(), bastion.Report{Generation: 1}))
		if got := h.fetch(t, second).Report; got.Generation != 0 {
			t.Errorf("the other task's report is %+v", got)
		}
		lease, err := others.Read(t.Context())
		if noError(t, err); lease.Generation != 2 || h.fetch(t, first).Report.Generation != 1 {
			t.Errorf("a task has read or written the other task's item")
		}
	}},
	{"a list of more than 1 MB is complete", func(t *testing.T, h LeasesHarness) {
		var want []string
		report := bastion.Report{}
		for range bastion.MaxDestinations {
			report.Receipt.Destinations = append(report.Receipt.Destinations, bastion.Destination{Name: strings.Repeat("x", 400)})
		}
		for range 15 {
			taskID, own := h.start(t, openLease(1))
			noError(t, own.Report(t.Context(), report))
			want = append(want, taskID)
		}
		items, err := h.Leases.List(t.Context())
		noError(t, err)
		var got []string
		for _, item := range items {
			got = append(got, item.TaskID)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("listed %d, want %d", len(got), len(want))
		}
	}},
}

var leaseConditions = []leaseCase{
	{"only a newer generation is written", func(t *testing.T, h LeasesHarness) {
		taskID, own := h.start(t, openLease(3))
		noError(t, own.Report(t.Context(), bastion.Report{Connections: 1}))
		for _, generation := range []int64{2, 3} {
			err := h.Leases.Write(t.Context(), taskID, closedLease(generation))
			wantError(t, fmt.Sprint("generation ", generation, " after 3"), err, bastion.ErrConflict)
		}
		noError(t, h.Leases.Write(t.Context(), taskID, closedLease(4)))
		item := h.fetch(t, taskID)
		same(t, item.Lease, closedLease(4))
		if item.Report.Connections != 1 {
			t.Errorf("the report was lost: %+v", item.Report)
		}
	}},
	{"a tombstone accepts no lease and no report", func(t *testing.T, h LeasesHarness) {
		taskID, own := h.start(t, openLease(1))
		for range 2 {
			noError(t, h.Leases.End(t.Context(), taskID, leased, time.Now().Add(time.Hour)))
			h.expectTombstone(t, taskID, own)
		}
	}},
	{"a tombstone can precede the first lease", func(t *testing.T, h LeasesHarness) {
		taskID, own := h.Start(t)
		noError(t, h.Leases.End(t.Context(), taskID, leased, time.Now().Add(time.Hour)))
		h.expectTombstone(t, taskID, own)
	}},
	{"a task that is ending accepts no open lease", func(t *testing.T, h LeasesHarness) {
		taskID, own := h.start(t, openLease(1))
		noError(t, own.Report(t.Context(), idleAt(1)))
		wantError(t, "open", h.Leases.Write(t.Context(), taskID, openLease(2)), bastion.ErrConflict)
		same(t, h.fetch(t, taskID).Lease, openLease(1))
		noError(t, h.Leases.Write(t.Context(), taskID, closedLease(2)))
		last := idleAt(1) // the stored ending: no condition
		last.Receipt = fullReceipt()
		noError(t, own.Report(t.Context(), last))
		same(t, h.fetch(t, taskID).Report, last)
	}},
	{"an ending of an older generation is a conflict", func(t *testing.T, h LeasesHarness) {
		taskID, own := h.start(t, openLease(1))
		before := bastion.Report{Generation: 1, Connections: 1}
		noError(t, own.Report(t.Context(), before))
		noError(t, h.Leases.Write(t.Context(), taskID, openLease(2)))
		wantError(t, "ending", own.Report(t.Context(), idleAt(1)), bastion.ErrConflict)
		same(t, h.fetch(t, taskID).Report, before)
		noError(t, own.Report(t.Context(), bastion.Report{Generation: 1})) // without an ending: no condition
		noError(t, own.Report(t.Context(), idleAt(2)))
	}},
}

// expectTombstone checks that the task's item is a tombstone.
func (h LeasesHarness) expectTombstone(t *testing.T, taskID string, own bastion.TaskLease) {
	t.Helper()
	_, err := own.Read(t.Context())
	wantError(t, "read", err, bastion.ErrNotFound)
	wantError(t, "report", own.Report(t.Context(), fullReport()), bastion.ErrNotFound)
	wantError(t, "write", h.Leases.Write(t.Context(), taskID, closedLease(9)), bastion.ErrConflict)
	if item := h.fetch(t, taskID); !item.Ended || item.BastionID != leased || item.TaskID != taskID {
		t.Errorf("the tombstone is %+v", item)
	}
	items, err := h.Leases.List(t.Context())
	if noError(t, err); len(items) > 0 {
		t.Errorf("listed %+v", items)
	}
}

var leaseRaces = []leaseCase{
	{"of a concurrent ending and newer lease, one succeeds", func(t *testing.T, h LeasesHarness) {
		for range 32 {
			taskID, own := h.start(t, openLease(1))
			var errs [2]error
			together(2, func(i int) {
				if i == 0 {
					errs[i] = h.Leases.Write(t.Context(), taskID, openLease(2))
				} else {
					errs[i] = own.Report(t.Context(), idleAt(1))
				}
			})
			if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[:]...), bastion.ErrConflict) {
				t.Fatalf("the lease: %v; the ending: %v", errs[0], errs[1])
			}
			item := h.fetch(t, taskID)
			if renewed := item.Lease.Generation == 2; renewed != (errs[0] == nil) || renewed == (item.Report.Ending.Reason != "") {
				t.Fatalf("the item is %+v", item)
			}
		}
	}},
	{"concurrent leases and reports lose no update", func(t *testing.T, h LeasesHarness) {
		taskID, own := h.start(t, openLease(1))
		together(2, func(side int) {
			for n := 2; n <= 32; n++ {
				var err error
				if side == 0 {
					err = h.Leases.Write(t.Context(), taskID, openLease(int64(n)))
				} else {
					err = own.Report(t.Context(), bastion.Report{Connections: n})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
		item := h.fetch(t, taskID)
		if item.Lease.Generation != 32 || item.Report.Connections != 32 {
			t.Errorf("the item is %+v", item)
		}
	}},
}

// keySources has the sources of two keys.
var keySources = []bastion.KeySources{
	{Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28"), netip.MustParsePrefix("2001:db8::1/128")}, Named: true},
	{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}},
}
