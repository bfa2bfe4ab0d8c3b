package awscloud

import (
	"encoding"
	"fmt"
	"net/netip"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// What the items of both tables have in common. The types of items are not the
// domain's: a name in the domain may change, one in a table may not. Attributes
// that are not known are ignored, ones that are missing are zero, so that an
// older and a newer version of the service can share a table while one replaces
// the other.

// stampLayout has a fixed width, so that the text sorts as the time does.
const stampLayout = "2006-01-02T15:04:05.000000000Z"

func toStamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(stampLayout)
}

// toTTL is a time as DynamoDB's TTL wants it: whole seconds since 1970.
func toTTL(t time.Time) int64 { return t.Unix() }

func toPrefix(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

func toTexts[T fmt.Stringer](all []T) []string {
	var texts []string
	for _, one := range all {
		texts = append(texts, one.String())
	}
	return texts
}

// decoder reads attributes that are texts, and keeps the first error.
type decoder struct{ err error }

func (d *decoder) time(attribute, s string) time.Time {
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(stampLayout, s)
	if err != nil {
		d.fail(attribute, err)
	}
	return t
}

func (d *decoder) prefix(attribute, s string) netip.Prefix {
	return parsed[netip.Prefix](d, attribute, s)
}

// parsed reads a text that its type can read; an empty one is zero.
func parsed[T any, P interface {
	*T
	encoding.TextUnmarshaler
}](d *decoder, attribute, s string) T {
	var value T
	if s == "" {
		return value
	}
	if err := P(&value).UnmarshalText([]byte(s)); err != nil {
		d.fail(attribute, err)
	}
	return value
}

func parsedAll[T any, P interface {
	*T
	encoding.TextUnmarshaler
}](d *decoder, attribute string, texts []string) []T {
	var all []T
	for _, s := range texts {
		all = append(all, parsed[T, P](d, attribute, s))
	}
	return all
}

func (d *decoder) fail(attribute string, err error) {
	if d.err == nil {
		d.err = fmt.Errorf("attribute %s: %w", attribute, err)
	}
}

// converted copies a slice of one string type to another.
func converted[To, From ~string](all []From) []To {
	var out []To
	for _, one := range all {
		out = append(out, To(one))
	}
	return out
}

type answerItem struct {
	Number  int    `dynamodbav:"number,omitempty"`
	Code    string `dynamodbav:"code,omitempty"`
	Message string `dynamodbav:"message,omitempty"`
}

func toAnswerItem(a bastion.ConsoleReply) answerItem {
	return answerItem{Number: a.Number, Code: string(a.Code), Message: a.Message}
}

func (a answerItem) answer() bastion.ConsoleReply {
	return bastion.ConsoleReply{Number: a.Number, Code: bastion.Code(a.Code), Message: a.Message}
}

type receiptItem struct {
	StartedAt    string            `dynamodbav:"started_at,omitempty"`
	EndedAt      string            `dynamodbav:"ended_at,omitempty"`
	Connections  int               `dynamodbav:"connections,omitempty"`
	Forwards     int               `dynamodbav:"forwards,omitempty"`
	Refusals     int               `dynamodbav:"refusals,omitempty"`
	BytesIn      int64             `dynamodbav:"bytes_in,omitempty"`
	BytesOut     int64             `dynamodbav:"bytes_out,omitempty"`
	Destinations []destinationItem `dynamodbav:"destinations,omitempty"`
	Unnamed      int               `dynamodbav:"unnamed,omitempty"`
}

type destinationItem struct {
	Name     string `dynamodbav:"name,omitempty"`
	Forwards int    `dynamodbav:"forwards,omitempty"`
	BytesIn  int64  `dynamodbav:"bytes_in,omitempty"`
	BytesOut int64  `dynamodbav:"bytes_out,omitempty"`
}

func toReceiptItem(r bastion.Receipt) receiptItem {
	it := receiptItem{
		StartedAt: toStamp(r.StartedAt), EndedAt: toStamp(r.EndedAt),
		Connections: r.Connections, Forwards: r.Forwards, Refusals: r.Refusals,
		BytesIn: r.BytesIn, BytesOut: r.BytesOut, Unnamed: r.Unnamed,
	}
	for _, d := range r.Destinations {
		it.Destinations = append(it.Destinations, destinationItem(d))
	}
	return it
}

func (it receiptItem) receipt(d *decoder) bastion.Receipt {
	r := bastion.Receipt{
		StartedAt: d.time("started_at", it.StartedAt), EndedAt: d.time("ended_at", it.EndedAt),
		Connections: it.Connections, Forwards: it.Forwards, Refusals: it.Refusals,
		BytesIn: it.BytesIn, BytesOut: it.BytesOut, Unnamed: it.Unnamed,
	}
	for _, one := range it.Destinations {
		r.Destinations = append(r.Destinations, bastion.Destination(one))
	}
	return r
}
