package awscloud

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

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
