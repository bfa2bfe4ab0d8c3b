//go:build conformance

package lambdamode

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// A compromised task writes to its own item: first only the attributes that its role
// allows, then all attributes, as if IAM did not check them. The events are delivered in
// any order, repeated and malformed. The record and the lease of the other bastion must
// not change, the responses about both bastions must be safe for ssh, and the owner of
// the compromised task must be able to close its bastion.
func TestHostileTaskAffectsOnlyItsOwnBastion(t *testing.T) {
	url := emulator.DynamoDB(t)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_DYNAMODB": url, "AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local",
	} {
		t.Setenv(name, value)
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) { runAttack(t, newTwoBastions(t, url), attack, true) })
	}
	for name, attack := range attacksBeyondRole {
		t.Run("beyond its role: "+name, func(t *testing.T) { runAttack(t, newTwoBastions(t, url), attack, false) })
	}
}

// runAttack writes each step as the hostile task, and delivers the events after it. Then
// it advances the time, closes the hostile bastion, and writes the steps again.
func runAttack(t *testing.T, w *twoBastions, attack attack, inRole bool) {
	before, responses := w.others(t), w.responses(t, w.honest)
	unchanged := func(when string) {
		t.Helper()
		if after := w.others(t); !reflect.DeepEqual(after, before) {
			t.Fatalf("%s: the tables held\n%s\nand hold\n%s", when, indented(before), indented(after))
		}
		if after := w.responses(t, w.honest); !reflect.DeepEqual(after, responses) {
			t.Fatalf("%s: the honest owner's responses are\n%s\nwant\n%s", when, after, responses)
		}
		w.checkResponses(t, w.hostile)
	}
	steps := attack(w)
	for i, step := range steps {
		w.write(t, step, inRole)
		w.deliverEvents(t)
		unchanged(fmt.Sprint("step ", i))
	}
	// Long enough for the sweep to remove orphans.
	record := w.fetch(t, w.honest)
	for range 3 {
		w.pass(w.app.Config.Bastion.Timing.SweepGrace / 2)
		w.deliverEvents(t)
	}
	after := w.fetch(t, w.honest)
	if !after.SeenAt.After(record.SeenAt) {
		t.Errorf("the honest bastion was last seen ready %s, and before %s", after.SeenAt, record.SeenAt)
	}
	after.Version, after.DueAt, after.SeenAt = record.Version, record.DueAt, record.SeenAt // may have changed
	if !reflect.DeepEqual(after, record) {
		t.Fatalf("the record was\n%+v\nand is\n%+v", record, after)
	}
	if key := w.honest.leaseKey(); !reflect.DeepEqual(w.others(t)[leaseOf(key)], before[leaseOf(key)]) {
		t.Fatal("the other's lease has changed")
	}
	before, responses = w.others(t), w.responses(t, w.honest)
	w.end(t, w.hostile)
	unchanged("closed")
	for i, step := range steps {
		w.write(t, step, inRole)
		w.deliverEvents(t)
		unchanged(fmt.Sprint("step after the end ", i))
	}
	if rec := w.fetch(t, w.hostile); rec.FinishedAt.IsZero() {
		t.Errorf("the hostile bastion is open again: %+v", rec)
	}
	w.end(t, w.honest)
	if rec := w.fetch(t, w.honest); rec.End.Reason != bastion.EndClosed || rec.Receipt.Connections != 1 || rec.Attempt.Number != 1 {
		t.Errorf("record of the honest bastion: %+v", rec)
	}
}

// write updates the hostile task's own item, as the task. Attributes without a value
// are removed.
func (w *twoBastions) write(t *testing.T, step step, inRole bool) {
	t.Helper()
	var sets, removes []string
	names, values := map[string]string{}, map[string]any{}
	for i, name := range slices.Sorted(maps.Keys(step)) {
		if inRole && !slices.Contains(awscloud.TaskAttributes, name) {
			t.Fatalf("the task role does not allow to write %s", name)
		}
		names[fmt.Sprint("#n", i)] = name
		if step[name] == nil {
			removes = append(removes, fmt.Sprint("#n", i))
			continue
		}
		values[fmt.Sprint(":v", i)] = step[name]
		sets = append(sets, fmt.Sprintf("#n%d = :v%d", i, i))
	}
	in := map[string]any{
		"TableName": w.leases, "Key": map[string]any{"task": s(w.hostile.leaseKey())}, "ExpressionAttributeNames": names,
	}
	expression := ""
	if len(sets) > 0 {
		expression, in["ExpressionAttributeValues"] = "SET "+strings.Join(sets, ", "), values
	}
	if len(removes) > 0 {
		expression += " REMOVE " + strings.Join(removes, ", ")
	}
	in["UpdateExpression"] = expression
	w.tables.call(t, dynamoTables+"UpdateItem", in, &struct{}{})
}

// deliverEvents sends all events of both leases to the control plane: in order, twice,
// backwards, one by one, and with malformed records; and runs the schedules.
func (w *twoBastions) deliverEvents(t *testing.T) {
	t.Helper()
	all := w.tables.stream(t, w.leases)
	if len(all) < 4 {
		t.Fatalf("the stream has %d records", len(all))
	}
	backwards := slices.Clone(all)
	slices.Reverse(backwards)
	batches := [][]json.RawMessage{slices.Concat(all, all), backwards, w.malformed(all[len(all)-1])}
	for _, one := range all[max(0, len(all)-4):] {
		batches = append(batches, []json.RawMessage{one})
	}
	for _, batch := range batches {
		event, err := json.Marshal(map[string]any{"Records": batch})
		must(t, err)
		response, err := w.observer.Handle(t.Context(), event)
		must(t, err)
		for _, failed := range response.BatchItemFailures {
			if w.isHonest(batch, failed.ItemIdentifier) {
				t.Errorf("a record of the honest task failed: %s", failed.ItemIdentifier)
			}
		}
	}
	for _, id := range []string{w.hostile.id, w.honest.id, w.hostile.id} {
		_, err := w.observer.Handle(t.Context(), json.RawMessage(taskEventOf(w.app.Config.Cloud.ClusterARN, "bastion/"+id)))
		w.hostileOnly(t, err)
	}
	w.reap(t)
	w.sweep(t)
}

// isHonest reports whether a record is about the honest task's item.
func (w *twoBastions) isHonest(batch []json.RawMessage, number string) bool {
	return slices.ContainsFunc(batch, func(record json.RawMessage) bool {
		var change leaseChange
		return json.Unmarshal(record, &change) == nil && change.Change.SequenceNumber == number &&
			*change.Change.Keys[awscloud.LeaseKeyAttribute].Text == w.honest.leaseKey()
	})
}

// malformed returns records that name the wrong bastion, and records that cannot be
// decoded.
func (w *twoBastions) malformed(like json.RawMessage) []json.RawMessage {
	var all []json.RawMessage
	for _, key := range []string{w.hostile.leaseKey(), w.honest.leaseKey(), w.hostile.task, "AROAANOTHER:" + w.honest.task, ""} {
		for _, id := range []string{w.honest.id, w.hostile.id, w.honest.id + "\n", "", strings.Repeat("x", 3000)} {
			all = append(all, json.RawMessage(fmt.Sprintf(
				`{"eventName":"MODIFY","dynamodb":{"SequenceNumber":"m%d","Keys":{"task":{"S":%q}},"NewImage":{"bastion":{"S":%q},"report":{"M":{"bastion":{"S":%q}}}}}}`,
				len(all), key, id, w.honest.id)))
		}
	}
	return append(all, like, json.RawMessage(`{}`), json.RawMessage(`{"dynamodb":{"Keys":{"task":{"N":"1"}},"NewImage":{"bastion":{"SS":["a"]}}}}`))
}

// end closes a bastion as its owner, and waits until nothing of it is left.
func (w *twoBastions) end(t *testing.T, n testBastion) {
	t.Helper()
	_, err := w.app.Service.Close(t.Context(), bastion.Caller{Owner: "iam:111122223333:" + n.user}, n.id, 0)
	must(t, err)
	poll := time.NewTicker(5 * time.Millisecond) // tasks do not stop at once
	defer poll.Stop()
	for range 1000 {
		if rec := w.fetch(t, n); !rec.FinishedAt.IsZero() {
			for _, task := range w.cloud.Inventory().Live() {
				if task.BastionID == n.id {
					t.Errorf("the task of a finished bastion runs: %+v", task)
				}
			}
			return
		}
		<-poll.C
		_, err := w.app.Service.Converge(t.Context(), n.id, bastion.ReaperSteps)
		w.hostileOnly(t, err)
	}
	t.Fatalf("the bastion does not end: %+v", w.fetch(t, n))
}

func leaseOf(key string) string { return fmt.Sprintf(`leases {"S":%q}`, key) }

// others returns the items of both tables, byte for byte, without those of the hostile
// bastion and its owner, the sweep's marks, and the counter of open bastions.
func (w *twoBastions) others(t *testing.T) map[string]wireItem {
	t.Helper()
	all := map[string]wireItem{}
	for key, item := range w.tables.scan(t, w.leases) {
		if !strings.Contains(key, w.hostile.task) {
			all["leases "+key] = item
		}
	}
	for key, item := range w.tables.scan(t, w.records) {
		own := strings.Contains(key, "B#"+w.hostile.id) || strings.Contains(key, w.hostile.user)
		if !own && !strings.Contains(key, `"marks"`) && !strings.Contains(key, `"total"`) {
			all["records "+key] = item
		}
	}
	if len(all) < 6 {
		t.Fatalf("these are not all: %s", indented(all))
	}
	return all
}

// indented returns v as JSON, for a message.
func indented(v any) string {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// responses returns all responses of the API to a bastion's owner.
func (w *twoBastions) responses(t *testing.T, n testBastion) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, path := range []string{"/bastions", "/bastions/" + n.id} {
		for _, accept := range []string{"text/plain", "application/json"} {
			text := w.get(t, n, path, accept)
			all[path+" "+accept] = timeLeft.ReplaceAllString(text, "")
		}
	}
	return all
}

var (
	timeLeft = regexp.MustCompile(` \([0-9a-z]+ left\)`)
	// safeLine matches the lines that are safe for ssh.
	safeLine = regexp.MustCompile(`^(|# [ -~]*|Host bastion-default|  HostName [0-9.]+|  Port [0-9]+|  User bastion|` +
		`  Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com|` +
		`  KnownHostsCommand /usr/bin/env printf "%%s %%s %%s\\n"( \[?[0-9.]+(\]:[0-9]+)? ssh-(ed25519|rsa) [A-Za-z0-9+/]+=*)+|` +
		`  (User|Global)KnownHostsFile /dev/null|  StrictHostKeyChecking yes)$`)
)

// checkResponses fails the test if a response about the hostile bastion is not safe for
// ssh, or contains text of the task other than a valid host key.
func (w *twoBastions) checkResponses(t *testing.T, n testBastion) {
	t.Helper()
	for what, text := range w.responses(t, n) {
		if strings.Contains(text, mark) {
			t.Fatalf("%s repeats what the task wrote:\n%s", what, text)
		}
		if !strings.HasSuffix(what, "text/plain") {
			continue
		}
		for line := range strings.Lines(text) {
			if !safeLine.MatchString(strings.TrimSuffix(line, "\n")) {
				t.Fatalf("%s has the line %q", what, line)
			}
		}
	}
}
