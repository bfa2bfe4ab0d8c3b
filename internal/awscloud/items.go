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

// The attributes of a value's item. There is also the nonce of the latest writes.
const (
	keyItem  = "key"
	attValue = "value"
)

// ItemsSchema returns the schema of a table of values, without its name.
func ItemsSchema() dynamodb.CreateTableInput {
	return dynamodb.CreateTableInput{
		BillingMode:          types.BillingModePayPerRequest,
		AttributeDefinitions: texts(keyItem),
		KeySchema:            keys(keyItem),
	}
}

// ItemsAPI is what [Items] calls.
type ItemsAPI interface {
	GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error)
	UpdateItem(context.Context, *dynamodb.UpdateItemInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error)
	DeleteItem(context.Context, *dynamodb.DeleteItemInput, ...func(*dynamodb.Options)) (*dynamodb.DeleteItemOutput, error)
}

// Items is a table of values by key. A write is a compare-and-swap, and a value can
// expire. DynamoDB's TTL deletes an expired item within days; until then, reads and
// conditions here treat it as missing.
type Items struct {
	api   ItemsAPI
	table string
	now   func() time.Time
	rand  io.Reader
}

// NewItems returns the values in a table of [ItemsSchema]. Nonces come from rand,
// which must be safe for concurrent use.
func NewItems(api ItemsAPI, table string, now func() time.Time, rand io.Reader) *Items {
	return &Items{api: api, table: table, now: now, rand: rand}
}

func (i *Items) key(key string) item { return item{keyItem: text(key)} }

// Fetch returns a value and its version, with strong consistency. It returns
// bastion.ErrNotFound if there is none or it has expired.
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
// prev; 0 stands for no value or an expired one. The value expires at the end of the
// second of expires, or never if that is zero. Write returns bastion.ErrConflict,
// and writes nothing, if another version is stored.
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
	e.set(attValue, &types.AttributeValueMemberB{Value: append([]byte{}, value...)}) // the SDK does not send nil
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
		e.set(attExpiresAt, ttl(expires.Add(time.Second-1))) // never early
	}
	return e.update(i.table, i.key(key), condition)
}

// Delete deletes a value, if there is one.
func (i *Items) Delete(ctx context.Context, key string) error {
	if _, err := i.api.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: &i.table, Key: i.key(key)}); err != nil {
		return fmt.Errorf("delete an item of %s: %w", i.table, opaque(err))
	}
	return nil
}
