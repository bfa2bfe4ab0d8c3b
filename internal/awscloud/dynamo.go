package awscloud

import (
	"context"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// How patient a client of DynamoDB is. The caller's context ends all of it
// sooner.
const (
	dynamoTimeout  = 5 * time.Second // of one try; DynamoDB answers in milliseconds
	dynamoTries    = 30
	dynamoMaxPause = time.Second
)

// NewDynamoDB makes a client that repeats what was throttled, lost or met a
// transaction in progress, with jittered pauses, until it is done, the context
// ends, or it was in vain thirty times. Options are applied last.
func NewDynamoDB(cfg aws.Config, options ...func(*dynamodb.Options)) *dynamodb.Client {
	ours := func(o *dynamodb.Options) {
		o.HTTPClient = awshttp.NewBuildableClient().WithTimeout(dynamoTimeout)
		o.RetryMaxAttempts = 0 // the retryer's own
		o.Retryer = retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
			o.StandardOptions = append(o.StandardOptions, func(o *retry.StandardOptions) {
				o.MaxAttempts = dynamoTries
				o.MaxBackoff = dynamoMaxPause
				o.BaseDelay = 25 * time.Millisecond
				o.Retryables = append(o.Retryables, retry.IsErrorRetryableFunc(passing))
				// Conflicts are no sign of an overload: they must not use up a
				// budget that they share with everything else.
				o.RateLimiter = ratelimit.None
			})
		})
	}
	return dynamodb.NewFromConfig(cfg, append([]func(*dynamodb.Options){ours}, options...)...)
}

// passing says whether a refusal is about other requests in progress, so that
// the same request may succeed a moment later.
func passing(err error) aws.Ternary {
	var conflict *types.TransactionConflictException
	if errors.As(err, &conflict) {
		return aws.TrueTernary
	}
	for _, reason := range cancellation(err) {
		switch aws.ToString(reason.Code) {
		case "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded":
			// Even beside a condition that failed: that one was judged while
			// another transaction was half-way.
			return aws.TrueTernary
		}
	}
	return aws.UnknownTernary
}

// cancellation is why a transaction was cancelled: one reason for each of its
// actions, in order. It is empty for any other error.
func cancellation(err error) []types.CancellationReason {
	var cancelled *types.TransactionCanceledException
	if errors.As(err, &cancelled) {
		return cancelled.CancellationReasons
	}
	return nil
}

// reasonNone and reasonCondition are codes of a cancellation.
const (
	reasonNone      = "None"
	reasonCondition = "ConditionalCheckFailed"
)

// conditionFailed reports whether the write was refused by its own condition, and
// the item as it was then, if the write asked for it and there was one.
func conditionFailed(err error) (item map[string]types.AttributeValue, failed bool) {
	var refused *types.ConditionalCheckFailedException
	if errors.As(err, &refused) {
		return refused.Item, true
	}
	return nil, false
}

// foreign takes the driver's types out of an error that no caller can act on. That
// there is no time stays recognisable: a call that is throttled, after all repeats,
// did not have its turn.
func opaque(err error) error {
	for _, known := range []error{context.Canceled, context.DeadlineExceeded, bastion.ErrNoTime} {
		if errors.Is(err, known) {
			return fmt.Errorf("%v: %w", err, known)
		}
	}
	if throttles.IsErrorThrottle(err).Bool() {
		return fmt.Errorf("%v: %w", err, bastion.ErrNoTime)
	}
	return errors.New(err.Error())
}

// newNonce makes the name of one write: it tells a write that took effect, and
// whose answer was lost, from another's. It fits a ClientRequestToken.
func newNonce(rand io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", fmt.Errorf("name the write: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// item and values are how requests are written down.
type (
	item   = map[string]types.AttributeValue
	values = map[string]types.AttributeValue
)

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: fmt.Sprint(n)}
}

// toText reads a string attribute; one that is missing is empty.
func toText(v types.AttributeValue) string {
	if s, ok := v.(*types.AttributeValueMemberS); ok {
		return s.Value
	}
	return ""
}

// edit builds an update expression. All attributes go by a placeholder, because
// many plain words are reserved in expressions.
type edit struct {
	sets, removes []string
	names         map[string]string
	values        values
}

func (e *edit) set(attribute string, value types.AttributeValue) {
	e.names["#"+attribute] = attribute
	e.values[":"+attribute] = value
	e.sets = append(e.sets, "#"+attribute+" = :"+attribute)
}

func (e *edit) remove(attributes ...string) {
	for _, attribute := range attributes {
		e.names["#"+attribute] = attribute
		e.removes = append(e.removes, "#"+attribute)
	}
}

func (e *edit) expression() string {
	s := "SET " + strings.Join(e.sets, ", ")
	if len(e.removes) > 0 {
		s += " REMOVE " + strings.Join(e.removes, ", ")
	}
	return s
}

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

// The attributes that the tables' keys and indexes are made of, and the TTL's.
// template.yaml makes the real tables and must say the same.
const (
	keyPartition = "pk"
	keySort      = "sk"

	// The index of what must be looked at: sparse, sharded by id.
	indexDue    = "due"
	attDueShard = "due_shard"
	attDueAt    = "due_at"

	// The index of what is not finished: sparse. It is written only when a
	// bastion is created and when it is finished, so one partition will do.
	indexUnfinished = "unfinished"
	attUnfinished   = "unfinished"
	attCreatedAt    = "created_at"

	// The key of the table of leases.
	keyTask = "task"

	// Of both tables, a number of seconds.
	attExpiresAt = "expires_at"
)

// RecordsSchema is the table of records, but for its name.
func RecordsSchema() dynamodb.CreateTableInput {
	return dynamodb.CreateTableInput{
		BillingMode:          types.BillingModePayPerRequest,
		AttributeDefinitions: texts(keyPartition, keySort, attDueShard, attDueAt, attUnfinished, attCreatedAt),
		KeySchema:            keys(keyPartition, keySort),
		GlobalSecondaryIndexes: []types.GlobalSecondaryIndex{
			keysOnly(indexDue, attDueShard, attDueAt),
			keysOnly(indexUnfinished, attUnfinished, attCreatedAt),
		},
	}
}

// LeasesSchema is the table of leases, but for its name.
func LeasesSchema() dynamodb.CreateTableInput {
	return dynamodb.CreateTableInput{
		BillingMode:          types.BillingModePayPerRequest,
		AttributeDefinitions: texts(keyTask),
		KeySchema:            keys(keyTask),
		StreamSpecification: &types.StreamSpecification{
			StreamEnabled: aws.Bool(true), StreamViewType: types.StreamViewTypeNewImage,
		},
	}
}

func texts(names ...string) []types.AttributeDefinition {
	var all []types.AttributeDefinition
	for _, name := range names {
		all = append(all, types.AttributeDefinition{AttributeName: &name, AttributeType: types.ScalarAttributeTypeS})
	}
	return all
}

// keys is a key of a partition, and of what sorts in it if there is a second.
func keys(names ...string) []types.KeySchemaElement {
	kinds := []types.KeyType{types.KeyTypeHash, types.KeyTypeRange}
	var all []types.KeySchemaElement
	for i, name := range names {
		all = append(all, types.KeySchemaElement{AttributeName: &name, KeyType: kinds[i]})
	}
	return all
}

func keysOnly(index string, names ...string) types.GlobalSecondaryIndex {
	return types.GlobalSecondaryIndex{
		IndexName: &index, KeySchema: keys(names...),
		Projection: &types.Projection{ProjectionType: types.ProjectionTypeKeysOnly},
	}
}

// TableAPI is what [CreateTable] calls.
type TableAPI interface {
	CreateTable(context.Context, *dynamodb.CreateTableInput, ...func(*dynamodb.Options)) (*dynamodb.CreateTableOutput, error)
	UpdateTimeToLive(context.Context, *dynamodb.UpdateTimeToLiveInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateTimeToLiveOutput, error)
}

// Create makes both tables where no template does, with the credentials, region
// and end point of the environment.
func (t Tables) Create(ctx context.Context) error {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return fmt.Errorf("read the AWS configuration: %w", opaque(err))
	}
	api := NewDynamoDB(cfg)
	if err := CreateTable(ctx, api, t.Records, RecordsSchema()); err != nil {
		return err
	}
	return CreateTable(ctx, api, t.Leases, LeasesSchema())
}

// CreateTable makes a table where no template does: in an emulator.
func CreateTable(ctx context.Context, api TableAPI, name string, schema dynamodb.CreateTableInput) error {
	schema.TableName = &name
	if _, err := api.CreateTable(ctx, &schema); err != nil {
		return fmt.Errorf("create table %s: %w", name, opaque(err))
	}
	_, err := api.UpdateTimeToLive(ctx, &dynamodb.UpdateTimeToLiveInput{
		TableName:               &name,
		TimeToLiveSpecification: &types.TimeToLiveSpecification{AttributeName: aws.String(attExpiresAt), Enabled: aws.Bool(true)},
	})
	if err != nil {
		return fmt.Errorf("set the TTL attribute of table %s: %w", name, opaque(err))
	}
	return nil
}
