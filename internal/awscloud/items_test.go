package awscloud

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// lagging is a table in which only consistent reads find the item, as can happen in
// DynamoDB shortly after a write.
type lagging struct {
	failing
	item item
}

func (l lagging) GetItem(_ context.Context, in *dynamodb.GetItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error) {
	if !aws.ToBool(in.ConsistentRead) {
		return &dynamodb.GetItemOutput{}, nil
	}
	return &dynamodb.GetItemOutput{Item: l.item}, nil
}

// All reads of DynamoDB Local are consistent, so the conformance tests would not notice
// a missing ConsistentRead.
func TestItemsAreReadConsistently(t *testing.T) {
	table := lagging{item: item{attVersion: number(0)}}
	i := NewItems(table, "items", time.Now, rand.Reader)
	if _, _, err := i.Fetch(t.Context(), "a"); !errors.Is(err, bastion.ErrNotFound) {
		t.Errorf("without a version: %v", err)
	}
	table.item[attVersion] = number(1)
	if _, _, err := i.Fetch(t.Context(), "a"); err == nil || errors.Is(err, bastion.ErrNotFound) {
		t.Errorf("without a value: %v", err)
	}
}
