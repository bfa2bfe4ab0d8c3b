package leasefile

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

func TestReadReturnsTheGrantedLease(t *testing.T) {
	d := Dir(t.TempDir())
	if _, err := d.Read(t.Context()); !errors.Is(err, bastion.ErrNotFound) {
		t.Fatalf("Read without a lease: %v, want ErrNotFound", err)
	}
	want := bastion.Lease{
		BastionID: "b", Owner: "local:alice", Name: "default", Generation: 3, Open: true,
		Source: netip.MustParsePrefix("127.0.0.1/32"), Keys: []bastion.Key{"ssh-ed25519 AAAA"},
		Deadline: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), IdleTimeout: time.Minute,
		AllowedDestinations: []bastion.DestinationRule{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), From: 8000, To: 8099}},
		ConsoleReply:        bastion.ConsoleReply{Number: 1, Message: "yes"},
	}
	if err := d.Grant(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.Read(t.Context())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("Read: %+v, %v; want %+v", got, err, want)
	}
}

func TestReportChecksTheEnding(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.Report(t.Context(), bastion.Report{Generation: 1}); !errors.Is(err, bastion.ErrNotFound) {
		t.Fatalf("Report without a lease: %v, want ErrNotFound", err)
	}
	if _, err := d.Reported(); !errors.Is(err, bastion.ErrNotFound) {
		t.Fatalf("a report was written without a lease: %v", err)
	}
	grant := func(generation int64) {
		t.Helper()
		if err := d.Grant(bastion.Lease{Generation: generation}); err != nil {
			t.Fatal(err)
		}
	}
	ending := func(generation int64) bastion.Report {
		return bastion.Report{Ending: bastion.Ending{Reason: bastion.EndIdle, Generation: generation}}
	}
	steps := []struct {
		name   string
		lease  int64
		report bastion.Report
		want   error
	}{
		{"report without an ending", 1, bastion.Report{Generation: 1, Connections: 2}, nil},
		{"ending of an older lease", 2, ending(1), bastion.ErrConflict},
		{"ending of this lease", 2, ending(2), nil},
		{"same ending again after a newer lease", 3, ending(2), nil},
		{"report without the ending", 3, bastion.Report{Generation: 3}, nil},
		{"ending of an older lease that is not stored any more", 3, ending(2), bastion.ErrConflict},
	}
	for _, step := range steps {
		grant(step.lease)
		before, _ := d.Reported()
		if err := d.Report(t.Context(), step.report); !errors.Is(err, step.want) {
			t.Fatalf("%s: %v, want %v", step.name, err, step.want)
		}
		want := step.report
		if step.want != nil {
			want = before
		}
		if got, _ := d.Reported(); !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %+v is stored, want %+v", step.name, got, want)
		}
	}
}

func TestReadRefusesIncompleteJSON(t *testing.T) {
	d := Dir(t.TempDir())
	if err := os.WriteFile(filepath.Join(string(d), LeaseName), []byte(`{"generation":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read(t.Context()); err == nil || errors.Is(err, bastion.ErrNotFound) {
		t.Fatalf("Read: %v, want an error that is not ErrNotFound", err)
	}
}

func TestWritesLeaveNoTemporaryFiles(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.Grant(bastion.Lease{Generation: 1}); err != nil {
		t.Fatal(err)
	}
	if err := d.Report(t.Context(), bastion.Report{}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(string(d))
	if err != nil || len(entries) != 2 {
		t.Fatalf("the directory contains %v, %v; want the two files", entries, err)
	}
}
