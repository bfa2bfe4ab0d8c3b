//go:build conformance

package awscloud

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
	"github.com/bastion-on-demand/bastion/internal/test/emulator"
	"github.com/bastion-on-demand/bastion/internal/test/privilege"
)

// allowed fails the test on a call that no role allows to whom it stands for: in a
// suite, an adapter goes ways that no function takes every day.
type allowed struct {
	http.RoundTripper
	t       *testing.T
	in      privilege.Deployment
	userID  string // of a task
	granted []privilege.Permission
}

func (a allowed) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	calls, err := a.in.Calls(r, body, a.userID)
	if err == nil {
		err = a.judge(calls)
	}
	if err != nil {
		a.t.Error(err)
		return nil, err
	}
	sent := r.Clone(r.Context())
	sent.Body = io.NopCloser(bytes.NewReader(body))
	return a.RoundTripper.RoundTrip(sent)
}

func (a allowed) judge(calls []privilege.Call) error {
	needed, err := privilege.Expand(calls)
	if err != nil {
		return err
	}
	if tooFew, _ := privilege.Compare(a.granted, needed); len(tooFew) > 0 {
		return fmt.Errorf("no role grants %v", tooFew)
	}
	return nil
}

// granted is what the roles of template.yaml grant, by their names.
func granted(t *testing.T) map[string][]privilege.Permission {
	t.Helper()
	template, err := emulator.Transformed()
	must(t, err)
	all, err := privilege.Granted(template)
	must(t, err)
	return all
}

// ofFunctions is what any function's role grants; the task's is not among it.
func ofFunctions(t *testing.T) []privilege.Permission {
	t.Helper()
	all := granted(t)
	delete(all, "TaskRole")
	return slices.Concat(slices.Collect(maps.Values(all))...)
}

// as makes a client for whoever has these permissions, and for one table, which
// template.yaml calls by that name.
func (r dynamo) as(t *testing.T, granted []privilege.Permission, userID, table, name string) *dynamodb.Client {
	t.Helper()
	return r.client(t, func(next http.RoundTripper) http.RoundTripper {
		return allowed{next, t, privilege.Deployment{Tables: map[string]string{table: name}}, userID, granted}
	})
}

func (r dynamo) allowedStore(t *testing.T) *Store {
	table := r.table(t, RecordsSchema())
	return NewStore(r.as(t, ofFunctions(t), "", table, "RecordsTable"), table, history, rand.Reader)
}

// allowedLeases is both sides of a table, each with what its own roles grant.
func (r dynamo) allowedLeases(t *testing.T) cloudtest.LeasesHarness {
	table, n := r.table(t, LeasesSchema()), 0
	return cloudtest.LeasesHarness{
		Leases: NewLeases(r.as(t, ofFunctions(t), "", table, "LeasesTable"), table, roleID, rand.Reader),
		Start: func(t *testing.T) (string, bastion.TaskLease) {
			n++
			taskID := fmt.Sprintf("%032x", n)
			client := r.as(t, granted(t)["TaskRole"], leaseKey(roleID, taskID), table, "LeasesTable")
			return taskID, NewTaskLease(client, table, roleID, taskID)
		},
	}
}
