package awscloud

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// filled is a value with every field set, to something different each time, so
// that a field that is added to a type is tested from that day on.
func filled[T any]() T {
	var value T
	n := 0
	fill(reflect.ValueOf(&value).Elem(), &n)
	return value
}

func fill(v reflect.Value, n *int) {
	*n++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2030, 1, 2, 3, 4, 5, *n, time.UTC)))
		return
	case netip.Prefix:
		v.Set(reflect.ValueOf(netip.MustParsePrefix(fmt.Sprintf("2001:db8::%x/128", *n))))
		return
	case netip.AddrPort:
		v.Set(reflect.ValueOf(netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:22", *n))))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.String:
		v.SetString(fmt.Sprint("text-", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	default:
		panic("no value for " + v.Type().String())
	}
}

func fullReport() bastion.Report {
	report := filled[bastion.Report]()
	report.HostKey = "ssh-ed25519 AAAA"
	return report
}

// stored is the item that an update makes of nothing.
func stored(key item, names map[string]string, set values) item {
	whole := item{}
	for name, value := range key {
		whole[name] = value
	}
	for placeholder, name := range names {
		if value, ok := set[":"+placeholder[1:]]; ok {
			whole[name] = value
		}
	}
	return whole
}

func recordStored(t *testing.T, rec bastion.Record) item {
	t.Helper()
	s := NewStore(nil, "records", time.Hour, nil)
	update, err := s.update(rec, "nonce", "", nil)
	must(t, err)
	return stored(update.Key, update.ExpressionAttributeNames, update.ExpressionAttributeValues)
}

func leaseStored(t *testing.T, lease bastion.Lease, report bastion.Report) item {
	t.Helper()
	l := NewLeases(nil, "leases", "AROA", nil)
	update, err := l.update("task", lease, "nonce")
	must(t, err)
	whole := stored(update.Key, update.ExpressionAttributeNames, update.ExpressionAttributeValues)
	whole[attReport], err = attributevalue.Marshal(toReportItem(report))
	must(t, err)
	return whole
}

func TestRecordsComeBack(t *testing.T) {
	for name, rec := range map[string]bastion.Record{
		"full": filled[bastion.Record](),
		"zero": {ID: "id", Owner: "local:owner", Name: "default", Version: 1},
	} {
		got, err := decodeRecord(recordStored(t, rec))
		if must(t, err); !reflect.DeepEqual(got, rec) {
			t.Errorf("%s: came back as\n%+v, not as\n%+v", name, got, rec)
		}
	}
}

func TestLeasesComeBack(t *testing.T) {
	for name, want := range map[string]bastion.LeaseItem{
		"full": {Lease: filled[bastion.Lease](), Report: fullReport()},
		"zero": {},
	} {
		want.TaskID, want.BastionID = "task", want.Lease.BastionID
		got := NewLeases(nil, "leases", "AROA", nil).decode(leaseStored(t, want.Lease, want.Report))
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: came back as\n%+v, not as\n%+v", name, got, want)
		}
	}
}

// A lease that cannot be read is none, and hides neither whose item it is in nor
// what the task reports. No part of it is believed.
func TestALeaseThatCannotBeRead(t *testing.T) {
	whole, report := filled[bastion.Lease](), fullReport()
	for name, stored := range map[string]types.AttributeValue{
		"missing":              nil,
		"a text":               text("x"),
		"a deadline of no day": &types.AttributeValueMemberM{Value: item{"generation": number(5), "deadline": text("x")}},
		"a number of no size":  &types.AttributeValueMemberM{Value: item{"generation": &types.AttributeValueMemberN{Value: "1e99"}}},
	} {
		broken := leaseStored(t, whole, report)
		broken[attLease] = stored
		got := NewLeases(nil, "leases", "AROA", nil).decode(broken)
		if want := (bastion.LeaseItem{TaskID: "task", BastionID: whole.BastionID, Report: report}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: came back as\n%+v, not as\n%+v", name, got, want)
		}
	}
	for name, ended := range map[string]types.AttributeValue{"true": &types.AttributeValueMemberBOOL{Value: true}, "no truth": text("x")} {
		stored := leaseStored(t, whole, report)
		stored[attEnded] = ended
		if !NewLeases(nil, "leases", "AROA", nil).decode(stored).Ended {
			t.Errorf("ended, %s: no tombstone, and yet nothing can be written to it", name)
		}
	}
}

// What is missing, as an older version leaves it, is zero; what is unknown, as a
// newer one writes it, is ignored.
func TestOtherVersionsItems(t *testing.T) {
	older := item{
		keyPartition: text("B#id"), attVersion: number(7),
		attRecord: &types.AttributeValueMemberM{Value: item{"id": text("id"), "newer": &types.AttributeValueMemberM{}}},
		"newer":   text("x"),
	}
	got, err := decodeRecord(older)
	if want := (bastion.Record{ID: "id", Version: 7}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

func TestBrokenItems(t *testing.T) {
	for attribute, broken := range map[string]types.AttributeValue{
		"created_at": text("yesterday"),
		"group":      &types.AttributeValueMemberM{Value: item{"ingress": text("everywhere")}},
		"attempt":    &types.AttributeValueMemberM{Value: item{"endpoints": &types.AttributeValueMemberL{Value: []types.AttributeValue{text("x")}}}},
		"failures":   text("many"),
		"told":       &types.AttributeValueMemberM{Value: item{"deadline": text("soon")}},
	} {
		_, err := decodeRecord(item{attRecord: &types.AttributeValueMemberM{Value: item{"id": text("id"), attribute: broken}}})
		if err == nil {
			t.Errorf("a broken %s was read", attribute)
		}
	}
}

func TestStampsSortAsTimesDo(t *testing.T) {
	var stamps []string
	for _, ns := range []int{0, 1, 10, 500_000_000, 999_999_999} {
		stamps = append(stamps, toStamp(time.Date(2030, 1, 2, 3, 4, 5, ns, time.FixedZone("", 3600))))
	}
	if !slices.IsSorted(stamps) {
		t.Errorf("%q", stamps)
	}
	if want := "2030-01-02T02:04:05.000000000Z"; stamps[0] != want {
		t.Errorf("%q, not %q: it must be UTC", stamps[0], want)
	}
}

// The names are in tables that exist already: none of them may change.
func TestAttributeNames(t *testing.T) {
	rec := filled[bastion.Record]()
	rec.Version = writesKept // the first of the ring
	open := rec
	open.FinishedAt = time.Time{}
	var all []string
	for _, whole := range []item{recordStored(t, rec), recordStored(t, open), leaseStored(t, filled[bastion.Lease](), fullReport())} {
		all = append(all, paths(whole, "")...)
	}
	slices.Sort(all)
	got := strings.Join(slices.Compact(all), "\n") + "\n"
	want, err := os.ReadFile("testdata/attributes.txt")
	must(t, err)
	if got != string(want) {
		t.Errorf("the attributes are\n%s\nand testdata/attributes.txt says\n%s", got, want)
	}
}

func paths(whole item, prefix string) []string {
	var all []string
	for name, value := range whole {
		all = append(all, pathsOf(value, prefix+name)...)
	}
	return all
}

func pathsOf(value types.AttributeValue, path string) []string {
	switch v := value.(type) {
	case *types.AttributeValueMemberM:
		return paths(v.Value, path+".")
	case *types.AttributeValueMemberL:
		return pathsOf(v.Value[0], path+"[]")
	}
	kind, _ := strings.CutPrefix(fmt.Sprintf("%T", value), "*types.AttributeValueMember")
	return []string{path + " " + kind}
}

// The task's role names the attributes that its updates may name.
func TestTaskAttributes(t *testing.T) {
	for _, report := range []bastion.Report{{}, fullReport()} {
		var api recordingTask
		must(t, NewTaskLease(&api, "leases", "AROA", "task").Report(t.Context(), report))
		for placeholder, name := range api.update.ExpressionAttributeNames {
			nested := strings.Contains(aws.ToString(api.update.ConditionExpression), "."+placeholder)
			if !nested && !slices.Contains(TaskAttributes, name) {
				t.Errorf("the update names %s, which is not one of %q", name, TaskAttributes)
			}
		}
		for name := range api.update.Key {
			if !slices.Contains(TaskAttributes, name) {
				t.Errorf("the key has %s", name)
			}
		}
	}
}
