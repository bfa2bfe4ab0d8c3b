package awscloud

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// itemAfter returns the item that is stored after an update. before is the stored item,
// or nil if there is none. The update must be one that edit builds.
func itemAfter(before item, update *dynamodb.UpdateItemInput) item {
	after := maps.Clone(update.Key)
	maps.Copy(after, before)
	sets, removes, _ := strings.Cut(strings.TrimPrefix(*update.UpdateExpression, "SET "), " REMOVE ")
	for _, set := range strings.Split(sets, ", #") {
		placeholder, value, _ := strings.Cut(strings.TrimPrefix(set, "#"), " = ")
		_, exists := after[placeholder]
		if !exists || !strings.HasPrefix(value, "if_not_exists") {
			after[placeholder] = update.ExpressionAttributeValues[":"+placeholder]
		}
	}
	for _, placeholder := range strings.Split(removes, ", ") {
		delete(after, strings.TrimPrefix(placeholder, "#"))
	}
	return after
}

func recordItem(t *testing.T, rec bastion.Record) item {
	t.Helper()
	update, err := NewStore(nil, "records", time.Hour, nil).recordUpdate(rec, "nonce", "", nil)
	must(t, err)
	return itemAfter(nil, update)
}

// leaseItem returns a task's item after a lease and a report are written.
func leaseItem(t *testing.T, lease bastion.Lease, report bastion.Report) item {
	t.Helper()
	update, err := NewLeases(nil, "leases", "AROA", nil).leaseUpdate("task", lease, "nonce", false)
	must(t, err)
	written := itemAfter(nil, update)
	update, err = NewTaskLease(nil, "leases", "AROA", "task").reportUpdate(report)
	must(t, err)
	return itemAfter(written, update)
}

func decodeLeaseItem(stored item) bastion.LeaseItem {
	return NewLeases(nil, "leases", "AROA", nil).decode(stored)
}

func goldenReceipt() bastion.Receipt {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	return bastion.Receipt{
		StartedAt: at, EndedAt: at.Add(time.Hour + time.Nanosecond), Connections: 1, Forwards: 2, Refusals: 3,
		BytesIn: 4, BytesOut: 1 << 60, Unnamed: 5,
		Destinations: []bastion.Destination{{Name: "db.internal:5432", Forwards: 2, BytesIn: 4, BytesOut: 1 << 60}, {Name: "<&\"é\u2028>:1"}},
	}
}

func goldenRecord() bastion.Record {
	at := func(minutes int) time.Time { return time.Date(2030, 1, 2, 3, minutes, 5, 600_000_000, time.UTC) }
	failure := bastion.Failure{Code: bastion.FailureCapacity, Message: "AWS has no capacity."}
	return bastion.Record{
		ID: "abcdefghijklmnop", Owner: "iam:123456789012:AIDAEXAMPLE", Name: "default", Version: 9,
		CreatedAt: at(0), LatestDeadline: at(1),
		Intent: bastion.Intent{
			Generation: 3, Open: true, Source: netip.MustParsePrefix("192.0.2.7/32"), Keys: []bastion.Key{"ssh-ed25519 AAAA"},
			Deadline: at(2), DeadlineSetAt: at(3), Reason: "deploy <1.2> & “check”",
			ConsoleReply: bastion.ConsoleReply{Number: 2, Code: bastion.CodeTTLBeyondCap, Message: "Too long."},
		},
		UnsettledUntil: at(4), End: bastion.End{Reason: bastion.EndFailed, At: at(5), Failure: failure},
		Group: bastion.GroupStatus{ID: "sg-0123456789abcdef0", FirstSeenAt: at(6), Ingress: netip.MustParsePrefix("2001:db8::7/128")},
		Attempt: bastion.Attempt{
			Number: 2, GroupID: "sg-0123456789abcdef0", Subnet: "subnet-1", TaskDefinition: "bastion:7", CreatedAt: at(7),
			TaskID: "158d1c80", TaskSeenAt: at(8), Status: bastion.TaskRunning,
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.2:22"), netip.MustParseAddrPort("[2001:db8::2]:22")},
			HostKey:   "ssh-ed25519 BBBB", Generation: 3, ReadyAt: at(9), EndedAt: at(10), Failure: failure,
		},
		Failures: 1, NextAttemptAt: at(11), Receipt: goldenReceipt(),
		Notify: true, LastNoticeVersion: 8, NotifyPendingSince: at(12),
		LastNotice: bastion.Notice{
			State: bastion.Starting, Stage: "image", Attempt: 2, Source: netip.MustParsePrefix("192.0.2.7/32"), Deadline: at(2), Warning: true,
		},
		DueAt: at(13),
	}
}

func goldenLease() bastion.LeaseItem {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	return bastion.LeaseItem{
		TaskID: "task", BastionID: "abcdefghijklmnop",
		Lease: bastion.Lease{
			BastionID: "abcdefghijklmnop", Owner: "local:alice", Name: "default", Generation: 3, Open: true, EndReason: bastion.EndClosed,
			Source: netip.MustParsePrefix("192.0.2.7/32"), Keys: []bastion.Key{"ssh-ed25519 AAAA"}, Deadline: at, IdleTimeout: 15 * time.Minute,
			AllowedDestinations: []bastion.DestinationRule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}, {Prefix: netip.MustParsePrefix("fd00::/8")}},
			ConsoleReply:        bastion.ConsoleReply{Number: 2, Code: bastion.CodeTTLBeyondCap, Message: "Too long."},
		},
		Report: bastion.Report{
			HostKey: "ssh-ed25519 BBBB", Generation: 3, Connections: 1, LastUsedAt: at.Add(time.Nanosecond),
			ConsoleRequest: bastion.ConsoleRequest{Number: 2, Verb: bastion.VerbExtend, TTL: time.Hour},
			Ending:         bastion.Ending{Reason: bastion.EndIdle, Generation: 3}, Receipt: goldenReceipt(),
		},
	}
}

// The golden files are items as earlier versions stored them. Do not edit or replace
// one: if a field is added or renamed, the old item must still be decoded. Add a new
// file for a new form.
func TestGoldenItems(t *testing.T) {
	rec, lease := goldenRecord(), goldenLease()
	finished := rec
	finished.Intent.Open, finished.FinishedAt, finished.DueAt = false, rec.CreatedAt.Add(time.Hour), time.Time{}
	tagged := rec
	tagged.Attempt.Tags = testTags
	twoKeys, twoKeysLease := rec, lease
	twoKeys.Attempt.MoreHostKeys, twoKeysLease.Report.MoreHostKeys = []bastion.Key{"ssh-rsa CCCC"}, []bastion.Key{"ssh-rsa CCCC"}
	severalKeys, severalKeysLease := rec, lease
	severalKeys.Intent.Keys = []bastion.Key{"ssh-ed25519 AAAA", "ssh-rsa DDDD"}
	severalKeys.Intent.KeySources = []bastion.KeySources{
		{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}},
		{Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28"), netip.MustParsePrefix("2001:db8::/64")}, Named: true},
	}
	severalKeys.Group.Ingress = netip.MustParsePrefix("192.0.2.7/32")
	severalKeys.Group.MoreIngress = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28"), netip.MustParsePrefix("2001:db8::/64")}
	severalKeys.LastNotice.Access = "q83vEjRWeJCrze8S"
	severalKeysLease.Lease.Keys, severalKeysLease.Lease.KeySources = severalKeys.Intent.Keys, severalKeys.Intent.KeySources
	closed := bastion.LeaseItem{TaskID: "task", BastionID: lease.BastionID, Lease: lease.Lease}
	closed.Lease.Open, closed.Lease.EndReason = false, bastion.EndIdle
	ended := bastion.LeaseItem{TaskID: "task", BastionID: lease.BastionID, Ended: true}
	asRecord := func(stored item) (any, error) { return decodeRecord(stored) }
	asLease := func(stored item) (any, error) { return decodeLeaseItem(stored), nil }
	for _, c := range []struct {
		name   string
		want   any
		encode item
		decode func(item) (any, error)
	}{
		{"record", rec, recordItem(t, rec), asRecord},
		{"record-finished", finished, recordItem(t, finished), asRecord},
		{"record-with-tags", tagged, recordItem(t, tagged), asRecord},
		{"record-with-two-host-keys", twoKeys, recordItem(t, twoKeys), asRecord},
		{"report-with-two-host-keys", twoKeysLease, leaseItem(t, twoKeysLease.Lease, twoKeysLease.Report), asLease},
		{"record-with-several-keys", severalKeys, recordItem(t, severalKeys), asRecord},
		{"lease-with-several-keys", severalKeysLease, leaseItem(t, severalKeysLease.Lease, severalKeysLease.Report), asLease},
		{"lease-and-report", lease, leaseItem(t, lease.Lease, lease.Report), asLease},
		{"lease-closed", closed, leaseItem(t, closed.Lease, bastion.Report{}), asLease},
		{"tombstone", ended, NewLeases(nil, "leases", "AROA", nil).tombstone("task", lease.BastionID, rec.CreatedAt), asLease},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join("testdata", "items", c.name+".json")
			golden, err := os.ReadFile(file)
			must(t, err)
			if got := marshalItem(t, c.encode); !bytes.Equal(got, golden) {
				t.Errorf("the item is encoded as\n%s\nand %s is\n%s", got, file, golden)
			}
			got, err := c.decode(unmarshalItem(t, golden))
			if must(t, err); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s is decoded as\n%+v\nwant\n%+v", file, got, c.want)
			}
		})
	}
}

// marshalItem returns an item in DynamoDB's JSON, with one attribute on each line.
func marshalItem(t *testing.T, stored item) []byte {
	t.Helper()
	wire := map[string]map[string]any{}
	for name, value := range stored {
		switch v := value.(type) {
		case *types.AttributeValueMemberS:
			wire[name] = map[string]any{"S": v.Value}
		case *types.AttributeValueMemberN:
			wire[name] = map[string]any{"N": v.Value}
		case *types.AttributeValueMemberBOOL:
			wire[name] = map[string]any{"BOOL": v.Value}
		default:
			t.Fatalf("attribute %s is a %T", name, value)
		}
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(wire)) {
		var line bytes.Buffer
		enc := json.NewEncoder(&line)
		enc.SetEscapeHTML(false)
		must(t, enc.Encode(wire[name]))
		lines = append(lines, fmt.Sprintf("  %q: %s", name, bytes.TrimSpace(line.Bytes())))
	}
	return []byte("{\n" + strings.Join(lines, ",\n") + "\n}\n")
}

func unmarshalItem(t *testing.T, data []byte) item {
	t.Helper()
	var wire map[string]struct {
		S, N *string
		BOOL *bool
	}
	must(t, json.Unmarshal(data, &wire))
	stored := item{}
	for name, v := range wire {
		switch {
		case v.S != nil:
			stored[name] = text(*v.S)
		case v.N != nil:
			stored[name] = &types.AttributeValueMemberN{Value: *v.N}
		default:
			stored[name] = &types.AttributeValueMemberBOOL{Value: *v.BOOL}
		}
	}
	return stored
}

func TestZeroValuesAreDecodedAsZero(t *testing.T) {
	rec := bastion.Record{ID: "id", Owner: "local:owner", Name: "default", Version: 1}
	got, err := decodeRecord(recordItem(t, rec))
	if must(t, err); !reflect.DeepEqual(got, rec) {
		t.Errorf("the record is decoded as\n%+v, want\n%+v", got, rec)
	}
	want := bastion.LeaseItem{TaskID: "task"}
	if got := decodeLeaseItem(leaseItem(t, bastion.Lease{}, bastion.Report{})); !reflect.DeepEqual(got, want) {
		t.Errorf("the lease is decoded as\n%+v, want\n%+v", got, want)
	}
}

// withDocument returns a copy of an item in which one field of one document has
// another value.
func withDocument(t *testing.T, stored item, attribute, field string, value any) item {
	t.Helper()
	var document map[string]json.RawMessage
	must(t, fromDocument(stored[attribute], &document))
	var err error
	document[field], err = json.Marshal(value)
	must(t, err)
	changed := maps.Clone(stored)
	changed[attribute], err = toDocument(document)
	must(t, err)
	return changed
}

func TestUnknownFieldsAreIgnored(t *testing.T) {
	rec, lease := goldenRecord(), goldenLease()
	stored := withDocument(t, recordItem(t, rec), attRecord, "newer", map[string]any{"a": []int{1}})
	stored["newer"] = number(1)
	if got, err := decodeRecord(stored); err != nil || !reflect.DeepEqual(got, rec) {
		t.Errorf("the record is decoded as\n%+v, %v", got, err)
	}
	stored = leaseItem(t, lease.Lease, lease.Report)
	stored = withDocument(t, stored, attLease, "newer", "x")
	stored = withDocument(t, stored, attReport, "newer", "x")
	if got := decodeLeaseItem(stored); !reflect.DeepEqual(got, lease) {
		t.Errorf("the lease is decoded as\n%+v", got)
	}
}

func TestRecordThatCannotBeDecodedIsError(t *testing.T) {
	whole := recordItem(t, goldenRecord())
	for name, stored := range map[string]item{
		"missing":             {keyPartition: whole[keyPartition], attVersion: number(1)},
		"not a string":        {keyPartition: whole[keyPartition], attRecord: number(1)},
		"not JSON":            {keyPartition: whole[keyPartition], attRecord: text("{")},
		"null":                {keyPartition: whole[keyPartition], attRecord: text("null")},
		"of another bastion":  withDocument(t, whole, attRecord, "id", "other"),
		"invalid time":        withDocument(t, whole, attRecord, "created_at", "yesterday"),
		"invalid number":      withDocument(t, whole, attRecord, "failures", "many"),
		"invalid source":      withDocument(t, whole, attRecord, "intent", map[string]any{"open": true, "source": "everywhere"}),
		"invalid endpoint":    withDocument(t, whole, attRecord, "attempt", map[string]any{"endpoints": []string{"x"}}),
		"version is a string": {keyPartition: whole[keyPartition], attRecord: whole[attRecord], attVersion: text("1")},
	} {
		if got, err := decodeRecord(stored); err == nil || !reflect.DeepEqual(got, bastion.Record{}) {
			t.Errorf("%s: decoded as %+v, %v", name, got, err)
		}
	}
}

// No part of a lease that cannot be decoded is used, so the task admits no client. The
// task id, the bastion and the report are still decoded, so that the bastion can be
// closed.
func TestLeaseThatCannotBeDecodedIsEmpty(t *testing.T) {
	golden := goldenLease()
	whole := leaseItem(t, golden.Lease, golden.Report)
	missing := maps.Clone(whole)
	delete(missing, attLease)
	unreadable := maps.Clone(whole)
	unreadable[attLease] = text(`{"open":true,"source":"0.0.0.0/0"`)
	for name, stored := range map[string]item{
		"missing":                  missing,
		"not JSON":                 unreadable,
		"invalid deadline":         withDocument(t, whole, attLease, "deadline", "x"),
		"number out of range":      withDocument(t, whole, attLease, "generation", json.Number("1e99")),
		"unknown destination":      withDocument(t, whole, attLease, "allowed_destinations", []any{"10.0.0.0/8", "host:*.internal"}),
		"unknown port":             withDocument(t, whole, attLease, "allowed_destinations", []any{"10.0.0.0/8:ssh"}),
		"destination is an object": withDocument(t, whole, attLease, "allowed_destinations", []any{map[string]any{"any": true}}),
		"source is not an address": withDocument(t, whole, attLease, "source", "*"),
	} {
		want := bastion.LeaseItem{TaskID: "task", BastionID: golden.BastionID, Report: golden.Report}
		if got := decodeLeaseItem(stored); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: decoded as\n%+v, want\n%+v", name, got, want)
		}
		if got, err := decodeLease(stored[attLease]); err == nil || !reflect.DeepEqual(got, bastion.Lease{}) {
			t.Errorf("%s: the task decodes the lease as %+v, %v", name, got, err)
		}
	}
}

// The value of the attribute does not matter: the conditions of writes test only whether
// the attribute exists.
func TestItemWithEndedAttributeIsTombstone(t *testing.T) {
	for _, ended := range []types.AttributeValue{&types.AttributeValueMemberBOOL{Value: true}, text("x")} {
		stored := leaseItem(t, goldenLease().Lease, bastion.Report{})
		stored[attEnded] = ended
		if !decodeLeaseItem(stored).Ended {
			t.Errorf("an item with ended = %#v is not decoded as a tombstone", ended)
		}
	}
}

// itemLimit is DynamoDB's limit for an item: the names and values of all
// attributes, in bytes.
// https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html
const itemLimit = 400 << 10

func itemSize(stored item) int {
	size := 0
	for name, value := range stored {
		size += len(name)
		switch v := value.(type) {
		case *types.AttributeValueMemberS:
			size += len(v.Value)
		default:
			size += 21 // the most that a number takes
		}
	}
	return size
}

func TestLargestItemsFit(t *testing.T) {
	const largest = 1<<63 - 1
	at := time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	// long returns n quotes, of which each takes two bytes in JSON. The service's own
	// messages are far shorter than those below.
	long := func(n int) string { return strings.Repeat(`"`, n) }
	key := bastion.Key("ssh-rsa " + strings.Repeat("A", 3000)) // an RSA key of 16,384 bits
	source := netip.MustParsePrefix("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")
	receipt := bastion.Receipt{
		StartedAt: at, EndedAt: at, Connections: largest, Forwards: largest, Refusals: largest,
		BytesIn: largest, BytesOut: largest, Unnamed: largest,
	}
	for range bastion.MaxDestinations {
		receipt.Destinations = append(receipt.Destinations, bastion.Destination{
			Name: long(bastion.MaxDestinationName), Forwards: largest, BytesIn: largest, BytesOut: largest,
		})
	}
	hostKey := bastion.Key("ssh-ed25519 " + strings.Repeat("A", bastion.MaxHostKey-len("ssh-ed25519 ")))
	var moreHostKeys []bastion.Key
	for range bastion.MaxMoreHostKeys {
		moreHostKeys = append(moreHostKeys, hostKey)
	}
	reply := bastion.ConsoleReply{Number: largest, Code: bastion.Code(long(100)), Message: long(2000)}
	failure := bastion.Failure{Code: bastion.FailureCode(long(100)), Message: long(2000)}

	rec := goldenRecord()
	rec.Owner, rec.Name, rec.Version = "jwt:"+long(1000), long(100), largest
	rec.Intent.Generation, rec.Intent.Keys, rec.Intent.ConsoleReply = largest, slices.Repeat([]bastion.Key{key}, bastion.MaxKeys), reply
	sources := bastion.KeySources{Prefixes: slices.Repeat([]netip.Prefix{source}, bastion.MaxSourcesPerKey), Named: true}
	rec.Intent.Source, rec.Intent.KeySources = source, slices.Repeat([]bastion.KeySources{sources}, bastion.MaxKeys)
	rec.Group.Ingress, rec.Group.MoreIngress = source, slices.Repeat([]netip.Prefix{source}, bastion.MaxSources-1)
	rec.Intent.Reason = strings.Repeat(string(rune(utf8.MaxRune)), bastion.MaxReason)
	rec.End = bastion.End{Reason: bastion.EndReason(long(100)), At: at, Failure: failure}
	rec.Attempt.MoreHostKeys = moreHostKeys
	rec.Attempt.HostKey, rec.Attempt.Failure, rec.Attempt.TaskDefinition, rec.Attempt.Subnet = hostKey, failure, long(1000), long(100)
	for n := range 40 { // config.ParseTags accepts no more, and no longer ones
		rec.Attempt.Tags = append(rec.Attempt.Tags, bastion.Tag{Key: fmt.Sprintf("%0128d", n), Value: strings.Repeat("v", 256)})
	}
	rec.Receipt, rec.LastNotice.Stage, rec.LastNotice.Source, rec.FinishedAt = receipt, long(100), source, at.AddDate(-1, 0, 0)
	stored := recordItem(t, rec)
	for n := range noncesKept {
		stored[nonceAttribute(int64(n))] = text(strings.Repeat("0", 32))
	}
	checkSize(t, "record", stored)

	lease := goldenLease()
	lease.Lease.Owner, lease.Lease.Name, lease.Lease.Keys, lease.Lease.ConsoleReply = rec.Owner, rec.Name, rec.Intent.Keys, reply
	lease.Lease.Source, lease.Lease.KeySources = source, rec.Intent.KeySources
	// A function reads the allowed destinations from a parameter of Parameter Store, which
	// has 4 KB.
	lease.Lease.AllowedDestinations = slices.Repeat([]bastion.DestinationRule{{Prefix: source, From: 65534, To: 65535}}, 4096/len("::/0,"))
	lease.Report.HostKey, lease.Report.MoreHostKeys, lease.Report.Receipt = hostKey, moreHostKeys, receipt
	stored = leaseItem(t, lease.Lease, lease.Report)
	checkSize(t, "lease", stored)
	if got := decodeLeaseItem(stored); !reflect.DeepEqual(got.Report, lease.Report) {
		t.Error("the largest report is not accepted")
	}
}

// DynamoDB writes an item in units of 1 KB. The test prints how many a write takes with one
// key and one source, and with the most keys and sources.
// https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html
func TestSizeWithTheMostKeysAndSources(t *testing.T) {
	rec, lease := goldenRecord(), goldenLease()
	ed25519 := bastion.Key("ssh-ed25519 " + strings.Repeat("A", 68))
	rsa := bastion.Key("ssh-rsa " + strings.Repeat("A", 2756)) // an RSA key of 16,384 bits
	for _, row := range []struct {
		name  string
		keys  []bastion.Key
		limit int // bytes of the record, and of the lease
	}{
		{"one ed25519 key, one source", []bastion.Key{ed25519}, 4 << 10},
		{"five ed25519 keys, ten sources", slices.Repeat([]bastion.Key{ed25519}, bastion.MaxKeys), 6 << 10},
		{"five RSA keys of 16,384 bits, ten sources", slices.Repeat([]bastion.Key{rsa}, bastion.MaxKeys), 20 << 10},
	} {
		rec.Intent.Keys, rec.Intent.KeySources, rec.Group.MoreIngress = row.keys, nil, nil
		for i := range row.keys {
			var prefixes []netip.Prefix
			for n := range min(2, len(row.keys)) {
				prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 13: 0xff, 14: byte(i), 15: byte(n + 1)}), 128))
			}
			rec.Intent.KeySources = append(rec.Intent.KeySources, bastion.KeySources{Prefixes: prefixes, Named: true})
		}
		sources := rec.Intent.Sources()
		rec.Group.Ingress, rec.Group.MoreIngress, rec.Intent.Source = sources[0], sources[1:], sources[0]
		lease.Lease.Keys, lease.Lease.KeySources, lease.Lease.Source = rec.Intent.Keys, rec.Intent.KeySources, rec.Intent.Source
		for name, size := range map[string]int{"record": itemSize(recordItem(t, rec)), "lease": itemSize(leaseItem(t, lease.Lease, lease.Report))} {
			t.Logf("%s: the %s takes %d bytes, %d write units", row.name, name, size, (size+1023)/1024)
			if size > row.limit {
				t.Errorf("%s: the %s takes %d bytes, more than %d", row.name, name, size, row.limit)
			}
		}
	}
}

func checkSize(t *testing.T, name string, stored item) {
	t.Helper()
	size := itemSize(stored)
	t.Logf("the largest %s takes %d KB", name, size>>10)
	if size > itemLimit {
		t.Errorf("the largest %s takes %d bytes, DynamoDB accepts %d", name, size, itemLimit)
	}
}

func TestStampsSortAsTimesDo(t *testing.T) {
	var stamps []string
	for _, ns := range []int{0, 1, 10, 500_000_000, 999_999_999} {
		stamps = append(stamps, toText(stamp(time.Date(2030, 1, 2, 3, 4, 5, ns, time.FixedZone("", 3600)))))
	}
	if !slices.IsSorted(stamps) {
		t.Errorf("not sorted: %q", stamps)
	}
	if want := "2030-01-02T02:04:05.000000000Z"; stamps[0] != want {
		t.Errorf("%q, want %q in UTC", stamps[0], want)
	}
}

// The task role allows an update to name TaskAttributes only, and to return none.
func TestTaskUpdatesNameOnlyTaskAttributes(t *testing.T) {
	for _, report := range []bastion.Report{{}, goldenLease().Report} {
		update, err := NewTaskLease(nil, "leases", "AROA", "task").reportUpdate(report)
		must(t, err)
		for _, name := range slices.Concat(slices.Collect(maps.Values(update.ExpressionAttributeNames)), slices.Collect(maps.Keys(update.Key))) {
			if !slices.Contains(TaskAttributes, name) {
				t.Errorf("the update names %s, which is not one of %q", name, TaskAttributes)
			}
		}
		if update.ReturnValues != "" || update.ReturnValuesOnConditionCheckFailure != "" {
			t.Errorf("the update requests attributes: %+v", update)
		}
	}
}
