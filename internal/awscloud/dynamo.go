package awscloud

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
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

// Limits of a DynamoDB client. The caller's context can end a call earlier.
const (
	dynamoTimeout    = 5 * time.Second // of one attempt; DynamoDB usually responds within milliseconds
	dynamoAttempts   = 30
	dynamoMaxBackoff = time.Second
)

// NewDynamoDB returns a client of DynamoDB. The client repeats a request that is
// throttled, that conflicts with a transaction, or whose response is lost, until the
// context ends or thirty attempts have failed. The pauses between the attempts are
// random. The options are applied last.
func NewDynamoDB(cfg aws.Config, options ...func(*dynamodb.Options)) *dynamodb.Client {
	defaults := func(o *dynamodb.Options) {
		o.HTTPClient = awshttp.NewBuildableClient().WithTimeout(dynamoTimeout)
		o.RetryMaxAttempts = 0 // the retryer has its own limit
		o.Retryer = retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
			o.StandardOptions = append(o.StandardOptions, func(o *retry.StandardOptions) {
				o.MaxAttempts = dynamoAttempts
				o.MaxBackoff = dynamoMaxBackoff
				o.BaseDelay = 25 * time.Millisecond
				o.Retryables = append(o.Retryables, retry.IsErrorRetryableFunc(isTemporaryRefusal))
				// This turns off the SDK's retry budget, which all calls share. Conflicts
				// are not a sign of overload, and must not prevent other retries.
				o.RateLimiter = ratelimit.None
			})
		})
	}
	all := append([]func(*dynamodb.Options){defaults}, options...)
	return dynamodb.NewFromConfig(cfg, append(all, skipChecksumOverHTTP)...)
}

// skipChecksumOverHTTP turns off the check of X-Amz-Crc32 for an emulator, which
// is reached without TLS. DynamoDB Local sends no such header with an error, and the
// SDK then logs a warning for every condition that fails. DynamoDB on AWS sends the
// header.
func skipChecksumOverHTTP(o *dynamodb.Options) {
	o.DisableValidateResponseChecksum = strings.HasPrefix(aws.ToString(o.BaseEndpoint), "http://")
}

// isTemporaryRefusal reports whether DynamoDB refused a request because of another
// transaction in progress, or cancelled a transaction because of throttling. The
// same request may succeed a moment later.
func isTemporaryRefusal(err error) aws.Ternary {
	var conflict *types.TransactionConflictException
	if errors.As(err, &conflict) {
		return aws.TrueTernary
	}
	for _, reason := range cancellationReasons(err) {
		switch aws.ToString(reason.Code) {
		case "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded":
			// Retry even if another action of this transaction failed on its condition.
			// That result is not certain, because DynamoDB may have evaluated the
			// condition while a conflicting transaction was in progress.
			return aws.TrueTernary
		}
	}
	return aws.UnknownTernary
}

// cancellationReasons returns the reasons for which a transaction was cancelled: one
// for each of its actions, in order. It returns nil for any other error.
func cancellationReasons(err error) []types.CancellationReason {
	var cancelled *types.TransactionCanceledException
	if errors.As(err, &cancelled) {
		return cancelled.CancellationReasons
	}
	return nil
}

// Codes of a cancellation reason.
const (
	reasonNone      = "None"
	reasonCondition = "ConditionalCheckFailed"
)

// conditionFailed reports whether err means that the condition of a single write
// failed; for a transaction, see [cancellationReasons]. It also returns the stored
// item, if there is one and the write requested it.
func conditionFailed(err error) (item map[string]types.AttributeValue, failed bool) {
	var refused *types.ConditionalCheckFailedException
	if errors.As(err, &refused) {
		return refused.Item, true
	}
	return nil, false
}

// opaque returns an error with the text of err (see [logText]), but without the SDK's
// error types, so that no caller depends on them. errors.Is still finds
// [context.Canceled], [context.DeadlineExceeded] and [bastion.ErrNoTime] in it. The error
// of a call that is still throttled after all retries becomes ErrNoTime.
func opaque(err error) error {
	for _, known := range []error{context.Canceled, context.DeadlineExceeded, bastion.ErrNoTime} {
		if errors.Is(err, known) {
			return fmt.Errorf("%s: %w", logText(err), known)
		}
	}
	if throttling.IsErrorThrottle(err).Bool() {
		return fmt.Errorf("%s: %w", logText(err), bastion.ErrNoTime)
	}
	return errors.New(logText(err))
}

// newNonce returns a random string that identifies one write. The write stores the
// nonce. If the response is lost, the caller compares the stored nonce with its own:
// if they are equal, its write took effect. A nonce is short enough for a
// ClientRequestToken.
func newNonce(rand io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", fmt.Errorf("generate a nonce: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// Attributes.

type (
	item   = map[string]types.AttributeValue
	values = map[string]types.AttributeValue
)

// text returns a string attribute.
func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

// number returns a number attribute.
func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

// toText returns the value of a string attribute, or "" for anything else.
func toText(v types.AttributeValue) string {
	if s, ok := v.(*types.AttributeValueMemberS); ok {
		return s.Value
	}
	return ""
}

// toNumber returns the value of a number attribute; 0 if the attribute is missing.
func toNumber(v types.AttributeValue) (int64, error) {
	if v == nil {
		return 0, nil
	}
	n, ok := v.(*types.AttributeValueMemberN)
	if !ok {
		return 0, fmt.Errorf("attribute is a %T, not a number", v)
	}
	return strconv.ParseInt(n.Value, 10, 64)
}

// toDocument encodes a value of the domain as a string attribute that holds JSON. It
// does not escape <, > and &, because escapes are longer and an item has a limit of
// 400 KB.
func toDocument(v any) (types.AttributeValue, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return text(strings.TrimSuffix(buf.String(), "\n")), nil
}

// fromDocument decodes the result of [toDocument] into a value of the domain. It
// ignores unknown fields, so that two versions of the service can share a table
// during a deploy. After an error, the value may be partly filled and must not be used.
func fromDocument(stored types.AttributeValue, into any) error {
	s, ok := stored.(*types.AttributeValueMemberS)
	if !ok {
		return fmt.Errorf("document is a %T, not a string", stored)
	}
	return json.Unmarshal([]byte(s.Value), into)
}

// stampLayout is the format of [stamp]. It has a fixed width, so that stamps sort in
// the order of their times. [time.RFC3339Nano] drops trailing zeros, so its results
// do not sort in that order.
const stampLayout = "2006-01-02T15:04:05.000000000Z"

// stamp returns a time as a string attribute that an index can sort by.
func stamp(t time.Time) types.AttributeValue { return text(t.UTC().Format(stampLayout)) }

// ttl returns a time in the form that DynamoDB's TTL requires: the number of whole
// seconds since 1970.
func ttl(t time.Time) types.AttributeValue { return number(t.Unix()) }

// edit builds an update expression. It refers to an attribute NAME as #NAME and to
// its new value as :NAME, because many plain words are reserved in expressions.
type edit struct {
	sets, removes []string
	names         map[string]string
	values        values
}

func newEdit() *edit { return &edit{names: map[string]string{}, values: values{}} }

// use declares the placeholders of attributes, so that the condition can contain them.
func (e *edit) use(attributes ...string) {
	for _, attribute := range attributes {
		e.names["#"+attribute] = attribute
	}
}

// set sets an attribute to a value.
func (e *edit) set(attribute string, value types.AttributeValue) {
	e.use(attribute)
	e.values[":"+attribute] = value
	e.sets = append(e.sets, "#"+attribute+" = :"+attribute)
}

// setIfMissing sets an attribute if the item does not have it.
func (e *edit) setIfMissing(attribute string, value types.AttributeValue) {
	e.use(attribute)
	e.values[":"+attribute] = value
	e.sets = append(e.sets, "#"+attribute+" = if_not_exists(#"+attribute+", :"+attribute+")")
}

// remove removes attributes.
func (e *edit) remove(attributes ...string) {
	e.use(attributes...)
	for _, attribute := range attributes {
		e.removes = append(e.removes, "#"+attribute)
	}
}

// update returns the request. If the condition fails, the error contains the stored
// item; see [conditionFailed].
func (e *edit) update(table string, key item, condition string) *dynamodb.UpdateItemInput {
	expression := "SET " + strings.Join(e.sets, ", ")
	if len(e.removes) > 0 {
		expression += " REMOVE " + strings.Join(e.removes, ", ")
	}
	return &dynamodb.UpdateItemInput{
		TableName: &table, Key: key, UpdateExpression: &expression, ConditionExpression: &condition,
		ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}
}

// The attributes of keys, indexes and the TTL. template.yaml creates the real
// tables and must use the same names.
const (
	keyPartition = "pk"
	keySort      = "sk"

	// The index of records that are due. It is sparse and sharded by id.
	indexDue    = "due"
	attDueShard = "due_shard"
	attDueAt    = "due_at"

	// The index of records that are not finished. It is sparse. A bastion's entry is
	// added when the bastion is created and removed when it is finished. These are few
	// writes, so one partition is enough.
	indexUnfinished = "unfinished"
	attUnfinished   = "unfinished"
	attCreatedAt    = "created_at"

	// The key of the lease table.
	keyTask = "task"

	// The TTL attribute of every table.
	attExpiresAt = "expires_at"
)

// RecordsSchema returns the schema of the record table, without the table's name.
func RecordsSchema() dynamodb.CreateTableInput {
	return dynamodb.CreateTableInput{
		BillingMode:          types.BillingModePayPerRequest,
		AttributeDefinitions: stringAttributes(keyPartition, keySort, attDueShard, attDueAt, attUnfinished, attCreatedAt),
		KeySchema:            keySchema(keyPartition, keySort),
		GlobalSecondaryIndexes: []types.GlobalSecondaryIndex{
			keysOnlyIndex(indexDue, attDueShard, attDueAt),
			keysOnlyIndex(indexUnfinished, attUnfinished, attCreatedAt),
		},
	}
}

// LeasesSchema returns the schema of the lease table, without the table's name.
func LeasesSchema() dynamodb.CreateTableInput {
	return dynamodb.CreateTableInput{
		BillingMode:          types.BillingModePayPerRequest,
		AttributeDefinitions: stringAttributes(keyTask),
		KeySchema:            keySchema(keyTask),
		StreamSpecification: &types.StreamSpecification{
			StreamEnabled: aws.Bool(true), StreamViewType: types.StreamViewTypeNewImage,
		},
	}
}

// stringAttributes returns the definitions of attributes that hold strings.
func stringAttributes(names ...string) []types.AttributeDefinition {
	var all []types.AttributeDefinition
	for _, name := range names {
		all = append(all, types.AttributeDefinition{AttributeName: &name, AttributeType: types.ScalarAttributeTypeS})
	}
	return all
}

// keySchema returns the key of a table or index. The first name is the partition key;
// the second, if any, is the sort key.
func keySchema(names ...string) []types.KeySchemaElement {
	kinds := []types.KeyType{types.KeyTypeHash, types.KeyTypeRange}
	var all []types.KeySchemaElement
	for i, name := range names {
		all = append(all, types.KeySchemaElement{AttributeName: &name, KeyType: kinds[i]})
	}
	return all
}

// keysOnlyIndex returns an index that contains no attributes besides keys.
func keysOnlyIndex(index string, names ...string) types.GlobalSecondaryIndex {
	return types.GlobalSecondaryIndex{
		IndexName: &index, KeySchema: keySchema(names...),
		Projection: &types.Projection{ProjectionType: types.ProjectionTypeKeysOnly},
	}
}

// TableAPI has the calls that [CreateTable] makes.
type TableAPI interface {
	CreateTable(context.Context, *dynamodb.CreateTableInput, ...func(*dynamodb.Options)) (*dynamodb.CreateTableOutput, error)
	UpdateTimeToLive(context.Context, *dynamodb.UpdateTimeToLiveInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateTimeToLiveOutput, error)
}

// Create creates the record table and the lease table in an emulator. It uses the
// credentials, region and endpoint of the environment.
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

// CreateTable creates a table in an emulator. On AWS, template.yaml creates the tables.
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
