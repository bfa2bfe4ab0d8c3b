//go:build conformance

package awscloud

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

func openLease(generation int64) bastion.Lease {
	return bastion.Lease{BastionID: "bastion", Generation: generation, Open: true}
}

// ending returns a report with an ending.
func ending(generation int64) bastion.Report {
	return bastion.Report{Ending: bastion.Ending{Reason: bastion.EndIdle, Generation: generation}}
}

func TestLeaseWriteIsRetriedAfterLostResponse(t *testing.T) {
	r := startDynamoDB(t)
	client, losing := r.losingClient(t)
	leases, start := r.leases(t, client)
	write := func(taskID string, lease bastion.Lease) { must(t, leases.Write(t.Context(), taskID, lease)) }
	lose := func(operation string, meanwhile func()) {
		losing.meanwhile = meanwhile
		losing.operation.Store(operation)
	}
	t.Run("write", func(t *testing.T) {
		taskID, _ := start()
		lose("UpdateItem", nil)
		write(taskID, openLease(1))
		lose("UpdateItem", nil)
		write(taskID, openLease(2))
	})
	t.Run("write, then a newer lease", func(t *testing.T) {
		taskID, _ := start()
		lose("UpdateItem", func() { write(taskID, openLease(2)) })
		if err := leases.Write(t.Context(), taskID, openLease(1)); !errors.Is(err, bastion.ErrConflict) {
			t.Errorf("%v, want %v", err, bastion.ErrConflict)
		}
	})
	t.Run("end", func(t *testing.T) {
		taskID, _ := start()
		lose("PutItem", nil)
		must(t, leases.End(t.Context(), taskID, "bastion", epoch))
	})
	t.Run("ending, then the closed lease", func(t *testing.T) {
		taskID, _ := start()
		own := NewTaskLease(client, leases.table, roleID, taskID)
		write(taskID, openLease(1))
		lose("UpdateItem", func() { write(taskID, bastion.Lease{BastionID: "bastion", Generation: 2}) })
		must(t, own.Report(t.Context(), ending(1)))
	})
	if losing.lost.Load() != 5 {
		t.Errorf("%d responses were lost, want 5", losing.lost.Load())
	}
}

// A report without a lease is refused and creates no item.
func TestReportAfterEndIsRefused(t *testing.T) {
	r := startDynamoDB(t)
	leases, start := r.leases(t, r.client(t, nil))
	taskID, own := start()
	for name, end := range map[string]func(){
		"tombstone": func() { must(t, leases.End(t.Context(), taskID, "bastion", epoch)) },
		"deleted": func() {
			_, err := r.client(t, nil).DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: &leases.table, Key: leases.key(taskID)})
			must(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			end()
			before := r.scan(t, leases.table)
			for _, report := range []bastion.Report{{}, {Connections: 1}, ending(1)} {
				if err := own.Report(t.Context(), report); !errors.Is(err, bastion.ErrNotFound) {
					t.Errorf("%+v: %v, want %v", report, err, bastion.ErrNotFound)
				}
			}
			if after := r.scan(t, leases.table); !reflect.DeepEqual(after, before) {
				t.Errorf("the table holds %v", after)
			}
		})
	}
}

func (r dynamo) scan(t *testing.T, table string) []map[string]types.AttributeValue {
	t.Helper()
	out, err := r.client(t, nil).Scan(t.Context(), &dynamodb.ScanInput{TableName: &table, ConsistentRead: aws.Bool(true)})
	must(t, err)
	return out.Items
}

// A compromised task can write anything into the attributes that its role allows. The
// control plane must still be able to write the task's lease, and to list the items of
// other tasks.
func TestHostileTaskCannotBlockItsLease(t *testing.T) {
	r := startDynamoDB(t)
	client := r.client(t, nil)
	leases, start := r.leases(t, client)
	honest, honestLease := start()
	must(t, leases.Write(t.Context(), honest, openLease(1)))
	must(t, honestLease.Report(t.Context(), bastion.Report{Connections: 1}))
	const room = 405_000 // bytes that fit into an item besides a small lease
	for name, written := range map[string]item{
		"nothing":                   {attReport: nil, attInHand: nil, attEnding: nil},
		"report: not a string":      {attReport: number(1)},
		"report: map":               {attReport: &types.AttributeValueMemberM{Value: item{"host_key": text("x")}}},
		"report: not JSON":          {attReport: text("{")},
		"report: null":              {attReport: text("null")},
		"report: nested":            {attReport: text(strings.Repeat("[", 100_000))},
		"report: invalid time":      {attReport: text(`{"last_used_at":"tomorrow"}`)},
		"report: number too large":  {attReport: text(`{"connections":1e99}`)},
		"report: wrong type":        {attReport: text(`{"host_key":1}`)},
		"report: all the room":      {attReport: text(strings.Repeat("A", room))},
		"in_hand: all the room":     {attReport: nil, attInHand: text(strings.Repeat("A", room))},
		"by: all the room":          {attReport: nil, attBy: text(strings.Repeat("A", room))},
		"ending: all the room":      {attReport: nil, attEnding: text(strings.Repeat("A", room))},
		"ending: of another type":   {attEnding: &types.AttributeValueMemberM{Value: item{"reason": text("idle")}}},
		"report and ending: half":   {attReport: text(strings.Repeat("A", room/2)), attEnding: text(strings.Repeat("A", room/2))},
		"all attributes: a quarter": {attReport: text(strings.Repeat("A", room/4)), attInHand: text(strings.Repeat("A", room/4)), attEnding: text(strings.Repeat("A", room/4)), attBy: text(strings.Repeat("A", room/4))},
		"all attributes: null":      {attReport: &types.AttributeValueMemberNULL{Value: true}, attInHand: &types.AttributeValueMemberNULL{Value: true}, attEnding: &types.AttributeValueMemberNULL{Value: true}, attBy: &types.AttributeValueMemberNULL{Value: true}},
	} {
		t.Run(name, func(t *testing.T) {
			taskID, _ := start()
			must(t, leases.Write(t.Context(), taskID, openLease(1)))
			r.overwrite(t, leases, taskID, written)
			got, err := leases.Fetch(t.Context(), taskID)
			if must(t, err); !reflect.DeepEqual(got.Report, bastion.Report{}) || !reflect.DeepEqual(got.Lease, openLease(1)) {
				t.Errorf("the item is decoded as %+v", got)
			}
			closed := bastion.Lease{BastionID: "bastion", Generation: 2, ConsoleReply: bastion.ConsoleReply{Message: strings.Repeat("A", 5000)}}
			must(t, leases.Write(t.Context(), taskID, closed))
			got, err = leases.Fetch(t.Context(), taskID)
			if must(t, err); !reflect.DeepEqual(got.Lease, closed) {
				t.Errorf("the lease is %+v, want %+v", got.Lease, closed)
			}
			items, err := leases.List(t.Context())
			if must(t, err); !slices.ContainsFunc(items, func(i bastion.LeaseItem) bool { return i.TaskID == honest && i.Report.Connections == 1 }) {
				t.Error("the honest task's item is not listed")
			}
			must(t, leases.End(t.Context(), taskID, "bastion", epoch))
		})
	}
}

// overwrite sets attributes of an item. It removes an attribute whose value is nil.
func (r dynamo) overwrite(t *testing.T, leases *Leases, taskID string, attributes item) {
	t.Helper()
	e := newEdit()
	if attributes[attBy] == nil {
		e.set(attBy, text(byTask))
	}
	for name, value := range attributes {
		if value == nil {
			e.remove(name)
		} else {
			e.set(name, value)
		}
	}
	_, err := r.client(t, nil).UpdateItem(t.Context(), e.update(leases.table, leases.key(taskID), "attribute_exists(#by)"))
	must(t, err)
}

// If the task role was replaced, List returns the whole key of an item of the earlier
// role as its task id, and End accepts this id.
func TestLeaseOfEarlierRoleCanBeEnded(t *testing.T) {
	r := startDynamoDB(t)
	leases, start := r.leases(t, r.client(t, nil))
	taskID, _ := start()
	must(t, leases.Write(t.Context(), taskID, openLease(1)))
	later := NewLeases(leases.api, leases.table, "AROALATER", rand.Reader)
	items, err := later.List(t.Context())
	must(t, err)
	if want := roleID + ":" + taskID; len(items) != 1 || items[0].TaskID != want {
		t.Fatalf("listed %+v, want task %s", items, want)
	}
	must(t, later.End(t.Context(), items[0].TaskID, "bastion", epoch))
	if got, err := leases.Fetch(t.Context(), taskID); err != nil || !got.Ended {
		t.Errorf("the item is %+v, %v", got, err)
	}
}

// countedScans counts calls of Scan.
type countedScans struct {
	*dynamodb.Client
	pages *int
}

func (c countedScans) Scan(ctx context.Context, in *dynamodb.ScanInput, o ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error) {
	*c.pages++
	return c.Client.Scan(ctx, in, o...)
}

func TestListOfThreeMegabytesOfLeases(t *testing.T) {
	r := startDynamoDB(t)
	pages := 0
	leases, start := r.leases(t, countedScans{r.client(t, nil), &pages})
	var report bastion.Report // of 60 KB
	for n := range bastion.MaxDestinations {
		report.Receipt.Destinations = append(report.Receipt.Destinations, bastion.Destination{Name: fmt.Sprint(n, strings.Repeat("x", bastion.MaxDestinationName-3))})
	}
	const tasks = 50
	for range tasks {
		taskID, own := start()
		must(t, leases.Write(t.Context(), taskID, openLease(1)))
		must(t, own.Report(t.Context(), report))
	}
	items, err := leases.List(t.Context())
	must(t, err)
	if len(items) != tasks || pages < 3 {
		t.Errorf("listed %d of %d items of 60 KB in %d pages, want all in at least 3 pages of at most 1 MB", len(items), tasks, pages)
	}
}

// DynamoDB ignores a TTL that is not a number of seconds, without an error.
func TestTTLIsInSeconds(t *testing.T) {
	r := startDynamoDB(t)
	client := r.client(t, nil)
	leases, start := r.leases(t, client)
	taskID, _ := start()
	must(t, leases.End(t.Context(), taskID, "bastion", epoch))
	r.checkExpiry(t, leases.table, leases.key(taskID), epoch)

	s := r.store(t, client)
	rec := newRecord("local:owner", "default")
	must(t, s.Create(t.Context(), rec, plenty))
	r.checkExpiry(t, s.table, recordKey(rec.ID), time.Time{})
	closed := changed(rec, closing)
	must(t, s.Replace(t.Context(), rec, closed))
	r.checkExpiry(t, s.table, recordKey(rec.ID), time.Time{})
	must(t, s.Replace(t.Context(), closed, changed(closed, finishing)))
	r.checkExpiry(t, s.table, recordKey(rec.ID), epoch.Add(history))
	_, err := s.Mark(t.Context(), "task x", epoch)
	must(t, err)
	r.checkExpiry(t, s.table, itemKey(partMarks, "task x"), epoch.Add(markLifetime))
}

// checkExpiry checks the attribute of an item that the table's configuration names as
// its TTL. A zero want means that the item must not have it.
func (r dynamo) checkExpiry(t *testing.T, table string, key item, want time.Time) {
	t.Helper()
	client := r.client(t, nil)
	ttl, err := client.DescribeTimeToLive(t.Context(), &dynamodb.DescribeTimeToLiveInput{TableName: &table})
	must(t, err)
	out, err := client.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: &table, Key: key, ConsistentRead: aws.Bool(true)})
	must(t, err)
	got, exists := out.Item[*ttl.TimeToLiveDescription.AttributeName]
	if want.IsZero() {
		if exists {
			t.Errorf("%v expires at %v", key, got)
		}
		return
	}
	if digits := numberIn(t, got); digits != fmt.Sprint(want.Unix()) {
		t.Errorf("%v expires at %s, want %d", key, digits, want.Unix())
	}
}

// numberIn returns the digits of a number attribute.
func numberIn(t *testing.T, v types.AttributeValue) string {
	t.Helper()
	n, ok := v.(*types.AttributeValueMemberN)
	if !ok {
		t.Fatalf("%#v is not a number", v)
	}
	return n.Value
}

func TestReadOfAMissingTable(t *testing.T) {
	_, err := NewTaskLease(startDynamoDB(t).client(t, nil), "missing", roleID, "task").Read(t.Context())
	if !errors.Is(err, bastion.ErrNoTable) || errors.Is(err, bastion.ErrNotFound) {
		t.Errorf("%v, want %v", err, bastion.ErrNoTable)
	}
}
