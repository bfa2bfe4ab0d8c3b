// Package leasefile keeps a task's lease in a directory, to run bastiond manually:
// lease.json is a [bastion.Lease] that you write, report.json the [bastion.Report]
// that the task writes.
//
// It is for development. The check of an ending against lease.json and the write of
// report.json are two steps, between which lease.json can change; the table of
// leases does both in one.
package leasefile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The files in the directory.
const (
	LeaseName  = "lease.json"
	ReportName = "report.json"
)

// Dir is the path of the directory of one task.
type Dir string

var _ bastion.TaskLease = Dir("")

// Read returns the lease in lease.json, or ErrNotFound if there is no such file.
func (d Dir) Read(context.Context) (bastion.Lease, error) {
	var lease bastion.Lease
	err := d.read(LeaseName, &lease)
	return lease, err
}

// Report replaces report.json. ErrNotFound: there is no lease.json. ErrConflict:
// the report has an ending that report.json does not have, and lease.json has
// another generation than that ending.
func (d Dir) Report(ctx context.Context, report bastion.Report) error {
	lease, err := d.Read(ctx)
	if err != nil {
		return err
	}
	if report.Ending != (bastion.Ending{}) && report.Ending.Generation != lease.Generation {
		stored, err := d.Reported()
		if err != nil && !errors.Is(err, bastion.ErrNotFound) {
			return err
		}
		if stored.Ending != report.Ending {
			return fmt.Errorf("write %s: the lease has generation %d, the ending %d: %w",
				ReportName, lease.Generation, report.Ending.Generation, bastion.ErrConflict)
		}
	}
	return d.write(ReportName, report)
}

// Reported returns the report in report.json, or ErrNotFound.
func (d Dir) Reported() (bastion.Report, error) {
	var report bastion.Report
	err := d.read(ReportName, &report)
	return report, err
}

// Grant writes lease.json.
func (d Dir) Grant(lease bastion.Lease) error { return d.write(LeaseName, lease) }

func (d Dir) read(name string, into any) error {
	data, err := os.ReadFile(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", d.path(name), bastion.ErrNotFound)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read %s: %w", d.path(name), err)
	}
	return nil
}

// write replaces a file atomically.
func (d Dir) write(name string, value any) error {
	data, err := json.MarshalIndent(value, "", "\t")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	f, err := os.CreateTemp(string(d), "."+name+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), d.path(name))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func (d Dir) path(name string) string { return filepath.Join(string(d), name) }
