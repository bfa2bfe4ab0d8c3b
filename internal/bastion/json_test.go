package bastion

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// documents returns a pointer to a zero value of each type that is part of a stored
// JSON document.
func documents() []any {
	return []any{
		new(Record), new(Intent), new(End), new(Failure), new(GroupStatus), new(Attempt), new(Notice),
		new(Lease), new(ConsoleReply), new(Report), new(ConsoleRequest), new(Ending), new(Receipt), new(Destination),
	}
}

func TestJSONKeepsEveryField(t *testing.T) {
	for _, value := range documents() {
		typ := reflect.TypeOf(value).Elem()
		full := reflect.New(typ)
		n := 0
		fill(full.Elem(), &n)
		for name, want := range map[string]any{"full": full.Interface(), "zero": value} {
			data, err := json.Marshal(want)
			if err != nil {
				t.Fatalf("%s %s: %v", name, typ, err)
			}
			got := reflect.New(typ).Interface()
			if err := json.Unmarshal(data, got); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s %s: %s\ndecodes into %+v, %v\nwant %+v", name, typ, data, got, err, want)
			}
		}
	}
}

// fill sets every field to a value that no other field has.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2030, 1, 2, 3, 4, 5, *n, time.UTC)))
		return
	case netip.Prefix:
		v.Set(reflect.ValueOf(netip.MustParsePrefix(fmt.Sprintf("2001:db8::%x/128", *n))))
		return
	case DestinationRule:
		v.Set(reflect.ValueOf(DestinationRule{netip.MustParsePrefix(fmt.Sprintf("2001:db8::%x/128", *n)), 1, uint16(*n)}))
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
		v.SetString(fmt.Sprintf("text <%d> & “quoted\"", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1<<60 + int64(*n))
	default:
		panic("fill has no value for " + v.Type().String())
	}
}

func TestJSONIgnoresUnknownFields(t *testing.T) {
	for _, value := range documents() {
		if err := json.Unmarshal([]byte(`{"added_later": {"a": [1]}}`), value); err != nil || !reflect.ValueOf(value).Elem().IsZero() {
			t.Errorf("%T: %+v, %v", value, value, err)
		}
	}
}

// Documents stay stored for longer than the code that wrote them is in use. Never edit
// a file in testdata: for a new form of a document, add a file.
func TestDecodeStoredDocuments(t *testing.T) {
	at := func(minute, second int) time.Time { return time.Date(2030, 1, 2, 3, minute, second, 0, time.UTC) }
	source := netip.MustParsePrefix("203.0.113.7/32")
	const clientKey Key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c"
	const hostKey Key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKqP3UD5UdFVd3+7VQXnCzNgP7xJZ0n8m2sLUy0yqJZb"
	receipt := Receipt{
		StartedAt: at(1, 0), EndedAt: at(31, 0), Connections: 2, Forwards: 3, Refusals: 1, BytesIn: 4096, BytesOut: 1 << 40,
		Destinations: []Destination{
			{Name: "db.internal:5432", Forwards: 2, BytesIn: 4000, BytesOut: 1 << 39},
			{Name: "[fd12::7]:443", Forwards: 1, BytesIn: 96, BytesOut: 1 << 39},
		},
		Unnamed: 5,
	}
	reply := ConsoleReply{Number: 2, Code: CodeTTLBeyondCap, Message: "Bastions can run for at most 8h; a ttl of 99h exceeds that."}
	for file, want := range map[string]any{
		"record.json": &Record{
			ID: "abcdefghij234567", Owner: "iam:123456789012:AIDAEXAMPLE123456", Name: "default",
			CreatedAt: at(0, 0), LatestDeadline: at(0, 0).Add(8 * time.Hour),
			Intent: Intent{
				Generation: 4, Open: true, Source: source, Keys: []Key{clientKey}, Deadline: at(0, 0).Add(time.Hour),
				Reason: "find the slow query", ConsoleReply: reply, DeadlineSetAt: at(2, 0),
			},
			UnsettledUntil: at(5, 0),
			End:            End{Reason: EndFailed, At: at(40, 0), Failure: Failure{Code: FailureImage, Message: "The image could not be pulled."}},
			FinishedAt:     at(45, 0),
			Group:          GroupStatus{ID: "sg-0123456789abcdef0", FirstSeenAt: at(0, 2), Ingress: source},
			Attempt: Attempt{
				Number: 2, GroupID: "sg-0123456789abcdef0", Subnet: "subnet-0123456789abcdef0", TaskDefinition: "bastion:7", CreatedAt: at(0, 3),
				Tags:   []Tag{{Key: "CostCenter", Value: "42"}, {Key: "Owner"}},
				TaskID: "0123456789abcdef0123456789abcdef", TaskSeenAt: at(0, 4), Status: TaskRunning,
				Endpoints: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.9:2222"), netip.MustParseAddrPort("[2001:db8::9]:2222")},
				HostKey:   hostKey, Generation: 3, ReadyAt: at(0, 40), EndedAt: at(39, 0),
				Failure: Failure{Code: FailureSpot, Message: "AWS reclaimed the capacity."},
			},
			Failures: 1, NextAttemptAt: at(41, 0), Receipt: receipt,
			Notify:            true,
			LastNotice:        Notice{State: Starting, Stage: "image", Attempt: 2, Source: source, Deadline: at(0, 0).Add(time.Hour), Warning: true},
			LastNoticeVersion: 11, NotifyPendingSince: at(4, 0),
			DueAt: at(6, 0), Version: 12,
		},
		"lease.json": &Lease{
			BastionID: "abcdefghij234567", Owner: "slack:T0123ABCD:U0123ABCD", Name: "db", Generation: 4, Open: false, EndReason: EndDeadline,
			Source: source, Keys: []Key{clientKey}, Deadline: at(0, 0).Add(time.Hour), IdleTimeout: 15 * time.Minute,
			AllowedDestinations: []DestinationRule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}, {Prefix: netip.MustParsePrefix("fd12::/64")}, {netip.MustParsePrefix("10.0.0.7/32"), 8000, 8099}},
			ConsoleReply:        reply,
		},
		"report.json": &Report{
			HostKey: hostKey, Generation: 4, Connections: 1, LastUsedAt: at(30, 0).Add(123456789),
			ConsoleRequest: ConsoleRequest{Number: 2, Verb: VerbExtend, TTL: 99 * time.Hour},
			Ending:         Ending{Reason: EndIdle, Generation: 4}, Receipt: receipt,
		},
		"report-two-host-keys.json": &Report{HostKey: hostKey, MoreHostKeys: []Key{"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAwEAAQ=="}, Generation: 4},
	} {
		path := filepath.Join("testdata", file)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got := reflect.New(reflect.TypeOf(want).Elem()).Interface()
		if err := json.Unmarshal(data, got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s decodes into\n%+v, %v\nwant\n%+v", path, got, err, want)
		}
	}
}
