package awscloud

import (
	"net/netip"
	"regexp"
	"time"

	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// leaseItem is the attribute "lease".
type leaseItem struct {
	BastionID  string     `dynamodbav:"bastion_id,omitempty"`
	Owner      string     `dynamodbav:"owner,omitempty"`
	Name       string     `dynamodbav:"name,omitempty"`
	Generation int64      `dynamodbav:"generation,omitempty"`
	Open       bool       `dynamodbav:"open"`
	EndReason  string     `dynamodbav:"end_reason,omitempty"`
	Source     string     `dynamodbav:"source,omitempty"`
	Keys       []string   `dynamodbav:"keys,omitempty"`
	Deadline   string     `dynamodbav:"deadline,omitempty"`
	IdleNanos  int64      `dynamodbav:"idle_ns,omitempty"`
	Allowed    []string   `dynamodbav:"allowed,omitempty"`
	Answer     answerItem `dynamodbav:"answer"`
}

func toLeaseItem(l bastion.Lease) leaseItem {
	return leaseItem{
		BastionID: l.BastionID, Owner: l.Owner, Name: l.Name, Generation: l.Generation,
		Open: l.Open, EndReason: string(l.EndReason), Source: toPrefix(l.Source),
		Keys: converted[string](l.Keys), Deadline: toStamp(l.Deadline), IdleNanos: int64(l.IdleTimeout),
		Allowed: toTexts(l.AllowedDestinations), Answer: toAnswerItem(l.ConsoleReply),
	}
}

func (it leaseItem) lease(d *decoder) bastion.Lease {
	return bastion.Lease{
		BastionID: it.BastionID, Owner: it.Owner, Name: it.Name, Generation: it.Generation,
		Open: it.Open, EndReason: bastion.EndReason(it.EndReason), Source: d.prefix("lease.source", it.Source),
		Keys: converted[bastion.Key](it.Keys), Deadline: d.time("lease.deadline", it.Deadline), IdleTimeout: time.Duration(it.IdleNanos),
		AllowedDestinations: parsedAll[netip.Prefix](d, "lease.allowed", it.Allowed), ConsoleReply: it.Answer.answer(),
	}
}

// reportItem is the attribute "report". Its ending is missing until the task ends:
// conditions look at that.
type reportItem struct {
	HostKey     string      `dynamodbav:"host_key,omitempty"`
	Generation  int64       `dynamodbav:"generation,omitempty"`
	Connections int         `dynamodbav:"connections,omitempty"`
	LastUse     string      `dynamodbav:"last_use,omitempty"`
	Request     requestItem `dynamodbav:"request"`
	Ending      *endingItem `dynamodbav:"ending,omitempty"`
	Receipt     receiptItem `dynamodbav:"receipt"`
}

type requestItem struct {
	Number   int    `dynamodbav:"number,omitempty"`
	Verb     string `dynamodbav:"verb,omitempty"`
	TTLNanos int64  `dynamodbav:"ttl_ns,omitempty"`
}

type endingItem struct {
	Reason     string `dynamodbav:"reason"`
	Generation int64  `dynamodbav:"generation"`
}

func toReportItem(r bastion.Report) reportItem {
	it := reportItem{
		HostKey: string(r.HostKey), Generation: r.Generation, Connections: r.Connections, LastUse: toStamp(r.LastUse),
		Request: requestItem{Number: r.ConsoleRequest.Number, Verb: string(r.ConsoleRequest.Verb), TTLNanos: int64(r.ConsoleRequest.TTL)},
		Receipt: toReceiptItem(r.Receipt),
	}
	if r.Ending.Reason != "" {
		it.Ending = &endingItem{Reason: string(r.Ending.Reason), Generation: r.Ending.Generation}
	}
	return it
}

func (it reportItem) report(d *decoder) bastion.Report {
	r := bastion.Report{
		HostKey: bastion.Key(it.HostKey), Generation: it.Generation, Connections: it.Connections,
		LastUse:        d.time("report.last_use", it.LastUse),
		ConsoleRequest: bastion.ConsoleRequest{Number: it.Request.Number, Verb: bastion.Verb(it.Request.Verb), TTL: time.Duration(it.Request.TTLNanos)},
		Receipt:        it.Receipt.receipt(d),
	}
	if it.Ending != nil {
		r.Ending = bastion.Ending{Reason: bastion.EndReason(it.Ending.Reason), Generation: it.Ending.Generation}
	}
	return r
}

// decode reads a whole item of the table. Whose it is comes from the key and from
// what the control plane wrote, never from the report. What cannot be read is as if
// it were missing: no item's form keeps the sweep from the others, or its own
// bastion from being closed.
func (l *Leases) decode(stored item) bastion.LeaseItem {
	lease, _ := decodeLease(stored[attLease])
	_, ended := stored[attEnded]
	return bastion.LeaseItem{
		TaskID: l.TaskID(toText(stored[keyTask])), BastionID: toText(stored[attBastion]),
		Lease: lease, Report: decodeReport(stored[attReport]), Ended: ended,
	}
}

// decodeLease reads what the control plane wrote. With an error comes no part of it.
func decodeLease(stored types.AttributeValue) (bastion.Lease, error) {
	var encoded leaseItem
	if err := attributevalue.Unmarshal(stored, &encoded); err != nil {
		return bastion.Lease{}, opaque(err)
	}
	var d decoder
	lease := encoded.lease(&d)
	if d.err != nil {
		return bastion.Lease{}, d.err
	}
	return lease, nil
}

// decodeReport reads what a task wrote. What bastiond cannot have written counts
// as no report at all: a task that was taken over must not make its own item, or
// the record that the report is copied to, unreadable or too large to write.
func decodeReport(stored types.AttributeValue) bastion.Report {
	var encoded reportItem
	if stored == nil || attributevalue.Unmarshal(stored, &encoded) != nil {
		return bastion.Report{}
	}
	var d decoder
	report := encoded.report(&d)
	if d.err != nil || !plausible(report) {
		return bastion.Report{}
	}
	return report
}

// maxWord is longer, in bytes, than any verb or reason that bastiond writes.
const maxWord = 32

var hostKeyForm = regexp.MustCompile(`^[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}$`)

func plausible(r bastion.Report) bool {
	if r.HostKey != "" && (len(r.HostKey) > bastion.MaxHostKey || !hostKeyForm.MatchString(string(r.HostKey))) {
		return false
	}
	if len(r.ConsoleRequest.Verb) > maxWord || len(r.Ending.Reason) > maxWord || len(r.Receipt.Destinations) > bastion.MaxDestinations {
		return false
	}
	for _, d := range r.Receipt.Destinations {
		if len(d.Name) > bastion.MaxDestinationName {
			return false
		}
	}
	return true
}
