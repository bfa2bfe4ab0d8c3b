//go:build conformance

package lambdamode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/localcloud"
	"github.com/bastion-on-demand/bastion/internal/test/awswire"
	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// The cost of a run of the reaper depends on the number of due records, not on the
// size of the table.
func TestCostOfTheReaperDependsOnDueRecordsOnly(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_CONFIG_FILE": "/dev/null",
		"AWS_ENDPOINT_URL_DYNAMODB": emulator.DynamoDB(t),
	} {
		t.Setenv(name, value)
	}
	few, many := costOf(t, 100, 100), costOf(t, 10_000, 100)
	for what, pair := range map[string][2]float64{
		"requests of the store": {few.requests(), many.requests()},
		"units of capacity":     {few.units, many.units},
		"calls of the cloud":    {few.calls(), many.calls()},
	} {
		if pair[0] == 0 || pair[1] < 0.95*pair[0] || pair[1] > 1.05*pair[0] {
			t.Errorf("%s: %.1f with 100 live, %.1f with 10,000", what, pair[0], pair[1])
		}
	}
}

// costOf runs the reaper once on a store with the given number of open bastions, of which
// some have passed their deadline.
func costOf(t *testing.T, live, due int) *meter {
	m := newMeter(t)
	tables := fmt.Sprint("live-", live)
	environ := environment("BASTION_TABLE="+tables, "BASTION_LEASE_TABLE=leases-"+tables, "BASTION_QUOTA_TOTAL=10000")
	if err := (awscloud.Tables{Records: tables, Leases: "leases-" + tables}).Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := &output{}
	app, err := wire(t.Context(), environ, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn})), &http.Client{Transport: m})
	if err != nil {
		t.Fatal(err)
	}
	written := &output{}
	app.metrics.out = written
	reaper := app.Reaper()
	app.pace.SetShare(10_000) // only the number of calls matters here
	for i := range due {
		if err := app.make(fmt.Sprintf("cost%012d", i), time.Now().UTC().Truncate(time.Second).Add(-time.Second), 0); err != nil {
			t.Fatal(err)
		}
	}
	m.fill(t, tables, live-due)
	m.reset()
	ctx, cancel := invocation(backgroundTimeout)
	defer cancel()
	if err := reaper.Handle(ctx, Schedule{Action: "reap"}); err != nil {
		t.Fatal(err)
	}
	if logged := log.String(); logged != "" {
		t.Errorf("log of the reaper: %s", logged)
	}
	if got, want := metricsIn(t, written.String()), fmt.Sprint("OpenBastions=", due); got != want { // the others are copies, which are not counted
		t.Errorf("the metrics are %q, want %q", got, want)
	}
	if stopped := m.of("StopTask"); stopped != due {
		t.Errorf("%d tasks were stopped, not %d", stopped, due)
	}
	m.report(live, due)
	return m
}

// meter counts the calls of the SDK.
type meter struct {
	wire    *awswire.Server
	network *http.Transport
	url     string

	mu     sync.Mutex
	store  map[string]int // by operation
	units  float64
	before int // calls of the cloud
}

func newMeter(t *testing.T) *meter {
	cloud := localcloud.New(localcloud.Config{})
	t.Cleanup(cloud.Close)
	settings := settingsOf(environment())
	m := &meter{network: &http.Transport{MaxIdleConnsPerHost: 16}, store: map[string]int{}, wire: awswire.New(awswire.Config{
		Cloud: cloud, Cluster: settings["BASTION_CLUSTER"], Groups: []string{settings["BASTION_MEMBER_GROUP"]}, Port: 2222,
	})}
	t.Cleanup(m.network.CloseIdleConnections)
	return m
}

// RoundTrip forwards requests to DynamoDB, and requests the consumed capacity.
func (m *meter) RoundTrip(r *http.Request) (*http.Response, error) {
	operation, isStore := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "DynamoDB_20120810.")
	if !isStore {
		return m.wire.RoundTrip(r)
	}
	var in map[string]any
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, err
	}
	in["ReturnConsumedCapacity"] = "TOTAL"
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.url = r.URL.String()
	m.mu.Unlock()
	sent := r.Clone(r.Context())
	sent.Body, sent.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	response, err := m.network.RoundTrip(sent)
	if err != nil {
		return nil, err
	}
	return response, m.note(operation, response)
}

// note adds the consumed capacity in a response.
func (m *meter) note(operation string, response *http.Response) error {
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(body))
	var out struct{ ConsumedCapacity json.RawMessage }
	if err := json.Unmarshal(body, &out); err != nil {
		return err
	}
	type consumed struct{ CapacityUnits float64 }
	var all []consumed // of a transaction or a batch, one for each table
	if json.Unmarshal(out.ConsumedCapacity, &all) != nil {
		all = make([]consumed, 1)
		_ = json.Unmarshal(out.ConsumedCapacity, &all[0]) // a failed call consumes nothing
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store[operation]++
	for _, one := range all {
		m.units += one.CapacityUnits
	}
	return nil
}

func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store, m.units, m.before = map[string]int{}, 0, len(m.wire.Calls())
}

func (m *meter) requests() (n float64) {
	for _, times := range m.store {
		n += float64(times)
	}
	return n
}

func (m *meter) calls() float64 { return float64(len(m.wire.Calls()) - m.before) }

func (m *meter) of(action string) (n int) {
	for _, call := range m.wire.Calls()[m.before:] {
		if call == action {
			n++
		}
	}
	return n
}

func (m *meter) report(live, due int) {
	var parts []string
	for _, operation := range slices.Sorted(maps.Keys(m.store)) {
		parts = append(parts, fmt.Sprint(operation, " ", m.store[operation]))
	}
	fmt.Printf("reap: %d live, %d due: %.0f requests of the store (%s), %.1f capacity units, %.0f calls of EC2 and ECS\n",
		live, due, m.requests(), strings.Join(parts, ", "), m.units, m.calls())
}

// fill adds records that are not due: copies of a stored one with other IDs. A
// transaction for each would take too long.
func (m *meter) fill(t *testing.T, table string, n int) {
	t.Helper()
	var found struct {
		Item map[string]any
	}
	m.post(t, "GetItem", map[string]any{"TableName": table, "Key": map[string]any{
		"pk": map[string]any{"S": "B#cost000000000000"}, "sk": map[string]any{"S": "record"}}}, &found)
	original, err := json.Marshal(found.Item)
	if err != nil || len(found.Item) == 0 {
		t.Fatalf("no record to copy: %v", err)
	}
	later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	var puts []any
	for i := range n {
		var item map[string]any
		if err := json.Unmarshal(bytes.ReplaceAll(original, []byte("cost000000000000"), fmt.Appendf(nil, "live%012d", i)), &item); err != nil {
			t.Fatal(err)
		}
		item["due_at"], item["due_shard"] = map[string]any{"S": later}, map[string]any{"S": strconv.Itoa(i % 8)}
		puts = append(puts, map[string]any{"PutRequest": map[string]any{"Item": item}})
	}
	for batch := range slices.Chunk(puts, 25) {
		var out struct{ UnprocessedItems map[string]any }
		m.post(t, "BatchWriteItem", map[string]any{"RequestItems": map[string]any{table: batch}}, &out)
		if len(out.UnprocessedItems) > 0 {
			t.Fatal("a batch was not written whole")
		}
	}
}

// post calls DynamoDB Local, which checks no signature.
func (m *meter) post(t *testing.T, operation string, in, out any) {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-amz-json-1.0")
	request.Header.Set("X-Amz-Target", "DynamoDB_20120810."+operation)
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=a/20300102/eu-west-1/dynamodb/aws4_request, SignedHeaders=host, Signature=none")
	response, err := m.network.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode == http.StatusOK {
		err = json.Unmarshal(text, out)
	}
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %v: %s", operation, response.Status, err, text)
	}
}
