package awscloud

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/upgrade"
)

// earlierItem reads an item as the earlier version stored it. These files are the golden
// items of the commit that internal/test/upgrade names; the conformance tests compare them
// with that commit.
func earlierItem(t *testing.T, name string) item {
	t.Helper()
	stored, err := os.ReadFile(filepath.Join("testdata", "earlier", name))
	must(t, err)
	return unmarshalItem(t, stored)
}

// This version decodes each item of the earlier version and writes it again. The new item
// has all values of the old one: no field was renamed, removed or given another form.
func TestItemsOfEarlierVersionAreReadAndKept(t *testing.T) {
	leases := NewLeases(nil, "leases", "AROA", nil)
	asRecord := func(t *testing.T, stored item) item {
		rec, err := decodeRecord(stored)
		must(t, err)
		return recordItem(t, rec)
	}
	asLease := func(t *testing.T, stored item) item {
		got := leases.decode(stored)
		if got.TaskID != "task" || got.BastionID == "" || got.Ended || got.Lease.Generation == 0 {
			t.Fatalf("the item is decoded as %+v", got)
		}
		lease, err := decodeLease(stored[attLease]) // as the task decodes it
		must(t, err)
		return leaseItem(t, lease, got.Report)
	}
	asTombstone := func(t *testing.T, stored item) item {
		got := leases.decode(stored)
		if !got.Ended {
			t.Fatalf("the item is decoded as %+v", got)
		}
		return leases.tombstone(got.TaskID, got.BastionID, time.Date(2030, 1, 2, 3, 0, 5, 0, time.UTC))
	}
	forms := map[string]func(*testing.T, item) item{
		"record.json": asRecord, "record-finished.json": asRecord,
		"lease-and-report.json": asLease, "lease-closed.json": asLease, "tombstone.json": asTombstone,
	}
	files, err := os.ReadDir(filepath.Join("testdata", "earlier"))
	must(t, err)
	if len(files) != len(forms) {
		t.Errorf("testdata/earlier has %d files, want %d", len(files), len(forms))
	}
	for _, file := range files {
		t.Run(file.Name(), func(t *testing.T) {
			stored := earlierItem(t, file.Name())
			rewrite, ok := forms[file.Name()]
			if !ok {
				t.Fatal("the test does not know what this file is")
			}
			for _, path := range lostAttributes(t, stored, rewrite(t, stored)) {
				t.Errorf("this version does not keep %s", path)
			}
		})
	}
}

// lostAttributes returns what an item lacks of an earlier item. Documents are compared
// value by value.
func lostAttributes(t *testing.T, before, after item) (paths []string) {
	t.Helper()
	for name, was := range before {
		if slices.Contains([]string{attRecord, attLease, attReport}, name) {
			lost, err := upgrade.Lost([]byte(toText(was)), []byte(toText(after[name])))
			must(t, err)
			for _, path := range lost {
				paths = append(paths, name+path)
			}
			continue
		}
		one, err := json.Marshal(was)
		must(t, err)
		other, err := json.Marshal(after[name])
		must(t, err)
		if string(one) != string(other) {
			paths = append(paths, name)
		}
	}
	return paths
}

// The comparison must notice a document that has lost a value, and a lost attribute.
func TestLostAttributesAreNoticed(t *testing.T) {
	stored := earlierItem(t, "record.json")
	rec, err := decodeRecord(stored)
	must(t, err)
	rec.Attempt.Subnet, rec.DueAt = "", time.Time{}
	got := lostAttributes(t, stored, recordItem(t, rec))
	slices.Sort(got)
	want := []string{attDueAt, attDueShard, attRecord + "/attempt/subnet", attRecord + "/due_at"}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("noticed %q, want %q", got, want)
	}
}
