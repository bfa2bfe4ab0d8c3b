package awscloud

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The attributes of a value's item. An item also has attVersion, attExpiresAt and the
// nonces of the latest writes (see nonceAttribute).
const (
	keyItem  = "key"
	attValue = "value"
)

// ItemsSchema returns the schema of a table of values, without the table's name.
func ItemsSchema() dynamodb.CreateTableInput {
	return dynamodb.CreateTableInput{
		BillingMode:          types.BillingModePayPerRequest,
		AttributeDefinitions: stringAttributes(keyItem),
		KeySchema:            keySchema(keyItem),
	}
}

// ItemsAPI has the calls that [Items] makes.
type ItemsAPI interface {
	GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error)
	UpdateItem(context.Context, *dynamodb.UpdateItemInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error)
	DeleteItem(context.Context, *dynamodb.DeleteItemInput, ...func(*dynamodb.Options)) (*dynamodb.DeleteItemOutput, error)
}

// Items stores values by key in one table. A write is a compare-and-swap, and a value
// can expire. DynamoDB's TTL deletes an expired item within days; until then, Fetch
// and Write treat the item as missing.
type Items struct {
	api   ItemsAPI
	table string
	now   func() time.Time
	rand  io.Reader
}

// NewItems returns Items that stores values in a table with the schema [ItemsSchema].
// Nonces come from rand, which must be safe for concurrent use.
func NewItems(api ItemsAPI, table string, now func() time.Time, rand io.Reader) *Items {
	return &Items{api: api, table: table, now: now, rand: rand}
}

func (i *Items) key(key string) item { return item{keyItem: text(key)} }

// Fetch returns a value and its version; the read is strongly consistent. It returns
// bastion.ErrNotFound if there is no value or the value has expired.
func (i *Items) Fetch(ctx context.Context, key string) (value []byte, version int64, err error) {
	out, err := i.api.GetItem(ctx, &dynamodb.GetItemInput{TableName: &i.table, Key: i.key(key), ConsistentRead: aws.Bool(true)})
	if err != nil {
		return nil, 0, fmt.Errorf("fetch an item of %s: %w", i.table, opaque(err))
	}
	expires, err := toNumber(out.Item[attExpiresAt])
	if err == nil {
		version, err = toNumber(out.Item[attVersion])
	}
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("decode an item of %s: %w", i.table, err)
	case version == 0 || expires != 0 && expires <= i.now().Unix():
		return nil, 0, fmt.Errorf("fetch an item of %s: %w", i.table, bastion.ErrNotFound)
	}
	stored, ok := out.Item[attValue].(*types.AttributeValueMemberB)
	if !ok {
		return nil, 0, fmt.Errorf("decode an item of %s: the value is a %T", i.table, out.Item[attValue])
	}
	return stored.Value, version, nil
}

// Write writes a value with version prev+1, on condition that the stored version is
// prev. If prev is 0, the condition is that no value is stored, or that the stored
// value has expired. The parameter expires is the time at which the new value expires.
// Write rounds it up to a whole second; if it is zero, the value never expires. If the
// condition fails, Write writes nothing and returns bastion.ErrConflict. After any other
// error, the value may have been written.
func (i *Items) Write(ctx context.Context, key string, prev int64, value []byte, expires time.Time) error {
	nonce, err := newNonce(i.rand)
	if err != nil {
		return err
	}
	_, err = i.api.UpdateItem(ctx, i.update(key, prev, value, expires, nonce))
	stored, refused := conditionFailed(err)
	switch {
	case err == nil:
		return nil
	case !refused:
		return fmt.Errorf("write an item of %s: %w", i.table, opaque(err))
	case tookEffect(stored, prev+1, nonce):
		return nil // the response to an earlier attempt was lost
	}
	return fmt.Errorf("write an item of %s: %w", i.table, bastion.ErrConflict)
}

func (i *Items) update(key string, prev int64, value []byte, expires time.Time, nonce string) *dynamodb.UpdateItemInput {
	e := newEdit()
	e.use(attExpiresAt)
	e.values[":now"] = number(i.now().Unix())
	// The copy is never nil. The SDK would not send a nil value.
	e.set(attValue, &types.AttributeValueMemberB{Value: append([]byte{}, value...)})
	e.set(attVersion, number(prev+1))
	e.set(nonceAttribute(prev+1), text(nonce))
	condition := "attribute_not_exists(#version) OR #expires_at <= :now"
	if prev != 0 {
		condition = "#version = :prev AND (attribute_not_exists(#expires_at) OR #expires_at > :now)"
		e.values[":prev"] = number(prev)
	}
	if expires.IsZero() {
		e.remove(attExpiresAt)
	} else {
		e.set(attExpiresAt, ttl(expires.Add(time.Second-1))) // rounds up, so that no value expires early
	}
	return e.update(i.table, i.key(key), condition)
}

// Delete deletes a value. If there is none, it does nothing.
func (i *Items) Delete(ctx context.Context, key string) error {
	if _, err := i.api.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: &i.table, Key: i.key(key)}); err != nil {
		return fmt.Errorf("delete an item of %s: %w", i.table, opaque(err))
	}
	return nil
}
