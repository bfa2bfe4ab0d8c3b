//go:build conformance

package lambdamode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
)

// step is one update by a task: attributes of its item in DynamoDB's JSON. A nil
// value removes the attribute.
type step map[string]any

// attack returns the updates of a task, in order.
type attack func(w *twoBastions) []step

// mark is part of every text that the API must not repeat.
const mark = "ProxyCommand"

// Attribute values in DynamoDB's JSON.
func s(text string) any           { return map[string]any{"S": text} }
func n(number any) any            { return map[string]any{"N": fmt.Sprint(number)} }
func m(fields map[string]any) any { return map[string]any{"M": fields} }
func l(all ...any) any            { return map[string]any{"L": append([]any{}, all...)} }

// document is an attribute that holds JSON.
func document(fields any) any {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(fields); err != nil {
		panic(err)
	}
	return s(strings.TrimSpace(buf.String()))
}

// fields are the fields of a JSON object.
type fields = map[string]any

// report is a report with these fields, besides those of an honest one.
func report(changed fields) step {
	all := fields{"host_key": keyOfHostile, "generation": 1, "connections": 1}
	for name, value := range changed {
		all[name] = value
	}
	return step{"report": document(all), "by": s("task")}
}

// each is a step for each value of one field of the report.
func each(field string, values ...any) attack {
	return func(*twoBastions) (steps []step) {
		for _, value := range values {
			steps = append(steps, report(fields{field: value}))
		}
		return steps
	}
}

// otherIdentity returns fields that identify the other bastion, under every name that
// code could read by mistake.
func otherIdentity(w *twoBastions) fields {
	other := w.honest
	return fields{
		"bastion": other.id, "bastion_id": other.id, "id": other.id, "BastionID": other.id,
		"task": other.leaseKey(), "task_id": other.task, "TaskID": other.task, "key": other.leaseKey(),
		"owner": "iam:111122223333:" + other.user, "name": "default",
		"lease": fields{"bastion_id": other.id, "owner": "iam:111122223333:" + other.user, "generation": 9},
	}
}

// about is an object that names the other bastion in all of these ways.
func about(w *twoBastions, changed fields) any {
	all := otherIdentity(w)
	for name, value := range changed {
		all[name] = value
	}
	return all
}

const itemSize = 390_000 // nearly the largest size of an item

// attacks are updates that the task role allows.
var attacks = map[string]attack{
	"the other's id": func(w *twoBastions) []step {
		return []step{report(otherIdentity(w)), {"report": s(w.honest.id)}, {"report": l(s(w.honest.id))}, {"by": s(w.honest.id)}}
	},
	"the other's task as the writer": func(w *twoBastions) []step {
		return []step{{"in_hand": s(w.honest.leaseKey()), "by": s("control")}, {"in_hand": document(otherIdentity(w)), "by": document(otherIdentity(w))}}
	},
	"the other's host key":     each("host_key", keyOfHonest),
	"an invalid host key":      each("host_key", "", "x", "ssh-ed25519 AAAA", "ssh-ed25519 "+mark, 1, []string{keyOfHostile}, nil, fields{"B": "AAAA"}),
	"a huge host key":          each("host_key", "ssh-ed25519 "+strings.Repeat("A", 300_000), strings.Repeat(mark, 20_000)),
	"a host key and an option": each("host_key", injected()...),
	"further host keys": each("more_host_keys", nil, "", "x", 1, fields{"A": keyOfHostile}, []any{1}, []any{nil}, []any{fields{}}, []string{mark}, []string{"", "x", "ssh-ed25519 AAAA"},
		[]string{keyOfHonest}, []string{keyOfHostile, keyOfHostile}, strings.Split(strings.Repeat(keyOfHostile+"\n", 4_000), "\n")),
	"huge further host keys":          each("more_host_keys", []string{"ssh-rsa " + strings.Repeat("A", 300_000)}, []string{strings.Repeat(mark, 20_000)}),
	"further host keys and an option": each("more_host_keys", lists(injected())...),
	"many further host keys, no first": func(*twoBastions) []step {
		return []step{report(fields{"host_key": "", "more_host_keys": []string{keyOfHostile}}), report(fields{"host_key": nil, "more_host_keys": injected()})}
	},
	"an address":                 address,
	"a future generation":        each("generation", 2, int64(math.MaxInt64), -1, json.Number("1e30"), 0, "1"),
	"negative counts":            counts(-1, math.MinInt64),
	"the largest counts":         counts(math.MaxInt64, math.MaxInt64),
	"the other's receipt":        receiptOfTheOther,
	"a huge receipt":             hugeReceipt,
	"invalid and extreme times":  each("last_used_at", "tomorrow\n"+mark, "0000-00-00T00:00:00Z", "0000-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59-23:59", 5),
	"extreme times in a receipt": each("receipt", fields{"started_at": "9999-12-31T23:59:59Z", "ended_at": "9999-12-31T23:59:59-23:59"}, fields{"started_at": "0000-01-01T00:00:00+23:59"}),
	"an ending for the other":    endings,
	"its own end": func(*twoBastions) []step {
		return []step{report(fields{"ending": fields{"reason": "idle", "generation": 1}}), {"ending": s("idle/1")}}
	},
	"an ending of any form": func(w *twoBastions) []step {
		return []step{{"ending": s(w.honest.leaseKey())}, {"ending": s("idle/9")}, {"ending": n(1)}, {"ending": m(fields{"reason": s("idle")})}, {"ending": document(otherIdentity(w))}, {"ending": map[string]any{"NULL": true}}}
	},
	"requests for the other":    requests,
	"a request to close itself": each("console_request", fields{"number": 1, "verb": "close"}),
	"a report of any form": func(*twoBastions) []step {
		return []step{{"report": n(1)}, {"report": m(fields{"host_key": s(mark)})}, {"report": s("{")}, {"report": s("null")}, {"report": s(`"` + mark + `"`)}, {"report": s(strings.Repeat("[", 100_000))}, {"report": s(`{"host_key":"` + mark)}}
	},
	"items of the largest size": func(*twoBastions) []step {
		full, half := s(strings.Repeat("A", itemSize)), s(strings.Repeat("A", itemSize/2))
		return []step{{"report": full}, {"report": s("{}"), "by": full}, {"by": nil, "in_hand": full}, {"in_hand": nil, "ending": full}, {"ending": half, "report": half}}
	},
	"no attributes": func(*twoBastions) []step { return []step{{"report": nil, "by": nil, "in_hand": nil, "ending": nil}} },
}

// injected are host keys with which a line of ssh_config, of known_hosts or of a
// shell would begin.
func injected() (all []any) {
	for _, tail := range []string{
		"\n  " + mark + " touch /tmp/x", "\r\nHost *\n" + mark + " x", "\r" + mark, " " + mark, "\t" + mark, "\u2028" + mark,
		"\x00" + mark, "; " + mark, "' -o " + mark + "=x '", "$(" + mark + ")", "`" + mark + "`", "%h" + mark, " \\\n" + mark, "\x1b[2J" + mark,
	} {
		all = append(all, keyOfHostile+tail, mark+tail+" "+keyOfHostile)
	}
	return all
}

// lists returns a list of one item for each value.
func lists(values []any) (all []any) {
	for _, value := range values {
		all = append(all, []any{value})
	}
	return all
}

// address reports another address to connect to.
func address(w *twoBastions) []step {
	return []step{report(fields{
		"host": mark + ".example", "port": 22, "address": "203.0.113.66", "endpoints": []string{"203.0.113.66:22"},
		"endpoint": "203.0.113.66:22", "source": "0.0.0.0/0", "user": mark, "known_hosts": mark, "ssh_config": "Host *\n" + mark,
		"keys": []string{keyOfHostile}, "deadline": "2999-01-01T00:00:00Z", "open": true,
	})}
}

func counts(small, large int64) attack {
	receipt := fields{
		"started_at": "2020-01-01T00:00:00Z", "ended_at": "2020-01-01T00:00:00Z",
		"connections": small, "forwards": large, "refusals": small, "unnamed": large, "bytes_in": large, "bytes_out": small,
		"destinations": []any{fields{"name": "a:1", "forwards": large, "bytes_in": small, "bytes_out": large}},
	}
	return func(*twoBastions) []step {
		return []step{report(fields{"connections": small}), report(fields{"connections": large, "receipt": receipt})}
	}
}

func receiptOfTheOther(w *twoBastions) []step {
	receipt := about(w, fields{"started_at": "2020-01-01T00:00:00Z", "connections": 7})
	return []step{report(fields{"receipt": receipt}), report(fields{"receipt": receipt, "ending": about(w, fields{"reason": "idle", "generation": 1})})}
}

func hugeReceipt(*twoBastions) []step {
	destinations := func(count int, name string) any {
		var all []any
		for i := range count {
			all = append(all, fields{"name": fmt.Sprint(name, i), "forwards": 1})
		}
		return fields{"started_at": "2020-01-01T00:00:00Z", "destinations": all}
	}
	return []step{
		report(fields{"receipt": destinations(201, "a")}),
		report(fields{"receipt": destinations(5000, "a")}),
		report(fields{"receipt": destinations(1, strings.Repeat("x", 300_000))}),
		report(fields{"receipt": destinations(200, strings.Repeat("x", 500))}),
		report(fields{"receipt": destinations(200, strings.Repeat("\x01", 290))}),
		report(fields{"receipt": destinations(200, "a\nHost *\n  "+mark)}),
	}
}

func endings(w *twoBastions) (steps []step) {
	for _, reason := range []string{"idle", "deadline", "closed", "failed", "task", "console", "", mark + "\n" + mark, strings.Repeat("x", 100_000)} {
		for _, generation := range []any{0, 2} {
			steps = append(steps, report(fields{"ending": about(w, fields{"reason": reason, "generation": generation})}))
		}
	}
	for _, generation := range []any{-1, int64(math.MaxInt64), json.Number("1e30")} {
		steps = append(steps, report(fields{"ending": fields{"reason": "idle", "generation": generation}}))
	}
	return append(steps, report(fields{"ending": "idle"}))
}

func requests(w *twoBastions) (steps []step) {
	number := 0
	request := func(verb string, ttl any) {
		number++
		steps = append(steps, report(fields{"console_request": about(w, fields{"number": number, "verb": verb, "ttl_ns": ttl})}))
	}
	request("extend", int64(math.MaxInt64))
	request("extend", int64(math.MinInt64))
	request("extend", int64(2*time.Hour))
	request("extend", json.Number("1e30"))
	request(mark+"\n", 0)
	request(strings.Repeat("x", 50_000), 0)
	number = math.MaxInt64 - 2
	request("", 0)
	request("close", 0)
	number = -5
	request("close", 0)
	return steps
}

// attacksBeyondRole are updates that the task role does not allow.
var attacksBeyondRole = map[string]attack{
	"the other's id": func(w *twoBastions) []step {
		return []step{{"bastion": s(w.honest.id)}, attributes(w), {"bastion": s("")}, {"bastion": n(1)}, {"bastion": nil}}
	},
	"the other's lease": func(w *twoBastions) []step {
		lease := document(fields{"bastion_id": w.honest.id, "owner": "iam:111122223333:" + w.honest.user, "name": "default", "generation": 1,
			"open": true, "source": "0.0.0.0/0", "keys": []string{keyOfHonest}, "allowed_destinations": []string{"0.0.0.0/0"}})
		return []step{{"lease": lease}, {"lease": lease, "bastion": s(w.honest.id), "by": s("control")}}
	},
	"a lease that cannot be read": func(*twoBastions) []step {
		return []step{
			{"lease": s("x")}, {"lease": l()}, {"lease": n(1)}, {"lease": nil}, {"lease": m(fields{"open": s("x")})}, {"lease": s("null")},
			{"lease": document(fields{"source": "x"})}, {"lease": document(fields{"deadline": "x"})}, {"lease": document(fields{"allowed_destinations": []string{"*"}})},
			{"lease": document(fields{"generation": "x"})}, {"lease": document(fields{"open": "x", "keys": 1})},
		}
	},
	"a generation without a successor": func(*twoBastions) []step {
		return []step{
			{"generation": n("1e100")}, {"generation": n(math.MaxInt64), "lease": document(fields{"generation": int64(math.MaxInt64)})},
			{"generation": s("x")}, {"generation": nil}, {"generation": n(-1), "written": n(1)},
		}
	},
	"a tombstone": func(*twoBastions) []step {
		return []step{{"ended": s("x")}, {"ended": l()}, {"ended": map[string]any{"BOOL": true}}, {"ended": map[string]any{"BOOL": false}}, {"ended": nil}}
	},
	"no tombstone": func(w *twoBastions) []step {
		return []step{{"ended": nil, "expires_at": nil, "bastion": s(w.honest.id), "lease": document(fields{"generation": 1}), "report": s("{}")}}
	},
	"an item without attributes": func(*twoBastions) []step {
		return []step{{"expires_at": n(1)}, {"expires_at": s("x")}, {"lease": nil, "report": nil, "bastion": nil, "generation": nil, "by": nil, "in_hand": nil, "ending": nil, "written": nil}}
	},
	"items of the largest size": func(*twoBastions) []step { return []step{{"filler": s(strings.Repeat("A", itemSize))}} },
}

// attributes are all of the names as attributes of the item itself.
func attributes(w *twoBastions) step {
	item := step{}
	for name, value := range otherIdentity(w) {
		if text, ok := value.(string); ok {
			item[name] = s(text)
		} else {
			item[name] = document(value)
		}
	}
	delete(item, "task") // the key, which an update cannot change
	return item
}
