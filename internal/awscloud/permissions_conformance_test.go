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

// allowed is a transport that fails the test if a call needs a permission that is not
// granted. The conformance suites make calls that the system test does not make.
type allowed struct {
	http.RoundTripper
	t       *testing.T
	in      privilege.Deployment // the resources of the calls
	userID  string               // of a task; empty for a function
	granted []privilege.Permission
}

func (a allowed) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	calls, err := a.in.Calls(r, body, a.userID)
	if err == nil {
		err = a.check(calls)
	}
	if err != nil {
		a.t.Error(err)
		return nil, err
	}
	sent := r.Clone(r.Context())
	sent.Body = io.NopCloser(bytes.NewReader(body))
	return a.RoundTripper.RoundTrip(sent)
}

func (a allowed) check(calls []privilege.Call) error {
	needed, err := privilege.Expand(calls)
	if err != nil {
		return err
	}
	if missing, _ := privilege.Compare(a.granted, needed); len(missing) > 0 {
		return fmt.Errorf("no role grants %v", missing)
	}
	return nil
}

// granted returns the permissions of the roles in template.yaml, by role.
func granted(t *testing.T) map[string][]privilege.Permission {
	t.Helper()
	template, err := emulator.Transformed()
	must(t, err)
	all, err := privilege.Granted(template)
	must(t, err)
	return all
}

// ofFunctions returns the permissions of all functions' roles together.
func ofFunctions(t *testing.T) []privilege.Permission {
	t.Helper()
	all := granted(t)
	delete(all, "TaskRole")
	return slices.Concat(slices.Collect(maps.Values(all))...)
}

// clientWith returns a client with these permissions for one table. name is the
// table's logical ID in template.yaml.
func (r dynamo) clientWith(t *testing.T, granted []privilege.Permission, userID, table, name string) *dynamodb.Client {
	t.Helper()
	return r.client(t, func(next http.RoundTripper) http.RoundTripper {
		return allowed{next, t, privilege.Deployment{Tables: map[string]string{table: name}}, userID, granted}
	})
}

// allowedStore returns a store with the permissions of the functions' roles.
func (r dynamo) allowedStore(t *testing.T) *Store {
	table := r.table(t, RecordsSchema())
	return NewStore(r.clientWith(t, ofFunctions(t), "", table, "RecordsTable"), table, history, rand.Reader)
}

// allowedLeases returns both sides of a lease table: the control plane's with the
// permissions of the functions' roles, and a task's with those of the task role.
func (r dynamo) allowedLeases(t *testing.T) cloudtest.LeasesHarness {
	table, n := r.table(t, LeasesSchema()), 0
	return cloudtest.LeasesHarness{
		Leases: NewLeases(r.clientWith(t, ofFunctions(t), "", table, "LeasesTable"), table, roleID, rand.Reader),
		Start: func(t *testing.T) (string, bastion.TaskLease) {
			n++
			taskID := fmt.Sprintf("%032x", n)
			client := r.clientWith(t, granted(t)["TaskRole"], taskItemKey(roleID, taskID), table, "LeasesTable")
			return taskID, NewTaskLease(client, table, roleID, taskID)
		},
	}
}
