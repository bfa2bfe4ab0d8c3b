//go:build conformance

package lambdamode

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// step is what a task writes at once: attributes of its item, as they are at the
// wire. One that is nil is removed.
type step map[string]any

// attack is what a task writes, in order.
type attack func(w *neighbours) []step

// mark is in all that a person must never be shown.
const mark = "ProxyCommand"

// Values at the wire.
func s(text string) any           { return map[string]any{"S": text} }
func n(number any) any            { return map[string]any{"N": fmt.Sprint(number)} }
func m(fields map[string]any) any { return map[string]any{"M": fields} }
func l(all ...any) any            { return map[string]any{"L": append([]any{}, all...)} }

// none are no fields.
var none = map[string]any{}

// report is a report with these fields, beside those that an honest one has.
func report(fields map[string]any) step {
	whole := map[string]any{
		"host_key": s(keyOfHostile), "generation": n(1), "connections": n(1),
		"request": m(none), "receipt": m(none),
	}
	for name, value := range fields {
		whole[name] = value
	}
	return step{"report": m(whole), "by": s("task")}
}

// each is a step for each value of one field of the report.
func each(field string, values ...any) attack {
	return func(*neighbours) (steps []step) {
		for _, value := range values {
			steps = append(steps, report(map[string]any{field: value}))
		}
		return steps
	}
}

// naming are all names under which something could take the other for meant.
func naming(w *neighbours) map[string]any {
	other := w.honest
	return map[string]any{
		"bastion": s(other.id), "bastion_id": s(other.id), "id": s(other.id), "BastionID": s(other.id),
		"task": s(other.leaseKey()), "task_id": s(other.task), "TaskID": s(other.task), "key": s(other.leaseKey()),
		"owner": s("iam:111122223333:" + other.user), "name": s("default"),
		"lease": m(map[string]any{"bastion_id": s(other.id), "owner": s("iam:111122223333:" + other.user), "generation": n(9)}),
	}
}

// about is a field that names the other in all of these ways.
func about(w *neighbours, fields map[string]any) any {
	whole := naming(w)
	for name, value := range fields {
		whole[name] = value
	}
	return m(whole)
}

// attacks are within the role.
var attacks = map[string]attack{
	"the other's id": func(w *neighbours) []step {
		return []step{report(naming(w)), {"report": s(w.honest.id)}, {"report": l(s(w.honest.id))}, {"by": s(w.honest.id)}}
	},
	"the other's task, in what says who wrote": func(w *neighbours) []step {
		return []step{{"in_hand": s(w.honest.leaseKey()), "by": s("control")}, {"in_hand": m(naming(w)), "by": m(naming(w))}}
	},
	"the other's host key":      each("host_key", s(keyOfHonest)),
	"a host key that is none":   each("host_key", s(""), s("x"), s("ssh-ed25519 AAAA"), s("ssh-ed25519 "+mark), n(1), l(s(keyOfHostile)), map[string]any{"NULL": true}, map[string]any{"B": "AAAA"}),
	"a host key that is huge":   each("host_key", s("ssh-ed25519 "+strings.Repeat("A", 300_000)), s(strings.Repeat(mark, 20_000))),
	"a host key and an option":  each("host_key", injected()...),
	"an address":                address,
	"a generation to come":      each("generation", n(2), n(math.MaxInt64), n(-1), n("1e30"), n(0), s("1")),
	"counts below zero":         counts(-1, math.MinInt64),
	"counts beyond all":         counts(math.MaxInt64, math.MaxInt64),
	"a receipt of the other's":  receiptOfTheOther,
	"a receipt that is huge":    hugeReceipt,
	"times that are none":       each("last_use", s("tomorrow\n"+mark), s("0000-00-00T00:00:00.000000000Z"), s("9999-12-31T23:59:59.999999999Z"), n(5)),
	"an ending for the other":   endings,
	"its own end":               each("ending", m(map[string]any{"reason": s("idle"), "generation": n(1)})),
	"requests for the other":    requests,
	"a request to close itself": each("request", m(map[string]any{"number": n(1), "verb": s("close")})),
	"all the room there is": func(*neighbours) []step {
		return []step{{"report": s(strings.Repeat("A", 390_000))}, {"report": m(none), "by": s(strings.Repeat("A", 390_000))}, {"by": nil, "in_hand": s(strings.Repeat("A", 390_000))}}
	},
	"nothing at all": func(*neighbours) []step { return []step{{"report": nil, "by": nil, "in_hand": nil}} },
}

// injected are host keys with which a line of ssh_config, of known_hosts or of a
// shell would begin.
func injected() (all []any) {
	for _, tail := range []string{
		"\n  " + mark + " touch /tmp/x", "\r\nHost *\n" + mark + " x", "\r" + mark, " " + mark, "\t" + mark, "\u2028" + mark,
		"\x00" + mark, "; " + mark, "' -o " + mark + "=x '", "$(" + mark + ")", "`" + mark + "`", "%h" + mark, " \\\n" + mark, "\x1b[2J" + mark,
	} {
		all = append(all, s(keyOfHostile+tail), s(mark+tail+" "+keyOfHostile))
	}
	return all
}

// address claims another place to connect to, for itself and for the other.
func address(w *neighbours) []step {
	return []step{report(map[string]any{
		"host": s(mark + ".example"), "port": n(22), "address": s("203.0.113.66"), "endpoints": l(s("203.0.113.66:22")),
		"endpoint": s("203.0.113.66:22"), "source": s("0.0.0.0/0"), "user": s(mark), "known_hosts": s(mark), "ssh_config": s("Host *\n" + mark),
		"keys": l(s(keyOfHostile)), "deadline": s("2999-01-01T00:00:00.000000000Z"), "open": map[string]any{"BOOL": true},
	})}
}

func counts(small, large int64) attack {
	receipt := m(map[string]any{
		"started_at": s("2020-01-01T00:00:00.000000000Z"), "ended_at": s("2020-01-01T00:00:00.000000000Z"),
		"connections": n(small), "forwards": n(large), "refusals": n(small), "unnamed": n(large), "bytes_in": n(large), "bytes_out": n(small),
		"destinations": l(m(map[string]any{"name": s("a:1"), "forwards": n(large), "bytes_in": n(small), "bytes_out": n(large)})),
	})
	return func(*neighbours) []step {
		return []step{report(map[string]any{"connections": n(small)}), report(map[string]any{"connections": n(large), "receipt": receipt})}
	}
}

func receiptOfTheOther(w *neighbours) []step {
	receipt := about(w, map[string]any{"started_at": s("2020-01-01T00:00:00.000000000Z"), "connections": n(7)})
	return []step{report(map[string]any{"receipt": receipt}), report(map[string]any{"receipt": receipt, "ending": about(w, map[string]any{"reason": s("idle"), "generation": n(1)})})}
}

func hugeReceipt(*neighbours) []step {
	destinations := func(count int, name string) any {
		var all []any
		for i := range count {
			all = append(all, m(map[string]any{"name": s(fmt.Sprint(name, i)), "forwards": n(1)}))
		}
		return m(map[string]any{"started_at": s("2020-01-01T00:00:00.000000000Z"), "destinations": l(all...)})
	}
	return []step{
		report(map[string]any{"receipt": destinations(201, "a")}),
		report(map[string]any{"receipt": destinations(5000, "a")}),
		report(map[string]any{"receipt": destinations(1, strings.Repeat("x", 300_000))}),
		report(map[string]any{"receipt": destinations(200, strings.Repeat("x", 500))}),
		report(map[string]any{"receipt": destinations(200, "a\nHost *\n  "+mark)}),
	}
}

func endings(w *neighbours) (steps []step) {
	for _, reason := range []string{"idle", "deadline", "closed", "failed", "task", "console", "", mark + "\n" + mark, strings.Repeat("x", 100_000)} {
		for _, generation := range []any{0, 2} {
			steps = append(steps, report(map[string]any{"ending": about(w, map[string]any{"reason": s(reason), "generation": n(generation)})}))
		}
	}
	for _, generation := range []any{-1, math.MaxInt64, "1e30"} {
		steps = append(steps, report(map[string]any{"ending": m(map[string]any{"reason": s("idle"), "generation": n(generation)})}))
	}
	return append(steps, report(map[string]any{"ending": s("idle")}))
}

func requests(w *neighbours) (steps []step) {
	number := 0
	ask := func(verb string, ttl any) {
		number++
		steps = append(steps, report(map[string]any{"request": about(w, map[string]any{"number": n(number), "verb": s(verb), "ttl_ns": n(ttl)})}))
	}
	ask("extend", math.MaxInt64)
	ask("extend", math.MinInt64)
	ask("extend", int64(2*time.Hour))
	ask("extend", "1e30")
	ask(mark+"\n", 0)
	ask(strings.Repeat("x", 50_000), 0)
	number = math.MaxInt64 - 2
	ask("", 0)
	ask("close", 0)
	number = -5
	ask("close", 0)
	return steps
}

// trespasses are beyond the role.
var trespasses = map[string]attack{
	"the other's id": func(w *neighbours) []step {
		return []step{{"bastion": s(w.honest.id)}, whole(w), {"bastion": s("")}, {"bastion": n(1)}, {"bastion": nil}}
	},
	"the other's lease": func(w *neighbours) []step {
		lease := map[string]any{"bastion_id": s(w.honest.id), "owner": s("iam:111122223333:" + w.honest.user), "name": s("default"), "generation": n(1),
			"open": map[string]any{"BOOL": true}, "source": s("0.0.0.0/0"), "keys": l(s(keyOfHonest)), "allowed": l(s("0.0.0.0/0"))}
		return []step{{"lease": m(lease)}, {"lease": m(lease), "bastion": s(w.honest.id), "by": s("control")}}
	},
	"a lease that cannot be read": func(*neighbours) []step {
		return []step{
			{"lease": s("x")}, {"lease": l()}, {"lease": n(1)}, {"lease": nil},
			{"lease": m(map[string]any{"source": s("x")})}, {"lease": m(map[string]any{"deadline": s("x")})},
			{"lease": m(map[string]any{"generation": s("x")})}, {"lease": m(map[string]any{"open": s("x"), "keys": n(1)})},
		}
	},
	"a generation that none follows": func(*neighbours) []step {
		return []step{
			{"generation": n("1e100")}, {"generation": n(math.MaxInt64), "lease": m(map[string]any{"generation": n(math.MaxInt64)})},
			{"generation": s("x")}, {"generation": nil}, {"generation": n(-1), "written": n(1)},
		}
	},
	"a tombstone": func(*neighbours) []step {
		return []step{{"ended": s("x")}, {"ended": l()}, {"ended": map[string]any{"BOOL": true}}, {"ended": map[string]any{"BOOL": false}}, {"ended": nil}}
	},
	"no tombstone": func(w *neighbours) []step {
		return []step{{"ended": nil, "expires_at": nil, "bastion": s(w.honest.id), "lease": m(map[string]any{"generation": n(1)}), "report": m(none)}}
	},
	"its own death": func(*neighbours) []step {
		return []step{{"expires_at": n(1)}, {"expires_at": s("x")}, {"lease": nil, "report": nil, "bastion": nil, "generation": nil, "by": nil, "in_hand": nil, "written": nil}}
	},
	"all the room there is": func(*neighbours) []step { return []step{{"filler": s(strings.Repeat("A", 390_000))}} },
}

// whole is all of the names as attributes of the item itself.
func whole(w *neighbours) step {
	item := step(naming(w))
	delete(item, "task") // the key, which no update changes
	return item
}
