//go:build conformance

package system

import (
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// unknownField is the name of a field and of an attribute that no version knows.
const unknownField = "of_a_later_version"

// rawItem reads an item as it is stored.
func (u *upgradeTest) rawItem(t *testing.T, table string, key map[string]types.AttributeValue) map[string]types.AttributeValue {
	t.Helper()
	consistent := true
	out, err := awscloud.NewDynamoDB(awsConfig(t)).GetItem(t.Context(), &dynamodb.GetItemInput{TableName: &table, Key: key, ConsistentRead: &consistent})
	if err != nil || len(out.Item) == 0 {
		t.Fatalf("read %v of %s: %v, %v", key, table, out, err)
	}
	return out.Item
}

func (u *upgradeTest) putRawItem(t *testing.T, table string, stored map[string]types.AttributeValue) {
	t.Helper()
	if _, err := awscloud.NewDynamoDB(awsConfig(t)).PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &table, Item: stored}); err != nil {
		t.Fatal(err)
	}
}

func stringValue(text string) types.AttributeValue { return &types.AttributeValueMemberS{Value: text} }

func recordKey(id string) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{"pk": stringValue("B#" + id), "sk": stringValue("record")}
}

func leaseKey(taskID string) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{"task": stringValue(taskRoleID + ":" + taskID)}
}

// withUnknownFields adds an unknown attribute to an item, and an unknown field to each
// object of its document.
func withUnknownFields(t *testing.T, stored map[string]types.AttributeValue, document string, change func(map[string]any)) map[string]types.AttributeValue {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(stored[document].(*types.AttributeValueMemberS).Value))
	decoder.UseNumber() // the limits of an int64 must not become a float64
	var fields map[string]any
	if err := decoder.Decode(&fields); err != nil {
		t.Fatal(err)
	}
	change(fields)
	addUnknownField(fields)
	encoded, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	changed := maps.Clone(stored)
	changed[document], changed[unknownField] = stringValue(string(encoded)), stringValue("x")
	return changed
}

func addUnknownField(object map[string]any) {
	for _, member := range object {
		if inner, ok := member.(map[string]any); ok {
			addUnknownField(inner)
		}
	}
	object[unknownField] = map[string]any{"a": []int{1}}
}

// addUnknownFields adds fields to the record of the user's bastion that the functions do
// not know.
func (u *upgradeTest) addUnknownFields(t *testing.T, p *apiUser) {
	t.Helper()
	defer u.events.pause(t)()
	u.putRawItem(t, recordTable, withUnknownFields(t, u.rawItem(t, recordTable, recordKey(u.ids[p])), "record", func(map[string]any) {}))
}

// checkUnknownFields checks what ARCHITECTURE.md says about the fields of a record that a
// function does not know: its write drops them. The item keeps unknown attributes.
func (u *upgradeTest) checkUnknownFields(t *testing.T, p *apiUser) {
	t.Helper()
	stored := u.rawItem(t, recordTable, recordKey(u.ids[p]))
	if stored[unknownField] == nil || strings.Contains(stored["record"].(*types.AttributeValueMemberS).Value, unknownField) {
		t.Errorf("after writes of a function that does not know its fields, the item is %v", stored)
	}
}

// oldTaskReadsNewerLease gives the earlier version's task a lease with fields that it does
// not know. The task must follow it.
func (u *upgradeTest) oldTaskReadsNewerLease(t *testing.T) {
	u.checkVersion(t, u.alice, u.earlier)
	deadline := time.Now().UTC().Add(5 * time.Hour).Truncate(time.Second)
	resume := u.events.pause(t)
	rec := u.updateRecord(t, u.ids[u.alice], func(rec *bastion.Record) {
		rec.Intent.Deadline = deadline
		rec.Intent.Generation++
		rec.SeenAt, rec.DueAt = time.Time{}, time.Now().UTC()
	})
	generation := strconv.FormatInt(rec.Intent.Generation, 10)
	newer := withUnknownFields(t, u.rawItem(t, leaseTable, leaseKey(rec.Attempt.TaskID)), "lease", func(lease map[string]any) {
		lease["generation"], lease["deadline"] = rec.Intent.Generation, deadline
	})
	newer["generation"], newer["in_hand"] = &types.AttributeValueMemberN{Value: generation}, &types.AttributeValueMemberN{Value: generation}
	newer["by"] = stringValue("control")
	u.putRawItem(t, leaseTable, newer)
	resume()
	u.alice.expect(t, 200, "ready", "--header", waitHeader, "/bastions/"+u.ids[u.alice])
	reply, err := u.alice.console(t, "status")
	if err != nil || !strings.Contains(reply, deadline.Format("15:04")) {
		t.Errorf("the console of the old task replied %q, %v; want the deadline %s", reply, err, deadline)
	}
	u.traffic.check(t)
}
