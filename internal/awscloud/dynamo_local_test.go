//go:build conformance

package awscloud

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// dynamoLocal is where scripts/referees puts DynamoDB Local.
const dynamoLocal = "../../.tools/dynamodb-local-3.1.0/lib"

// untilStdinEnds keeps a program from outliving the test, however that ends.
const untilStdinEnds = `"$@" </dev/null & pid=$!; cat >/dev/null; kill -9 $pid; wait $pid 2>/dev/null`

// referee is a DynamoDB Local of the test's own.
type referee struct {
	cfg aws.Config
	url string
}

func startDynamoDB(t *testing.T) referee {
	t.Helper()
	lib, err := filepath.Abs(dynamoLocal)
	must(t, err)
	if _, err := os.Stat(lib); err != nil {
		t.Fatalf("%v: run scripts/referees first", err)
	}
	port := freePort(t)
	java := exec.Command("sh", "-c", untilStdinEnds, "sh",
		"java", "-Xmx768m", "-Djava.library.path="+lib, "-cp", lib+"/*",
		"software.amazon.dynamodb.services.local.main.ServerRunner",
		"-inMemory", "-disableTelemetry", "-port", fmt.Sprint(port))
	java.Dir = t.TempDir()
	var output bytes.Buffer
	java.Stdout, java.Stderr = &output, &output
	stdin, err := java.StdinPipe()
	must(t, err)
	must(t, java.Start())
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = java.Wait() // it was killed
		if t.Failed() {
			t.Logf("DynamoDB Local said:\n%s", &output)
		}
	})
	r := referee{url: fmt.Sprintf("http://127.0.0.1:%d", port), cfg: aws.Config{
		Region: "us-east-1",
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "local", SecretAccessKey: "local"}, nil
		}),
	}}
	r.await(t)
	return r
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// await waits until it answers.
func (r referee) await(t *testing.T) {
	t.Helper()
	client := r.client(t, nil)
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for giveUp := time.Now().Add(time.Minute); ; <-look.C {
		_, err := client.ListTables(t.Context(), &dynamodb.ListTablesInput{}, func(o *dynamodb.Options) { o.Retryer = aws.NopRetryer{} })
		if err == nil {
			return
		}
		if time.Now().After(giveUp) {
			t.Fatalf("DynamoDB Local does not answer: %v", err)
		}
	}
}

// client is the real one, but for its end point and connections. through, if any,
// stands between it and the network.
func (r referee) client(t *testing.T, through func(http.RoundTripper) http.RoundTripper) *dynamodb.Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	var way http.RoundTripper = transport
	if through != nil {
		way = through(transport)
	}
	return NewDynamoDB(r.cfg, func(o *dynamodb.Options) {
		o.BaseEndpoint = &r.url
		o.HTTPClient = &http.Client{Transport: way, Timeout: 20 * time.Second} // a loaded machine
	})
}

var tables atomic.Int64

func (r referee) table(t *testing.T, schema dynamodb.CreateTableInput) string {
	t.Helper()
	name := fmt.Sprint("table-", tables.Add(1))
	must(t, CreateTable(t.Context(), r.client(t, nil), name, schema))
	return name
}

const (
	history = 90 * 24 * time.Hour
	roleID  = "AROAEXAMPLE"
)

func (r referee) store(t *testing.T, api RecordsAPI) *Store {
	t.Helper()
	return NewStore(api, r.table(t, RecordsSchema()), history, rand.Reader)
}

// leases is both sides of a new table.
func (r referee) leases(t *testing.T, api LeasesAPI) (*Leases, func() (string, *TaskLease)) {
	t.Helper()
	l := NewLeases(api, r.table(t, LeasesSchema()), roleID, rand.Reader)
	client := r.client(t, nil)
	n := 0
	return l, func() (string, *TaskLease) {
		n++
		taskID := fmt.Sprintf("%032x", n)
		return taskID, NewTaskLease(client, l.table, roleID, taskID)
	}
}

var (
	_ RecordsAPI   = (*dynamodb.Client)(nil)
	_ LeasesAPI    = (*dynamodb.Client)(nil)
	_ TaskLeaseAPI = (*dynamodb.Client)(nil)
)

// epoch is when the tests' records were made.
var epoch = time.Date(2030, 1, 2, 3, 4, 5, 678900001, time.UTC)

var madeIDs atomic.Int64

func newRecord(owner, name string) bastion.Record {
	return bastion.Record{
		ID: fmt.Sprintf("bastion%09d", madeIDs.Add(1)), Owner: owner, Name: name, CreatedAt: epoch, Version: 1,
		Intent: bastion.Intent{Generation: 1, Open: true},
	}
}

// changed is the record's next version.
func changed(rec bastion.Record, change func(*bastion.Record)) bastion.Record {
	rec.Version++
	change(&rec)
	return rec
}
